"""Several photos of one person as one source: which of them shows which part of the head, and how well.

Letters: K photos, L texels a side of the xy-plane, P points, S image size. Nothing here is learned: the
fitted head model says where each photo sees the head, and how frontally. `nn.photo_attention` mixes
features by that.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from p4d_jax.geometry import exact_products
from p4d_jax.head.expression_field import MIRROR, CanonicalFrame, ExpressionField
from p4d_jax.head.mouth import MouthView
from p4d_jax.imaging.sampling import nearest_pixel, sample_image
from p4d_jax.nn.photo_attention import mix_photos, trust_logits
from p4d_jax.reconstructor.mouth import draw_mouth
from p4d_jax.reconstructor.texture import (
    Shown,
    SourceTexture,
    body_goes_on,
    build_source_texture,
    lids_of,
    look_up_features,
    look_up_nearby,
    look_up_source,
    photo_of_mouth,
    unit,
)
from p4d_jax.render.raster import rasterize
from p4d_jax.types import BOX_WARP, Array, Camera

FACING_POWER = 4.0  # of the cosine: a photo that sees a place at 45° has a quarter of a frontal one's say
HIDDEN_SHARE = 1e-3  # of its mean trust elsewhere: what a photo has to say of a place that it does not see
LID_THICKNESS = 0.006  # world units: so far behind what the camera sees, a surface is hidden (eyes by lids)
DEPTH_SIZE = 256  # pixels a side of the depth map that tells them apart
NEARNESS_POWER = 8.0  # of a guess's nearness: which photo's nearest place counts
ANGLE_SHARPNESS = 30.0  # of the cosine between two photos' directions, for hair, whose surface is not known


@struct.dataclass
class SourceTextures:
    """K photos as textures of one canonical head.

    Attributes:
      textures: `SourceTexture` with leading axis K.
      trust: (K, L, L) from `trust_photo`.
    """

    textures: SourceTexture
    trust: Array

    @property
    def image(self) -> Array:
        """(..., S, S, 3) the first photo."""
        return self.textures.image[..., 0, :, :, :]

    @property
    def background(self) -> Array:
        """(..., S, S, 3) what is behind the head: the first photo's."""
        return self.textures.background[..., 0, :, :, :]

    @property
    def alpha(self) -> Array | None:
        """(..., S, S, 1) `SourceTexture.alpha` of the first photo."""
        return None if self.textures.alpha is None else self.textures.alpha[..., 0, :, :, :]

    @property
    def anchors(self) -> Array:
        """(..., n, 3) `SourceTexture.anchors`, the same for all photos."""
        return self.textures.anchors[..., 0, :, :]

    @property
    def hair_reach(self) -> Array:
        """(...) the farthest reach of hair in all photos."""
        return self.textures.hair_reach.max(axis=-1)

    @property
    def chroma(self) -> Array:
        """(...) the largest chroma of all photos."""
        return self.textures.chroma.max(axis=-1)

    @property
    def detail(self) -> Array | None:
        """(..., S, S, 6) `SourceTexture.detail` of the first photo."""
        detail = self.textures.detail
        return None if detail is None else detail[..., 0, :, :, :]

    @property
    def depth_and_alpha(self) -> Array | None:
        """(..., s, s, 2) `SourceTexture.depth_and_alpha` of the first photo."""
        depth_and_alpha = self.textures.depth_and_alpha
        return None if depth_and_alpha is None else depth_and_alpha[..., 0, :, :, :]

    def with_features(self, features: Array | None) -> SourceTextures:
        """The textures with features (K, s, s, k) of their photos' pixels."""
        return self.replace(textures=self.textures.with_features(features))


def build_source_textures(
    images: Array,
    frame: CanonicalFrame,
    posed: Array,
    necks: Array,
    cameras: Camera,
    alphas: Array | None = None,
    known: Array | None = None,
) -> SourceTextures:
    """Guides of K photos (K, S, S, 3) whose fitted meshes are `posed` (K, V, 3), seen by cameras (K,).

    necks: (K, 3) rotations of the necks in these meshes. alphas: (K, S, S, 1) of the person, or
    None. known: (K, S, S, 1) where they are photos, or None.
    """

    def one(image: Array, mesh: Array, neck: Array, camera: Camera, alpha: Array | None, known: Array | None):
        texture = build_source_texture(image, frame, mesh, neck, camera, alpha, known)
        return texture, trust_photo(frame, texture, mesh)

    return SourceTextures(*jax.vmap(one)(images, posed, necks, cameras, alphas, known))


@exact_products
def trust_photo(frame: CanonicalFrame, texture: SourceTexture, posed: Array) -> Array:
    """How well a photo shows each texel of the xy-plane: (L, L) in [0, 1].

    Where the photo sees the surface, the cosine between its normal and the direction to the camera, to the
    power `FACING_POWER`; texels that the mesh does not reach face forward. What is hidden, eyes under
    shut lids too, or outside the picture, has a small share of the photo's mean: it decides only where no
    photo sees anything.

    Args:
      posed: (V, 3) the mesh in the photo's pose.
    """
    corners = posed[frame.triangles]
    edges = corners[..., 1:, :] - corners[..., :1, :]
    normal = unit(jnp.cross(edges[..., 0, :], edges[..., 1, :]))
    on_mesh = jnp.einsum("hwk,hwkc->hwc", frame.barycentric, corners)
    covered = frame.covered[..., None]
    points = jnp.where(covered, on_mesh, frame.points)
    normal = jnp.where(covered, normal, jnp.array([0.0, 0.0, 1.0]))
    towards = unit(texture.camera.cam2world[:3, 3] - points)
    facing = jnp.maximum(jnp.sum(normal * towards, axis=-1), 0.0) ** FACING_POWER
    depth = rasterize(posed, frame.faces, texture.camera, DEPTH_SIZE, False).depth
    behind = jnp.linalg.norm(texture.camera.cam2world[:3, 3] - points, axis=-1) - look_up_depth(
        depth, texture.places[..., :2]
    )
    free = jnp.exp(-((jnp.maximum(behind, 0.0) / LID_THICKNESS) ** 2))
    inside = jnp.all((texture.places[..., :2] > 0) & (texture.places[..., :2] < 1), axis=-1)
    trust = facing * inside * jnp.where(frame.covered, free, 1.0)
    return jnp.maximum(trust, HIDDEN_SHARE * trust.mean())


def look_up_depth(depth: Array, uv: Array) -> Array:
    """Depth (r, r) of the pixels at uv (..., 2) in [0, 1]; as far as can be where there is none."""
    found = nearest_pixel(depth[..., None], uv)[..., 0]
    return jnp.where(found == 0, jnp.inf, found)


def look_up_sources(
    sources: SourceTextures, field: ExpressionField, points: Array, canonical: Array
) -> Shown:
    """What K photos show of observed points (P, 3) of a view, as `look_up_source` of one photo.

    Colours found by the canonical mesh, and by the mirror image, are taken from the photo that shows the
    surface most frontally; those found by the point itself from the photo taken from where the camera is.
    """
    found = jax.vmap(look_up_source, in_axes=(0, None, None, None))(
        sources.textures, field, points, canonical
    )
    trust = jax.vmap(lambda trust: trust_at(trust, canonical))(sources.trust)
    trust_other = jax.vmap(lambda trust: trust_at(trust, canonical * MIRROR))(sources.trust)
    towards = jax.vmap(lambda place: unit(place - canonical))(sources.textures.camera.cam2world[:, :3, 3])
    wanted = unit(field.camera.cam2world[:3, 3] - canonical)
    nearness = jnp.exp(ANGLE_SHARPNESS * (jnp.sum(towards * wanted, axis=-1) - 1.0))
    # A place's detail belongs to its colour: both are of the same photos.
    own = mix_seen(jnp.concatenate([found.by_point, found.detail], axis=-1), nearness)
    return Shown(
        mix_seen(found.by_mesh, trust), own[:, :4], mix_seen(found.by_mirror, trust_other), own[:, 4:]
    )


def see_mouth_of_sources(sources: SourceTextures, view: MouthView) -> Array:
    """`see_mouth_of` of K photos as one (w, w, 4): of the photos that show it, in the first one's light."""
    look = lambda one: photo_of_mouth(one, view)
    photos, seen = jax.vmap(look)(sources.textures)
    photo = mix_photos(photos, trust_logits(seen + HIDDEN_SHARE)[..., None])
    first = jax.tree.map(lambda x: x[0], (sources.textures.mouth, sources.textures.lip_extent))
    return draw_mouth(view, *first, photo, seen.max(axis=0))


def lids_of_sources(sources: SourceTextures) -> tuple[Array, Array] | None:
    """`lids_of` the first of K photos."""
    return lids_of(jax.tree.map(lambda x: x[0], sources.textures))


def look_up_features_of_sources(sources: SourceTextures, points: Array) -> Array:
    """`look_up_features` of K photos as one (P, k + 9): the mean of those that reach as far as the point."""
    found = jax.vmap(look_up_features, in_axes=(0, None))(sources.textures, points)
    inside = found[..., -5]
    return mix_photos(found, trust_logits(inside + HIDDEN_SHARE)[..., None])


def body_goes_on_of_sources(sources: SourceTextures, points: Array) -> Array:
    """`body_goes_on` (P, 1) as the surest of K photos has it."""
    return jax.vmap(body_goes_on, in_axes=(0, None))(sources.textures, points).max(axis=0)


def look_up_nearby_of_sources(sources: SourceTextures, points: Array, on_mesh: Array) -> Array:
    """`look_up_nearby` of K photos as one (P, 4), of those that show the nearest places."""
    found = jax.vmap(look_up_nearby, in_axes=(0, None, None))(sources.textures, points, on_mesh)
    return mix_photos(found, trust_logits(found[..., 3] ** NEARNESS_POWER + HIDDEN_SHARE)[..., None])


def mix_seen(found: Array, weight: Array) -> Array:
    """Colours, visibilities, more (K, P, c) of a point as one (P, c); who does not see it has little say."""
    seen = jnp.maximum(found[..., 3], 0.0) + HIDDEN_SHARE
    return mix_photos(found, trust_logits(seen * weight)[..., None])


def trust_at(trust: Array, points: Array) -> Array:
    """Trust (L, L) at canonical points (P, 3): (P,)."""
    return sample_image(trust[..., None], points[:, :2] / BOX_WARP + 0.5)[..., 0]
