"""The photo as a texture of the head: what it shows of a point, and how surely.

- `lift_image`: the photo resampled onto the canonical mesh's front: one texel of the xy-plane, one place in
  the photo. Rows grow with y, so a lifted image looks upside down when shown as it is.
- `SourceTexture`: a point of the head -> what the photo shows of it, for the field (`look_up_features`) and
  for the refinement of the rendered picture (`look_up_source`, `look_up_nearby`).
- Depth and alpha of a photo: those of the person in each of its pixels.

All without gradient but the features. World units and axes of docs/concepts/conventions.md; L texels a side.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import struct

from p4d_jax.geometry import axis_angle_to_matrix, exact_products, project, unit, vertex_normals
from p4d_jax.head.expression_field import (
    MIRROR,
    SURFACE_REACH,
    CanonicalFrame,
    ExpressionField,
    distance_to_nearest,
    move,
    nearest_average,
    rigid_motions,
    squared_distances_between,
    surface_on_rays,
)
from p4d_jax.head.lids import eye_openings
from p4d_jax.head.mouth import MouthView, lip_extent
from p4d_jax.imaging.alpha import grow, refine_alpha, split_colours
from p4d_jax.imaging.resizing import resize_antialiased, resize_bilinear
from p4d_jax.imaging.sampling import four_pixels, nearest_pixel, sample_image
from p4d_jax.reconstructor.lids import lid_colours
from p4d_jax.reconstructor.mouth import draw_mouth, mouth_colours
from p4d_jax.render.raster import Raster, interpolate, rasterize
from p4d_jax.render.rays import pixel_centres, rays_through
from p4d_jax.types import BOX_WARP, Array, Camera

# World units of depth that count as the same surface: of points off the mesh, and of the mesh's own, of which
# lips and teeth, lids and eyes lie close behind each other.
VISIBLE_MARGIN, SURFACE_MARGIN = 0.02, 0.008
# Around the person, pixels in which the background has no detail, and the alpha that counts as the person.
OUTLINE_PIXELS, OUTLINE_ALPHA = 3, 0.1
EDGE_DEPTH = 0.06  # world units by which the mesh's depth jumps at an edge inside it
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
# Of hair: pixels a side in which its reach is measured; height in the canonical frame above which it counts;
# what it may reach farther than seen, anchors being sparse, and where it ends.
REACH_SIZE, MOUTH_HEIGHT = 48, -0.1
SHOULDER_HEIGHT = -0.3  # in the canonical frame, that of the chin: what a border cuts below it is the body
CHROMA_SIZE = 64  # pixels a side of the photo in which its strongest colour is looked for
REACH_MARGIN, REACH_WIDTH = 0.1, 0.05
OFF_MESH, OTHER_SIDE = 0.1, 0.05
NEARBY_WIDTH, NEARBY_SHARE = 0.03, 0.5
NEARBY_REACH, EMPTY = 0.1, 10.0


@struct.dataclass
class SourceTexture:
    """The photo as a texture of the canonical head.

    Attributes:
      image: (S, S, 3) the photo in [-1, 1].
      camera: of the photo.
      depth: (r, r) rasterised distance of the posed mesh in the photo's view, 0 where empty.
      places: (L, L, 4) from `lift_places`.
      surface: (V, 8) of each vertex its place in the photo's posed mesh, world, and how frontally the photo
        sees it, in [0, 1]; then the same of its mirror image.
      anchors: (n, 3) candidates on the canonical mesh.
      anchor_motions: (n, 4) rows of `rigid_motions` to the photo's posed mesh.
      neck_rotation: (3, 3) the rotation of the photo's neck.
      detail: (S, S, 6) what the network's own picture of the photo lacks of it, of the person and of the
        background, in [-2, 2]; or None.
      features: (s, s, k + 2) of the photo's pixels, which a reconstructor with `photo_features` has made:
        the last two are depth and alpha of the whole person (`mesh_depth_and_alpha`), with the photo's edges.
      person, background: (S, S, 3) the photo with the colours of the one spread over the other, as far as the
        alpha tells them apart; without one both are the photo.
      mouth, lip_extent: (5, 3) of `reconstructor.mouth.mouth_colours`, and (2,) of the photo's mesh; None for
        a head without teeth.
      lids, eye_openings: (V, 5) of `reconstructor.lids.lid_colours`, and (2,) of the photo's mesh; None for a
        head whose blinks are not named.
      hair_reach: () world units by which the person stands off the mesh above the mouth; None without alpha.
      chroma: () largest `chroma_of` the photo, which no picture of it exceeds.
      known: (S, S, 1) in [0, 1], where the image is the photo and not its continuation; None is everywhere.
      alpha: (S, S, 1) in [0, 1], the person in the photo, as a segmentation has it; None leaves it to the
        features.
    """

    image: Array
    camera: Camera
    depth: Array
    places: Array
    surface: Array
    anchors: Array
    anchor_motions: Array
    neck_rotation: Array
    person: Array
    background: Array
    mouth: Array | None = None
    lip_extent: Array | None = None
    detail: Array | None = None
    features: Array | None = None
    alpha: Array | None = None
    known: Array | None = None
    hair_reach: Array | None = None
    chroma: Array | None = None
    lids: Array | None = None
    eye_openings: Array | None = None

    @property
    def depth_and_alpha(self) -> Array | None:
        """(s, s, 2) depth and opacity of the person in the photo, without gradient; None without features."""
        return None if self.features is None else jax.lax.stop_gradient(self.features[..., -2:])

    def with_features(self, features: Array | None) -> SourceTexture:
        """The texture with features (..., s, s, k + 2) of its photo's pixels.

        Their alpha is the photo's own; where that is not known, theirs with the photo's edges.
        """
        if features is None:
            return self
        size = features.shape[-2]
        if self.alpha is None:
            opacity = refine_alpha(resize_antialiased(self.image, size), features[..., -1:])
            person, background = split_colours(self.image, opacity)
        else:
            opacity = jax.lax.stop_gradient(resize_antialiased(self.alpha, size))
            person, background = split_colours(self.image, self.alpha)
        features = jnp.concatenate([features[..., :-1], opacity], axis=-1)
        return self.replace(features=features, person=person, background=background)


@exact_products
def lift_places(
    frame: CanonicalFrame, surface: Array, camera: Camera, visible_depth: Array, known: Array | None = None
) -> Array:
    """Where the texels of the xy-plane are in a photo: (L, L, 4), uv in [0, 1], visibility and canonical z.

    Args:
      frame: the head model's constants.
      surface: (V, 4) the source's mesh with its identity, expression and pose, world, and `facing`.
      camera: of the source.
      visible_depth: (r, r) rasterised distance of the posed mesh in the source view, 0 where empty.
      known: (S, S, 1) `SourceTexture.known`.

    Visibility is in [0, 1], how frontally the source camera sees the surface point, 0 where it is hidden or
    outside the image, and -1 where the mesh does not reach (hair, background on the proxy plane).
    """
    on_mesh = jnp.einsum("hwk,hwkc->hwc", frame.barycentric, surface[frame.triangles])
    points = jnp.where(frame.covered[..., None], on_mesh[..., :3], frame.points)
    uv, seen = seen_by(camera, points, visible_depth, SURFACE_MARGIN, known)
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


def seen_by(
    camera: Camera, points: Array, depth: Array, margin: Array | float, known: Array | None = None
) -> tuple[Array, Array]:
    """Where a camera has points (..., 3), and how much of them it sees past a depth buffer (r, r).

    known: (S, S, 1) in [0, 1], where its picture shows anything; None is everywhere.

    Returns:
      uv (..., 2) in [0, 1] inside the picture; seen (...) in [0, 1], between the four pixels around, of which
      those with depth 0 are empty.
    """
    uv, _ = project(camera, points)
    inside = jnp.all((uv > 0) & (uv < 1), axis=-1)
    if known is not None:
        inside *= sample_image(known, uv)[..., 0]
    distance = jnp.linalg.norm(points - camera.cam2world[:3, 3], axis=-1)
    size = depth.shape[0]

    def seen_past(pixel: Array) -> Array:
        front = depth.reshape(-1)[pixel]
        return (distance < front + margin) | (front == 0)

    around = four_pixels(jnp.clip(uv * size - 0.5, 0.0, size - 1.0), size)
    return uv, inside * sum(weight * seen_past(pixel) for pixel, weight in around)


def facing(posed: Array, faces: Array, camera: Camera) -> Array:
    """How frontally a camera sees the vertices of a mesh (V, 3): (V,) in [0, 1]."""
    normals = vertex_normals(posed, faces)
    cosine = jnp.abs(jnp.sum(normals * unit(camera.cam2world[:3, 3] - posed), axis=-1))
    return jnp.clip((cosine - GRAZING) / (SQUARE - GRAZING), 0.0, 1.0)


def build_source_texture(
    image: Array,
    frame: CanonicalFrame,
    posed: Array,
    neck: Array,
    camera: Camera,
    alpha: Array | None = None,
    known: Array | None = None,
    visible_size: int = 256,
) -> SourceTexture:
    """The texture of one photo (S, S, 3) with fitted mesh `posed` (V, 3) and neck rotation `neck` (3,).

    alpha: (S, S, 1) of the person in it, or None. known: (S, S, 1) where it is the photo, or None.
    """
    raster = rasterize(posed, frame.faces, camera, visible_size, False)
    depth = raster.depth
    neck_rotation, chosen = axis_angle_to_matrix(neck), frame.candidates
    anchors = frame.vertices[chosen]
    surface = jnp.concatenate([posed, facing(posed, frame.faces, camera)[:, None]], axis=-1)
    if known is not None:
        image, known = fill_by_mirror(image, known, raster, surface[frame.mirror], camera)
    mouth = extent = lids = openings = None
    uv, seen = seen_by(camera, posed, depth, SURFACE_MARGIN, known)
    colours, shown = sample_image(image, uv), seen * surface[:, 3]
    if frame.mouth is not None:
        white = frame.parts[:, 0] * (1.0 - frame.parts[:, 1])
        mouth = mouth_colours(frame.mouth, 0.5 * colours + 0.5, shown, white)
        extent = lip_extent(frame.mouth, posed)
    if frame.lids is not None:
        lids = lid_colours(frame.lids, colours, shown)
        openings = eye_openings(frame.lids, posed)
    return SourceTexture(
        image,
        camera,
        depth,
        lift_places(frame, surface, camera, depth, known),
        jnp.concatenate([surface, surface[frame.mirror]], axis=-1),
        anchors,
        rigid_motions(anchors, posed[chosen], frame.neck_weight[chosen], neck_rotation),
        neck_rotation,
        person=image,
        background=image,
        mouth=mouth,
        lip_extent=extent,
        alpha=alpha,
        known=known,
        hair_reach=None if alpha is None else reach_of_hair(alpha, known, depth, camera),
        chroma=jnp.max(chroma_of(resize_antialiased(image, min(CHROMA_SIZE, image.shape[0])))),
        lids=lids,
        eye_openings=openings,
    )


def inner_edges(depth: Array) -> Array:
    """Where a depth buffer (r, r) jumps inside the mesh, chin over neck or nose over cheek: (r, r) in [0, 1].

    Near there a pixel's surface is uncertain. Grown by two pixels and softened; 0 where nothing is.
    """
    reduce = functools.partial(jax.lax.reduce_window, window_strides=(1, 1), padding="SAME")
    far = reduce(depth, 0.0, jax.lax.max, (5, 5))
    near = reduce(jnp.where(depth > 0, depth, jnp.inf), jnp.inf, jax.lax.min, (5, 5))
    jump = ((depth > 0) & (far - near > EDGE_DEPTH)).astype(jnp.float32)
    return reduce(jump, 0.0, jax.lax.add, (3, 3)) / 9.0


def detail_of_photo(depth: Array, lacks: Array, alpha: Array) -> Array:
    """`SourceTexture.detail` (S, S, 6) of what a picture of the photo lacks of it (S, S, 3), in [-2, 2].

    depth: (r, r) of the photo's mesh; near its inner edges there is no detail. alpha: (S, S, 1); the
    background has none near the person, whose outline would stand still in it.
    """
    sure = 1.0 - resize_bilinear(inner_edges(depth)[..., None], lacks.shape[0])
    near = alpha
    for _ in range(OUTLINE_PIXELS):
        near = grow(near)
    away = jnp.clip(1.0 - near / OUTLINE_ALPHA, 0.0, 1.0)
    return jnp.concatenate([alpha * sure * lacks, away * lacks], axis=-1)


def see_mouth_of(texture: SourceTexture, view: MouthView) -> Array:
    """The mouth of a view in its window, with what the photo shows of it: (w, w, 4), see `draw_mouth`."""
    return draw_mouth(view, texture.mouth, texture.lip_extent, *photo_of_mouth(texture, view))


def photo_of_mouth(texture: SourceTexture, view: MouthView) -> tuple[Array, Array]:
    """The photo at the surface of a mouth: (w, w, 3) in [0, 1], and how surely it is seen there, (w, w)."""
    places = interpolate(view.raster, texture.surface[:, :3])
    uv, seen = seen_by(texture.camera, places, texture.depth, SURFACE_MARGIN, texture.known)
    return 0.5 * sample_image(texture.image, uv) + 0.5, seen * view.raster.mask


def lids_of(texture: SourceTexture) -> tuple[Array, Array] | None:
    """Lids and eye openings of a photo, as `shut_lids` takes them; None for a head without."""
    return None if texture.lids is None else (texture.lids, texture.eye_openings)


def chroma_of(image: Array) -> Array:
    """How colourful an image (..., 3) is: distance of its colours from grey, (...)."""
    return jnp.linalg.norm(image - image.mean(axis=-1, keepdims=True), axis=-1)


def bound_chroma(image: Array, largest: Array) -> Array:
    """An image (..., 3) without colours stronger than `largest` (): a grey photo's picture is grey."""
    # As one product, so that a compiler makes the image once and not anew for each of its uses.
    split = image @ jnp.concatenate([jnp.eye(3) - 1.0 / 3.0, jnp.full((3, 1), 1.0 / 3.0)], axis=-1)
    off, grey = split[..., :3], split[..., 3:]
    squared = off[..., :1] ** 2 + off[..., 1:2] ** 2 + off[..., 2:] ** 2
    # No gradient where the colours stay: that of a length is not defined at grey.
    scale = largest * jax.lax.rsqrt(jnp.maximum(squared, jnp.maximum(largest, 1e-6) ** 2))
    return grey + off * scale


def reach_of_hair(alpha: Array, known: Array | None, depth: Array, camera: Camera) -> Array:
    """() how far hair stands off the head in a photo: world units at the head's distance, above the mouth.

    Args:
      alpha, known: (S, S, 1) of the photo.
      depth: (r, r) of the mesh in it, 0 where empty.
    """
    pixels = pixel_centres(REACH_SIZE)
    person = alpha if known is None else alpha * known
    is_person = resize_antialiased(person, REACH_SIZE).reshape(-1) > 0.5
    on_mesh = nearest_pixel(depth[..., None], pixels)[:, 0] > 0
    origins, directions = rays_through(camera, pixels)
    along = jnp.sum(origins * directions, axis=-1, keepdims=True)
    places = origins - along * directions  # of each ray what is nearest to the head's middle
    squared = jnp.sum((places[:, None] - places[None]) ** 2, axis=-1)
    off = jnp.sqrt(jnp.min(jnp.where(on_mesh[None], squared, jnp.inf), axis=-1))
    counts = is_person & (places[:, 1] > MOUTH_HEIGHT)
    return jnp.max(jnp.where(counts & jnp.isfinite(off), off, 0.0))


def beyond_hair(texture, canonical: Array) -> Array:
    """How surely canonical points (P, 3) lie above the mouth and farther out than hair: (P, 1) in [0, 1].

    texture: a `SourceTexture`, or `SourceTextures` of the same head.
    """
    off, hair_reach = distance_to_nearest(canonical, texture.anchors), texture.hair_reach
    above = jnp.clip((canonical[:, 1:2] - MOUTH_HEIGHT) / REACH_WIDTH, 0.0, 1.0)
    return above * jnp.clip((off - hair_reach - REACH_MARGIN) / REACH_WIDTH, 0.0, 1.0)


def body_goes_on(texture: SourceTexture, points: Array) -> Array:
    """How surely canonical points (P, 3) lie in the body that the photo's border cuts: (P, 1) in [0, 1].

    Below the photo, and beside it from the shoulders down, the person goes on straight from the border,
    behind the depth that it has there.
    """
    # As `look_up_features` has them: one program makes them once.
    moved = in_the_photo(texture, points)
    uv, _ = project(texture.camera, moved)
    depth_and_alpha = jax.lax.stop_gradient(sample_image(texture.features, uv)[:, -2:])  # the border's
    beside = jnp.any((uv < 0) | (uv > 1), axis=-1) & (points[:, 1] < SHOULDER_HEIGHT)
    outside = (uv[:, 1] > 1) | (beside & (uv[:, 1] > 0))
    surely = depth_and_alpha[:, 1:] * solid_behind(gap_to_surface(texture.camera, moved, depth_and_alpha))
    if texture.known is not None:
        surely *= sample_image(texture.known, uv)
    return outside[:, None] * jnp.clip(2.0 * surely - 1.0, 0.0, 1.0)


def fill_by_mirror(
    image: Array, known: Array, raster: Raster, mirrored: Array, camera: Camera
) -> tuple[Array, Array]:
    """A photo (S, S, 3), with what it shows of the other side of the head where it is not known (S, S, 1).

    A face that the photo's border cuts gets its other half: where the photo shows a surface's mirror image,
    its colours are taken, and count as known.

    Args:
      raster: (r, r) of the posed mesh in the photo's view.
      mirrored: (V, 4) of each vertex the place of its mirror image and how frontally the photo sees that.
    """
    seen = interpolate(raster, mirrored)
    uv, visible = seen_by(camera, seen[..., :3], raster.depth, SURFACE_MARGIN, known)
    weight = (visible * seen[..., 3] * raster.mask)[..., None]
    both = jnp.concatenate([weight * sample_image(image, uv), weight], axis=-1)
    both = resize_bilinear(both, image.shape[0])
    colours, weight = both[..., :3] / (both[..., 3:] + 1e-6), (1.0 - known) * both[..., 3:]
    return image + weight * (colours - image), jnp.maximum(known, weight)


@struct.dataclass
class Shown:
    """What a photo shows of P points, each in three ways: colour (3), and visibility in [0, 1], or -1.

    Attributes:
      by_mesh: (P, 4) by the front of the canonical mesh; visibility is -1 off it.
      by_point: (P, 4) by the point itself.
      by_mirror: (P, 4) by its mirror image.
      detail: (P, 3) of the point itself times its visibility; zeros without one.
    """

    by_mesh: Array
    by_point: Array
    by_mirror: Array
    detail: Array


def look_up_source(texture: SourceTexture, field: ExpressionField, points: Array, canonical: Array) -> Shown:
    """What the photo shows of observed points (P, 3).

    By the front of the canonical mesh; by the point itself, of which the photo's mesh says where it was if it
    lies on the mesh, and the anchors' motions if it is hair or clothes, which have a depth of their own; and
    by its mirror image, since what one side hides the other often shows. With depth and alpha, a point is
    seen as far as its pixel shows the person, and not far behind the surface, and colours are the person's.

    Args:
      field: of the view that shows the points. canonical: (P, 3) they in the canonical frame.
    """

    def by_mesh() -> Array:
        place = sample_image(texture.places, canonical[:, :2] / BOX_WARP + 0.5)
        # Under chin and nose the front surface is not the one that the point lies on.
        same = jnp.exp(-(((canonical[:, 2:] - place[:, 3:]) / SURFACE_REACH) ** 2))
        visibility = jnp.where(place[:, 2:3] > 0, same, 1.0) * place[:, 2:3]
        if texture.depth_and_alpha is not None:
            there = sample_image(texture.depth_and_alpha[..., 1:], place[:, :2])
            visibility *= jnp.where(visibility > 0, there, 1.0)
        return jnp.concatenate([sample_image(texture.person, place[:, :2]), visibility], axis=-1)

    def by_point(place: Array, canonical: Array) -> tuple[Array, Array]:
        moved = near * place[:, :3] + (1.0 - near) * in_the_photo(texture, canonical)
        margin = near[:, 0] * SURFACE_MARGIN + (1.0 - near[:, 0]) * VISIBLE_MARGIN
        uv, seen = seen_by(texture.camera, moved, texture.depth, margin, texture.known)
        seen = seen[:, None] * (near * place[:, 3:] + 1.0 - near)
        if texture.depth_and_alpha is not None:
            depth_and_alpha = sample_image(texture.depth_and_alpha, uv)
            hidden = jnp.maximum(gap_to_surface(texture.camera, moved, depth_and_alpha) - HIDDEN_MARGIN, 0.0)
            seen *= depth_and_alpha[:, 1:] * jnp.exp(-((hidden / HIDDEN_WIDTH) ** 2))
        detail = jnp.zeros_like(texture.image) if texture.detail is None else texture.detail[..., :3]
        found = sample_image(jnp.concatenate([texture.person, detail], axis=-1), uv)
        return jnp.concatenate([found[:, :3], seen], axis=-1), seen * found[:, 3:]

    in_photo = interpolate(field.raster, texture.surface)
    _, near, place = surface_on_rays(field, points, in_photo).at(points[:, None])
    place = place[:, 0]
    own, detail = by_point(place[:, :4], canonical)
    return Shown(by_mesh(), own, by_point(place[:, 4:], canonical * MIRROR)[0], detail)


@exact_products
def look_up_nearby(texture: SourceTexture, points: Array, on_mesh: Array) -> Array:
    """Colours guessed for canonical points (P, 3) from the nearest places that the photo shows: (P, 4).

    The places are the surface of the photo's depth. Those near a point's mirror image count too, as if they
    were farther. on_mesh: (P,) in [0, 1], how near the points are to the mesh; skin is guessed from skin, and
    hair and clothes from hair and clothes. The last channel is 1 where the photo shows such a place just
    there, 0 where the nearest is far. No gradient.
    """
    pixels = pixel_centres(NEARBY_SIDE)
    depth_and_alpha = nearest_pixel(texture.depth_and_alpha, pixels)
    small = lambda x: resize_antialiased(x, NEARBY_SIDE).reshape(len(pixels), -1)
    opacity = resize_antialiased(texture.depth_and_alpha[..., 1:], texture.image.shape[0])
    colours = small(texture.image * opacity) / (small(opacity) + 1e-3)
    origins, directions = rays_through(texture.camera, pixels)
    distance = depth_from_normalized(texture.camera, depth_and_alpha[:, :1])
    mesh = nearest_pixel(texture.depth[..., None], pixels)
    off = 1.0 - jnp.where(mesh > 0, jnp.exp(-(((distance - mesh) / SURFACE_REACH) ** 2)), 0.0)
    places = jnp.concatenate([origins + distance * directions, OFF_MESH * off], axis=-1)
    empty = EMPTY * (depth_and_alpha[:, 1:] < 0.5)

    def squared_distances(points: Array) -> Array:
        off_mesh = OFF_MESH * (1.0 - on_mesh[:, None])
        moved = jnp.concatenate([in_the_photo(texture, points), off_mesh], axis=-1)
        return squared_distances_between(moved, places, empty)

    here = squared_distances(points)
    there = squared_distances(points * MIRROR) + OTHER_SIDE**2
    least = jnp.minimum(here.min(axis=-1, keepdims=True), there.min(axis=-1, keepdims=True))
    nearest = jnp.maximum(least, 0.0)
    width = NEARBY_WIDTH**2 + NEARBY_SHARE**2 * nearest
    weighted = jnp.concatenate([colours, jnp.ones((len(colours), 1))], axis=-1)
    total = sum(jnp.exp((least - squared) / width) @ weighted for squared in (here, there))
    colour, near = total[:, :3] / total[:, 3:], jnp.exp(-nearest / NEARBY_REACH**2)
    return jax.lax.stop_gradient(jnp.concatenate([colour, near], axis=-1))


def in_the_photo(texture: SourceTexture, points: Array) -> Array:
    """Canonical points (P, 3) moved to the photo's expression and pose by its anchors: (P, 3)."""
    motions = nearest_average(texture.anchors, texture.anchor_motions, points)
    return move(points, motions, texture.neck_rotation)


def look_up_features(texture: SourceTexture, points: Array) -> Array:
    """What a reconstructor's field sees of the photo at canonical points (P, 3): (P, k + 9).

    Of the pixel behind which the point lies, and 0 outside the photo: its k features, its opacity, and how
    far the point lies behind the surface seen there, at three scales, all but the opacity itself times it:
    the background says nothing of the head. Then 1 inside, 0 outside; the point itself in shares of half the
    box; and how surely, in [0, 1], the person is there: behind the photo's depth, and not too far. Depth and
    alpha have no gradient from here: they learn from the photo's own depth.
    """
    moved = in_the_photo(texture, points)
    uv, _ = project(texture.camera, moved)
    inside = jnp.all((uv > 0) & (uv < 1), axis=-1, keepdims=True).astype(jnp.float32)
    if texture.known is not None:
        inside *= sample_image(texture.known, uv)
    found = sample_image(texture.features, uv)
    at_pixel, depth_and_alpha = found[:, :-2], jax.lax.stop_gradient(found[:, -2:])
    opacity, gap = depth_and_alpha[:, 1:], gap_to_surface(texture.camera, moved, depth_and_alpha)
    gaps = jnp.tanh(gap / jnp.array(GAP_WIDTHS))
    solid = solid_behind(gap)
    of_pixel = opacity * jnp.concatenate([at_pixel, jnp.ones_like(opacity), gaps], axis=-1)
    place = points / (0.5 * BOX_WARP)
    return jnp.concatenate([of_pixel * inside, inside, place, opacity * solid * inside], axis=-1)


def normalized_depth(camera: Camera, depth: Array) -> Array:
    """Distance along rays (...) as networks give it: from the world's origin, in shares of half the box."""
    return (depth - jnp.linalg.norm(camera.cam2world[:3, 3])) / (0.5 * BOX_WARP)


def depth_from_normalized(camera: Camera, depth_and_alpha: Array) -> Array:
    """The inverse of `normalized_depth`."""
    return depth_and_alpha * (0.5 * BOX_WARP) + jnp.linalg.norm(camera.cam2world[:3, 3])


def gap_to_surface(camera: Camera, points: Array, depth_and_alpha: Array) -> Array:
    """World units (P, 1) by which points (P, 3) lie behind the photo's depth, of depth and alpha (P, 2)."""
    distance = jnp.linalg.norm(points - camera.cam2world[:3, 3], axis=-1, keepdims=True)
    return (normalized_depth(camera, distance) - depth_and_alpha[:, :1]) * (0.5 * BOX_WARP)


def solid_behind(gap: Array) -> Array:
    """How surely points a gap (...) behind the photo's depth lie in the person: behind, and not too far."""
    return jax.nn.sigmoid(gap / SURFACE_WIDTH) * jax.nn.sigmoid((THICKNESS - gap) / THICKNESS_WIDTH)


def mesh_depth_and_alpha(texture: SourceTexture, size: int) -> Array:
    """The fitted mesh in the photo (size, size, 2): `normalized_depth`, 0 where there is none, and alpha."""
    depth = jax.image.resize(texture.depth, (size, size), "nearest")
    there = (depth > 0).astype(jnp.float32)
    return jnp.stack([normalized_depth(texture.camera, depth) * there, there], axis=-1)
