"""The standard crop: the square of a photo that the default camera sees.

The fit says where in the photo the camera's square lies (centre and side); the crop is that square at 512 x
512. It stays upright as the photo is, the head's roll is the camera's; only a photo lying on its side is
turned by quarter turns. A crop that reaches beyond the photo continues it by reflection, blurred the more the
further outside, as FFHQ's alignment does. Matrices (2, 3) map photo pixels to crop pixels: with their inverse
a result is pasted back. Pixel coordinates: see `sampling`.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageFilter

from p4d_jax.capture.fit import Fit
from p4d_jax.geometry import axis_angle_to_matrix, exact_products, intrinsics_from_fov
from p4d_jax.imaging.warping import PhotoPyramid, apply_matrix, invert_matrix, output_step
from p4d_jax.types import CAMERA_RADIUS, Array, Camera

CROP_SIZE = 512


def quarter_turn(roll: float) -> np.ndarray:
    """(2, 3) rotation about the photo's corner by quarter turns that leaves a face's roll within 45 degrees.

    roll: radians, clockwise on the screen.
    """
    turns = round(roll / (np.pi / 2)) % 4
    cosine, sine = ((1, 0), (0, 1), (-1, 0), (0, -1))[turns]
    return np.array([[cosine, sine, 0], [-sine, cosine, 0]], np.float64)


def crop_matrix(centre: np.ndarray, side: float, size: int = CROP_SIZE) -> np.ndarray:
    """(2, 3) from the photo to the crop of its upright square at `centre` with sides of `side` pixels."""
    scale = size / side
    offset = size / 2 - scale * np.asarray(centre, np.float64)
    return np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])


def crop_photo(pyramid: PhotoPyramid, matrix: np.ndarray, size: int = CROP_SIZE) -> np.ndarray:
    """(size, size, 3) uint8. matrix: (2, 3) photo -> crop."""
    to_photo = invert_matrix(matrix)
    corners = apply_matrix(to_photo, np.array([[0, 0], [size, 0], [0, size], [size, size]], np.float64))
    beyond = max(0.0, -corners.min(), (corners - [pyramid.width, pyramid.height]).max())
    if beyond == 0:
        return pyramid.sample(to_photo, (size, size))
    step = output_step(to_photo)
    level, scale = pyramid.level(step)
    margin = int(np.ceil(beyond / scale)) + 2
    padded = np.pad(np.asarray(level), ((margin, margin), (margin, margin), (0, 0)), mode="symmetric")
    coefficients = to_photo / scale + np.array([[0, 0, margin], [0, 0, margin]])
    crop = Image.fromarray(padded).transform(
        (size, size), Image.Transform.AFFINE, tuple(coefficients.ravel()), Image.Resampling.BILINEAR
    )
    blurred = np.asarray(crop.filter(ImageFilter.GaussianBlur(size / 40)), np.float32)
    outside = _distance_outside(to_photo, pyramid, size) / step
    blend = np.clip(outside / (size / 16), 0, 1)[..., None]
    return (np.asarray(crop) * (1 - blend) + blurred * blend + 0.5).astype(np.uint8)


def _distance_outside(to_photo: np.ndarray, pyramid: PhotoPyramid, size: int) -> np.ndarray:
    """(size, size) how far each crop pixel lies outside the photo, photo pixels; 0 inside."""
    ticks = np.arange(size) + 0.5
    points = apply_matrix(to_photo, np.stack(np.meshgrid(ticks, ticks), axis=-1))
    past = points - [pyramid.width, pyramid.height]
    return np.maximum(np.maximum(-points, past).max(axis=-1), 0)


@exact_products
def camera_in_square(fit: Fit, centre: Array, side: Array) -> Camera:
    """The camera that sees a fitted head in a square that need not be the head's own.

    A film's crop stands still while the head moves in it. The camera of the head's own square is turned
    until the world's origin appears off-centre as it should, and moved away until the size is right; what
    this changes in perspective is second order at 12 degrees of view.

    Args:
      fit: Fit of one frame.
      centre: (2,) centre of the square, photo pixels.
      side: () side of the square, photo pixels.
    """
    intrinsics = intrinsics_from_fov()
    offset = (fit.centre - centre) / side / intrinsics[0, 0] * jnp.array([1.0, -1.0])
    ray = jnp.concatenate([offset, -jnp.ones(1)])
    turn = _rotation_between(jnp.array([0.0, 0.0, -1.0]), ray / jnp.linalg.norm(ray))
    to_camera = turn @ axis_angle_to_matrix(fit.rotation)
    translation = ray * CAMERA_RADIUS * side / fit.side
    cam2world = jnp.eye(4).at[:3, :3].set(to_camera.T).at[:3, 3].set(-to_camera.T @ translation)
    return Camera(cam2world, intrinsics)


def _rotation_between(source: Array, target: Array) -> Array:
    """(3, 3) the smallest rotation that takes one unit vector to another, not opposite one."""
    axis = jnp.cross(source, target)
    sine = jnp.linalg.norm(axis)
    angle = jnp.arctan2(sine, jnp.dot(source, target))
    return axis_angle_to_matrix(axis * angle / jnp.maximum(sine, 1e-12))
