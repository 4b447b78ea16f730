"""The mouth of a head model: which of its surfaces lie behind the lips, and the pattern of its teeth.

Teeth are rigid: the upper row is the skull's, the lower row the jaw's. A row is a strip along the dental
arch; a point of it is told by its arc length from the middle and its height over the strip, from which
crowns, gums and the gaps between teeth follow. World units of docs/concepts/conventions.md; V vertices.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from p4d_jax.geometry import project
from p4d_jax.head.model import JAW, WORLD_SCALE, HeadModel
from p4d_jax.render.raster import Raster, interpolate, rasterize
from p4d_jax.types import Array, Camera

# Mesiodistal widths of a row's teeth from the middle out, millimetres. Source: Wheeler's "Dental Anatomy,
# Physiology and Occlusion", tables of average dimensions.
UPPER_WIDTHS, LOWER_WIDTHS = (8.5, 6.5, 7.5, 7.0, 7.0, 10.0, 9.0), (5.0, 5.5, 7.0, 7.0, 7.0, 11.0, 10.5)
UPPER_CROWN, LOWER_CROWN = 0.47, 0.5  # of a strip's height
WINDOW_SIZE = 128  # pixels a side of the window on a mouth
WINDOW_MARGIN = 1.15  # its side, in the lips' extent
AROUND = 1.6  # of the lips' width: so far from their middle are triangles that can hide the mouth


@struct.dataclass
class Mouth:
    """What is behind the lips.

    Attributes:
      faces: (F, 3) triangles that show or hide it.
      teeth, tongue, cavity: (V,) in [0, 1], which of them a vertex is.
      lips: (n,) int32 vertices of the lips.
      marks: (4,) int32 vertices in the middle of the upper and of the lower lip, and at the corners.
      behind: (V,) world units behind the foremost of the lips, of the head at rest.
      tooth: (V, 3) on teeth the arc length from the middle in widths of teeth, the height over the strip from
        0 at its root to 1 at the edge, and 1 on the lower row.
    """

    faces: Array
    teeth: Array
    tongue: Array
    cavity: Array
    lips: Array
    marks: Array
    behind: Array
    tooth: Array


@struct.dataclass
class MouthView:
    """The posed mouth as a camera sees it, in a square window of its picture that holds the lips.

    Attributes:
      corner: (2,) upper left corner of the window, side: () its side; in shares of the picture.
      raster: (w, w) of `Mouth.faces` in the window.
      points: (w, w, 3) the surface seen there, world.
      teeth, tongue, cavity: (w, w) in [0, 1], what it is.
      tooth: (w, w, 3) `Mouth.tooth` there.
      behind: (w, w) `Mouth.behind` there.
      extent: (2,) height and width of the posed lips (`lip_extent`).
    """

    corner: Array
    side: Array
    raster: Raster
    points: Array
    teeth: Array
    tongue: Array
    cavity: Array
    tooth: Array
    behind: Array
    extent: Array


def see_mouth(mouth: Mouth, posed: Array, camera: Camera, size: int = WINDOW_SIZE) -> MouthView:
    """Looks at the mouth of a posed mesh (V, 3) in a window of `size` pixels a side."""
    uv, _ = project(camera, posed[mouth.lips])
    low, high = uv.min(axis=0), uv.max(axis=0)
    side = WINDOW_MARGIN * jnp.max(high - low)
    corner = 0.5 * (low + high - side)
    shift = jnp.zeros((3, 3)).at[:2, 2].set(corner)
    scale = jnp.array([1.0 / side, 1.0 / side, 1.0])
    window = camera.replace(intrinsics=(camera.intrinsics - shift) * scale[:, None])
    raster = rasterize(posed, mouth.faces, window, size, False)
    labels = jnp.stack([mouth.teeth, mouth.tongue, mouth.cavity], axis=-1)
    seen = interpolate(raster, jnp.concatenate([posed, labels, mouth.tooth, mouth.behind[:, None]], axis=-1))
    teeth, tongue, cavity = jnp.moveaxis(seen[..., 3:6], -1, 0)
    return MouthView(
        corner, side, raster, seen[..., :3], teeth, tongue, cavity, seen[..., 6:9], seen[..., 9],
        lip_extent(mouth, posed),
    )  # fmt: skip


def lip_extent(mouth: Mouth, posed: Array) -> Array:
    """(2,) distances, world units, between the lips' middles and between their corners, of a mesh (V, 3)."""
    upper, lower, one, other = posed[mouth.marks]
    return jnp.stack([jnp.linalg.norm(upper - lower), jnp.linalg.norm(one - other)])


def lip_marks(head: HeadModel, vertices: np.ndarray) -> list[int]:
    """`Mouth.marks` of a mesh at rest (V, 3): of each lip's middle the vertex that is farthest in front."""
    marks = []
    for name in ("upper_lip", "lower_lip"):
        lip = np.asarray(head.regions[name])
        middle = lip[np.abs(vertices[lip, 0]) <= np.sort(np.abs(vertices[lip, 0]))[4]]
        marks.append(int(middle[vertices[middle, 2].argmax()]))
    lips = np.asarray(head.regions["lips"])
    return [*marks, int(lips[vertices[lips, 0].argmin()]), int(lips[vertices[lips, 0].argmax()])]


def build_mouth(head: HeadModel) -> Mouth | None:
    """The mouth of a head model; None where it has no teeth."""
    if "teeth" not in head.regions:
        return None
    vertices, faces = np.asarray(head.template), np.asarray(head.faces)
    member = {
        name: np.isin(np.arange(len(vertices)), np.asarray(head.regions.get(name, ())))
        for name in ("teeth", "tongue", "inner_mouth", "lips")
    }
    lips = vertices[member["lips"]]
    reach = AROUND * (lips[:, 0].max() - lips[:, 0].min())
    near = member["inner_mouth"] | (np.linalg.norm(vertices - lips.mean(0), axis=-1) < reach)
    f32, i32 = (lambda x: np.asarray(x, np.float32)), (lambda x: np.asarray(x, np.int32))
    mouth = Mouth(
        faces=i32(faces[near[faces].any(1)]),
        teeth=f32(member["teeth"]),
        tongue=f32(member["tongue"]),
        cavity=f32(member["inner_mouth"] & ~member["teeth"] & ~member["tongue"]),
        lips=i32(np.flatnonzero(member["lips"])),
        marks=i32(lip_marks(head, vertices)),
        behind=f32(WORLD_SCALE * np.maximum(lips[:, 2].max() - vertices[:, 2], 0.0)),
        tooth=f32(tooth_coordinates(head)),
    )
    return jax.device_put(mouth)


def tooth_coordinates(head: HeadModel) -> np.ndarray:
    """(V, 3) `Mouth.tooth`, zeros off the teeth."""
    vertices = np.asarray(head.template, np.float64)
    result = np.zeros((len(vertices), 3), np.float32)
    teeth = np.asarray(head.regions["teeth"])
    is_lower = np.asarray(head.skinning_weights)[teeth, JAW] > 0.5
    for lower, widths in ((False, UPPER_WIDTHS), (True, LOWER_WIDTHS)):
        row = teeth[is_lower == lower]
        if not len(row):
            continue
        place = vertices[row]
        # The arch is walked from the front on the strip's outer face, by the angle about its middle.
        back = place[:, 2].min()
        angle = np.arctan2(np.abs(place[:, 0]), place[:, 2] - back)
        radius = np.hypot(place[:, 0], place[:, 2] - back)
        ticks = np.linspace(0.0, angle.max(), 33)
        outer = np.array([radius[np.abs(angle - tick) < 0.12].max() for tick in ticks])
        points = np.stack([outer * np.sin(ticks), outer * np.cos(ticks)], -1)
        arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=-1))])
        along = np.interp(angle, ticks, arc / arc[-1]) * sum(widths)
        edges = np.concatenate([[0.0], np.cumsum(widths)])
        root, edge = (
            (place[:, 1].min(), place[:, 1].max()) if lower else (place[:, 1].max(), place[:, 1].min())
        )
        result[row, 0] = np.interp(along, edges, np.arange(len(edges))) * np.where(place[:, 0] < 0, -1.0, 1.0)
        result[row, 1] = (place[:, 1] - root) / (edge - root)
        result[row, 2] = lower
    return result


def tooth_pattern(tooth: Array) -> tuple[Array, Array]:
    """How teeth look at coordinates (..., 3) of `Mouth.tooth`.

    Returns:
      (...) share of the crown, the rest being gum; (...) shade of the crown in [0, 1], dark in
      the gaps between teeth and towards the gum.
    """
    along, height, lower = jnp.moveaxis(tooth, -1, 0)
    phase = along - jnp.floor(along)
    gap = jnp.minimum(phase, 1.0 - phase)
    crown = jnp.where(lower > 0.5, LOWER_CROWN, UPPER_CROWN)
    line = 1.0 - crown * (0.86 + 0.14 * jnp.sin(jnp.pi * phase) ** 0.5)
    share = jnp.clip((height - line) / 0.04 + 0.5, 0.0, 1.0)
    shade = 1.0 - 0.15 * jnp.exp(-((gap / 0.06) ** 2))
    shade *= 0.88 + 0.12 * jnp.clip((height - line) / (0.6 * crown), 0.0, 1.0)
    return share, shade
