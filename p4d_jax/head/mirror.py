"""The mirror image of a frame: what a flipped picture shows, in the 437 numbers of `FrameParams.to_vector`.

Mirroring is x -> -x of camera space and of the head, in the world about the head's own plane of symmetry. Of
a rotation the axis' y and z change sign, the eyes change places, and so do expression components that have a
left and a right. A component of shape is its own mirror image or the negative of it where the basis was made
so (OpenHead: a PCA of heads together with their mirror images). FLAME's bases are not: there is no exact
mirror of its coefficients, a flipped picture has to be fitted anew.
"""

from __future__ import annotations

import re

import numpy as np
from flax import struct

from p4d_jax.errors import UserError
from p4d_jax.head.model import WORLD_SCALE, HeadModel
from p4d_jax.types import EXPRESSION_SIZE, FRAME_VECTOR_SIZE, Array, VectorParts

ROTATION_SIGN = (1.0, -1.0, -1.0)  # of an axis-angle vector
LIKENESS = 0.99  # cosine to its mirror image, above which a component of shape counts as symmetric
EVERY = 8  # a part of the vertices tells whether it is


@struct.dataclass
class FrameMirror:
    """mirrored[k] = sign[k] * vector[order[k]] + offset[k]; all (437,). Applied twice it changes nothing."""

    order: Array
    sign: Array
    offset: Array

    def __call__(self, vector: Array) -> Array:
        """The mirror images of frames (..., 437)."""
        if vector.shape[-1] != FRAME_VECTOR_SIZE:
            raise ValueError(f"vector: the last axis must be {FRAME_VECTOR_SIZE}, got shape {vector.shape}")
        return self.sign * vector[..., self.order] + self.offset


def build_mirror(head: HeadModel) -> FrameMirror:
    """How frames of this head are mirrored.

    Raises:
      UserError: The head's coefficients have no exact mirror.
    """
    order = np.arange(FRAME_VECTOR_SIZE)
    sign, offset = np.ones((2, FRAME_VECTOR_SIZE), np.float32)
    offset[:] = 0
    flip = np.array([-1.0, 1.0, 1.0, 1.0])
    sign[VectorParts.CAM2WORLD] = np.outer(flip, flip).ravel()  # cam2world, between two mirrored spaces
    skew, centre = VectorParts.INTRINSICS.start + np.array([1, 3]), VectorParts.INTRINSICS.start + 2
    sign[[*skew, centre]], offset[centre] = -1, 1  # no skew turns round, the centre goes to 1 - cx
    here, there = mirrored_vertices(head)
    offset[3] = 2 * plane_of_symmetry(head, here, there)  # of the camera's place
    signs = shape_signs(head, here, there)
    sign[VectorParts.SHAPE][: len(signs)] = signs
    order[VectorParts.EXPRESSION] = VectorParts.EXPRESSION.start + expression_order(head)
    sign[VectorParts.POSE], sign[VectorParts.EYES] = np.tile(ROTATION_SIGN, (2, 2))
    order[VectorParts.EYES] = np.roll(order[VectorParts.EYES], 3)
    return FrameMirror(order, sign, offset)


def mirrored_vertices(head: HeadModel) -> tuple[np.ndarray, np.ndarray]:
    """Some vertices, and those nearest to their mirror images."""
    template = np.asarray(head.template, np.float64)
    here = np.arange(0, len(template), EVERY)
    flipped = template[here] * [-1.0, 1.0, 1.0]
    return here, np.array([((template - point) ** 2).sum(1).argmin() for point in flipped])


def plane_of_symmetry(head: HeadModel, here: np.ndarray, there: np.ndarray) -> float:
    """World x of the plane that mirrors the mean head: the origin, a joint, is a hair beside it."""
    middle = np.asarray(head.template, np.float64)[np.concatenate([here, there]), 0].mean()
    return WORLD_SCALE * (middle - float(head.origin[0]))


def shape_signs(head: HeadModel, here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """(S,) 1 or -1 for each component of shape: the same, or its negative, in the mirror."""
    basis = np.asarray(head.shape_basis, np.float64)
    one, other = basis[there] * np.array([-1.0, 1.0, 1.0])[:, None], basis[here]
    lengths = np.sqrt((one**2).sum((0, 1)) * (other**2).sum((0, 1)))
    likeness = (one * other).sum((0, 1)) / np.maximum(lengths, 1e-30)
    likeness[lengths == 0] = 1.0  # a component that does nothing
    if np.abs(likeness).min(initial=1.0) < LIKENESS:
        raise no_mirror(head, f"shape component {np.abs(likeness).argmin()} is not symmetric")
    return np.sign(likeness)


def expression_order(head: HeadModel) -> np.ndarray:
    """(100,) which component of expression each becomes: names that end in Left and Right change places."""
    names = head.expression_names
    if not names:
        raise no_mirror(head, "its expression components have no names that tell left from right")
    other = {"Left": "Right", "Right": "Left"}
    places = {name: place for place, name in enumerate(names)}
    order = np.arange(EXPRESSION_SIZE)
    for name, place in places.items():
        twin = re.sub("(Left|Right)$", lambda side: other[side[1]], name)
        if twin not in places:
            raise no_mirror(head, f"its expression {name!r} has no {twin!r}")
        order[place] = places[twin]
    return order


def no_mirror(head: HeadModel, why: str) -> UserError:
    """The error of a head whose coefficients cannot be mirrored."""
    return UserError(
        f"head {head.name!r} has no exact mirror ({why}): fit the flipped pictures too and store"
        " mirrored_frames beside frames, or do without mirrored pictures (mirror=False)"
    )
