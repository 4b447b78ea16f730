"""A head reduced to what a fit sees of it: MediaPipe's landmarks and the pupils.

With root and neck at rest, skinning turns a vertex about three joints only, and a landmark is a fixed mixture
of three vertices: it is linear in the unposed head, and in the turns. So the twelve rows of `LandmarkHead`
hold each landmark as it is at rest (3), and what of it turns with the jaw, the left and the right eye, seen
from their joints (9): the posed landmark is

    [1 | R_jaw - 1 | R_left - 1 | R_right - 1] (3, 12)  times  the rows (12, N)

and its derivative by shape and expression that matrix times the rows' bases. Source: docs/concepts/head.md,
Eq. 2.1 to 2.5; docs/concepts/capture.md, Eq. 9.1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from p4d_jax.geometry import axis_angle_to_matrix, exact_products
from p4d_jax.head.model import JAW, LEFT_EYE, RIGHT_EYE, WORLD_SCALE, HeadModel
from p4d_jax.types import Array

EYES = (LEFT_EYE, RIGHT_EYE)
TURNING = (JAW, *EYES)  # joints; of the pose correctives, those of the same


@struct.dataclass
class LandmarkHead:
    """N points: the M landmarks of MediaPipe's that the head defines, then left and right pupil; world units.

    Attributes:
      template: (12, N) rows of the mean head.
      shape_basis: (12, N, S), expression_basis: (12, N, E) what a coefficient adds.
      pose_basis: (12, N, 27) what the correctives R - 1 of jaw and eyes add, row-major.
      mediapipe_indices: (M,) int32 numbers of the landmarks.
      expression_names: name of each expression component, or empty.
    """

    template: Array
    shape_basis: Array
    expression_basis: Array
    pose_basis: Array
    mediapipe_indices: Array
    expression_names: tuple[str, ...] = struct.field(pytree_node=False, default=())


def landmark_head(head: HeadModel) -> LandmarkHead:
    """The landmarks and pupils of a head.

    Raises:
      ValueError: It defines no MediaPipe landmarks.
    """
    triangles = np.asarray(head.mediapipe_triangles)
    if triangles.size == 0:
        raise ValueError(
            f"head: {head.name!r} defines no MediaPipe landmarks, by which a head is fitted; convert"
            " it with its mediapipe_landmark_embedding.npz (docs/howto/convert.md), or use 'openhead'"
        )
    barycentric = np.asarray(head.mediapipe_barycentric, np.float64)
    regressor = np.asarray(head.joint_regressor, np.float64)
    turning = barycentric[..., None] * np.asarray(head.skinning_weights)[triangles]  # (M, 3, 5)

    def rows(values, follow: bool = True, origin=0.0, reach=0.0) -> np.ndarray:
        """(V, 3, ...) of the mesh -> (12, N, ...); follow: whether joints move with it."""
        values = np.asarray(values, np.float64)
        corners, joints = values[triangles], np.einsum("jv,va...->ja...", regressor, values) * follow
        at_rest = [np.einsum("mk,mka...->ma...", barycentric, corners) - origin, joints[list(EYES)] - origin]
        parts = [np.concatenate([at_rest[0], at_rest[1] + reach])]
        for joint in TURNING:
            share = turning[..., joint]
            about = np.einsum("mk,mka...->ma...", share, corners)
            about = about - np.multiply.outer(share.sum(axis=1), joints[joint])
            pupils = np.zeros((2, *about.shape[1:])) + reach
            pupils[[eye != joint for eye in EYES]] = 0.0
            parts.append(np.concatenate([about, pupils]))
        stacked = WORLD_SCALE * np.stack(parts)  # (4, N, 3, ...)
        return np.float32(np.moveaxis(stacked, 2, 1).reshape(12, stacked.shape[1], *values.shape[2:]))

    correctives = np.asarray(head.pose_basis)[..., 9:]  # without the neck's
    reach = np.array([[0, 0, 1]]) * pupil_reach(head)[:, None]
    small = LandmarkHead(
        template=rows(head.template, origin=np.asarray(head.origin), reach=reach),
        shape_basis=rows(head.shape_basis),
        expression_basis=rows(head.expression_basis),
        pose_basis=rows(correctives, follow=False),
        mediapipe_indices=np.asarray(head.mediapipe_indices),
        expression_names=head.expression_names,
    )
    return jax.device_put(small)


def pupil_reach(head: HeadModel) -> np.ndarray:
    """(2,) metres from the joint of the left and of the right eye to its pupil: the eyeball's radius."""
    template = np.asarray(head.template, np.float64)
    joints = np.asarray(head.joint_regressor) @ template
    balls = [np.asarray(head.regions[name]) for name in ("left_eyeball", "right_eyeball")]
    return np.array([template[ball, 2].max() - joints[eye, 2] for ball, eye in zip(balls, EYES, strict=True)])


@jax.jit
@exact_products
def bake_shape(small: LandmarkHead, shape: Array) -> LandmarkHead:
    """The head of one person: `shape` (>= S,) goes into the template, and its basis is empty.

    Most of a photo's unknowns are those of the shape; a fit without them takes less than half the time.
    """
    template = small.template + small.shape_basis @ shape[: small.shape_basis.shape[-1]]
    return small.replace(template=template, shape_basis=small.shape_basis[..., :0])


@exact_products
def rows_at_rest(small: LandmarkHead, shape: Array, expression: Array) -> Array:
    """(12, N) rows of a person with an expression, without correctives; coefficients (S,) and (E,)."""
    return small.template + small.shape_basis @ shape + small.expression_basis @ expression


def turns(jaw: Array, gaze: Array) -> Array:
    """(3, 12) what poses rows: jaw (3,) axis-angle; gaze (2, 2): see `fit.Unknowns`."""
    eyes = jnp.concatenate([gaze, jnp.zeros((2, 1))], axis=1)
    matrices = axis_angle_to_matrix(jnp.concatenate([jaw[None], eyes])) - jnp.eye(3)
    return jnp.concatenate([jnp.eye(3), *matrices], axis=1)


@exact_products
def pose_rows(small: LandmarkHead, rows: Array, jaw: Array, gaze: Array) -> Array:
    """(N, 3) points, world units, of `rows_at_rest` (12, N); jaw, gaze: see `turns`."""
    turned = turns(jaw, gaze)
    correctives = turned[:, 3:].reshape(3, 3, 3).swapaxes(0, 1).reshape(27)
    return (turned @ (rows + small.pose_basis @ correctives)).T
