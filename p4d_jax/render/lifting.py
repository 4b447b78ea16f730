"""The fitted head model as a bridge between a photo, the canonical frame and a driving frame.

Three objects, all without gradient:

- `CanonicalFrame`: constants of one head model: its canonical mesh m(0, 0, γ_ca), that mesh's front
  surface on the texels of the xy-plane, and a few hundred candidates spread over it.
- `lift_image`: the photo resampled onto that surface: one texel of the xy-plane, one place in the photo.
- `ExpressionField`: observed point -> canonical point, by the surface that a ray meets where the point is
  close to it, elsewhere by a smooth average of the offsets of the nearest candidates. It stands where
  SPEC section 3 has the part-wise field and needs no nearest-neighbour search.

World units and axes of docs/conventions.md. L texels a side, row 0 at y = -box_warp/2 (tri-plane order:
rows grow with y), so a lifted image looks upside down when shown as it is.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from p4d_jax.geometry import project
from p4d_jax.head.model import HeadModel
from p4d_jax.head.skinning import canonical_vertices
from p4d_jax.render.raster import interpolate, rasterize
from p4d_jax.types import Array, Camera

BOX_WARP = 1.3
FAR_CAMERA = 60.0  # so far away that its rays are parallel to within half a percent
SURFACE_REACH = 0.04  # world units around a visible surface where its own offset holds
BLEND_WIDTH = 0.03  # world units: Gaussian width of the candidates' average
VISIBLE_MARGIN = 0.02  # world units of depth that count as the same surface
PROXY_DEPTH = 0.0  # z of the texels that the mesh does not cover: the head's middle


@struct.dataclass
class CanonicalFrame:
    """Constants of one head model that lifting and deformation share.

    Attributes:
      vertices: (V, 3) the canonical mesh.
      faces: (F, 3).
      candidates: (n,) int32 vertices spread over the mesh, dense at lips and lids.
      covered: (L, L) bool, texels that the canonical mesh's front covers.
      triangles: (L, L, 3) int32 vertices of the triangle at each texel.
      barycentric: (L, L, 3).
      points: (L, L, 3) surface points; uncovered texels lie on the plane z = PROXY_DEPTH.
      decimated_faces: (f, 3) triangles of the decimated mesh.
      decimated_triangles, decimated_barycentric: (v, 3) each decimated vertex on the full mesh.
    """

    vertices: Array
    faces: Array
    candidates: Array
    covered: Array
    triangles: Array
    barycentric: Array
    points: Array
    decimated_faces: Array
    decimated_triangles: Array
    decimated_barycentric: Array


@struct.dataclass
class ExpressionField:
    """Observed -> canonical offsets of one frame.

    Attributes:
      camera: of the frame.
      depth: (R, R) distance along the ray to the posed mesh, 0 where there is none.
      offset: (R, R, 3) canonical - observed at the surface seen there.
      observed: (n, 3) candidates on the posed mesh.
      candidate_offset: (n, 3) canonical - observed.
    """

    camera: Camera
    depth: Array
    offset: Array
    observed: Array
    candidate_offset: Array


def spread_candidates(head: HeadModel, vertices: np.ndarray, count: int) -> np.ndarray:
    """`count` vertex indices, farthest-point sampling; lips, lids, eyeballs count four times their size."""
    stretch = np.ones(len(vertices))
    for region in ("lips", "eyelids", "left_eyeball", "right_eyeball"):
        stretch[np.asarray(head.regions[region])] = 4.0
    chosen = [int(np.argmax(vertices[:, 2]))]
    distance = np.full(len(vertices), np.inf)
    for _ in range(count - 1):
        distance = np.minimum(distance, np.sum((vertices - vertices[chosen[-1]]) ** 2, axis=1))
        chosen.append(int(np.argmax(distance * stretch**2)))
    return np.asarray(chosen, np.int32)


def orthographic_camera(box_warp: float = BOX_WARP) -> Camera:
    """A frontal camera so far away that the image is the xy-plane of the box (row 0 at +y)."""
    cam2world = jnp.eye(4).at[2, 3].set(FAR_CAMERA)
    focal = FAR_CAMERA / box_warp
    intrinsics = jnp.array([[focal, 0, 0.5], [0, focal, 0.5], [0, 0, 1.0]])
    return Camera(cam2world, intrinsics)


def build_canonical_frame(
    head: HeadModel, lifted_size: int, candidates: int = 96, box_warp: float = BOX_WARP
) -> CanonicalFrame:
    """Rasterises the canonical mesh from the front, once per head model."""
    frame = _rasterize_canonical(head, lifted_size, box_warp)
    chosen = spread_candidates(head, np.asarray(frame.vertices), candidates)
    return frame.replace(candidates=jnp.asarray(chosen))


@functools.partial(jax.jit, static_argnames=("lifted_size", "box_warp"))
def _rasterize_canonical(head: HeadModel, lifted_size: int, box_warp: float) -> CanonicalFrame:
    """The frame, with all vertices for candidates."""
    vertices = canonical_vertices(head)
    raster = rasterize(vertices, head.faces, orthographic_camera(box_warp), lifted_size, True)
    triangles = head.faces[jnp.maximum(raster.face_index, 0)]
    points = interpolate(raster, head.faces, vertices)
    centre = ((jnp.arange(lifted_size) + 0.5) / lifted_size - 0.5) * box_warp
    y, x = jnp.meshgrid(-centre, centre, indexing="ij")
    proxy = jnp.stack([x, y, jnp.full_like(x, PROXY_DEPTH)], -1)
    points = jnp.where(raster.mask[..., None], points, proxy)
    return CanonicalFrame(
        vertices,
        head.faces,
        jnp.arange(vertices.shape[0], dtype=jnp.int32),
        raster.mask[::-1],
        triangles[::-1],
        raster.barycentric[::-1],
        points[::-1],
        head.decimated_faces,
        head.decimated_triangles,
        head.decimated_barycentric,
    )


def sample_image(image: Array, uv: Array) -> Array:
    """Bilinear, edge pixels repeated: image (H, W, C) at uv (..., 2) in [0, 1], v down -> (..., C)."""
    height, width, _ = image.shape
    x = jnp.clip(uv[..., 0] * width - 0.5, 0.0, width - 1.0)
    y = jnp.clip(uv[..., 1] * height - 0.5, 0.0, height - 1.0)
    x0, y0 = jnp.floor(x).astype(jnp.int32), jnp.floor(y).astype(jnp.int32)
    x1, y1 = jnp.minimum(x0 + 1, width - 1), jnp.minimum(y0 + 1, height - 1)
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    flat = image.reshape(-1, image.shape[-1])
    pick = lambda row, column: flat[row * width + column]  # noqa: E731
    top = pick(y0, x0) * (1 - fx) + pick(y0, x1) * fx
    bottom = pick(y1, x0) * (1 - fx) + pick(y1, x1) * fx
    return top * (1 - fy) + bottom * fy


def lift_image(
    image: Array, frame: CanonicalFrame, posed: Array, camera: Camera, visible_depth: Array
) -> Array:
    """The photo on the texels of the xy-plane: (L, L, 4), RGB in [-1, 1] and visibility in {-1, 0, 1}.

    Args:
      image: (S, S, 3) source photo in [-1, 1].
      frame: the head model's constants.
      posed: (V, 3) the source's mesh with its identity, expression and pose, world.
      camera: of the source.
      visible_depth: (r, r) rasterised distance of the posed mesh in the source view, 0 where empty.

    Visibility is 1 where the surface point is seen by the source camera, 0 where it is hidden or outside
    the image, and -1 where the mesh does not reach (hair, background on the proxy plane).
    """
    on_mesh = jnp.einsum("hwk,hwkc->hwc", frame.barycentric, posed[frame.triangles])
    points = jnp.where(frame.covered[..., None], on_mesh, frame.points)
    uv, _ = project(camera, points)
    inside = jnp.all((uv > 0) & (uv < 1), axis=-1)
    distance = jnp.linalg.norm(points - camera.cam2world[:3, 3], axis=-1)
    size = visible_depth.shape[0]
    column, row = jnp.moveaxis(jnp.clip((uv * size).astype(jnp.int32), 0, size - 1), -1, 0)
    seen = distance < visible_depth.reshape(-1)[row * size + column] + VISIBLE_MARGIN
    visibility = jnp.where(frame.covered, (seen & inside).astype(jnp.float32), -1.0)
    colour = sample_image(image, uv) * inside[..., None]
    return jnp.concatenate([colour, visibility[..., None]], axis=-1)


def build_expression_field(
    frame: CanonicalFrame, posed: Array, camera: Camera, resolution: int
) -> ExpressionField:
    """The field of one frame whose posed mesh is `posed` (V, 3), for points on rays of `camera`."""
    raster = rasterize(posed, frame.faces, camera, resolution, False)
    offsets = frame.vertices - posed
    return ExpressionField(
        camera,
        raster.depth,
        interpolate(raster, frame.faces, offsets),
        posed[frame.candidates],
        offsets[frame.candidates],
    )


def average_offset(field: ExpressionField, points: Array) -> Array:
    """(P, 3): the candidates' offsets averaged by exp(-d²/width²), the nearest one far from all."""
    squared = (
        jnp.sum(points**2, axis=-1, keepdims=True)
        - 2 * points @ field.observed.T
        + jnp.sum(field.observed**2, axis=-1)
    )
    return jax.nn.softmax(-squared / BLEND_WIDTH**2, axis=-1) @ field.candidate_offset


def apply_expression_field(field: ExpressionField, points: Array) -> Array:
    """Observed points (P, 3) -> canonical points (P, 3). No gradient."""
    uv, _ = project(field.camera, points)
    size = field.depth.shape[0]
    column, row = jnp.moveaxis(jnp.clip((uv * size).astype(jnp.int32), 0, size - 1), -1, 0)
    seen = jnp.concatenate([field.offset, field.depth[..., None]], axis=-1).reshape(-1, 4)[
        row * size + column
    ]
    distance = jnp.linalg.norm(points - field.camera.cam2world[:3, 3], axis=-1)
    gap = (distance - seen[:, 3]) / SURFACE_REACH
    weight = jnp.where(seen[:, 3] > 0, jnp.exp(-(gap**2)), 0.0)[:, None]
    offset = weight * seen[:, :3] + (1 - weight) * average_offset(field, points)
    return jax.lax.stop_gradient(points + offset)
