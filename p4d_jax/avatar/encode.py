"""An avatar: one source portrait, encoded once, rendered under any motion and camera.

`encode_source`, or `encode_sources` of several photos, -> `Avatar`; `animate_avatar` -> tri-plane of a
driving motion; `render_frame` -> picture.
`shade_rays` is the inner part that training shares: rays of one view through one tri-plane.
Images are float32 in [-1, 1], row 0 on top; R rays a side, S pixels a side, F feature channels.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import struct

from p4d_jax.errors import UserError
from p4d_jax.head.expression_field import CanonicalFrame, build_canonical_frame
from p4d_jax.head.model import HeadModel
from p4d_jax.head.skinning import posed_vertices
from p4d_jax.reconstructor.encoders import SourceFeatures
from p4d_jax.reconstructor.field import Frame, driven_meshes, network_inputs, render_planes
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.reconstructor.several_photos import (
    SourceTextures,
    trust_photo,
)
from p4d_jax.reconstructor.texture import (
    SourceTexture,
    build_source_texture,
)
from p4d_jax.types import Array, FrameParams


@struct.dataclass
class Avatar:
    """All of a source that no driving motion changes.

    Attributes:
      features: Psi's `SourceFeatures` with batch axis 1.
      frame: constants of the head model.
      texture: the photo, or the photos, as a texture of the head.
    """

    features: SourceFeatures
    frame: CanonicalFrame
    texture: SourceTexture | SourceTextures


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


@functools.partial(jax.jit, static_argnums=0)
def _encode(
    reconstructor, variables, image, params, motion, head, frame
) -> tuple[SourceFeatures, SourceTexture]:
    posed = posed_vertices(head, params.shape, params)
    texture = build_source_texture(image, frame, posed, params.neck, params.camera)
    inputs = jax.tree.map(lambda x: x[None], network_inputs(reconstructor, texture))
    features = reconstructor.apply(
        variables, inputs[0], motion[None], inputs[1], jnp.ones(1), inputs[2], method="encode"
    )
    photo = None if features.photo is None else features.photo[0]
    return features.replace(photo=None), texture.with_features(photo)


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
      reconstructor, variables: from `reconstructor.weights.load_reconstructor`.
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
    features, texture = _encode(reconstructor, variables, image, params, motion, head, frame)
    return Avatar(features, frame, texture)


@functools.partial(jax.jit, static_argnums=0)
def _fuse(reconstructor, variables, features, textures, params, head, frame):
    posed = jax.vmap(lambda one: posed_vertices(head, one.shape, one))(params)
    textures = jax.tree.map(lambda *x: jnp.stack(x), *textures)
    textures = SourceTextures(textures, jax.vmap(trust_photo, (None, 0, 0))(frame, textures, posed))
    features = jax.tree.map(lambda *x: jnp.concatenate(x), *features)
    return reconstructor.apply(variables, features, textures.trust, method="fuse"), textures


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
      reconstructor, variables: from `reconstructor.weights.load_reconstructor`.
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
    each = [[avatar.features for avatar in avatars], [avatar.texture for avatar in avatars]]
    features, textures = _fuse(reconstructor, variables, *each, params, head, frame)
    return Avatar(features, frame, textures)


@functools.partial(jax.jit, static_argnums=0)
def animate_avatar(reconstructor: Reconstructor, variables: dict, avatar: Avatar, motion: Array) -> Array:
    """Tri-plane (3, PT, PT, C) of a driving motion (M,)."""
    return reconstructor.apply(variables, avatar.features, motion[None], jnp.ones(1), method="animate")[0]


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
      plane_offset: (3, PT, PT, C) added to the tri-plane (`avatar.personalise`), or None.
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
        avatar.texture,
        posed,
        straight,
        driving.neck,
        driving.camera,
        resolution=resolution,
        samples=samples,
        with_background=with_background,
    )
