"""Psi's tri-plane as a radiance field, and one view of it: rays, super-resolution, refinement.

`shade_rays` is the inner part that training and inference share. Images are float32 in [-1, 1], row 0 on top;
R rays a side, S pixels a side, F feature channels.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from flax import struct

from p4d_jax.geometry import project
from p4d_jax.head.expression_field import CanonicalFrame, snap_to_surface, surface_seen
from p4d_jax.head.model import HeadModel
from p4d_jax.head.skinning import posed_vertices, straightened_vertices
from p4d_jax.imaging.resizing import resize_antialiased, resize_bilinear
from p4d_jax.imaging.sampling import sample_image
from p4d_jax.reconstructor.deformation import DEPTH_EXTENT, Deformation, apply_field, build_field
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.reconstructor.several_photos import (
    SourceTextures,
    look_up_features_of_sources,
    look_up_nearby_of_sources,
    look_up_sources,
)
from p4d_jax.reconstructor.texture import (
    SourceTexture,
    lift_image,
    look_up_features,
    look_up_nearby,
    look_up_source,
    mesh_depth_and_alpha,
)
from p4d_jax.render.rays import generate_rays
from p4d_jax.render.triplane import sample_planes
from p4d_jax.render.volume import Field, depth_range, render_rays
from p4d_jax.types import Array, Camera, FrameParams


@struct.dataclass
class Shaded:
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
      image: (S, S, 3) after super-resolution and refinement.
      raw: (R, R, 3) the volume renderer's colours.
      depth: (R, R) distance along the ray, world units; the far end where nothing is.
      opacity: (R, R) in [0, 1].
    """

    image: Array
    raw: Array
    depth: Array
    opacity: Array


def network_inputs(
    reconstructor: Reconstructor, texture: SourceTexture
) -> tuple[Array, Array | None, Array | None]:
    """What the encoders see of a source.

    Returns:
      the photo (S, S, 3); it lifted (L, L, 4), or None; the mesh's relief (S, S, 2), or None.
    """
    config = reconstructor.config
    image = resize_antialiased(texture.image, config.image_size)
    lifted = lift_image(image, texture.places) if config.source_lifting else None
    mesh = mesh_depth_and_alpha(texture, config.image_size) if config.photo_features else None
    return image, lifted, mesh


def radiance_field(
    reconstructor: Reconstructor,
    variables: dict,
    planes: Array,
    deformation: Deformation | None,
    texture: SourceTexture | SourceTextures | None,
    box_scale: Array | float = 1.0,
) -> Field:
    """Observed points -> densities and features, from one tri-plane (3, H, W, C).

    Args:
      deformation: observed -> canonical, or None where observed and canonical space are the same.
      texture: of the source, with its features where the model has `photo_features`; None where it has not.
      box_scale: by which the planes' box is larger than they were made for.
    """

    def density_and_features(points: Array) -> tuple[Array, Array]:
        canonical = points if deformation is None else apply_field(deformation, points)
        shown = None
        if reconstructor.config.photo_features:
            look_up = look_up_features_of_sources if isinstance(texture, SourceTextures) else look_up_features
            shown = look_up(texture, canonical)
        at_planes = sample_planes(planes, canonical / box_scale)
        return reconstructor.apply(variables, at_planes, shown, method="decode")

    return density_and_features


def shade_rays(
    reconstructor: Reconstructor,
    variables: dict,
    planes: Array,
    field: Deformation | None,
    texture: SourceTexture | SourceTextures,
    origins: Array,
    directions: Array,
    camera: Camera,
    samples: tuple[int, int],
    key: Array | None = None,
    box_scale: Array | float = 1.0,
) -> Shaded:
    """Marches N rays of one view through one tri-plane.

    Args:
      planes: (3, H, W, C).
      field: observed -> canonical, or None where observed and canonical space are the same.
      texture: see `radiance_field`.
      origins, directions: (N, 3).
      camera: of the view, for the depth range.
      samples: coarse and fine samples a ray.
      key: randomises the samples; None is deterministic.
      box_scale: see `radiance_field`.
    """
    near, far = depth_range(camera, DEPTH_EXTENT[reconstructor.config.deformation])
    out = render_rays(
        radiance_field(reconstructor, variables, planes, field, texture, box_scale),
        origins,
        directions,
        near=near,
        far=far,
        coarse_samples=samples[0],
        fine_samples=samples[1],
        key=key,
    )
    return Shaded(out.features, out.depth, out.transmittance)


def compose(foreground: Array, transmittance: Array, background: Array) -> Array:
    """Feature image in [-1, 1] from premultiplied foreground and background features in [0, 1]."""
    return 2.0 * (foreground + transmittance * background) - 1.0


def refine_image(
    reconstructor: Reconstructor,
    variables: dict,
    image: Array,
    shaded: Shaded,
    field: Deformation,
    texture: SourceTexture | SourceTextures,
    rays: tuple[Array, Array],
) -> Array:
    """The picture mixed with the photo seen at its surface; as it is for a model that does not refine.

    Args:
      image: (s, s, 3) after super-resolution; S is s times `refinement_scale`.
      shaded: of the r x r rays that it was made of.
      field: of the view.
      texture: of the source, or of several.
      rays: origins and directions (S * S, 3) of the picture's pixels.
    """
    if not reconstructor.config.refinement_features:
        return image
    size, coarse = image.shape[0] * reconstructor.config.refinement_scale, math.isqrt(len(shaded.depth))
    fill = lambda x: resize_bilinear(x.reshape(coarse, coarse, -1), size)
    origins, directions = rays
    # A pixel at an outline has the depth of the rays that hit, not a mean with those that miss.
    weight = 1.0 - shaded.transmittance + 1e-3
    fill_hits = lambda x: fill(x * weight) / fill(weight)
    depth = jax.lax.stop_gradient(fill_hits(shaded.depth))
    points = origins + depth.reshape(-1, 1) * directions
    snapped = snap_to_surface(field, points, directions)
    canonical = apply_field(field, snapped)
    pixels = project(field.camera, points)[0]
    _, near, parts = surface_seen(field, snapped, field.parts)
    parts = jax.lax.stop_gradient(near[:, None] * parts).reshape(1, size, size, -1)
    several = isinstance(texture, SourceTextures)
    look_up = look_up_sources if several else look_up_source
    shown = look_up(texture, field, snapped, canonical)
    seen = jnp.concatenate([shown, sample_image(texture.background, pixels)], axis=-1)
    of_surface = ()
    if texture.depth_and_alpha is not None:
        # One pixel a ray is enough for a colour that varies slowly.
        step = size // coarse
        thin = lambda x: x.reshape(size, size, -1)[step // 2 :: step, step // 2 :: step]
        thin_points, thin_canonical = (thin(x).reshape(coarse**2, 3) for x in (points, canonical))
        on_mesh = surface_seen(field, thin_points)[1]
        guess = look_up_nearby_of_sources if several else look_up_nearby
        nearby = jax.lax.stop_gradient(fill_hits(guess(texture, thin_canonical, on_mesh)))
        of_surface = (nearby[None],)
    opacity = 1.0 - fill(shaded.transmittance)[None]
    image, seen = resize_bilinear(image, size)[None], seen.reshape(1, size, size, -1)
    return reconstructor.apply(variables, image, seen, opacity, parts, *of_surface, method="refine")[0]


@functools.partial(jax.jit, static_argnames=("reconstructor", "resolution", "samples", "with_background"))
def render_planes(
    reconstructor: Reconstructor,
    variables: dict,
    planes: Array,
    background: Array,
    frame: CanonicalFrame,
    texture: SourceTexture | SourceTextures,
    posed: Array,
    straight: Array,
    neck: Array,
    camera: Camera,
    *,
    resolution: int,
    samples: tuple[int, int],
    with_background: bool = True,
) -> Frame:
    """One view of a tri-plane whose observed mesh is `posed`, and `straight` without the rotation `neck`.

    The picture has 2 R pixels a side for each synthesis block of the super-resolution, times
    `refinement_scale`. Without background the head stands before black.
    """
    field = build_field(reconstructor.config, frame, posed, straight, neck, camera)
    origins, directions = generate_rays(camera, resolution)
    shaded = shade_rays(
        reconstructor, variables, planes, field, texture, origins, directions, camera, samples
    )
    square = lambda x: x.reshape(resolution, resolution, -1)
    if not with_background:
        background = jnp.zeros_like(background)
    behind = jax.image.resize(
        background, (resolution, resolution, background.shape[-1]), "bilinear", antialias=False
    )
    features = compose(square(shaded.features), square(shaded.transmittance), behind)
    image = reconstructor.apply(variables, features[None], method="upscale")[0]
    rays = generate_rays(camera, reconstructor.config.picture_size)
    image = refine_image(reconstructor, variables, image, shaded, field, texture, rays)
    opacity = 1.0 - square(shaded.transmittance)[..., 0]
    return Frame(image, features[..., :3], square(shaded.depth)[..., 0], opacity)


@jax.jit
def driven_meshes(head: HeadModel, shape: Array, driving: FrameParams) -> tuple[Array, Array]:
    """`posed_vertices` and `straightened_vertices` of one frame."""
    return posed_vertices(head, shape, driving), straightened_vertices(head, shape, driving)
