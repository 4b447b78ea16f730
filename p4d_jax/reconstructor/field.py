"""Psi's tri-plane as a radiance field, and one view of it: rays, super-resolution, refinement.

`HeadField` holds all that one frame's field is made of; `march_rays`, `refine_image` and `render_view` take
it and the rays or the camera. Training and inference share them. Images are float32 in [-1, 1], row 0 on top;
R rays a side, S pixels a side, F feature channels, P points, N rays.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from p4d_jax.geometry import project
from p4d_jax.head.expression_field import (
    ExpressionField,
    apply_expression_field,
    snap_to_surface,
    surface_on_rays,
)
from p4d_jax.head.model import HeadModel
from p4d_jax.head.skinning import posed_vertices, straightened_vertices
from p4d_jax.imaging.resizing import resize_antialiased, resize_bilinear
from p4d_jax.imaging.sampling import sample_image
from p4d_jax.imaging.writing import to_picture
from p4d_jax.nn.field_decoder import SHOWN_DENSITY
from p4d_jax.reconstructor.deformation import DEPTH_EXTENT, Deformation, apply_field
from p4d_jax.reconstructor.lids import shut_lids
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.reconstructor.mouth import put_mouth
from p4d_jax.reconstructor.several_photos import (
    SourceTextures,
    body_goes_on_of_sources,
    lids_of_sources,
    look_up_features_of_sources,
    look_up_nearby_of_sources,
    look_up_sources,
    see_mouth_of_sources,
)
from p4d_jax.reconstructor.texture import (
    Shown,
    SourceTexture,
    beyond_hair,
    body_goes_on,
    bound_chroma,
    lids_of,
    lift_image,
    look_up_features,
    look_up_nearby,
    look_up_source,
    mesh_depth_and_alpha,
    see_mouth_of,
)
from p4d_jax.render.chosen import map_chosen
from p4d_jax.render.raster import interpolate
from p4d_jax.render.rays import generate_rays
from p4d_jax.render.triplane import sample_planes
from p4d_jax.render.volume import depth_range, render_rays
from p4d_jax.types import Array, Camera, FrameParams

# Share of a nearby colour in a pixel that the photo hides, and 1 / the visibility from which it shows one.
GUESSED, VISIBLE = 0.7, 12.0
NEARBY_PIXELS = 32  # a side, in which such colours, which vary slowly, are looked up
SHOWN_OPACITY = 1e-3  # of a ray that shows the person
EMPTY_DENSITY = 100.0  # taken from the density where the photo shows the background


@struct.dataclass
class HeadField:
    """The radiance field of one head in one frame: observed points to densities and features.

    Attributes:
      network: Psi; its decoder, super-resolution and refinement are used.
      variables: Its parameters and buffers; those of the parts that are used suffice.
      planes: (3, H, W, C) tri-plane of the driving motion.
      texture: The source's photo, or photos, with features where the network has `photo_features`; None
        serves a network that neither has those nor refines.
      deformation: Observed to canonical points; None where the two spaces are the same.
      box_scale: () by which the planes' box is larger than the one that they were made for.
    """

    network: Reconstructor = struct.field(pytree_node=False)
    variables: dict
    planes: Array
    texture: SourceTexture | SourceTextures | None
    deformation: Deformation | None = None
    box_scale: Array | float = 1.0

    def __call__(self, points: Array) -> tuple[Array, Array]:
        """Observed points (N, S, 3), S on each of N rays of the deformation's camera, to what is there.

        Returns:
          densities (N, S, 1) before their softplus; features (N, S, F) in [0, 1].
        """
        inside, canonical = None, points
        if isinstance(self.deformation, ExpressionField):
            surface = surface_on_rays(self.deformation, points[:, 0])
            inside = surface.inside(points).reshape(-1, 1)
            canonical = apply_expression_field(self.deformation, points, surface)
        elif self.deformation is not None:
            canonical = apply_field(self.deformation, points)
        canonical, shown = canonical.reshape(-1, 3), None
        if self.network.config.photo_features:
            look_up = look_up_features_of_sources if self.several_photos else look_up_features
            shown = look_up(self.texture, canonical)
        at_planes = sample_planes(self.planes, canonical / self.box_scale)
        density, features = self.network.apply(self.variables, at_planes, shown, method="decode")
        if shown is not None and self.texture.alpha is not None:
            goes_on = body_goes_on_of_sources if self.several_photos else body_goes_on
            beyond, body = beyond_hair(self.texture, canonical), goes_on(self.texture, canonical)
            density = self.carve(density, shown, beyond, body, inside)
        as_rays = lambda x: x.reshape(*points.shape[:2], -1)
        return as_rays(density), as_rays(features)

    def carve(self, density: Array, shown: Array, beyond: Array, body: Array, inside: Array | None) -> Array:
        """Densities (P, 1), empty and solid where that is sure.

        What the alpha of the photo shows as background is empty all along its rays, and what is farther from
        the head than its hair there; what lies in the fitted mesh is solid, and the body that no photo shows.

        Args:
          shown: (P, k + 9) of `look_up_features`. beyond: (P, 1) `beyond_hair`. body: (P, 1) `body_goes_on`.
          inside: (P, 1) in [0, 1], how surely the points lie in the posed mesh; None where that is not known.
        """
        k = self.network.config.photo_features
        opacity, in_photo = shown[:, k : k + 1], shown[:, k + 4 : k + 5]
        person = opacity + 1.0 - in_photo
        empty = jnp.maximum(jnp.clip(1.0 - 2.0 * person, 0.0, 1.0), beyond)
        density = density - EMPTY_DENSITY * empty
        solid = body * (1.0 - in_photo)
        if inside is not None:
            solid = jnp.maximum(solid, inside * jnp.clip(2.0 * person - 1.0, 0.0, 1.0))
        return jnp.where(solid > 0, jnp.maximum(density, SHOWN_DENSITY * solid), density)

    @property
    def several_photos(self) -> bool:
        """Whether the source has several photos."""
        return isinstance(self.texture, SourceTextures)


@struct.dataclass
class MarchedRays:
    """What N rays see, before super-resolution.

    Attributes:
      features: (N, F) foreground, in [0, 1], premultiplied by opacity.
      depth: (N, 1) expected distance along the ray.
      transmittance: (N, 1) share of the background.
    """

    features: Array
    depth: Array
    transmittance: Array


@struct.dataclass
class Frame:
    """One rendered view.

    Attributes:
      image: (S, S, 3) in [-1, 1], after super-resolution and refinement.
      raw: (R, R, 3) in [-1, 1], the volume renderer's colours.
      depth: (R, R) distance along the ray, world units; the far end where nothing is.
      alpha: (R, R) opacity in [0, 1].
    """

    image: Array
    raw: Array
    depth: Array
    alpha: Array

    @property
    def picture(self) -> np.ndarray:
        """(S, S, 3) uint8, on the host."""
        return to_picture(self.image)

    @property
    def rgba(self) -> np.ndarray:
        """(S, S, 4) uint8 on the host, alpha at the picture's size; colours are not premultiplied."""
        picture = self.picture
        alpha = np.asarray(resize_bilinear(self.alpha[..., None], picture.shape[0]))
        return np.concatenate([picture, np.round(alpha.clip(0, 1) * 255).astype(np.uint8)], axis=-1)


@jax.jit
def driven_meshes(head: HeadModel, shape: Array, driving: FrameParams) -> tuple[Array, Array]:
    """`posed_vertices` and `straightened_vertices` of one frame."""
    return posed_vertices(head, shape, driving), straightened_vertices(head, shape, driving)


def network_inputs(
    network: Reconstructor, texture: SourceTexture
) -> tuple[Array, Array | None, Array | None]:
    """What the encoders are given of a source.

    Returns:
      the photo (S, S, 3); it lifted (L, L, 4), or None; the mesh's depth and alpha (S, S, 2), or None.
    """
    config = network.config
    image = resize_antialiased(texture.image, config.image_size)
    lifted = lift_image(image, texture.places) if config.source_lifting else None
    mesh = mesh_depth_and_alpha(texture, config.image_size) if config.photo_features else None
    return image, lifted, mesh


def march_rays(
    field: HeadField,
    origins: Array,
    directions: Array,
    camera: Camera,
    samples: tuple[int, int],
    key: Array | None = None,
    parts: int = 1,
) -> MarchedRays:
    """Marches N rays of one view through one head.

    Args:
      origins, directions: (N, 3).
      camera: Of the view, for the depth range.
      samples: Coarse and fine samples a ray.
      key: Randomises the samples; None is deterministic.
      parts: More than 1 leaves out fine samples where coarse ones find nothing, of the R x R rays of a view,
        in so many parts as `map_chosen` takes; without gradient.
    """
    near, far = depth_range(camera, DEPTH_EXTENT[field.network.config.deformation])
    out = render_rays(
        field,
        origins,
        directions,
        near=near,
        far=far,
        coarse_samples=samples[0],
        fine_samples=samples[1],
        key=key,
        choose=near_person if parts > 1 else None,
        parts=parts,
    )
    return MarchedRays(out.features, out.depth, out.transmittance)


def near_person(opacity: Array) -> Array:
    """Which of the R x R rays of a view with an opacity (R * R,) have a neighbour that shows the person."""
    side = math.isqrt(len(opacity))
    shown = (opacity > SHOWN_OPACITY).reshape(side, side)
    return jax.lax.reduce_window(shown, False, jnp.logical_or, (3, 3), (1, 1), "SAME").reshape(-1)


def compose(foreground: Array, transmittance: Array, background: Array) -> Array:
    """Feature image in [-1, 1] from premultiplied foreground and background features in [0, 1]."""
    return 2.0 * (foreground + transmittance * background) - 1.0


def resize_background(background: Array, resolution: int) -> Array:
    """Background features (b, b, F) at the rays' resolution (R, R, F), as the released model resizes them."""
    shape = (resolution, resolution, background.shape[-1])
    return jax.image.resize(background, shape, "bilinear", antialias=False)


def refined_size(field: HeadField, size: int) -> int:
    """Pixels a side of a picture, or of a crop of one, that has `size` after super-resolution.

    A network that refines makes pictures as large as its photo, which may be larger than it was trained with.
    """
    config = field.network.config
    if not config.refinement_features:
        return size
    return size * field.texture.image.shape[-2] // config.image_size


def look_at_surface(field: HeadField, points: Array, directions: Array) -> tuple[Shown, Array]:
    """What the photo shows of points (P, 3) of the rendered surface, on rays of directions (P, 3).

    Returns:
      what `look_up_source` finds; (P, 4) `part_labels` of the mesh, then (P, 4) of `shut_lids`, where the
      head has them.
    """
    texture, deformation = field.texture, field.deformation
    seen_mesh = [deformation.surface, deformation.parts]
    lids = lids_of_sources(texture) if field.several_photos else lids_of(texture)
    if lids is not None:
        seen_mesh.append(interpolate(deformation.raster, shut_lids(*lids, deformation.eye_openings)))
    seen_mesh = jnp.concatenate(seen_mesh, axis=-1)
    surface = surface_on_rays(deformation, points, seen_mesh)
    snapped = snap_to_surface(surface, points, directions)
    motions = surface.replace(values=surface.values[..., :4])
    canonical = apply_expression_field(deformation, snapped[:, None], motions)[:, 0]
    _, near, on_surface = surface.at(snapped[:, None])
    parts = jax.lax.stop_gradient(near * on_surface[:, 0, 4:])
    look_up = look_up_sources if field.several_photos else look_up_source
    return look_up(texture, deformation, snapped, canonical), parts


def guess_nearby(field: HeadField, points: Array, directions: Array) -> Array:
    """`look_up_nearby` at points (P, 3) of the rendered surface on rays of directions (P, 3): (P, 4)."""
    surface = surface_on_rays(field.deformation, points)
    snapped = snap_to_surface(surface, points, directions)
    canonical = apply_expression_field(field.deformation, snapped[:, None], surface)[:, 0]
    look_up = look_up_nearby_of_sources if field.several_photos else look_up_nearby
    return look_up(field.texture, canonical, surface.at(points[:, None])[1][:, 0])


def refine_image(
    field: HeadField, image: Array, marched: MarchedRays, rays: tuple[Array, Array], parts: int = 1
) -> Array:
    """The picture mixed with the photo seen at its surface; as it is for a network that does not refine.

    Args:
      image: (s, s, 3) after super-resolution; S is that of `refined_size`.
      marched: The r x r rays that it was made of.
      rays: Origins and directions (S * S, 3) of the picture's pixels.
      parts: More than 1 looks up in the photo only what shows the person; see `march_rays`.
    """
    network, texture, deformation = field.network, field.texture, field.deformation
    if not network.config.refinement_features:
        return image
    size, coarse = refined_size(field, image.shape[0]), math.isqrt(len(marched.depth))
    square = lambda x: x.reshape(size, size, -1)
    fill = lambda x: resize_bilinear(x.reshape(coarse, coarse, -1), size)
    origins, directions = rays
    # A pixel at an outline has the depth of the rays that hit, not a mean with those that miss.
    weight = fill(1.0 - marched.transmittance + 1e-3)
    depth = fill(marched.depth * (1.0 - marched.transmittance + 1e-3)) / weight
    points = origins + jax.lax.stop_gradient(depth).reshape(-1, 1) * directions
    alpha = 1.0 - fill(marched.transmittance)
    look = functools.partial(look_at_surface, field)
    if parts > 1:
        chosen = near_person(alpha.reshape(-1))
        seen = map_chosen(look, chosen, (points, directions), parts)
    else:
        seen = look(points, directions)
    shown, labels = jax.tree.map(square, seen)
    labels, lids = labels[..., :4], labels[..., 4:]
    behind = texture.background
    if texture.detail is not None:
        behind = jnp.concatenate([behind, texture.detail[..., 3:]], axis=-1)
    behind = square(sample_image(behind, project(deformation.camera, points)[0]))
    nearby = ()
    if texture.depth_and_alpha is not None:
        side = min(NEARBY_PIXELS, size)
        step = size // side
        thin = lambda x: square(x)[step // 2 :: step, step // 2 :: step]
        guessed = guess_nearby(field, *(thin(x).reshape(-1, 3) for x in (points, directions)))
        hits = thin(weight)
        spread = lambda x: resize_bilinear(x, size)
        guessed = spread(guessed.reshape(side, side, 4) * hits) / spread(hits)
        nearby = (jax.lax.stop_gradient(guessed)[None],)
    guide = jnp.concatenate([shown.by_mesh, shown.by_point, shown.by_mirror, behind[..., :3]], axis=-1)
    seen = [x[None] for x in (resize_bilinear(image, size), guide, alpha, labels)]
    refined = network.apply(field.variables, *seen, *nearby, method="refine")[0]
    if lids.shape[-1]:
        refined = refined * (1.0 - lids[..., 3:]) + lids[..., :3]
    if texture.detail is not None:
        refined += alpha * shown.detail + (1.0 - alpha) * behind[..., 3:]
    if nearby:
        found = (shown.by_mesh, shown.by_point, shown.by_mirror)
        visible = functools.reduce(jnp.maximum, [one[..., 3:] for one in found])
        hidden = GUESSED * alpha * jnp.clip(1.0 - VISIBLE * visible, 0.0, 1.0)
        refined += hidden * (nearby[0][0, ..., :3] - refined)
    if deformation.mouth is not None:
        see = see_mouth_of_sources if field.several_photos else see_mouth_of
        refined = put_mouth(refined, deformation.mouth, see(texture, deformation.mouth))
    return bound_chroma(refined, texture.chroma)


@functools.partial(jax.jit, static_argnames=("resolution", "samples", "parts"))
def render_view(
    field: HeadField,
    background: Array,
    camera: Camera,
    *,
    resolution: int,
    samples: tuple[int, int],
    parts: int = 1,
) -> Frame:
    """One view of a head before background features (b, b, F); zeros are black.

    The picture has 2 R pixels a side for each synthesis block of the super-resolution, and is refined to the
    photo's size.
    """
    network = field.network
    marched = march_rays(field, *generate_rays(camera, resolution), camera, samples, parts=parts)
    square = lambda x: x.reshape(resolution, resolution, -1)
    behind = resize_background(background, resolution)
    features = compose(square(marched.features), square(marched.transmittance), behind)
    image = network.apply(field.variables, features[None], method="upscale")[0]
    rays = generate_rays(camera, refined_size(field, image.shape[0]))
    image = refine_image(field, image, marched, rays, parts)
    alpha = 1.0 - square(marched.transmittance)[..., 0]
    return Frame(image, features[..., :3], square(marched.depth)[..., 0], alpha)
