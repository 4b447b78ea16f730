"""The fitted head model as a bridge between the canonical frame and a driving frame.

Two objects, both without gradient:

- `CanonicalFrame`: constants of one head model: its canonical mesh m(0, 0, γ_ca), that mesh's front
  surface on the texels of the xy-plane, and a few hundred candidates spread over it.
- `ExpressionField`: observed point -> canonical point, by the surface that a ray meets where the point is
  close to it, elsewhere by a smooth average of the motions of the nearest candidates. It stands where
  docs/concepts/deformation.md has the part-wise field and needs no nearest-neighbour search.

A vertex's motion is rigid and turns with the neck, so that hair, which stands off the mesh, turns too. World
units and axes of docs/concepts/conventions.md. L texels a side, row 0 at y = -box_warp/2 (tri-plane order:
rows grow with y).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from p4d_jax.geometry import axis_angle_to_matrix, exact_products, project
from p4d_jax.head.lids import Lids, build_lids, eye_openings
from p4d_jax.head.model import HeadModel
from p4d_jax.head.mouth import Mouth, MouthView, build_mouth, see_mouth
from p4d_jax.head.skinning import canonical_vertices
from p4d_jax.imaging.sampling import four_pixels
from p4d_jax.render.raster import Raster, interpolate, rasterize
from p4d_jax.types import BOX_WARP, Array, Camera

FAR_CAMERA = 60.0  # so far away that its rays are parallel to within half a percent
SURFACE_REACH = 0.04  # world units around a visible surface where its own offset holds
BLEND_WIDTH = 0.03  # world units: Gaussian width of the candidates' average
BLEND_SHARE = 0.5  # of the distance to the nearest candidate: by which it grows
SKIN_DEPTH = 0.015  # world units: so deep in the mesh the head is surely solid, twice as deep fully
MIRROR = np.array([-1.0, 1.0, 1.0], np.float32)
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
      neck_weight: (V,) in [0, 1], fraction of the neck's rotation that each vertex follows.
      mirror: (V,) int32 index of the vertex nearest to each one's mirror image.
      parts: (V, 4) labels of eyes and mouth, see `part_labels`.
      mouth: What is behind the lips, or None.
      lids: What shut eyes show, or None.
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
    neck_weight: Array
    mirror: Array
    parts: Array
    mouth: Mouth | None
    decimated_faces: Array
    decimated_triangles: Array
    decimated_barycentric: Array
    lids: Lids | None = None


@struct.dataclass
class ExpressionField:
    """Observed -> canonical motions of one frame.

    Attributes:
      camera: Camera of the frame.
      raster: The posed mesh rasterized by that camera, R x R.
      surface: (R, R, 4) rows of `rigid_motions` of the surface at each pixel.
      observed: (n, 3) candidates on the posed mesh.
      candidates: (n, 4) rows of `rigid_motions` of the candidates.
      neck_rotation: (3, 3) inverse of the neck's rotation.
      parts: (R, R, 4) `CanonicalFrame.parts` of the surface at each pixel.
      mouth: The mouth in a window of the picture, or None.
      eye_openings: (2,) of `lids.eye_openings`, or None.
    """

    camera: Camera
    raster: Raster
    surface: Array
    observed: Array
    candidates: Array
    neck_rotation: Array
    parts: Array
    mouth: MouthView | None = None
    eye_openings: Array | None = None


def part_labels(head: HeadModel, vertices: Array) -> Array:
    """What of eyes and mouth the vertices (V, 3) of a head that looks ahead are: (V, 4) in [0, 1].

    Channels: eyeball; on it, how near the axis of the gaze, from 1 at the pupil's middle to 0 at the rim;
    teeth, of heads that have them; the rest of the mouth's inside.
    """
    within = jnp.zeros(vertices.shape[0])
    eyeball, pupil, teeth, mouth = within, within, within, within + 1.0
    for name in ("left_eyeball", "right_eyeball"):
        region = head.regions[name]
        ball = vertices[region]
        low, high = ball.min(axis=0), ball.max(axis=0)
        away = jnp.linalg.norm((2 * ball - low - high)[:, :2], axis=-1) / (high - low)[0]
        eyeball, pupil = eyeball.at[region].set(1.0), pupil.at[region].set(1.0 - away)
    if "teeth" in head.regions:
        teeth = teeth.at[head.regions["teeth"]].set(1.0)
    mouth = mouth.at[head.regions["without_inner_mouth"]].set(0.0) * (1.0 - eyeball) * (1.0 - teeth)
    return jnp.stack([eyeball, pupil, teeth, mouth], axis=-1)


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
    return frame.replace(candidates=jax.device_put(chosen), mouth=build_mouth(head), lids=build_lids(head))


@functools.partial(jax.jit, static_argnames=("lifted_size", "box_warp"))
@exact_products
def _rasterize_canonical(head: HeadModel, lifted_size: int, box_warp: float) -> CanonicalFrame:
    """The frame, with all vertices for candidates."""
    vertices = canonical_vertices(head)
    mirrored = vertices * MIRROR
    squared = jnp.sum(vertices**2, axis=-1) - 2 * mirrored @ vertices.T
    raster = rasterize(vertices, head.faces, orthographic_camera(box_warp), lifted_size, True)
    triangles = head.faces[jnp.maximum(raster.face_index, 0)]
    points = interpolate(raster, vertices)
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
        1.0 - head.skinning_weights[:, 0],
        jnp.argmin(squared, axis=-1).astype(jnp.int32),
        part_labels(head, vertices),
        None,
        head.decimated_faces,
        head.decimated_triangles,
        head.decimated_barycentric,
    )


@exact_products
def rigid_motions(places: Array, images: Array, neck_weight: Array, neck_rotation: Array) -> Array:
    """Motions of places (n, 3) to images (n, 3), with shares `neck_weight` (n,) of a rotation (3, 3): (n, 4).

    The motion of a place p with image q and share w takes any point x to q + (I + w (R - I)) (x - p). A row
    is that motion's constant part and w, so that motions can be averaged; `move` applies them.
    """
    share = neck_weight[:, None]
    turned = places + share * (places @ neck_rotation.T - places)
    return jnp.concatenate([images - turned, share], axis=-1)


@exact_products
def move(points: Array, motions: Array, neck_rotation: Array) -> Array:
    """Points (..., 3) under rows (..., 4) of `rigid_motions` about `neck_rotation` (3, 3): (..., 3)."""
    return points + motions[..., :3] + motions[..., 3:] * (points @ neck_rotation.T - points)


def build_expression_field(
    frame: CanonicalFrame, posed: Array, neck: Array, camera: Camera, resolution: int
) -> ExpressionField:
    """The field of one frame whose posed mesh is `posed` (V, 3), for points on rays of `camera`.

    neck: (3,) the neck's rotation in `posed`, axis-angle.
    """
    raster = rasterize(posed, frame.faces, camera, resolution, False)
    back = axis_angle_to_matrix(neck).T
    motions = rigid_motions(posed, frame.vertices, frame.neck_weight, back)
    return ExpressionField(
        camera,
        raster,
        interpolate(raster, motions),
        posed[frame.candidates],
        motions[frame.candidates],
        back,
        interpolate(raster, frame.parts),
        None if frame.mouth is None else see_mouth(frame.mouth, posed, camera),
        None if frame.lids is None else eye_openings(frame.lids, posed),
    )


@exact_products
def squared_distances_between(points: Array, places: Array, more: Array | float = 0.0) -> Array:
    """Squared distances (P, n) of points (P, d) and places (n, d), plus what is added for each place (n, 1).

    One product of (point, |point|², 1) and (-2 place, 1, |place|²): a sum with an array of all pairs is slow.
    """
    ones = lambda x: jnp.ones((len(x), 1))
    squared = lambda x: jnp.sum(x**2, axis=-1, keepdims=True)
    left = jnp.concatenate([points, squared(points), ones(points)], axis=-1)
    return left @ jnp.concatenate([-2 * places, ones(places), squared(places) + more], axis=-1).T


@exact_products
def distance_to_nearest(points: Array, places: Array) -> Array:
    """Distance (P, 1) of points (P, 3) to the nearest of places (n, 3)."""
    least = squared_distances_between(points, places).min(axis=-1, keepdims=True)
    return jnp.sqrt(jnp.maximum(least, 0.0))


@exact_products
def nearest_average(places: Array, values: Array, points: Array) -> Array:
    """Values (n, c) at places (n, 3), averaged at points (P, 3) by exp(-d²/width²): (P, c).

    The width grows with the distance to the nearest place, so that values change slowly far from all.
    """
    distances = squared_distances_between(points, places)
    nearest = jnp.maximum(distances.min(axis=-1, keepdims=True), 0.0)
    shares = jnp.exp((nearest - distances) / (BLEND_WIDTH**2 + BLEND_SHARE**2 * nearest))
    total = shares @ jnp.concatenate([values, jnp.ones((len(values), 1))], axis=-1)
    return total[:, :-1] / total[:, -1:]


@struct.dataclass
class RaySurface:
    """The posed mesh on N rays of a view, in the four pixels around each.

    Attributes:
      origin: (3,) where the rays come from.
      weight: (N, 4) of the pixels, bilinear.
      depth: (N, 4) distance of the mesh, 0 where there is none.
      values: (N, 4, c) of the surface.
      within: (N,) in {0, 1}, whether the four lie in the picture.
    """

    origin: Array
    weight: Array
    depth: Array
    values: Array
    within: Array

    def distance(self, points: Array) -> Array:
        """Distance (N, S) of points (N, S, 3) along the rays."""
        return jnp.linalg.norm(points - self.origin, axis=-1)

    def at(self, points: Array) -> tuple[Array, Array, Array]:
        """The surface beside points (N, S, 3), S on each ray, of the pixels that show it near.

        Returns:
          distance - depth of the mesh (N, S); how near that is (N, S), 1 on the mesh, 0 where there is none;
          the surface's values (N, S, c).
        """
        distance, total, gap, near, values = self.distance(points), 1e-8, 0.0, 0.0, 0.0
        for k in range(4):
            depth = self.depth[:, k, None]
            gap_k = distance - depth
            near_k = jnp.where(depth > 0, jnp.exp(-((gap_k / SURFACE_REACH) ** 2)), 0.0)
            weight = self.weight[:, k, None] * near_k
            total += weight
            gap, near = gap + weight * gap_k, near + weight * near_k
            values += weight[..., None] * self.values[:, None, k]
        return gap / total, near / total, values / total[..., None]

    def inside(self, points: Array) -> Array:
        """How surely points (N, S, 3) lie in the posed mesh: (N, S), 1 well behind its front.

        Behind the farthest of the four pixels, so that what lies at an outline, where the fit errs, is not in
        the mesh; `SKIN_DEPTH` below that.
        """
        front = jnp.max(jnp.where(self.depth > 0, self.depth, jnp.inf), axis=-1)
        deep = jnp.clip((self.distance(points) - front[:, None]) / SKIN_DEPTH - 1.0, 0.0, 1.0)
        return self.within[:, None] * deep


def surface_on_rays(field: ExpressionField, points: Array, values: Array | None = None) -> RaySurface:
    """What the view of `field` shows of the posed mesh on its rays through points (N, 3).

    values: (R, R, c) of the surface; None for its motions.
    """
    depth = field.raster.depth
    size = depth.shape[0]
    place = project(field.camera, points)[0] * size - 0.5
    values = (field.surface if values is None else values).reshape(size * size, -1)
    pixels, weights = zip(*four_pixels(place, size), strict=True)
    return RaySurface(
        field.camera.cam2world[:3, 3],
        jnp.stack(weights, axis=-1),
        jnp.stack([depth.reshape(-1)[pixel] for pixel in pixels], axis=-1),
        jnp.stack([values[pixel] for pixel in pixels], axis=1),
        jnp.all((place >= 0) & (place <= size - 1), axis=-1).astype(jnp.float32),
    )


def apply_expression_field(field: ExpressionField, points: Array, surface: RaySurface | None = None) -> Array:
    """Observed points (N, S, 3), S on each of N rays, -> canonical points (N, S, 3). No gradient.

    surface: The mesh's motions on these rays, where they were looked up already.
    """
    surface = surface_on_rays(field, points[:, 0]) if surface is None else surface
    _, near, motions = surface.at(points)
    average = nearest_average(field.observed, field.candidates, points.reshape(-1, 3))
    motions = near[..., None] * motions + (1 - near[..., None]) * average.reshape(motions.shape)
    return jax.lax.stop_gradient(move(points, motions, field.neck_rotation))


def snap_to_surface(surface: RaySurface, points: Array, directions: Array) -> Array:
    """Rendered surface points (N, 3) pulled along their rays (N, 3) on to the posed mesh where it is near."""
    gap, near, _ = surface.at(points[:, None])
    return points - near * gap * directions
