"""Cameras: labels, projection, look-at, and the neck's rotation moved into the camera."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax.numpy as jnp

from p4d_jax.geometry.precision import exact_products
from p4d_jax.geometry.rotations import axis_angle_to_matrix, unit
from p4d_jax.types import FOV_DEGREES, Array, Camera

if TYPE_CHECKING:
    from jaxtyping import Float


def intrinsics_from_fov(fov_degrees: Array | float = FOV_DEGREES) -> Float[Array, "3 3"]:
    """Intrinsics (3, 3), normalised by image size, of a square image that spans `fov_degrees` edge to edge.

    EG3D's helper of the same purpose measures its angle along the image's diagonal: its focal length is the
    square root of two times longer.
    """
    focal = 0.5 / jnp.tan(jnp.asarray(fov_degrees, jnp.float32) * (math.pi / 360))
    centre = jnp.array([[0.0, 0.0, 0.5], [0.0, 0.0, 0.5], [0.0, 0.0, 1.0]])
    return centre + jnp.diag(jnp.array([1.0, 1.0, 0.0])) * focal


def look_at_camera(
    yaw: Array | float,
    pitch: Array | float,
    radius: Array | float,
    roll: Array | float = 0.0,
    pivot: Array | tuple[float, float, float] = (0.0, 0.0, 0.0),
    fov_degrees: Array | float = FOV_DEGREES,
) -> Camera:
    """A camera on a sphere around the world's origin that looks at `pivot`; yaw = pitch = 0 is frontal.

    Args:
      yaw: (...) azimuth in radians; positive moves the camera towards -x.
      pitch: (...) height in EG3D's equal-area measure: the sine of the elevation is 2 pitch / pi, so that
        uniform pitches are uniform on the sphere. Positive lifts the camera. In (-pi/2, pi/2).
      radius: (...) distance from the world's origin, world units.
      roll: (...) radians; positive tilts the camera's up towards its right.
      pivot: (..., 3) the point that projects to the image's centre.
      fov_degrees: see `intrinsics_from_fov`.

    Returns:
      Camera with the broadcast leading axes of the arguments.
    """
    pivot = jnp.asarray(pivot, dtype=jnp.float32)
    yaw, pitch, radius, roll, _ = jnp.broadcast_arrays(
        *(jnp.asarray(value, dtype=jnp.float32) for value in (yaw, pitch, radius, roll)), pivot[..., 0]
    )
    height = 2 * pitch / math.pi
    ground = jnp.sqrt(1 - height**2)
    origin = radius[..., None] * jnp.stack([-ground * jnp.sin(yaw), height, ground * jnp.cos(yaw)], axis=-1)

    forward = unit(pivot - origin)
    right = unit(jnp.cross(forward, jnp.array([0.0, 1.0, 0.0])))
    up = jnp.cross(right, forward)
    cosine, sine = jnp.cos(roll)[..., None], jnp.sin(roll)[..., None]
    right, up = right * cosine - up * sine, up * cosine + right * sine

    top = jnp.stack([right, up, -forward, origin], axis=-1)
    bottom = jnp.broadcast_to(jnp.array([0.0, 0.0, 0.0, 1.0]), (*yaw.shape, 1, 4))
    intrinsics = jnp.broadcast_to(intrinsics_from_fov(fov_degrees), (*yaw.shape, 3, 3))
    return Camera(cam2world=jnp.concatenate([top, bottom], axis=-2), intrinsics=intrinsics)


@exact_products
def world_to_camera(camera: Camera, points: Float[Array, "*points 3"]) -> Float[Array, "*points 3"]:
    """World points (..., 3) in the space of one camera: (..., 3)."""
    return (points - camera.cam2world[:3, 3]) @ camera.cam2world[:3, :3]


def project(
    camera: Camera, points: Float[Array, "*points 3"]
) -> tuple[Float[Array, "*points 2"], Float[Array, "*points"]]:
    """Image coordinates and distances of world points (..., 3) for one camera.

    Returns:
      uv (..., 2) image coordinates, v down, inside the image when in [0, 1]; z (...) the distance in front of
      the camera along its axis. For points with z <= 0, uv has no meaning.
    """
    local = world_to_camera(camera, points)
    z = -local[..., 2]
    divisor = jnp.where(jnp.abs(z) < 1e-8, 1e-8, z)
    intrinsics = camera.intrinsics
    u = intrinsics[0, 2] + intrinsics[0, 0] * local[..., 0] / divisor
    v = intrinsics[1, 2] - intrinsics[1, 1] * local[..., 1] / divisor
    return jnp.stack([u, v], axis=-1), z


@exact_products
def orbit(camera: Camera, yaw: Array | float, pitch: Array | float = 0.0) -> Camera:
    """The camera turned about the world's origin.

    Args:
      camera: Where it starts.
      yaw: Radians about the world's y axis; it then sees more of the person's left side.
      pitch: Radians about its own x axis; it then sees the head from farther below.
    """
    across, up = axis_angle_to_matrix(jnp.array([0.0, yaw, 0.0])), pitch * camera.cam2world[:3, 0]
    rotation = across @ axis_angle_to_matrix(up)
    return camera.replace(cam2world=jnp.eye(4).at[:3, :3].set(rotation) @ camera.cam2world)


@exact_products
def camera_for_bent_neck(camera: Camera, neck_rotation: Array, neck_joint: Float[Array, " 3"]) -> Camera:
    """The camera that sees the head with its neck bent as `camera` sees it straight.

    A head without neck rotation under `camera` and the same head, turned by `neck_rotation` about
    `neck_joint`, under the result give one image of everything that turns with the neck
    (docs/concepts/head.md, Eq. 2.6).

    Args:
      camera: The camera of the straight head, which carries the whole head pose.
      neck_rotation: Rotation of the neck, (3,) axis-angle in radians or (3, 3).
      neck_joint: (3,) world position of the neck joint.
    """
    rotation = axis_angle_to_matrix(neck_rotation) if neck_rotation.shape == (3,) else neck_rotation
    if rotation.shape != (3, 3):
        raise ValueError(f"neck_rotation: expected shape (3,) or (3, 3), got {neck_rotation.shape}")
    # cam2world turns by R about the joint: the inverse of world2cam R^T with the joint held in place.
    orientation = rotation @ camera.cam2world[:3, :3]
    origin = neck_joint + rotation @ (camera.cam2world[:3, 3] - neck_joint)
    cam2world = camera.cam2world.at[:3, :3].set(orientation).at[:3, 3].set(origin)
    return camera.replace(cam2world=cam2world)
