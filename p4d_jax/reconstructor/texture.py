"""The photo as a texture of the head: what it shows of a point, and how surely.

- `lift_image`: the photo resampled onto the canonical mesh's front: one texel of the xy-plane, one place in
  the photo. Rows grow with y, so a lifted image looks upside down when shown as it is.
- `SourceTexture`: a point of the head -> what the photo shows of it, for the field (`look_up_features`) and
  for the refinement of the rendered picture (`look_up_source`, `look_up_nearby`).
- Depth and alpha of a photo: those of the person in each of its pixels.

All without gradient but the features. World units and axes of docs/concepts/conventions.md; L texels a side.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from p4d_jax.geometry import axis_angle_to_matrix, exact_products, project, unit, vertex_normals
from p4d_jax.head.expression_field import (
    MIRROR,
    SURFACE_REACH,
    CanonicalFrame,
    ExpressionField,
    move,
    nearest_average,
    rigid_motions,
    surface_seen,
)
from p4d_jax.imaging.alpha import refine_alpha, split_colours
from p4d_jax.imaging.resizing import resize_antialiased
from p4d_jax.imaging.sampling import four_pixels, nearest_pixel, sample_image
from p4d_jax.render.raster import interpolate, rasterize
from p4d_jax.render.rays import pixel_centres, rays_through
from p4d_jax.types import BOX_WARP, Array, Camera

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
      features: (s, s, k + 2) of the photo's pixels, which a reconstructor with `photo_features` has made:
        the last two are depth and alpha of the whole person (`mesh_depth_and_alpha`), with the photo's edges.
      person, background: (S, S, 3) the photo with the colours of the one spread over the other, as far as the
        depth and alpha tell them apart; without features both are the photo.
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
    features: Array | None = None

    @property
    def depth_and_alpha(self) -> Array | None:
        """(s, s, 2) depth and opacity of the person in the photo, without gradient; None without features."""
        return None if self.features is None else jax.lax.stop_gradient(self.features[..., -2:])

    def with_features(self, features: Array | None) -> SourceTexture:
        """The texture with features (..., s, s, k + 2) of its photo's pixels, their alpha refined."""
        if features is None:
            return self
        small = resize_antialiased(self.image, features.shape[-2])
        opacity = refine_alpha(small, features[..., -1:])
        person, background = split_colours(self.image, opacity)
        features = jnp.concatenate([features[..., :-1], opacity], axis=-1)
        return self.replace(features=features, person=person, background=background)


@exact_products
def lift_places(frame: CanonicalFrame, surface: Array, camera: Camera, visible_depth: Array) -> Array:
    """Where the texels of the xy-plane are in a photo: (L, L, 4), uv in [0, 1], visibility and canonical z.

    Args:
      frame: the head model's constants.
      surface: (V, 4) the source's mesh with its identity, expression and pose, world, and `facing`.
      camera: of the source.
      visible_depth: (r, r) rasterised distance of the posed mesh in the source view, 0 where empty.

    Visibility is in [0, 1], how frontally the source camera sees the surface point, 0 where it is hidden or
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
    image: Array, frame: CanonicalFrame, posed: Array, neck: Array, camera: Camera, visible_size: int = 256
) -> SourceTexture:
    """The texture of one photo (S, S, 3) with fitted mesh `posed` (V, 3) and neck rotation `neck` (3,)."""
    depth = rasterize(posed, frame.faces, camera, visible_size, False).depth
    neck_rotation, chosen = axis_angle_to_matrix(neck), frame.candidates
    anchors = frame.vertices[chosen]
    surface = jnp.concatenate([posed, facing(posed, frame.faces, camera)[:, None]], axis=-1)
    return SourceTexture(
        image,
        camera,
        depth,
        lift_places(frame, surface, camera, depth),
        jnp.concatenate([surface, surface[frame.mirror]], axis=-1),
        anchors,
        rigid_motions(anchors, posed[chosen], frame.neck_weight[chosen], neck_rotation),
        neck_rotation,
        person=image,
        background=image,
    )


def look_up_source(texture: SourceTexture, field: ExpressionField, points: Array, canonical: Array) -> Array:
    """What the photo shows of observed points (P, 3): (P, 12), three times a colour and its visibility.

    By the front of the canonical mesh; by the point itself, of which the photo's mesh says where it was if it
    lies on the mesh, and the anchors' motions if it is hair or clothes, which have a depth of their own; and
    by its mirror image, since what one side hides the other often shows. Visibility is in [0, 1], or -1 off
    the front. With depth and alpha, a point is seen as far as its pixel shows the person, and not far behind
    the surface, and colours are the person's.

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

    def by_point(place: Array, canonical: Array) -> Array:
        moved = near * place[:, :3] + (1.0 - near) * in_the_photo(texture, canonical)
        margin = near[:, 0] * SURFACE_MARGIN + (1.0 - near[:, 0]) * VISIBLE_MARGIN
        uv, seen = seen_by(texture.camera, moved, texture.depth, margin)
        seen = seen[:, None] * (near * place[:, 3:] + 1.0 - near)
        if texture.depth_and_alpha is not None:
            depth_and_alpha = sample_image(texture.depth_and_alpha, uv)
            hidden = jnp.maximum(gap_to_surface(texture.camera, moved, depth_and_alpha) - HIDDEN_MARGIN, 0.0)
            seen *= depth_and_alpha[:, 1:] * jnp.exp(-((hidden / HIDDEN_WIDTH) ** 2))
        return jnp.concatenate([sample_image(texture.person, uv), seen], axis=-1)

    in_photo = interpolate(field.raster, texture.surface)
    _, near, place = surface_seen(field, points, in_photo)
    near = near[:, None]
    own, other = by_point(place[:, :4], canonical), by_point(place[:, 4:], canonical * MIRROR)
    return jnp.concatenate([by_mesh(), own, other], axis=-1)


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

    def squared_distances(points: Array) -> Array:
        moved = jnp.concatenate([in_the_photo(texture, points), OFF_MESH * (1.0 - on_mesh[:, None])], axis=-1)
        squared = jnp.sum(moved**2, -1, keepdims=True) - 2 * moved @ places.T + jnp.sum(places**2, -1)
        return squared + EMPTY * (depth_and_alpha[:, 1] < 0.5)

    here = squared_distances(points)
    there = squared_distances(points * MIRROR) + OTHER_SIDE**2
    squared = jnp.concatenate([here, there], axis=-1)
    nearest = jnp.maximum(squared.min(axis=-1, keepdims=True), 0.0)
    shares = jax.nn.softmax(-squared / (NEARBY_WIDTH**2 + NEARBY_SHARE**2 * nearest), axis=-1)
    colour, near = shares @ jnp.tile(colours, (2, 1)), jnp.exp(-nearest / NEARBY_REACH**2)
    return jax.lax.stop_gradient(jnp.concatenate([colour, near], axis=-1))


def in_the_photo(texture: SourceTexture, points: Array) -> Array:
    """Canonical points (P, 3) moved to the photo's expression and pose by its anchors: (P, 3)."""
    return move(
        points, nearest_average(texture.anchors, texture.anchor_motions, points), texture.neck_rotation
    )


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
    at_pixel = sample_image(texture.features[..., :-2], uv)
    depth_and_alpha = sample_image(texture.depth_and_alpha, uv)
    opacity, gap = depth_and_alpha[:, 1:], gap_to_surface(texture.camera, moved, depth_and_alpha)
    gaps = jnp.tanh(gap / jnp.array(GAP_WIDTHS))
    solid = jax.nn.sigmoid(gap / SURFACE_WIDTH) * jax.nn.sigmoid((THICKNESS - gap) / THICKNESS_WIDTH)
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


def mesh_depth_and_alpha(texture: SourceTexture, size: int) -> Array:
    """The fitted mesh in the photo (size, size, 2): `normalized_depth`, 0 where there is none, and alpha."""
    depth = jax.image.resize(texture.depth, (size, size), "nearest")
    there = (depth > 0).astype(jnp.float32)
    return jnp.stack([normalized_depth(texture.camera, depth) * there, there], axis=-1)
