"""One person's motion on another's head.

The driver's motion from a reference frame on becomes the source's motion from its photo on. In camera space
let H = R_w2c exp(neck) be the rotation of a head, and t the place of the world's origin. Frame k rotates the
driver's head by Q = H_k H_ref^T, so the source's head gets the rotation Q H_source. Which fraction of Q is
applied at the neck joint, and which to the whole bust, is a free choice: `neck_share`. How much of the whole
motion is applied, part by part, is another: `Strength`.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import struct

from p4d_jax.geometry import axis_angle_to_matrix, exact_products, matrix_to_axis_angle
from p4d_jax.head.strength import Strength
from p4d_jax.types import EXPRESSION_SIZE, Array, Camera, FrameParams, in_blocks, take


@exact_products
def world_to_camera_parts(camera: Camera) -> tuple[Array, Array]:
    """Rotation (3, 3) and translation (3,) of world to camera."""
    rotation = camera.cam2world[:3, :3].T
    return rotation, -rotation @ camera.cam2world[:3, 3]


@exact_products
def camera_from_parts(rotation: Array, translation: Array, intrinsics: Array) -> Camera:
    """Inverse of `world_to_camera_parts`."""
    cam2world = jnp.eye(4).at[:3, :3].set(rotation.T).at[:3, 3].set(-rotation.T @ translation)
    return Camera(cam2world, intrinsics)


@struct.dataclass
class Factors:
    """A `Strength` as numbers: of each expression component (E,), and of the others ()."""

    expression: Array
    jaw: Array | float
    rotation: Array | float
    travel: Array | float
    gaze: Array | float

    @classmethod
    def of(cls, strength: Strength, names: tuple[str, ...]) -> Factors:
        """names: of the head model's expression components, or empty."""
        components = strength.of_components(names, EXPRESSION_SIZE)
        return cls(
            components, strength.expression, strength.pose, strength.pose * strength.travel, strength.gaze
        )


@exact_products
def transfer_turn(
    source: FrameParams,
    reference: FrameParams,
    driving: FrameParams,
    neck_share: Array | float,
    rotation_factor: Array | float = 1.0,
    travel_factor: Array | float = 1.0,
) -> tuple[Camera, Array]:
    """The camera and the neck (3,) that make the source's head turn and move as the driver's did.

    Args:
      source: Parameters of the source photo.
      reference: Frame of the driver that corresponds to the source photo.
      driving: Frame of the driver to transfer.
      neck_share: Fraction in [0, 1] of the head rotation that is applied at the neck joint (1: shoulders stay
        still; 0: the whole bust rotates).
      rotation_factor: Of the rotation's angle.
      travel_factor: Of the way through the picture.
    """
    rotation_source, translation_source = world_to_camera_parts(source.camera)
    rotation_ref, translation_ref = world_to_camera_parts(reference.camera)
    rotation, translation = world_to_camera_parts(driving.camera)
    head_source = rotation_source @ axis_angle_to_matrix(source.neck)
    head_ref = rotation_ref @ axis_angle_to_matrix(reference.neck)
    turn = rotation @ axis_angle_to_matrix(driving.neck) @ head_ref.T
    angle = rotation_factor * matrix_to_axis_angle(turn)
    turn = axis_angle_to_matrix(angle)
    bust = axis_angle_to_matrix((1.0 - neck_share) * angle) @ rotation_source
    neck = matrix_to_axis_angle(bust.T @ turn @ head_source)
    moved = translation_source + travel_factor * (translation - translation_ref)
    return camera_from_parts(bust, moved, source.camera.intrinsics), neck


def transfer_motion(
    source: FrameParams,
    driving: FrameParams,
    reference: int,
    *,
    relative: bool,
    neck_share: float,
    bounded: bool,
    factors: Factors | None = None,
) -> FrameParams:
    """The source's identity with a driver's motion.

    Args:
      source: Parameters of the source photo, without a leading axis.
      driving: Parameters of the driving clip, with a leading axis (T,).
      reference: Index of the driving frame that corresponds to the source photo.
      relative: Whether the driver's change since the reference is added to the source's own rotation,
        expression, jaw and gaze; otherwise the driver's are taken as they are. Of its place in the picture
        the change is added in either case.
      neck_share: Fraction of the head rotation that is applied at the neck joint; see `transfer_turn`.
      bounded: Whether the expression coefficients are facial actions and must stay in [0, 1].
      factors: Of each part of the motion, which move it away from the source's own; None is 1 of all.

    Returns:
      (T, ...) parameters, on the host; with `relative`, frame `reference` is the source itself.
    """
    frames = driving.expression.shape[0]
    if not 0 <= reference < frames:
        raise ValueError(f"reference: expected a frame in 0..{frames - 1} of the driving, got {reference}")
    factors = Factors.of(Strength(), ()) if factors is None else factors
    start = take(driving, reference)
    program = functools.partial(
        _transfer_frames, source, start, neck_share, factors, relative=relative, bounded=bounded
    )
    return in_blocks(program, driving)


@functools.partial(jax.jit, static_argnames=("relative", "bounded"))
def _transfer_frames(
    source: FrameParams,
    start: FrameParams,
    neck_share: float,
    factors: Factors,
    driving: FrameParams,
    *,
    relative: bool,
    bounded: bool,
) -> FrameParams:
    """`transfer_motion` of some frames; `start` is the frame that corresponds to the photo."""
    frames = driving.expression.shape[0]
    if not relative:  # what turns the source's head to the driver's rotation
        own, _ = world_to_camera_parts(source.camera)
        _, place = world_to_camera_parts(start.camera)
        start = start.replace(camera=camera_from_parts(own, place, start.camera.intrinsics), pose=source.pose)

    def turn(frame: FrameParams) -> tuple[Camera, Array]:
        return transfer_turn(source, start, frame, neck_share, factors.rotation, factors.travel)

    cameras, necks = jax.vmap(turn)(driving)
    expression, jaw, eyes = driving.expression, driving.jaw, driving.eyes
    if relative:
        expression = source.expression + expression - start.expression
        jaw = source.jaw + jaw - start.jaw
        eyes = source.eyes + eyes - start.eyes
    # Written so that a factor of 1 leaves the last bit of what the driver does, and 0 that of the photo.
    scale = lambda own, moved, factor: (1.0 - factor) * own + factor * moved
    expression = scale(source.expression, expression, factors.expression)
    jaw = scale(source.jaw, jaw, factors.jaw)
    eyes = scale(source.eyes, eyes, factors.gaze)
    if bounded:
        # The photo's own fit may lie a little outside and stays what it is.
        expression = jnp.clip(
            expression, jnp.minimum(0.0, source.expression), jnp.maximum(1.0, source.expression)
        )
        jaw = jaw.at[:, 0].set(jnp.maximum(jaw[:, 0], jnp.minimum(0.0, source.jaw[0])))
    shape = jnp.broadcast_to(source.shape, (frames, *source.shape.shape))
    return FrameParams(cameras, shape, expression, jnp.concatenate([necks, jaw], axis=-1), eyes)
