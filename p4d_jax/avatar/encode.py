"""One photo, or several of one person, to all of a source that no driving motion changes.

Images are float32 in [-1, 1], row 0 on top, in the crop that the photo's camera sees; S is the network's
`picture_size`, or a multiple of it for a network that refines its picture; K photos, M the length of motion
vectors.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from p4d_jax.avatar.model import AvatarModel
from p4d_jax.head.skinning import posed_vertices
from p4d_jax.reconstructor.config import ReconstructorConfig
from p4d_jax.reconstructor.encoders import SourceFeatures
from p4d_jax.reconstructor.field import network_inputs
from p4d_jax.reconstructor.several_photos import SourceTextures, trust_photo
from p4d_jax.reconstructor.texture import SourceTexture, build_source_texture
from p4d_jax.train.devices import fast_jit, once_jit
from p4d_jax.types import Array, FrameParams, concatenate, stack, take


@struct.dataclass
class EncodedSource:
    """A source as Psi holds it.

    Attributes:
      features: Psi's `SourceFeatures` with batch axis 1.
      texture: The photo, or the photos, as a texture of the head.
    """

    features: SourceFeatures
    texture: SourceTexture | SourceTextures

    @property
    def background(self) -> Array:
        """(b, b, F) features of what is behind the head, in [0, 1]."""
        return self.features.background[0]


def check_picture_size(config: ReconstructorConfig, size: int) -> None:
    """Raises ValueError if a network cannot be given photos, and make pictures, of `size` pixels a side."""
    least, refines = config.picture_size, bool(config.refinement_features)
    if size < least or size % least or (size > least and not refines):
        more = " or a multiple of it" if refines else ""
        raise ValueError(f"this network takes photos of {least} pixels a side{more}, got {size}")


@once_jit
def encode_photo(
    model: AvatarModel,
    image: Array,
    params: FrameParams,
    motion: Array,
    alpha: Array | None = None,
    known: Array | None = None,
) -> EncodedSource:
    """Encodes a photo (S, S, 3) with fitted parameters and motion vector (M,).

    alpha, known: (S, S, 1) of one photo; see `encode_photos`.
    """
    if image.ndim != 3 or image.shape[0] != image.shape[1] or image.shape[2] != 3:
        raise ValueError(f"image: expected (S, S, 3) in [-1, 1], got {image.shape}")
    check_picture_size(model.config, image.shape[0])
    posed = posed_vertices(model.head, params.shape, params)
    texture = build_source_texture(image, model.frame, posed, params.neck, params.camera, alpha, known)
    inputs = jax.tree.map(lambda x: x[None], network_inputs(model.network, texture))
    features = model.network.apply(
        model.variables, inputs[0], motion[None], inputs[1], jnp.ones(1), inputs[2], method="encode"
    )
    photo = None if features.photo is None else features.photo[0]
    return EncodedSource(features.replace(photo=None), texture.with_features(photo))


def encode_photos(
    model: AvatarModel,
    images: Array,
    params: FrameParams,
    motions: Array,
    alphas: Array | None = None,
    known: Array | None = None,
) -> EncodedSource:
    """Encodes K photos of one person as one source; of one photo it is `encode_photo`.

    The first photo's background and shape are the source's. Each place of the head is taken from the photos
    that show it well.

    Args:
      images: (K, S, S, 3).
      params: Fitted parameters, leading axis K.
      motions: (K, M).
      alphas: (K, S, S, 1) in [0, 1], the person in each; None leaves it to the network.
      known: (K, S, S, 1) in [0, 1], where each is the photo, not its continuation; None is everywhere.
    """
    count = params.expression.shape[0]
    if images.ndim != 4 or images.shape[0] != count or count < 1:
        raise ValueError(f"images: expected (K, S, S, 3) for the K = {count} of params, got {images.shape}")
    each = [take((images, params, motions, alphas, known), k) for k in range(count)]
    sources = [encode_photo(model, *one) for one in each]
    return sources[0] if count == 1 else _fuse(model, sources, params)


@fast_jit
def _fuse(model: AvatarModel, sources: list[EncodedSource], params: FrameParams) -> EncodedSource:
    """Several sources of one person as one."""
    posed = jax.vmap(lambda one: posed_vertices(model.head, one.shape, one))(params)
    textures = stack([source.texture for source in sources])
    trust = jax.vmap(trust_photo, (None, 0, 0))(model.frame, textures, posed)
    features = concatenate([source.features for source in sources])
    features = model.network.apply(model.variables, features, trust, method="fuse")
    return EncodedSource(features, SourceTextures(textures, trust))
