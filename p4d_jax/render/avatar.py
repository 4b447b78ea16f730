"""An avatar: one source portrait, encoded once, rendered under any motion and camera.

`encode_source`, or `encode_sources` of several photos, -> `Avatar`; `animate_avatar` -> tri-plane of a
driving motion; `render_frame` -> picture.
`shade_rays` is the inner part that training shares: rays of one view through one tri-plane.
Images are float32 in [-1, 1], row 0 on top; R rays a side, S pixels a side, F feature channels.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from flax import struct

from p4d_jax.errors import UserError
from p4d_jax.geometry import project
from p4d_jax.head.model import HeadModel
from p4d_jax.head.skinning import head_vertices
from p4d_jax.models.reconstructor import Reconstructor, SourceFeatures
from p4d_jax.nn.resample import resize_antialiased, resize_bilinear
from p4d_jax.render.deformation import DEPTH_EXTENT, Deformation, apply_field, build_field
from p4d_jax.render.fusion import (
    SourceGuides,
    look_up_features_of_sources,
    look_up_nearby_of_sources,
    look_up_sources,
    trust_photo,
)
from p4d_jax.render.guide import (
    SourceGuide,
    build_source_guide,
    lift_image,
    look_up_features,
    look_up_nearby,
    look_up_source,
    mesh_relief,
)
from p4d_jax.render.lifting import (
    CanonicalFrame,
    build_canonical_frame,
    sample_image,
    snap_to_surface,
    surface_seen,
)
from p4d_jax.render.rays import generate_rays
from p4d_jax.render.triplane import sample_planes
from p4d_jax.render.volume import Field, depth_range, render_rays
from p4d_jax.types import Array, Camera, FrameParams


@struct.dataclass
class Avatar:
    """All of a source that no driving motion changes.

    Attributes:
      features: Psi's `SourceFeatures` with batch axis 1.
      frame: constants of the head model.
      guide: the photo, or the photos, as a texture of the head.
    """

    features: SourceFeatures
    frame: CanonicalFrame
    guide: SourceGuide | SourceGuides


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


@functools.lru_cache(maxsize=4)
def _cached_frame(key: int, holder, lifted_size: int) -> CanonicalFrame:
    return build_canonical_frame(holder.head, lifted_size)


class _Holder:
    """Keeps a head alive (and hashable by identity) for the cache."""

    def __init__(self, head: HeadModel):
        self.head = head

    def __eq__(self, other):
        return self.head is other.head

    def __hash__(self):
        return id(self.head)


def canonical_frame(head: HeadModel, lifted_size: int) -> CanonicalFrame:
    """`build_canonical_frame`, kept for the heads used last."""
    return _cached_frame(id(head), _Holder(head), lifted_size)


def posed_vertices(head: HeadModel, shape: Array, driving: FrameParams) -> Array:
    """(V, 3) the mesh of identity `shape` with the driving frame's expression, pose and gaze."""
    return head_vertices(head, shape, driving.expression, driving.pose, driving.eyes)


def straightened_vertices(head: HeadModel, shape: Array, driving: FrameParams) -> Array:
    """(V, 3) `posed_vertices` without the neck's rotation."""
    return posed_vertices(head, shape, driving.replace(pose=driving.pose.at[..., :3].set(0.0)))


def network_inputs(
    reconstructor: Reconstructor, guide: SourceGuide
) -> tuple[Array, Array | None, Array | None]:
    """What the encoders see of a source.

    Returns:
      the photo (S, S, 3); it lifted (L, L, 4), or None; the mesh's relief (S, S, 2), or None.
    """
    config = reconstructor.config
    image = resize_antialiased(guide.image, config.image_size)
    lifted = lift_image(image, guide.places) if config.source_lifting else None
    mesh = mesh_relief(guide, config.image_size) if config.photo_features else None
    return image, lifted, mesh


@functools.partial(jax.jit, static_argnums=0)
def _encode(
    reconstructor, variables, image, params, motion, head, frame
) -> tuple[SourceFeatures, SourceGuide]:
    posed = posed_vertices(head, params.shape, params)
    guide = build_source_guide(image, frame, posed, params.neck, params.camera)
    inputs = jax.tree.map(lambda x: x[None], network_inputs(reconstructor, guide))
    features = reconstructor.apply(
        variables, inputs[0], motion[None], inputs[1], jnp.ones(1), inputs[2], method="encode"
    )
    photo = None if features.photo is None else features.photo[0]
    return features.replace(photo=None), guide.with_features(photo)


def motion_of(reconstructor: Reconstructor, params: FrameParams, motion: Array | None) -> Array:
    """The motion vector (M,) that the model takes: `motion`, or the parameters' own where it is None."""
    size = reconstructor.config.motion_size
    vector = params.motion() if motion is None else motion
    if vector.shape != (size,):
        given = "the parameters' own" if motion is None else "the one given"
        raise UserError(
            f"motion: this model takes {size} numbers, {given} has {vector.shape[-1]}; pass motion= from the"
            " motion encoder that the model was trained with"
        )
    return vector


def encode_source(
    reconstructor: Reconstructor,
    variables: dict,
    image: Array,
    params: FrameParams,
    head: HeadModel,
    motion: Array | None = None,
) -> Avatar:
    """Encodes a source.

    Args:
      reconstructor, variables: from `models.checkpoint.load_reconstructor`.
      image: (S, S, 3) in [-1, 1] with S = `reconstructor.config.picture_size`, in the standard crop.
      params: fitted parameters of the image.
      head: the head model they belong to.
      motion: (M,) motion vector of the image; None for a model that takes the parameters' own.
    """
    size = reconstructor.config.picture_size
    if image.shape != (size, size, 3):
        raise ValueError(f"image: this model takes ({size}, {size}, 3) in [-1, 1], got {image.shape}")
    motion = motion_of(reconstructor, params, motion)
    frame = canonical_frame(head, reconstructor.config.lifted_size)
    features, guide = _encode(reconstructor, variables, image, params, motion, head, frame)
    return Avatar(features, frame, guide)


@functools.partial(jax.jit, static_argnums=0)
def _fuse(reconstructor, variables, features, guides, params, head, frame):
    posed = jax.vmap(lambda one: posed_vertices(head, one.shape, one))(params)
    guides = jax.tree.map(lambda *x: jnp.stack(x), *guides)
    guides = SourceGuides(guides, jax.vmap(trust_photo, (None, 0, 0))(frame, guides, posed))
    features = jax.tree.map(lambda *x: jnp.concatenate(x), *features)
    return reconstructor.apply(variables, features, guides.trust, method="fuse"), guides


def encode_sources(
    reconstructor: Reconstructor,
    variables: dict,
    images: Array,
    params: FrameParams,
    head: HeadModel,
    motions: Array | None = None,
) -> Avatar:
    """Encodes K photos of one person as one source; of one photo it is `encode_source`.

    The first photo's background and shape are the avatar's. Each place of the head is taken from the photos
    that show it well.

    Args:
      reconstructor, variables: from `models.checkpoint.load_reconstructor`.
      images: (K, S, S, 3) in [-1, 1], as for `encode_source`.
      params: fitted parameters of the images, leading axis K.
      head: the head model they belong to.
      motions: (K, M) motion vectors; None for a model that takes the parameters' own.
    """
    count = params.expression.shape[0]
    if images.ndim != 4 or images.shape[0] != count or count < 1:
        raise ValueError(f"images: expected (K, S, S, 3) for the K = {count} of params, got {images.shape}")
    each = [jax.tree.map(lambda x, k=k: x[k], (images, params, motions)) for k in range(count)]
    avatars = [
        encode_source(reconstructor, variables, image, one, head, motion) for image, one, motion in each
    ]
    if count == 1:
        return avatars[0]
    frame = avatars[0].frame
    each = [[avatar.features for avatar in avatars], [avatar.guide for avatar in avatars]]
    features, guides = _fuse(reconstructor, variables, *each, params, head, frame)
    return Avatar(features, frame, guides)


@functools.partial(jax.jit, static_argnums=0)
def animate_avatar(reconstructor: Reconstructor, variables: dict, avatar: Avatar, motion: Array) -> Array:
    """Tri-plane (3, PT, PT, C) of a driving motion (M,)."""
    return reconstructor.apply(variables, avatar.features, motion[None], jnp.ones(1), method="animate")[0]


def radiance_field(
    reconstructor: Reconstructor,
    variables: dict,
    planes: Array,
    deformation: Deformation | None,
    guide: SourceGuide | SourceGuides,
    box_scale: Array | float = 1.0,
) -> Field:
    """Observed points -> densities and features, from one tri-plane (3, H, W, C).

    Args:
      deformation: observed -> canonical, or None where observed and canonical space are the same.
      guide: of the source, with its features where the model has `photo_features`.
      box_scale: by which the planes' box is larger than they were made for.
    """

    def density_and_features(points: Array) -> tuple[Array, Array]:
        canonical = points if deformation is None else apply_field(deformation, points)
        shown = None
        if reconstructor.config.photo_features:
            look_up = look_up_features_of_sources if isinstance(guide, SourceGuides) else look_up_features
            shown = look_up(guide, canonical)
        at_planes = sample_planes(planes, canonical / box_scale)
        return reconstructor.apply(variables, at_planes, shown, method="decode")

    return density_and_features


def shade_rays(
    reconstructor: Reconstructor,
    variables: dict,
    planes: Array,
    field: Deformation | None,
    guide: SourceGuide | SourceGuides,
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
      guide: see `radiance_field`.
      origins, directions: (N, 3).
      camera: of the view, for the depth range.
      samples: coarse and fine samples a ray.
      key: randomises the samples; None is deterministic.
      box_scale: see `radiance_field`.
    """
    near, far = depth_range(camera, DEPTH_EXTENT[reconstructor.config.deformation])
    out = render_rays(
        radiance_field(reconstructor, variables, planes, field, guide, box_scale),
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
    guide: SourceGuide | SourceGuides,
    rays: tuple[Array, Array],
) -> Array:
    """The picture mixed with the photo seen at its surface; as it is for a model that does not refine.

    Args:
      image: (s, s, 3) after super-resolution; S is s times `refinement_scale`.
      shaded: of the r x r rays that it was made of.
      field: of the view.
      guide: of the source, or of several.
      rays: origins and directions (S * S, 3) of the picture's pixels.
    """
    if not reconstructor.config.refinement_features:
        return image
    size, coarse = image.shape[0] * reconstructor.config.refinement_scale, math.isqrt(len(shaded.depth))
    fill = lambda x: resize_bilinear(x.reshape(coarse, coarse, -1), size)  # noqa: E731
    origins, directions = rays
    # A pixel at an outline has the depth of the rays that hit, not a mean with those that miss.
    weight = 1.0 - shaded.transmittance + 1e-3
    fill_hits = lambda x: fill(x * weight) / fill(weight)  # noqa: E731
    depth = jax.lax.stop_gradient(fill_hits(shaded.depth))
    points = origins + depth.reshape(-1, 1) * directions
    snapped = snap_to_surface(field, points, directions)
    canonical = apply_field(field, snapped)
    pixels = project(field.camera, points)[0]
    _, near, parts = surface_seen(field, snapped, field.parts)
    parts = jax.lax.stop_gradient(near[:, None] * parts).reshape(1, size, size, -1)
    several = isinstance(guide, SourceGuides)
    look_up = look_up_sources if several else look_up_source
    shown = look_up(guide, field, snapped, canonical)
    seen = jnp.concatenate([shown, sample_image(guide.background, pixels)], axis=-1)
    of_relief = ()
    if guide.relief is not None:
        # One pixel a ray is enough for a colour that varies slowly.
        step = size // coarse
        thin = lambda x: x.reshape(size, size, -1)[step // 2 :: step, step // 2 :: step]  # noqa: E731
        thin_points, thin_canonical = (thin(x).reshape(coarse**2, 3) for x in (points, canonical))
        on_mesh = surface_seen(field, thin_points)[1]
        guess = look_up_nearby_of_sources if several else look_up_nearby
        nearby = jax.lax.stop_gradient(fill_hits(guess(guide, thin_canonical, on_mesh)))
        of_relief = (nearby[None],)
    opacity = 1.0 - fill(shaded.transmittance)[None]
    image, seen = resize_bilinear(image, size)[None], seen.reshape(1, size, size, -1)
    return reconstructor.apply(variables, image, seen, opacity, parts, *of_relief, method="refine")[0]


@functools.partial(jax.jit, static_argnames=("reconstructor", "resolution", "samples", "with_background"))
def render_planes(
    reconstructor: Reconstructor,
    variables: dict,
    planes: Array,
    background: Array,
    frame: CanonicalFrame,
    guide: SourceGuide | SourceGuides,
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
    shaded = shade_rays(reconstructor, variables, planes, field, guide, origins, directions, camera, samples)
    square = lambda x: x.reshape(resolution, resolution, -1)  # noqa: E731
    if not with_background:
        background = jnp.zeros_like(background)
    behind = jax.image.resize(
        background, (resolution, resolution, background.shape[-1]), "bilinear", antialias=False
    )
    features = compose(square(shaded.features), square(shaded.transmittance), behind)
    image = reconstructor.apply(variables, features[None], method="upscale")[0]
    rays = generate_rays(camera, reconstructor.config.picture_size)
    image = refine_image(reconstructor, variables, image, shaded, field, guide, rays)
    opacity = 1.0 - square(shaded.transmittance)[..., 0]
    return Frame(image, features[..., :3], square(shaded.depth)[..., 0], opacity)


@jax.jit
def driven_meshes(head: HeadModel, shape: Array, driving: FrameParams) -> tuple[Array, Array]:
    """`posed_vertices` and `straightened_vertices` of one frame."""
    return posed_vertices(head, shape, driving), straightened_vertices(head, shape, driving)


def render_frame(
    reconstructor: Reconstructor,
    variables: dict,
    avatar: Avatar,
    head: HeadModel,
    source_params: FrameParams,
    driving: FrameParams,
    *,
    motion: Array | None = None,
    resolution: int = 64,
    samples: tuple[int, int] = (16, 16),
    plane_offset: Array | None = None,
    with_background: bool = True,
) -> Frame:
    """The avatar with the driving frame's expression, pose, gaze and camera, and its own identity.

    Args:
      reconstructor, variables: from `load_reconstructor`, or with `Personalised.variables`.
      avatar: from `encode_source`.
      head: the head model of all parameters.
      source_params: of the source; its shape is the identity.
      driving: whose expression, pose, eyes and camera are shown; its shape is ignored.
      motion: (M,) motion vector of the driving frame; None for a model that takes the parameters' own.
      resolution: R, rays a side; the image has twice as many pixels a side for each synthesis block.
      samples: coarse and fine samples a ray.
      plane_offset: (3, PT, PT, C) added to the tri-plane (`train.personalise`), or None.
      with_background: False shows the head before black.
    """
    planes = animate_avatar(reconstructor, variables, avatar, motion_of(reconstructor, driving, motion))
    if plane_offset is not None:
        planes = planes + plane_offset
    posed, straight = driven_meshes(head, source_params.shape, driving)
    return render_planes(
        reconstructor,
        variables,
        planes,
        avatar.features.background[0],
        avatar.frame,
        avatar.guide,
        posed,
        straight,
        driving.neck,
        driving.camera,
        resolution=resolution,
        samples=samples,
        with_background=with_background,
    )
