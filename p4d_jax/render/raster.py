"""Z-buffer rasterizer: the nearest triangle at each pixel centre, its depth, and barycentric coordinates.

One camera, one mesh; `vmap` for batches. Shapes are static, so it compiles once a resolution, and it is
exact: every pixel centre gets the nearest of all triangles that cover it, ties to the lowest face index.

Method. Each front-facing triangle on the image is cut into windows of `WINDOW` pixels over its bounding
box of pixel centres; a triangle that holds no pixel centre has none. The windows of all triangles form one
work list, item j belonging to the triangle at which the running count of windows passes j, and a loop takes
`CHUNK` items a turn until the list is empty: work goes where the pixels are, with no bound on the size of a
triangle. A turn computes coverage and inverse depth, keeps the largest inverse depth of each pixel
(scatter-max), then the lowest face index among those that reach it (scatter-min).

Letters: uv in [0, 1]^2, v down; pixel positions p = uv * R, centres at integer + 0.5; b = barycentric in the
image, which interpolates 1/z; corrected barycentric = b_i / z_i over their sum. z is the distance along the
camera's axis, `Raster.depth` the distance along the ray, as the ray marcher counts it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from flax import struct
from jax import lax

from p4d_jax.geometry import exact_products, project
from p4d_jax.render.rays import pixel_centres
from p4d_jax.types import Array, Camera

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Num

NEAR = 1e-3  # world units; a triangle with a vertex nearer than this, or behind, is skipped
WINDOW = (2, 2)  # rows, columns
CHUNK = 2048
EDGE_TOLERANCE = 1e-4  # pixels; makes shared edges watertight under float32 rounding
MIN_AREA = 1e-9  # pixels^2, twice the area; thinner triangles are seen edge-on and skipped


@struct.dataclass
class Raster:
    """The nearest triangle at each pixel centre of an R x R image.

    Attributes:
      mask: (R, R) bool, true where a triangle covers the pixel centre.
      depth: (R, R) distance along the ray, world units; 0 where empty.
      face_index: (R, R) int32; -1 where empty.
      barycentric: (R, R, 3) perspective-correct, >= 0, summing to one; 0 where empty.
      vertex_index: (R, R, 3) int32 corners of the nearest triangle; 0 where empty.
    """

    mask: Array
    depth: Array
    face_index: Array
    barycentric: Array
    vertex_index: Array


def rasterize(
    vertices: Array, faces: Array, camera: Camera, resolution: int, cull_back_faces: bool = True
) -> Raster:
    """Rasterizes one mesh as one camera sees it. Not differentiable: visibility is piecewise constant.

    Args:
      vertices: (V, 3) vertices, world units.
      faces: (F, 3) int32 triangles, counter-clockwise seen from outside.
      camera: One camera; `vmap` over many.
      resolution: R, pixels a side.
      cull_back_faces: Whether triangles whose outside is turned away are skipped.
    """
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(
            f"vertices, faces: expected (V, 3) and (F, 3), got {vertices.shape} and {faces.shape};"
            " vmap a batch"
        )
    vertices, camera = lax.stop_gradient((vertices, camera))
    uv, z = project(camera, vertices)
    corners = jnp.concatenate([uv * resolution, z[:, None]], axis=1)[faces]  # (F, 3, xyz)
    table = _face_table(corners, resolution, cull_back_faces)
    face_index = _nearest_faces(table, resolution)
    return _shade(face_index, faces, corners, camera, resolution)


@exact_products
def interpolate(
    raster: Raster, attributes: Num[Array, "vertices attributes"]
) -> Num[Array, "side side attributes"]:
    """Vertex attributes (V, A) interpolated at each pixel centre: (R, R, A), 0 where empty.

    Differentiable with respect to `attributes`.
    """
    return jnp.einsum("ijk,ijka->ija", raster.barycentric, attributes[raster.vertex_index])


@struct.dataclass
class _FaceTable:
    """Per triangle, what a pixel needs to know of it.

    Attributes:
      values: (F, 13): position of corner 0, gradients of b_1 and b_2, tolerance of each b, 1/z at corner 0
        and its gradient, least 1/z of the corners.
      first: (F, 2) column and row of the first pixel of the bounding box.
      columns: (F,) windows a row.
      windows: (F,) windows in all; 0 for a triangle that is not drawn.
    """

    values: Array
    first: Array
    columns: Array
    windows: Array


@exact_products
def _face_table(corners: Float[Array, "faces 3 3"], resolution: int, cull_back_faces: bool) -> _FaceTable:
    position, z = corners[..., :2], corners[..., 2]
    origin, (e1, e2) = position[:, 0], (position[:, 1] - position[:, 0], position[:, 2] - position[:, 0])
    doubled_area = e1[:, 0] * e2[:, 1] - e1[:, 1] * e2[:, 0]
    front = doubled_area < 0 if cull_back_faces else jnp.ones_like(doubled_area, bool)
    drawn = front & (jnp.abs(doubled_area) > MIN_AREA) & (z.min(1) > NEAR)
    divisor = jnp.where(drawn, doubled_area, 1.0)[:, None]
    gradient1 = jnp.stack([e2[:, 1], -e2[:, 0]], 1) / divisor
    gradient2 = jnp.stack([-e1[:, 1], e1[:, 0]], 1) / divisor
    gradients = jnp.stack([-(gradient1 + gradient2), gradient1, gradient2], 1)
    tolerance = EDGE_TOLERANCE * jnp.sqrt(jnp.sum(gradients**2, -1))
    inverse_z = 1.0 / jnp.where(drawn[:, None], z, 1.0)
    slope = jnp.einsum("fk,fka->fa", inverse_z, gradients)

    limit = resolution - 1.0
    low = jnp.clip(jnp.ceil(position.min(1) - 0.5 - EDGE_TOLERANCE), 0, limit + 1)
    high = jnp.clip(jnp.floor(position.max(1) - 0.5 + EDGE_TOLERANCE), -1, limit)
    size = jnp.where(drawn[:, None], jnp.maximum(high - low + 1, 0), 0).astype(jnp.int32)
    columns, rows = -(-size[:, 0] // WINDOW[1]), -(-size[:, 1] // WINDOW[0])
    values = jnp.concatenate(
        [origin, gradient1, gradient2, tolerance, inverse_z[:, :1], slope, inverse_z.min(1)[:, None]], 1
    )
    return _FaceTable(values, low.astype(jnp.int32), columns, columns * rows)


def _nearest_faces(table: _FaceTable, resolution: int) -> Int[Array, " pixels"]:
    """(R * R,) index of the nearest face at each pixel centre; F where none."""
    faces = table.windows.shape[0]
    ends = jnp.cumsum(table.windows)
    pixels = resolution * resolution
    row_offset, column_offset = (
        grid.reshape(-1) for grid in jnp.meshgrid(*map(jnp.arange, WINDOW), indexing="ij")
    )

    def look(start: Array) -> tuple[Array, Array, Array]:
        """Of the list's items from `start` on: pixel (`pixels` where not covered), inverse depth, face."""
        item = start + jnp.arange(CHUNK)
        face = jnp.minimum(jnp.searchsorted(ends, item, side="right"), faces - 1).astype(jnp.int32)
        window = item - (ends[face] - table.windows[face])
        per_row = jnp.maximum(table.columns[face], 1)
        x = (table.first[face, 0] + window % per_row * WINDOW[1])[:, None] + column_offset
        y = (table.first[face, 1] + window // per_row * WINDOW[0])[:, None] + row_offset
        covered, inverse_z = _cover(table.values[face], x, y)
        covered &= (x < resolution) & (y < resolution) & (item < ends[-1])[:, None]
        return jnp.where(covered, y * resolution + x, pixels), inverse_z, face

    # What one turn looks at the next one enters. Both of its uses, the maximum and the comparison with it, so
    # read one stored value: XLA may compute a value anew for each use, and then not the same to the last bit,
    # and a pixel whose nearest triangle is not recognised would be a hole.
    def turn(state: tuple) -> tuple:
        start, nearness, owner, (pixel, inverse_z, face) = state
        nearer = nearness.at[pixel].max(inverse_z, mode="drop")
        owner = jnp.where(nearer > nearness, faces, owner)
        wins = inverse_z == nearer.at[pixel].get(mode="fill", fill_value=-1)
        claim = jnp.where(wins, pixel, pixels)
        owner = owner.at[claim].min(jnp.broadcast_to(face[:, None], claim.shape), mode="drop")
        return start + CHUNK, nearer, owner, look(start + CHUNK)

    state = (jnp.int32(0), jnp.zeros(pixels), jnp.full(pixels, faces, jnp.int32), look(jnp.int32(0)))
    return lax.while_loop(lambda state: state[0] < ends[-1], turn, state)[2]


def _cover(values: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Whether triangles (n, 13) cover pixels x, y (n, w), and their inverse depth there."""
    v = [values[:, k : k + 1] for k in range(values.shape[1])]
    qx, qy = x + 0.5 - v[0], y + 0.5 - v[1]
    b1, b2 = v[2] * qx + v[3] * qy, v[4] * qx + v[5] * qy
    covered = (1 - b1 - b2 >= -v[6]) & (b1 >= -v[7]) & (b2 >= -v[8])
    return covered, jnp.maximum(v[9] + v[10] * qx + v[11] * qy, v[12])


def _shade(face_index: Array, faces: Array, corners: Array, camera: Camera, resolution: int) -> Raster:
    """Depth and perspective-correct barycentrics of the nearest faces, from their indices."""
    mask = face_index < faces.shape[0]
    face = jnp.where(mask, face_index, 0)
    uv = pixel_centres(resolution)
    corner = corners[face]  # (R * R, 3, xyz)
    offset = uv * resolution - corner[:, 0, :2]
    e1, e2 = corner[:, 1, :2] - corner[:, 0, :2], corner[:, 2, :2] - corner[:, 0, :2]
    area = e1[:, 0] * e2[:, 1] - e1[:, 1] * e2[:, 0]
    area = jnp.where(mask, area, 1.0)
    b1 = (offset[:, 0] * e2[:, 1] - offset[:, 1] * e2[:, 0]) / area
    b2 = (e1[:, 0] * offset[:, 1] - e1[:, 1] * offset[:, 0]) / area
    screen = jnp.maximum(jnp.stack([1 - b1 - b2, b1, b2], 1), 0)  # an edge's tolerance may leave -1e-4
    over_z = screen / jnp.where(mask[:, None], corner[:, :, 2], 1.0)
    total = jnp.where(mask, over_z.sum(1), 1.0)
    z = screen.sum(1) / total

    k = camera.intrinsics
    x, y = (uv[:, 0] - k[0, 2]) / k[0, 0], (uv[:, 1] - k[1, 2]) / k[1, 1]
    image = (resolution, resolution)
    return Raster(
        mask=mask.reshape(image),
        depth=jnp.where(mask, z * jnp.sqrt(1 + x**2 + y**2), 0).reshape(image),
        face_index=jnp.where(mask, face, -1).astype(jnp.int32).reshape(image),
        barycentric=jnp.where(mask[:, None], over_z / total[:, None], 0).reshape(*image, 3),
        vertex_index=jnp.where(mask[:, None], faces[face], 0).reshape(*image, 3),
    )
