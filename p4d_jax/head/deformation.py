"""Deformation fields: observed point x -> canonical point. No gradient flows through them.

Source: docs/concepts/deformation.md, Eq. 3.1 to 3.3.

- Surface field: x keeps its place relative to the nearest triangle of the observed mesh. With barycentric b
  of x's foot on the triangle's plane (it may lie outside the triangle: then the frame of the triangle is
  continued) and height h over it: x_c = sum of b * (the triangle, canonical) + h * (its canonical normal).
- Neck field D_neck: the surface field of the posed against the neck-straightened decimated mesh, stored as
  offsets on a 24^3 grid and, smoothed, on an 8^3 grid; far from the head the smooth one counts.
- Vertex field: the nearest of some candidate vertices, then the offsets of its neighbours weighted by
  1 / (squared distance + 1e-10).
- Part-wise field D of GenHead: vertex fields for head, eyes and mouth.

P points, V vertices, F triangles; world units. Grid points are voxel centres of the box [-w/2, w/2]^3,
w = box_warp, indexed [x, y, z]; grids are read trilinearly, with zeros outside.

Nearest triangle and nearest vertex are a scan over the triangles with all points as vector lanes, which
needs no memory for pairs and runs at the arithmetic speed of a CPU.

Ties. Seen from outside, the nearest point of a mesh is often on an edge or a vertex, which two or more
triangles share; they are equally near and carry a far point differently, so that the choice is seen. The
reference has no rule of its own: PyTorch3D computes each triangle's squared distance in float32, and the
last of the least counts. Rounding decides where the triangles reach their edge from different corners. We
compute the same numbers: the same formula, the same order, every product rounded (`round_product`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from p4d_jax.geometry import divide_by_one, dot_in_order, round_product
from p4d_jax.types import BOX_WARP, Array

if TYPE_CHECKING:
    from jaxtyping import Float, Int

FINE, COARSE = 24, 8
SMOOTHING_PASSES = 2
BLEND_RATE, BLEND_START = 1000.0, 3e-3  # per squared world unit; squared world units
INFINITY = 1000.0  # where the vertex that pads neighbour lists stands, in every mesh
WEIGHT_FLOOR = 1e-10
EYE_BOX = 1.2  # times the eyeball's size
# A triangle of less area is met at its edges only, as in the point-to-mesh distance of PyTorch3D at the
# setting that the public implementation uses. Most triangles of a decimated head are.
MIN_TRIANGLE_AREA = 5e-3
_SHORT_EDGE = 1e-8  # squared world units; a shorter edge is its end point
# Rows a turn: enough work for the vector units, little enough for a quick compilation.
_TRIANGLES_A_TURN, _VERTICES_A_TURN = 2, 8


@struct.dataclass
class SurfaceField:
    """The surface field at P points.

    Attributes:
      offset: (P, 3) canonical minus observed place.
      squared_distance: (P,) squared distance to the observed mesh.
      triangle: (P,) int32 index of the nearest triangle.
    """

    offset: Array
    squared_distance: Array
    triangle: Array


@struct.dataclass
class NeckField:
    """D_neck of one pose.

    Attributes:
      fine: (24, 24, 24, 4) offset and squared distance at the fine grid's points.
      smooth: (8, 8, 8, 3) smoothed offset at the coarse grid's points.
      box_warp: () side of the box, world units.
    """

    fine: Array
    smooth: Array
    box_warp: Array


@struct.dataclass
class PartField:
    """Canonical points of the part-wise field.

    Attributes:
      head, eyes, mouth: (P, 3) canonical points by the vertices of each part.
      head_distance, eyes_distance, mouth_distance: (P,) squared distance to the nearest vertex of each part.
      in_eye_box: (P,) bool, true where the field of the eyes is active.
    """

    head: Array
    eyes: Array
    mouth: Array
    head_distance: Array
    eyes_distance: Array
    mouth_distance: Array
    in_eye_box: Array


# Nearest item ---------------------------------------------------------------------------------------------


def _scan_nearest(
    points: Array,
    table: Array,
    squared_distance: Callable[[tuple, Array], Array],
    replaces: Callable[[Array, Array], Array],
    unroll: int,
) -> tuple[Array, Array]:
    """Index (P,) of the nearest row of `table` (n, k), and its squared distance (P,).

    A row takes the place of the nearest so far where `replaces(its distance, least distance)`: `jnp.less`
    keeps the first of several equally near rows, `jnp.less_equal` the last.
    """
    coordinates = points[:, 0], points[:, 1], points[:, 2]

    def step(state: tuple[Array, Array], row: tuple[Array, Array]):
        best, nearest = state
        index, values = row
        distance = squared_distance(coordinates, values)
        nearest = jnp.where(replaces(distance, best), index, nearest)
        return (jnp.minimum(best, distance), nearest), None

    start = (jnp.full(points.shape[0], jnp.inf), jnp.zeros(points.shape[0], jnp.int32))
    rows = (jnp.arange(table.shape[0], dtype=jnp.int32), table)
    (best, nearest), _ = lax.scan(step, start, rows, unroll=unroll)
    return nearest, best


def _components(vectors: Array) -> tuple[Array, Array, Array]:
    return vectors[..., 0], vectors[..., 1], vectors[..., 2]


def _triangle_table(triangles: Array) -> Array:
    """(F, 27) what `_distance_to_triangle` reads of triangles (F, 3, 3), corners a, b, c.

    Columns: of the edges ab, ac, bc (in this direction: the other would round differently) the start, the
    vector and its squared length, 7 each; the unit normal, 3; ab . ac; the Gram determinant of ab and ac; the
    area.
    """
    corner = [triangles[:, k] for k in range(3)]
    edges = []
    for s, t in ((0, 1), (0, 2), (1, 2)):
        edge = corner[t] - corner[s]
        squared = dot_in_order(_components(edge), _components(edge))[:, None]
        short = squared <= _SHORT_EDGE
        edges.append(
            [
                jnp.where(short, corner[t], corner[s]),
                jnp.where(short, 0, edge),
                jnp.where(short, 1, squared),
            ]
        )
    ab, ac = (_components(corner[k] - corner[0]) for k in (1, 2))
    normal = [dot_in_order((ac[k - 2], -ac[k - 1]), (ab[k - 1], ab[k - 2])) for k in range(3)]
    length = jnp.sqrt(dot_in_order(normal, normal))
    unit = [divide_by_one(component, length + 1e-8) for component in normal]
    ab_ab, ab_ac, ac_ac = dot_in_order(ab, ab), dot_in_order(ab, ac), dot_in_order(ac, ac)
    gram = dot_in_order((ab_ab, -ab_ac), (ac_ac, ab_ac)) + 1e-8
    plane = jnp.stack([*unit, ab_ac, gram, length / 2], axis=1)
    return jnp.concatenate([column for edge in edges for column in edge] + [plane], axis=1)


def _distance_to_triangle(point: tuple[Array, Array, Array], row: Array) -> Array:
    """Squared distance of points (three (P,) coordinates) to one triangle of `_triangle_table`."""
    best = None
    for k in (0, 7, 14):
        start, edge = row[k : k + 3], row[k + 3 : k + 6]
        away = [point[i] - start[i] for i in range(3)]
        along = jnp.clip(divide_by_one(dot_in_order(edge, away), row[k + 6]), 0, 1)
        gap = [point[i] - (start[i] + round_product(along * edge[i])) for i in range(3)]
        distance = dot_in_order(gap, gap)
        best = distance if best is None else jnp.minimum(best, distance)
    a, ab, ab_ab, ac, ac_ac = row[0:3], row[3:6], row[6], row[10:13], row[13]
    normal, ab_ac, gram, area = row[21:24], row[24], row[25], row[26]
    height = dot_in_order([a[i] - point[i] for i in range(3)], normal)
    foot = [point[i] + round_product(height * normal[i]) - a[i] for i in range(3)]
    along_ab, along_ac = dot_in_order(foot, ab), dot_in_order(foot, ac)
    b = divide_by_one(dot_in_order((ac_ac, -ab_ac), (along_ab, along_ac)), gram)
    c = divide_by_one(dot_in_order((ab_ab, -ab_ac), (along_ac, along_ab)), gram)
    over = (b >= 0) & (b <= 1) & (c >= 0) & (c <= 1) & (1 - b - c >= 0) & (1 - b - c <= 1)
    return jnp.where(over & (area >= MIN_TRIANGLE_AREA), height * height, best)


def _distance_to_vertex(point: tuple[Array, Array, Array], row: Array) -> Array:
    x, y, z = (point[i] - row[i] for i in range(3))
    return x * x + y * y + z * z


# Surface and neck -----------------------------------------------------------------------------------------


def _carry(points: Array, source: Array, target: Array) -> Array:
    """Points (P, 3) from the frame of their triangle in `source` (P, 3, 3) to that in `target`."""
    e1, e2 = source[:, 1] - source[:, 0], source[:, 2] - source[:, 0]
    normal, away = jnp.cross(e1, e2), points - source[:, 0]
    squared = jnp.sum(normal**2, -1, keepdims=True)
    b1 = jnp.sum(jnp.cross(away, e2) * normal, -1, keepdims=True) / jnp.maximum(squared, 1e-12)
    b2 = jnp.sum(jnp.cross(e1, away) * normal, -1, keepdims=True) / jnp.maximum(squared, 1e-12)
    height = jnp.sum(away * normal, -1, keepdims=True) / jnp.sqrt(jnp.maximum(squared, 1e-24))
    f1, f2 = target[:, 1] - target[:, 0], target[:, 2] - target[:, 0]
    up = jnp.cross(f1, f2)
    up = up / jnp.sqrt(jnp.maximum(jnp.sum(up**2, -1, keepdims=True), 1e-24))
    return target[:, 0] + b1 * f1 + b2 * f2 + height * up


def decimate(
    vertices: Float[Array, "vertices 3"],
    triangles: Int[Array, "decimated 3"],
    barycentric: Float[Array, "decimated 3"],
) -> Float[Array, "decimated 3"]:
    """Vertices (V, 3) of the full mesh -> those of the decimated mesh (v, 3).

    Args:
      vertices: (V, 3).
      triangles: (v, 3) int32, on which triangle of the full mesh each decimated vertex lies.
      barycentric: (v, 3) where in that triangle. Summed in their order: see Ties above.
    """
    corners = vertices[triangles]
    return dot_in_order([barycentric[:, k, None] for k in range(3)], [corners[:, k] for k in range(3)])


def surface_field(
    points: Float[Array, "points 3"],
    observed: Float[Array, "vertices 3"],
    canonical: Float[Array, "vertices 3"],
    faces: Int[Array, "faces 3"],
) -> SurfaceField:
    """The surface field of one mesh pair at points.

    Args:
      points: (P, 3).
      observed, canonical: (V, 3) the same mesh twice.
      faces: (F, 3) int32.
    """
    points, observed, canonical = lax.stop_gradient((points, observed, canonical))
    faces = jnp.asarray(faces)
    triangle, squared = _scan_nearest(
        points, _triangle_table(observed[faces]), _distance_to_triangle, jnp.less_equal, _TRIANGLES_A_TURN
    )
    corners = faces[triangle]
    carried = _carry(points, observed[corners], canonical[corners])
    return SurfaceField(carried - points, squared, triangle)


def grid_points(size: int, box_warp: float | Array) -> Float[Array, "voxels 3"]:
    """Voxel centres (size^3, 3) of the box, x slowest."""
    # In this order and in float32: which of two triangles is nearer depends on the last bit.
    first, step = np.float32(0.5 / size), np.float32(1 / size)
    centres = (np.arange(size, dtype=np.float32) * step + first - np.float32(0.5)) * box_warp
    return jnp.stack(jnp.meshgrid(centres, centres, centres, indexing="ij"), -1).reshape(-1, 3)


def _smooth(grid: Array) -> Array:
    """Mean over 3^3 neighbours of (n, n, n, C), edges replicated."""
    for axis in range(3):
        before, after = jnp.take(grid, jnp.array([0]), axis), jnp.take(grid, jnp.array([-1]), axis)
        padded = jnp.concatenate([before, grid, after], axis)
        size = grid.shape[axis]
        grid = sum(lax.slice_in_dim(padded, k, k + size, axis=axis) for k in range(3)) / 3
    return grid


def read_grid(grid: Array, position: Array) -> Array:
    """Trilinear read of grid (n, n, n, C) at positions (P, 3), zero outside.

    The box is [-1, 1]^3; values stand at voxel centres, so the outermost half voxel fades to zero.
    """
    size = grid.shape[0]
    flat = grid.reshape(-1, grid.shape[-1])
    index = ((position + 1) * size - 1) / 2
    low = jnp.floor(index)
    # An axis at a time: points are the vector lanes, which is three times as fast as rows of three.
    fraction, low = (index - low).T, low.astype(jnp.int32).T
    value = jnp.zeros((position.shape[0], grid.shape[-1]), grid.dtype)
    for corner in range(8):
        weight, row = 1.0, 0
        for axis in range(3):
            step = corner >> (2 - axis) & 1
            place = low[axis] + step
            inside = (place >= 0) & (place < size)
            weight *= jnp.where(inside, fraction[axis] if step else 1 - fraction[axis], 0)
            row = row * size + jnp.clip(place, 0, size - 1)
        value += weight[:, None] * flat[row]
    return value


def build_neck_field(
    posed: Array, straight: Array, faces: Array, box_warp: float | Array = BOX_WARP
) -> NeckField:
    """D_neck's grids for one pose.

    Args:
      posed, straight: (v, 3) the decimated mesh with the neck's rotation and without.
      faces: (f, 3) int32.
      box_warp: Side of the box, world units.
    """
    points = jnp.concatenate([grid_points(FINE, box_warp), grid_points(COARSE, box_warp)])
    field = surface_field(points, posed, straight, faces)
    fine = jnp.concatenate([field.offset, field.squared_distance[:, None]], axis=1)[: FINE**3]
    smooth = field.offset[FINE**3 :].reshape(COARSE, COARSE, COARSE, 3)
    for _ in range(SMOOTHING_PASSES):
        smooth = _smooth(smooth)
    return NeckField(fine.reshape(FINE, FINE, FINE, 4), smooth, jnp.asarray(box_warp, jnp.float32))


def apply_neck_field(field: NeckField, points: Float[Array, "points 3"]) -> Float[Array, "points 3"]:
    """Observed points (P, 3) -> points with the neck straight (P, 3)."""
    points, field = lax.stop_gradient((points, field))
    position = points * (2 / field.box_warp)
    fine = read_grid(field.fine, position)
    smooth = read_grid(field.smooth, position)
    weight = jnp.exp(-BLEND_RATE * jax.nn.relu(fine[:, 3:] - BLEND_START))
    return points + weight * fine[:, :3] + (1 - weight) * smooth


# Vertices and parts ---------------------------------------------------------------------------------------


def vertex_field(
    points: Array, observed: Array, canonical: Array, neighbours: Array, candidates: Array
) -> tuple[Array, Array]:
    """Moves points with the neighbourhood of the nearest candidate vertex.

    Args:
      points: (P, 3).
      observed, canonical: (V, 3) the same mesh twice.
      neighbours: (V, 10) int32, padded with V.
      candidates: (n,) int32 vertices among which the nearest is sought.

    Returns:
      canonical points (P, 3), squared distance to the nearest candidate (P,).
    """
    points, observed, canonical = lax.stop_gradient((points, observed, canonical))
    nearest, squared = _scan_nearest(
        points, observed[candidates], _distance_to_vertex, jnp.less, _VERTICES_A_TURN
    )
    pad = jnp.full((1, 3), INFINITY, observed.dtype)
    place = jnp.concatenate([observed, pad])
    offset = jnp.concatenate([canonical - observed, jnp.zeros_like(pad)])
    # The candidates' neighbourhoods first, so that each point gathers one short row.
    around = neighbours[candidates]
    rows = jnp.concatenate([place[around], offset[around]], axis=-1)[nearest]  # (P, 10, 6)
    away = points[:, None] - rows[..., :3]
    weight = 1 / (jnp.sum(away**2, -1) + WEIGHT_FLOOR)
    weight = weight / jnp.sum(weight, -1, keepdims=True)
    return points + jnp.sum(weight[..., None] * rows[..., 3:], axis=1), squared


def in_box_around(points: Array, vertices: Array, scale: float = EYE_BOX) -> Array:
    """(P,) bool: in the box `scale` times the size of `vertices` and centred on their mean."""
    reach = (vertices.max(0) - vertices.min(0)) / 2 * scale
    return (jnp.abs(points - vertices.mean(0)) < reach).all(-1)


def part_field(
    points: Array,
    canonical: Array,
    full: Array,
    without_expression: Array,
    neighbours: Array,
    regions: dict[str, Array],
) -> PartField:
    """The part-wise field of GenHead, after D_neck.

    Args:
      points: (P, 3), neck straight.
      canonical: (V, 3) the canonical mesh.
      full: (V, 3) m(shape, expression, pose) with gaze; neck straight.
      without_expression: (V, 3) m(shape, 0, pose): drives the mouth, so that teeth follow the jaw.
      neighbours: (V, 10) int32, padded with V.
      regions: 'face', 'left_eyeball', 'right_eyeball', 'lips' -> vertex indices.
    """
    left, right = regions["left_eyeball"], regions["right_eyeball"]
    head, head_distance = vertex_field(points, full, canonical, neighbours, regions["face"])
    eyeballs = jnp.concatenate([left, right])
    eyes, eyes_distance = vertex_field(points, full, canonical, neighbours, eyeballs)
    mouth, mouth_distance = vertex_field(points, without_expression, canonical, neighbours, regions["lips"])
    boxed = in_box_around(points, full[left]) | in_box_around(points, full[right])
    return PartField(head, eyes, mouth, head_distance, eyes_distance, mouth_distance, boxed)
