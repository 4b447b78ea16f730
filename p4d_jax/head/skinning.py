"""Skinning: identity, expression and joint rotations -> the posed vertices of a `HeadModel`.

Linear blend skinning as FLAME does it: template + shape + expression + pose correctives (the nine numbers
R - I of each non-root joint), then every vertex follows the weighted mean of its joints' rigid transforms.
The joints root, neck, jaw, left eye, right eye are regressed from the shaped, not yet posed, vertices.
Rotations are axis-angle in radians. `skin` works in metres in FLAME's frame; `head_vertices`,
`head_joints` and `canonical_vertices` return world units (docs/concepts/conventions.md, 1.1) with the root
rotation at zero: the camera carries it. One head here, `vmap` for many. Source: FLAME (SIGGRAPH Asia 2017),
docs/concepts/head.md, Eq. 2.1 to 2.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from p4d_jax.geometry import axis_angle_to_matrix, exact_products
from p4d_jax.head.model import CANONICAL_JAW, PARENTS, WORLD_SCALE, HeadModel
from p4d_jax.types import Array, FrameParams

if TYPE_CHECKING:
    from jaxtyping import Float


def _leading(name: str, coefficients: Array, size: int) -> Array:
    """The first `size` coefficients; a vector shorter than the basis is an error, a longer one is cut."""
    if coefficients.ndim != 1 or coefficients.shape[0] < size:
        raise ValueError(
            f"{name}: expected one vector of at least {size} coefficients, got shape {coefficients.shape};"
            " pad with zeros, and use vmap for a batch"
        )
    return coefficients[:size]


def _check_rotations(name: str, value: Array, shape: tuple[int, ...]) -> None:
    if value.shape != shape:
        raise ValueError(f"{name}: expected axis-angle of shape {shape}, got {value.shape}; vmap a batch")


@exact_products
def shaped_vertices(model: HeadModel, shape: Array, expression: Array) -> Float[Array, "vertices 3"]:
    """Template with identity and expression, not yet posed.

    Args:
      model: The head model.
      shape: (>= S,) identity coefficients.
      expression: (>= E,) expression coefficients.

    Returns:
      (V, 3) metres.
    """
    shape = _leading("shape", shape, model.shape_basis.shape[-1])
    expression = _leading("expression", expression, model.expression_basis.shape[-1])
    return model.template + model.shape_basis @ shape + model.expression_basis @ expression


@exact_products
def _joint_transforms(
    rotations: Float[Array, "joints 3 3"], joints: Float[Array, "joints 3"]
) -> tuple[Float[Array, "joints 3 3"], Float[Array, "joints 3"]]:
    """World rotation (5, 3, 3) of each joint and its posed place (5, 3), down the kinematic tree."""
    turned, placed = [rotations[0]], [joints[0]]
    for joint, parent in enumerate(PARENTS[1:], start=1):
        turned.append(turned[parent] @ rotations[joint])
        placed.append(turned[parent] @ (joints[joint] - joints[parent]) + placed[parent])
    return jnp.stack(turned), jnp.stack(placed)


@exact_products
def skin(
    model: HeadModel, shape: Array, expression: Array, rotations: Array
) -> tuple[Float[Array, "vertices 3"], Float[Array, "5 3"]]:
    """Linear blend skinning in metres, FLAME's frame.

    Args:
      model: The head model.
      shape: (>= S,) identity coefficients.
      expression: (>= E,) expression coefficients.
      rotations: (5, 3) axis-angle of root, neck, jaw, left eye, right eye.

    Returns:
      vertices (V, 3) and posed joints (5, 3), metres.
    """
    _check_rotations("rotations", rotations, (len(PARENTS), 3))
    shaped = shaped_vertices(model, shape, expression)
    joints = model.joint_regressor @ shaped
    matrices = axis_angle_to_matrix(rotations)
    correctives = (matrices[1:] - jnp.eye(3, dtype=matrices.dtype)).reshape(-1)
    rest = shaped + model.pose_basis @ correctives
    turned, placed = _joint_transforms(matrices, joints)
    shift = placed - jnp.einsum("jab,jb->ja", turned, joints)
    blended = (model.skinning_weights @ turned.reshape(len(PARENTS), 9)).reshape(-1, 3, 3)
    vertices = jnp.einsum("vab,vb->va", blended, rest) + model.skinning_weights @ shift
    return vertices, placed


def joint_rotations(pose: Array, eyes: Array) -> Float[Array, "5 3"]:
    """(5, 3) axis-angle of all joints, root at zero, from pose (6,) neck, jaw and eyes (6,) left, right."""
    _check_rotations("pose", pose, (6,))
    _check_rotations("eyes", eyes, (6,))
    return jnp.concatenate([jnp.zeros(3, pose.dtype), pose, eyes]).reshape(len(PARENTS), 3)


def to_world(model: HeadModel, points: Float[Array, "*points 3"]) -> Float[Array, "*points 3"]:
    """Metres in FLAME's frame -> world units: origin at the canonical neck joint, times `WORLD_SCALE`."""
    return (points - model.origin) * WORLD_SCALE


def head_vertices(
    model: HeadModel, shape: Array, expression: Array, pose: Array, eyes: Array
) -> Float[Array, "vertices 3"]:
    """The mesh m(shape, expression, pose, eyes): (V, 3) world units.

    Args:
      model: The head model.
      shape: (>= S,) identity; components beyond the model's basis are ignored.
      expression: (>= E,) expression; likewise.
      pose: (6,) neck and jaw, axis-angle, radians.
      eyes: (6,) left and right eye, axis-angle, radians.
    """
    return to_world(model, skin(model, shape, expression, joint_rotations(pose, eyes))[0])


def posed_vertices(model: HeadModel, shape: Array, frame: FrameParams) -> Float[Array, "vertices 3"]:
    """(V, 3) world units: `head_vertices` of identity `shape` with the frame's expression, pose and gaze."""
    return head_vertices(model, shape, frame.expression, frame.pose, frame.eyes)


def straightened_vertices(model: HeadModel, shape: Array, frame: FrameParams) -> Float[Array, "vertices 3"]:
    """(V, 3) world units: `posed_vertices` with the neck's rotation at zero."""
    return posed_vertices(model, shape, frame.replace(pose=frame.pose.at[..., :3].set(0.0)))


@exact_products
def head_joints(
    model: HeadModel, shape: Array, expression: Array, pose: Array, eyes: Array
) -> Float[Array, "5 3"]:
    """Posed joints root, neck, jaw, left eye, right eye: (5, 3) world units. Arguments: `head_vertices`."""
    matrices = axis_angle_to_matrix(joint_rotations(pose, eyes))
    joints = model.joint_regressor @ shaped_vertices(model, shape, expression)
    return to_world(model, _joint_transforms(matrices, joints)[1])


def canonical_pose(model: HeadModel) -> Array:
    """(6,) the pose of the canonical mesh: the jaw opened by `CANONICAL_JAW` about x, nothing else."""
    return jnp.zeros(6, model.template.dtype).at[3].set(CANONICAL_JAW)


def canonical_vertices(model: HeadModel) -> Float[Array, "vertices 3"]:
    """The canonical mesh m(0, 0, canonical pose): (V, 3) world units."""
    zeros = jnp.zeros(max(model.shape_basis.shape[-1], model.expression_basis.shape[-1]))
    return head_vertices(model, zeros, zeros, canonical_pose(model), jnp.zeros(6))


@exact_products
def canonical_origin(model: HeadModel) -> Array:
    """(3,) metres: the neck joint of the canonical mesh, which `HeadModel.origin` stores.

    The jaw does not move the neck joint and the root does not turn, so this is the template's neck joint.
    """
    return (model.joint_regressor @ model.template)[1]
