"""The lids of a head model: which of their skin only shut eyes show, and how far eyes are open.

An open eye folds its upper lid away, so that a photo of it shows a few pixels of what a shut one covers the
eye with. World units of docs/concepts/conventions.md; V vertices, n of them on the lids' hidden skin, m on
the skin around; the first of two eyes is the head's left one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from p4d_jax.head.model import HeadModel
from p4d_jax.head.skinning import canonical_pose, head_vertices
from p4d_jax.types import EXPRESSION_SIZE, SHAPE_SIZE, Array

BLINKS = ("eyeBlinkLeft", "eyeBlinkRight")
# By how much the frontal area of skin grows as an eye shuts: from here it is hidden skin, and here fully.
GROWS_FROM, GROWS_TO = 1.4, 2.2
AROUND = 0.06  # world units around hidden skin within which other skin is like it
SKIN_WIDTH = 0.02  # world units: Gaussian width in which it is
UPPER_RIM = 0.3  # share of the farthest way of a rim's vertex as an eye shuts, below which it is a lower rim


@struct.dataclass
class Lids:
    """What shut eyes show of their lids.

    Attributes:
      hidden: (V, 2) in [0, 1], how much a vertex is skin that only the shut left, or right, eye shows.
      lids: (n,) int32 the vertices of which that is more than 0.
      skin: (m,) int32 vertices of other skin around.
      likeness: (n, m) how near, in [0, 1], each of these is to each of the lids, 1 the nearest.
      rims: (2, 2) int32 for each eye the vertices in the middle of its upper and lower lids' rims.
    """

    hidden: Array
    lids: Array
    skin: Array
    likeness: Array
    rims: Array


def build_lids(head: HeadModel) -> Lids | None:
    """The lids of a head model; None where its expression basis does not name the blinks."""
    if not set(BLINKS) <= set(head.expression_names):
        return None
    vertices = jax.jit(
        lambda head, expression: head_vertices(
            head, jnp.zeros(SHAPE_SIZE), expression, canonical_pose(head), jnp.zeros(6)
        )
    )

    def pose(blinks: list[int]) -> np.ndarray:
        expression = np.zeros(EXPRESSION_SIZE, np.float32)
        expression[blinks] = 1.0
        return np.asarray(vertices(head, expression))

    columns = [head.expression_names.index(name) for name in BLINKS]
    rest = pose([])
    hidden, rims, ways = np.zeros((len(rest), 2), np.float32), [], []
    inside = np.ones(len(rest), bool)
    inside[np.asarray(head.regions["without_inner_mouth"])] = False
    rim = np.asarray(head.regions["eyelids"])
    for side, column in enumerate(columns):
        shut = pose([column])
        grown = frontal_areas(shut, head.faces) / (frontal_areas(rest, head.faces) + 1e-9)
        hidden[:, side] = np.clip((grown - GROWS_FROM) / (GROWS_TO - GROWS_FROM), 0.0, 1.0)
        moved = rest[:, 1] - shut[:, 1]
        hidden[inside, side] = 0.0
        ways.append(np.linalg.norm(shut - rest, axis=-1))
        upper = rim[np.argmax(moved[rim])]
        below = rim[moved[rim] < UPPER_RIM * moved[upper]]
        lower = below[np.argmin(np.linalg.norm(shut[below] - shut[upper], axis=-1))]
        rims.append((upper, lower))
    # A blink stirs the other eye's skin a little.
    hidden *= np.stack([ways[0] > ways[1], ways[1] > ways[0]], axis=-1)
    lids = np.flatnonzero(hidden.max(-1) > 0)
    shut = pose(columns)
    other = np.setdiff1d(np.asarray(head.regions["face"]), np.concatenate([lids, rim]))
    for eyeball in ("left_eyeball", "right_eyeball"):
        other = np.setdiff1d(other, np.asarray(head.regions[eyeball]))
    squared = np.sum((shut[lids][:, None] - shut[other][None]) ** 2, axis=-1)
    near = squared.min(axis=0) < AROUND**2
    squared = squared[:, near]
    likeness = np.exp((squared.min(axis=-1, keepdims=True) - squared) / SKIN_WIDTH**2)
    i32 = lambda x: np.asarray(x, np.int32)
    found = Lids(hidden, i32(lids), i32(other[near]), np.asarray(likeness, np.float32), i32(rims))
    return jax.device_put(found)


def frontal_areas(vertices: np.ndarray, faces: Array) -> np.ndarray:
    """(V,) a third of the areas on the xy-plane of those triangles around a vertex that face +z."""
    faces = np.asarray(faces)
    corner = vertices[faces][..., :2]
    one, other = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    area = np.maximum(one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0], 0.0) / 6.0
    return np.bincount(faces.ravel(), np.repeat(area, 3), len(vertices))


def eye_openings(lids: Lids, posed: Array) -> Array:
    """(2,) distances, world units, between the middles of the rims of each eye, of a mesh (V, 3)."""
    upper, lower = posed[lids.rims[:, 0]], posed[lids.rims[:, 1]]
    return jnp.linalg.norm(upper - lower, axis=-1)
