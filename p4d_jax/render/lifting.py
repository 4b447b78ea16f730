"""The fitted head model as a bridge between a photo, the canonical frame and a driving frame.

Four objects, all without gradient:

- `CanonicalFrame`: constants of one head model: its canonical mesh m(0, 0, γ_ca), that mesh's front
  surface on the texels of the xy-plane, and a few hundred candidates spread over it.
- `lift_image`: the photo resampled onto that surface: one texel of the xy-plane, one place in the photo.
- `ExpressionField`: observed point -> canonical point, by the surface that a ray meets where the point is
  close to it, elsewhere by a smooth average of the motions of the nearest candidates. It stands where
  SPEC section 3 has the part-wise field and needs no nearest-neighbour search.
- `SourceGuide`: canonical point -> what the photo shows of it, for the refinement of the rendered picture.

A vertex's motion is rigid and turns with the neck, so that hair, which stands off the mesh, turns too.
World units and axes of docs/conventions.md. L texels a side, row 0 at y = -box_warp/2 (tri-plane order:
rows grow with y), so a lifted image looks upside down when shown as it is.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from p4d_jax.geometry import axis_angle_to_matrix, project
from p4d_jax.head.model import HeadModel
from p4d_jax.head.skinning import canonical_vertices
from p4d_jax.nn.resample import resize_antialiased, resize_bilinear
from p4d_jax.render.raster import Raster, interpolate, rasterize
from p4d_jax.render.rays import pixel_centres, rays_through
from p4d_jax.types import Array, Camera

BOX_WARP = 1.3
FAR_CAMERA = 60.0  # so far away that its rays are parallel to within half a percent
SURFACE_REACH = 0.04  # world units around a visible surface where its own offset holds
BLEND_WIDTH = 0.03  # world units: Gaussian width of the candidates' average
BLEND_SHARE = 0.5  # of the distance to the nearest candidate: by which it grows
# World units of depth that count as the same surface: of points off the mesh, and of the mesh's own, of which
# lips and teeth, lids and eyes lie close behind each other.
VISIBLE_MARGIN, SURFACE_MARGIN = 0.02, 0.008
# Cosine between a surface and the photo's line of sight from which, and from which fully, the photo shows it:
# at its outline a pixel stands for much of the head, and the fit's error puts background there.
GRAZING, SQUARE = 0.1, 0.4
# World units behind the surface that the photo shows: scales at which a point's gap to it is told; softness
# of the surface; how thick the person is guessed to be there, and how softly that ends; what is still seen.
GAP_WIDTHS = (0.02, 0.06, 0.2)
SURFACE_WIDTH = 0.02
THICKNESS, THICKNESS_WIDTH = 0.2, 0.03
HIDDEN_MARGIN, HIDDEN_WIDTH = 0.04, 0.04
# What the photo does not show is guessed from the nearest places that it does: places a side; world units by
# which skin is farther from hair and clothes than it is, and a place's mirror image than the place; Gaussian
# width of the average, and by what share of the distance to the nearest it grows; where it is no longer near,
# and how far off (squared) a pixel is that shows no person.
NEARBY_SIDE = 32
OFF_MESH, OTHER_SIDE = 0.1, 0.05
NEARBY_WIDTH, NEARBY_SHARE = 0.03, 0.5
NEARBY_REACH, EMPTY = 0.1, 10.0
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
      turning: (V,) in [0, 1], how much of the neck's rotation each vertex follows.
      mirror: (V,) int32 the vertex nearest to each one's mirror image.
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
    turning: Array
    mirror: Array
    decimated_faces: Array
    decimated_triangles: Array
    decimated_barycentric: Array


@struct.dataclass
class ExpressionField:
    """Observed -> canonical motions of one frame.

    Attributes:
      camera: of the frame.
      raster: of the posed mesh, R x R.
      surface: (R, R, 4) rows of `rigid_motions` of the surface seen there.
      observed: (n, 3) candidates on the posed mesh.
      candidates: (n, 4) theirs.
      turn: (3, 3) the neck's rotation, undone.
    """

    camera: Camera
    raster: Raster
    surface: Array
    observed: Array
    candidates: Array
    turn: Array


@struct.dataclass
class SourceGuide:
    """The photo as a texture of the canonical head.

    Attributes:
      image: (S, S, 3) the photo in [-1, 1].
      camera: of the photo.
      depth: (r, r) rasterised distance of the posed mesh in the photo's view, 0 where empty.
      places: (L, L, 4) from `lift_places`.
      surface: (V, 8) of each vertex its place in the photo's posed mesh, world, and how squarely the photo
        sees it, in [0, 1]; then the same of its mirror image.
      anchors: (n, 3) candidates on the canonical mesh.
      anchor_motions: (n, 4) rows of `rigid_motions` to the photo's posed mesh.
      turn: (3, 3) the rotation of the photo's neck.
      features: (s, s, k + 2) of the photo's pixels, which a reconstructor with `photo_features` has made:
        the last two are its relief, see `mesh_relief`, of the whole person.
      person: (S, S, 3) the photo with the person's colours spread over its background, or None without
        features.
    """

    image: Array
    camera: Camera
    depth: Array
    places: Array
    surface: Array
    anchors: Array
    anchor_motions: Array
    turn: Array
    features: Array | None = None
    person: Array | None = None

    @property
    def relief(self) -> Array | None:
        """(s, s, 2) depth and opacity of the person in the photo, without gradient; None without features."""
        return None if self.features is None else jax.lax.stop_gradient(self.features[..., -2:])

    def with_features(self, features: Array | None) -> SourceGuide:
        """The guide with features (..., s, s, k + 2) of its photo's pixels."""
        if features is None:
            return self
        opacity = resize_bilinear(features[..., -1:], self.image.shape[-2])
        person = jax.lax.stop_gradient(spread_person(self.image, opacity))
        return self.replace(features=features, person=person)


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


def nearest_pixel(image: Array, uv: Array) -> Array:
    """Pixels (..., C) of an image (s, s, C) at uv (..., 2), outside of [0, 1] those of the edge."""
    size = image.shape[0]
    column, row = jnp.moveaxis(jnp.clip((uv * size).astype(jnp.int32), 0, size - 1), -1, 0)
    return image.reshape(size * size, -1)[row * size + column]


def lift_places(frame: CanonicalFrame, surface: Array, camera: Camera, visible_depth: Array) -> Array:
    """Where the texels of the xy-plane are in a photo: (L, L, 4), uv in [0, 1], visibility and canonical z.

    Args:
      frame: the head model's constants.
      surface: (V, 4) the source's mesh with its identity, expression and pose, world, and `squareness`.
      camera: of the source.
      visible_depth: (r, r) rasterised distance of the posed mesh in the source view, 0 where empty.

    Visibility is in [0, 1], how squarely the source camera sees the surface point, 0 where it is hidden or
    outside the image, and -1 where the mesh does not reach (hair, background on the proxy plane).
    """
    on_mesh = jnp.einsum("hwk,hwkc->hwc", frame.barycentric, surface[frame.triangles])
    points = jnp.where(frame.covered[..., None], on_mesh[..., :3], frame.points)
    uv, seen = seen_by(camera, points, visible_depth, SURFACE_MARGIN)
    visibility = jnp.where(frame.covered, seen * on_mesh[..., 3], -1.0)
    return jnp.concatenate([uv, visibility[..., None], frame.points[..., 2:]], axis=-1)


def lift_image(image: Array, places: Array) -> Array:
    """A photo (S, S, 3) on the texels of the xy-plane: (L, L, 4), RGB in [-1, 1] and visibility.

    Colours fade with the visibility: what is hidden has the colour of what hides it.
    """
    uv, visibility = places[..., :2], places[..., 2:3]
    inside = jnp.all((uv > 0) & (uv < 1), axis=-1, keepdims=True)
    shown = inside * jnp.where(visibility < 0, 1.0, visibility)
    return jnp.concatenate([sample_image(image, uv) * shown, visibility], axis=-1)


def seen_by(camera: Camera, points: Array, depth: Array, margin: Array | float) -> tuple[Array, Array]:
    """Where a camera has points (..., 3), and how much of them it sees past a depth buffer (r, r).

    Returns:
      uv (..., 2) in [0, 1] inside the picture; seen (...) in [0, 1], between the four pixels around, of which
      those with depth 0 are empty.
    """
    uv, _ = project(camera, points)
    inside = jnp.all((uv > 0) & (uv < 1), axis=-1)
    distance = jnp.linalg.norm(points - camera.cam2world[:3, 3], axis=-1)
    size = depth.shape[0]
    place = jnp.clip(uv * size - 0.5, 0.0, size - 1.0)
    corner = jnp.floor(place)
    share = place - corner

    def behind(right: int, down: int) -> Array:
        column, row = jnp.moveaxis(
            jnp.minimum(corner.astype(jnp.int32) + jnp.array([right, down]), size - 1), -1, 0
        )
        front = depth.reshape(-1)[row * size + column]
        weight = jnp.abs(1 - right - share[..., 0]) * jnp.abs(1 - down - share[..., 1])
        return weight * ((distance < front + margin) | (front == 0))

    return uv, inside * sum(behind(right, down) for right in (0, 1) for down in (0, 1))


def squareness(posed: Array, faces: Array, camera: Camera) -> Array:
    """How squarely a camera sees the vertices of a mesh (V, 3): (V,) in [0, 1]."""
    corners = posed[faces]
    of_faces = jnp.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = jnp.zeros_like(posed).at[faces.reshape(-1)].add(jnp.repeat(of_faces, 3, axis=0))
    unit = lambda x: x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-20)  # noqa: E731
    cosine = jnp.abs(jnp.sum(unit(normals) * unit(camera.cam2world[:3, 3] - posed), axis=-1))
    return jnp.clip((cosine - GRAZING) / (SQUARE - GRAZING), 0.0, 1.0)


def spread_person(image: Array, opacity: Array) -> Array:
    """A picture (..., S, S, 3) whose background has the colours of the person near by: (..., S, S, 3).

    opacity: (..., S, S, 1); pixels that are half the person's have none of the say. Averages over ever larger
    squares fill what smaller ones leave open ("pull-push", Gortler et al. 1996, section 3.5).
    """
    size, weight = image.shape[-2], jnp.clip(2.0 * opacity - 1.0, 0.0, 1.0)
    mean = image
    if size > 1:
        half = max(size // 2, 1)
        smaller = resize_antialiased(weight, half)
        around = resize_antialiased(image * weight, half) / (smaller + 1e-6)
        mean = resize_bilinear(spread_person(around, 0.5 + 0.5 * smaller), size)
    return image * weight + mean * (1.0 - weight)


def build_source_guide(
    image: Array, frame: CanonicalFrame, posed: Array, neck: Array, camera: Camera, visible_size: int = 256
) -> SourceGuide:
    """The guide of one photo (S, S, 3) whose fitted mesh is `posed` (V, 3), neck turned by `neck` (3,)."""
    depth = rasterize(posed, frame.faces, camera, visible_size, False).depth
    turn, chosen = axis_angle_to_matrix(neck), frame.candidates
    anchors = frame.vertices[chosen]
    surface = jnp.concatenate([posed, squareness(posed, frame.faces, camera)[:, None]], axis=-1)
    return SourceGuide(
        image,
        camera,
        depth,
        lift_places(frame, surface, camera, depth),
        jnp.concatenate([surface, surface[frame.mirror]], axis=-1),
        anchors,
        rigid_motions(anchors, posed[chosen], frame.turning[chosen], turn),
        turn,
    )


def look_up_source(guide: SourceGuide, field: ExpressionField, points: Array, canonical: Array) -> Array:
    """What the photo shows of observed points (P, 3): (P, 12), three times a colour and its visibility.

    By the front of the canonical mesh; by the point itself, of which the photo's mesh says where it was if it
    lies on the mesh, and the anchors' motions if it is hair or clothes, which have a depth of their own; and
    by its mirror image, since what one side hides the other often shows. Visibility is in [0, 1], or -1 off
    the front. With a relief, a point is seen as far as its pixel shows the person, and not far behind the
    surface, and colours are the person's.

    Args:
      field: of the view that shows the points. canonical: (P, 3) they in the canonical frame.
    """
    colours = guide.image if guide.person is None else guide.person

    def by_mesh() -> Array:
        place = sample_image(guide.places, canonical[:, :2] / BOX_WARP + 0.5)
        # Under chin and nose the front surface is not the one that the point lies on.
        same = jnp.exp(-(((canonical[:, 2:] - place[:, 3:]) / SURFACE_REACH) ** 2))
        visibility = jnp.where(place[:, 2:3] > 0, same, 1.0) * place[:, 2:3]
        if guide.relief is not None:
            there = sample_image(guide.relief[..., 1:], place[:, :2])
            visibility *= jnp.where(visibility > 0, there, 1.0)
        return jnp.concatenate([sample_image(colours, place[:, :2]), visibility], axis=-1)

    def by_point(place: Array, canonical: Array) -> Array:
        moved = near * place[:, :3] + (1.0 - near) * in_the_photo(guide, canonical)
        margin = near[:, 0] * SURFACE_MARGIN + (1.0 - near[:, 0]) * VISIBLE_MARGIN
        uv, seen = seen_by(guide.camera, moved, guide.depth, margin)
        seen = seen[:, None] * (near * place[:, 3:] + 1.0 - near)
        if guide.relief is not None:
            relief = sample_image(guide.relief, uv)
            hidden = jnp.maximum(gap_to_relief(guide.camera, moved, relief) - HIDDEN_MARGIN, 0.0)
            seen *= relief[:, 1:] * jnp.exp(-((hidden / HIDDEN_WIDTH) ** 2))
        return jnp.concatenate([sample_image(colours, uv), seen], axis=-1)

    in_photo = interpolate(field.raster, guide.surface)
    _, near, place = surface_seen(field, points, in_photo)
    near = near[:, None]
    own, other = by_point(place[:, :4], canonical), by_point(place[:, 4:], canonical * MIRROR)
    return jnp.concatenate([by_mesh(), own, other], axis=-1)


def look_up_nearby(guide: SourceGuide, points: Array, on_mesh: Array) -> Array:
    """Colours guessed for canonical points (P, 3) from the nearest places that the photo shows: (P, 4).

    The places are the surface of the guide's relief. Those near a point's mirror image count too, as if they
    were farther. on_mesh: (P,) in [0, 1], how near the points are to the mesh; skin is guessed from skin, and
    hair and clothes from hair and clothes. The last channel is 1 where the photo shows such a place just
    there, 0 where the nearest is far. No gradient.
    """
    pixels = pixel_centres(NEARBY_SIDE)
    relief = nearest_pixel(guide.relief, pixels)
    small = lambda x: resize_antialiased(x, NEARBY_SIDE).reshape(len(pixels), -1)  # noqa: E731
    opacity = resize_antialiased(guide.relief[..., 1:], guide.image.shape[0])
    colours = small(guide.image * opacity) / (small(opacity) + 1e-3)
    origins, directions = rays_through(guide.camera, pixels)
    distance = depth_of_relief(guide.camera, relief[:, :1])
    mesh = nearest_pixel(guide.depth[..., None], pixels)
    off = 1.0 - jnp.where(mesh > 0, jnp.exp(-(((distance - mesh) / SURFACE_REACH) ** 2)), 0.0)
    places = jnp.concatenate([origins + distance * directions, OFF_MESH * off], axis=-1)

    def squared_distances(points: Array) -> Array:
        moved = jnp.concatenate([in_the_photo(guide, points), OFF_MESH * (1.0 - on_mesh[:, None])], axis=-1)
        squared = jnp.sum(moved**2, -1, keepdims=True) - 2 * moved @ places.T + jnp.sum(places**2, -1)
        return squared + EMPTY * (relief[:, 1] < 0.5)

    here = squared_distances(points)
    there = squared_distances(points * MIRROR) + OTHER_SIDE**2
    squared = jnp.concatenate([here, there], axis=-1)
    nearest = jnp.maximum(squared.min(axis=-1, keepdims=True), 0.0)
    shares = jax.nn.softmax(-squared / (NEARBY_WIDTH**2 + NEARBY_SHARE**2 * nearest), axis=-1)
    colour, near = shares @ jnp.tile(colours, (2, 1)), jnp.exp(-nearest / NEARBY_REACH**2)
    return jax.lax.stop_gradient(jnp.concatenate([colour, near], axis=-1))


def in_the_photo(guide: SourceGuide, points: Array) -> Array:
    """Canonical points (P, 3) moved to the photo's expression and pose by its anchors: (P, 3)."""
    return move(points, nearest_average(guide.anchors, guide.anchor_motions, points), guide.turn)


def look_up_features(guide: SourceGuide, points: Array) -> Array:
    """What a reconstructor's field sees of the photo at canonical points (P, 3): (P, k + 9).

    Of the pixel behind which the point lies, and 0 outside the photo: its k features, its opacity, and how
    far the point lies behind the surface seen there, at three scales, all but the opacity itself times it:
    the background says nothing of the head. Then 1 inside, 0 outside; the point itself in shares of half the
    box; and how surely, in [0, 1], the relief has the person there: behind its surface, and not too far. The
    relief has no gradient from here: it learns from the photo's own depth.
    """
    moved = in_the_photo(guide, points)
    uv, _ = project(guide.camera, moved)
    inside = jnp.all((uv > 0) & (uv < 1), axis=-1, keepdims=True).astype(jnp.float32)
    at_pixel = sample_image(guide.features[..., :-2], uv)
    relief = sample_image(guide.relief, uv)
    opacity, gap = relief[:, 1:], gap_to_relief(guide.camera, moved, relief)
    gaps = jnp.tanh(gap / jnp.array(GAP_WIDTHS))
    solid = jax.nn.sigmoid(gap / SURFACE_WIDTH) * jax.nn.sigmoid((THICKNESS - gap) / THICKNESS_WIDTH)
    of_pixel = opacity * jnp.concatenate([at_pixel, jnp.ones_like(opacity), gaps], axis=-1)
    place = points / (0.5 * BOX_WARP)
    return jnp.concatenate([of_pixel * inside, inside, place, opacity * solid * inside], axis=-1)


def relief_of_depth(camera: Camera, depth: Array) -> Array:
    """Distance along rays (...) as relief: from the world's origin on, in shares of half the box."""
    return (depth - jnp.linalg.norm(camera.cam2world[:3, 3])) / (0.5 * BOX_WARP)


def depth_of_relief(camera: Camera, relief: Array) -> Array:
    """The inverse of `relief_of_depth`."""
    return relief * (0.5 * BOX_WARP) + jnp.linalg.norm(camera.cam2world[:3, 3])


def gap_to_relief(camera: Camera, points: Array, relief: Array) -> Array:
    """World units (P, 1) by which points (P, 3) lie behind the surface of a relief (P, 2) on their rays."""
    distance = jnp.linalg.norm(points - camera.cam2world[:3, 3], axis=-1, keepdims=True)
    return (relief_of_depth(camera, distance) - relief[:, :1]) * (0.5 * BOX_WARP)


def mesh_relief(guide: SourceGuide, size: int) -> Array:
    """The fitted mesh in the photo (size, size, 2): `relief_of_depth`, 0 where it is not, and its opacity."""
    depth = jax.image.resize(guide.depth, (size, size), "nearest")
    there = (depth > 0).astype(jnp.float32)
    return jnp.stack([relief_of_depth(guide.camera, depth) * there, there], axis=-1)


def rigid_motions(places: Array, images: Array, turning: Array, turn: Array) -> Array:
    """Motions of places (n, 3) to images (n, 3), with shares `turning` (n,) of a rotation (3, 3): (n, 4).

    The motion of a place p with image q and share w takes any point x to q + (I + w (R - I)) (x - p). A row
    is that motion's constant part and w, so that motions can be averaged; `move` applies them.
    """
    share = turning[:, None]
    turned = places + share * (places @ turn.T - places)
    return jnp.concatenate([images - turned, share], axis=-1)


def move(points: Array, motions: Array, turn: Array) -> Array:
    """Points (P, 3) under rows (P, 4) of `rigid_motions` about the rotation `turn` (3, 3): (P, 3)."""
    return points + motions[:, :3] + motions[:, 3:] * (points @ turn.T - points)


def build_expression_field(
    frame: CanonicalFrame, posed: Array, neck: Array, camera: Camera, resolution: int
) -> ExpressionField:
    """The field of one frame whose posed mesh is `posed` (V, 3), for points on rays of `camera`.

    neck: (3,) the neck's rotation in `posed`, axis-angle.
    """
    raster = rasterize(posed, frame.faces, camera, resolution, False)
    back = axis_angle_to_matrix(neck).T
    motions = rigid_motions(posed, frame.vertices, frame.turning, back)
    return ExpressionField(
        camera,
        raster,
        interpolate(raster, motions),
        posed[frame.candidates],
        motions[frame.candidates],
        back,
    )


def nearest_average(places: Array, values: Array, points: Array) -> Array:
    """Values (n, c) at places (n, 3), averaged at points (P, 3) by exp(-d²/width²): (P, c).

    The width grows with the distance to the nearest place, so that values change slowly far from all.
    """
    squared = jnp.sum(points**2, axis=-1, keepdims=True) - 2 * points @ places.T + jnp.sum(places**2, axis=-1)
    nearest = jnp.maximum(squared.min(axis=-1, keepdims=True), 0.0)
    return jax.nn.softmax(-squared / (BLEND_WIDTH**2 + BLEND_SHARE**2 * nearest), axis=-1) @ values


def surface_seen(
    field: ExpressionField, points: Array, values: Array | None = None
) -> tuple[Array, Array, Array]:
    """The posed mesh on the rays of points (P, 3), between those of the four pixels around that show it near.

    values: (R, R, c) of the surface seen there; None for its motions.

    Returns:
      distance - depth of the mesh (P,); how near that is (P,), 1 on the mesh, 0 where there is none; the
      surface's values (P, c).
    """
    values = field.surface if values is None else values
    depth = field.raster.depth
    size, count = depth.shape[0], values.shape[-1]
    place = project(field.camera, points)[0] * size - 0.5
    corner = jnp.floor(place)
    share = place - corner
    distance = jnp.linalg.norm(points - field.camera.cam2world[:3, 3], axis=-1)
    pixels = jnp.concatenate([values, depth[..., None]], axis=-1).reshape(size * size, count + 1)

    def pixel(right: int, down: int) -> tuple[Array, Array]:
        column = jnp.clip(corner[:, 0].astype(jnp.int32) + right, 0, size - 1)
        row = jnp.clip(corner[:, 1].astype(jnp.int32) + down, 0, size - 1)
        seen = pixels[row * size + column]
        gap = distance - seen[:, count]
        near = jnp.where(seen[:, count] > 0, jnp.exp(-((gap / SURFACE_REACH) ** 2)), 0.0)
        weight = jnp.abs(1 - right - share[:, 0]) * jnp.abs(1 - down - share[:, 1]) * near
        return weight, jnp.concatenate([seen[:, :count], gap[:, None], near[:, None]], axis=-1)

    around = [pixel(right, down) for right in (0, 1) for down in (0, 1)]
    total = sum(weight for weight, _ in around) + 1e-8
    mean = sum(weight[:, None] * value for weight, value in around) / total[:, None]
    return mean[:, count], mean[:, count + 1], mean[:, :count]


def apply_expression_field(field: ExpressionField, points: Array) -> Array:
    """Observed points (P, 3) -> canonical points (P, 3). No gradient."""
    _, near, surface = surface_seen(field, points)
    average = nearest_average(field.observed, field.candidates, points)
    motions = near[:, None] * surface + (1 - near[:, None]) * average
    return jax.lax.stop_gradient(move(points, motions, field.turn))


def snap_to_surface(field: ExpressionField, points: Array, directions: Array) -> Array:
    """Rendered surface points (P, 3) pulled along their rays (P, 3) on to the posed mesh where it is near."""
    gap, near, _ = surface_seen(field, points)
    return points - (near * gap)[:, None] * directions
