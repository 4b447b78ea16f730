"""OpenHeads' scene: all that a head model fixes for every portrait of it (meshes, maps, light transfer)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from p4d_jax.geometry import vertex_normals
from p4d_jax.head.landmarks import landmarks70
from p4d_jax.head.model import HeadModel
from p4d_jax.head.mouth import tooth_coordinates
from p4d_jax.head.skinning import head_vertices
from p4d_jax.openheads import bust, hair
from p4d_jax.openheads.appearance import (
    CLOTH,
    EYE,
    HAIR,
    MOUTH,
    SKIN,
    TEETH,
    paint_maps,
)
from p4d_jax.openheads.config import OpenHeadsSettings
from p4d_jax.openheads.light import (
    bake_transfer,
    cosine_transfer,
)
from p4d_jax.types import SHAPE_SIZE, Array

MOUTH_LIGHT = {"inner_mouth": 0.25, "tongue": 0.5, "teeth": 0.8}  # share of the light outside, at the lips
MOUTH_RIM = 0.05  # world units behind the lips that get all of it
MOUTH_REACH = 0.06  # world units in which it falls to a third


DEFAULTS = OpenHeadsSettings()


@struct.dataclass
class OpenHeadsScene:
    """What all identities on one head model share, computed once by `prepare_scene`.

    Attributes:
      head: The head model.
      faces: (F, 3) rendered triangles: head, then hair shell, then bust. materials: (F,).
      rest: (V, 3) rest vertices, world units; eyeballs: unit vectors in the eye's frame.
      normals_transfer: (V, 9) unshadowed transfer of the rest mesh. transfer: (V, 3, 9) with shadows.
      occlusion: (V,) share of the sky each rest vertex sees.
      angles: (V, 2) azimuth and elevation about the skull's centre. beard: (V,) where a beard grows.
      paint, bounds: Front maps, see `sample_paint`.
      center_weights: (V,) mean of these vertices is the skull's centre, shifted by center_offset (3,).
      hair_index, hair_weight: Binding of the hair's shell. neck_index, neck_weight: Binding of the bust.
      neck_middle: (3,) of the rim. way: (V,) minus the distance to the rim.
    """

    head: HeadModel
    faces: Array
    materials: Array
    rest: Array
    coordinates: Array
    normals_transfer: Array
    transfer: Array
    occlusion: Array
    angles: Array
    beard: Array
    paint: Array
    bounds: Array
    center_weights: Array
    center_offset: Array
    hair_index: Array
    hair_weight: Array
    neck_index: Array
    neck_weight: Array
    neck_middle: Array
    way: Array


def prepare_scene(head: HeadModel) -> OpenHeadsScene:
    """The scene of a head model. Takes a few seconds on the host: prepare it once and pass it on."""
    faces, materials = _head_faces(head)
    skin_faces = faces[materials == SKIN]
    rest, normals, marks = (np.asarray(value) for value in _rest_mesh(head, jnp.asarray(faces)))
    center, center_weights, center_offset = _skull_center(head, rest, skin_faces)
    ears = _members(head, "ears") | _members(head, "left_ear") | _members(head, "right_ear")
    bare = skin_faces[~ears[skin_faces].any(1)]
    hair_index, hair_weight = hair.bind_shell(rest, bare, center)
    neck_index, neck_weight, middle = bust.bind_bust(rest, np.asarray(head.faces))
    rim = np.einsum("nk,nka->na", neck_weight, rest[neck_index])
    bounds = np.array([-0.32, marks[8, 1] - 0.08, 0.32, marks[19, 1] + 0.2], np.float32)
    transfer = _diffuse_transfer(bake_transfer(rest, normals, faces), skin_faces)
    transfer = _open_mouth_transfer(head, rest, transfer, cosine_transfer(normals))
    offset = rest - center
    angles = np.stack(
        [
            np.arctan2(offset[:, 0], offset[:, 2]),
            np.arctan2(offset[:, 1], np.hypot(offset[:, 0], offset[:, 2])),
        ],
        -1,
    )
    parts = [(faces, materials)]
    start = len(rest)
    for grid, material in ((hair.shell_faces(), HAIR), (bust.bust_faces(), CLOTH)):
        parts.append((grid + start, np.full(len(grid), material, np.int32)))
        start += grid.max() + 1
    arrays = dict(
        faces=np.concatenate([part[0] for part in parts]).astype(np.int32),
        materials=np.concatenate([part[1] for part in parts]).astype(np.int32),
        rest=rest,
        coordinates=_coordinates(head, rest),
        normals_transfer=cosine_transfer(normals),
        transfer=transfer,
        occlusion=np.clip(transfer[:, 1, 0] / 0.282095, 0.0, 1.0),
        angles=angles,
        beard=_beard_map(rest, marks, center),
        paint=paint_maps(marks, bounds),
        bounds=bounds,
        center_weights=center_weights,
        center_offset=center_offset,
        hair_index=hair_index,
        hair_weight=hair_weight,
        neck_index=neck_index,
        neck_middle=middle,
        way=bust.way_to_rim(rest, rim, middle),
        neck_weight=neck_weight,
    )
    return OpenHeadsScene(
        head=head,
        **{
            name: jnp.asarray(value, jnp.int32 if np.asarray(value).dtype.kind == "i" else jnp.float32)
            for name, value in arrays.items()
        },
    )


@jax.jit
def _rest_mesh(head: HeadModel, faces: Array) -> tuple[Array, Array, Array]:
    """Vertices (V, 3) and normals (V, 3) of the mean head at rest, its 68 landmarks (68, 3)."""
    zeros = jnp.zeros(SHAPE_SIZE)
    rest = head_vertices(head, zeros, zeros, jnp.zeros(6), jnp.zeros(6))
    return rest, vertex_normals(rest, faces), landmarks70(head, rest, 0.0)[:68]


def _members(head: HeadModel, region: str) -> np.ndarray:
    """(V,) bool, all False where the head has no such region."""
    member = np.zeros(head.template.shape[0], bool)
    if region in head.regions:
        member[np.asarray(head.regions[region])] = True
    return member


def _head_faces(head: HeadModel) -> tuple[np.ndarray, np.ndarray]:
    """Rendered triangles of the head, lashes left out, and their materials."""
    faces = np.asarray(head.faces)
    eyes = _members(head, "left_eyeball") | _members(head, "right_eyeball")
    teeth = _members(head, "teeth")
    inside = ~_members(head, "without_inner_mouth") & ~eyes
    lashes = _members(head, "lashes") | _members(head, "eyelashes")
    material = np.full(len(faces), SKIN, np.int32)
    material[inside[faces].any(1)] = MOUTH
    material[teeth[faces].all(1)] = TEETH
    material[eyes[faces].all(1)] = EYE
    keep = ~lashes[faces].any(1)
    return faces[keep], material[keep]


def _coordinates(head: HeadModel, rest: np.ndarray) -> np.ndarray:
    """Rest positions, but on eyeballs the unit vector from the ball's centre, on teeth `Mouth.tooth`."""
    coordinates = rest.copy()
    if "teeth" in head.regions:
        teeth = np.asarray(head.regions["teeth"])
        coordinates[teeth] = tooth_coordinates(head)[teeth]
    for region in ("left_eyeball", "right_eyeball"):
        ball = np.asarray(head.regions[region])
        away = rest[ball] - 0.5 * (rest[ball].min(0) + rest[ball].max(0))
        coordinates[ball] = away / np.linalg.norm(away, axis=-1, keepdims=True)
    return coordinates


def _skull_center(head: HeadModel, rest: np.ndarray, skin: np.ndarray):
    """Centre (3,) at eye height in the middle of the skull, as a weighted mean of vertices and an offset."""
    eyes = _members(head, "left_eyeball") | _members(head, "right_eyeball")
    height = rest[eyes, 1].mean() + 0.03
    skull = np.zeros(len(rest), bool)
    skull[np.unique(skin)] = True
    skull &= rest[:, 1] > height + 0.05
    box = rest[skull]
    center = np.array([0.0, height, 0.5 * (box[:, 2].min() + box[:, 2].max())])
    weights = skull / skull.sum()
    return center, weights, center - weights @ rest


def _diffuse_transfer(transfer: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """(V, 9) -> (V, 3, 9): shadows spread further in red than in blue."""
    edges = np.concatenate([skin[:, [0, 1]], skin[:, [1, 2]], skin[:, [2, 0]]])
    edges = np.concatenate([edges, edges[:, ::-1]])
    degree = np.bincount(edges[:, 0], minlength=len(transfer))[:, None]

    def smooth(values):
        total = np.zeros_like(values)
        np.add.at(total, edges[:, 0], values[edges[:, 1]])
        return np.where(degree > 0, 0.5 * values + 0.5 * total / np.maximum(degree, 1), values)

    levels = [transfer]
    for _ in range(4):
        levels.append(smooth(levels[-1]))
    return np.stack([levels[4], levels[2], levels[1]], 1)


def _open_mouth_transfer(head: HeadModel, rest: np.ndarray, transfer: np.ndarray, free: np.ndarray):
    """The transfer (V, 3, 9) with light in the mouth, which the mesh at rest keeps shut and dark.

    The share of unshadowed light (V, 9) that teeth and tongue get falls with their distance behind the lips.
    """
    lips = rest[_members(head, "lips"), 2].max()
    depth = np.maximum(0.0, lips - rest[:, 2] - MOUTH_RIM)
    result = np.asarray(transfer).copy()
    for region, share in MOUTH_LIGHT.items():
        inside = _members(head, region)
        lit = share * np.exp(-depth[inside] / MOUTH_REACH)
        result[inside] = lit[:, None, None] * np.asarray(free)[inside][:, None]
    return result


def _beard_map(rest: np.ndarray, marks: np.ndarray, center: np.ndarray) -> np.ndarray:
    """(V,) in [0, 1]: cheeks below the line from ear to mouth, chin, and the upper throat."""
    reach = np.abs(rest[:, 0]) / max(np.abs(marks[:17, 0]).max(), 1e-6)
    mouth, chin = 0.5 * (marks[48, 1] + marks[54, 1]), marks[8, 1]
    ear = mouth + 1.1 * (marks[27, 1] - marks[33, 1])
    line = mouth + 0.01 + (ear - mouth) * np.clip((reach - 0.45) / 0.5, 0, 1) ** 1.5
    upper = np.clip((line - rest[:, 1]) / 0.03 + 0.5, 0, 1)
    lower = np.clip((rest[:, 1] - (chin - 0.06)) / 0.05, 0, 1)
    front = np.clip((rest[:, 2] - center[2] - 0.02) / 0.05, 0, 1)
    return upper * lower * front
