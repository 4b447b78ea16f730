"""Identity of a face: ArcFace embeddings (CVPR 2019, arXiv 1801.07698) by an IResNet.

IResNet is the ResNet of ArcFace's section 3.2: normalisation before the first convolution of a block, PReLU,
stride in the second convolution, no pooling, a dense layer over the last map. NHWC, images in [-1, 1], RGB,
112 x 112, aligned by `align_for_identity`. Two faces are compared by the cosine of their embeddings.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from p4d_jax.geometry.similarity import ARCFACE_SIZE, arcface_transform
from p4d_jax.imaging.affine import warp_affine
from p4d_jax.nn.convnet import PReLU, batch_norm, conv
from p4d_jax.types import Array

IRESNET_18 = (2, 2, 2, 2)
IRESNET_50 = (3, 4, 14, 3)


class IResNetBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is projected where the block halves its input.

    Attributes:
      features: Number of output channels.
      stride: Stride of the second convolution, 1 or 2.
      dtype: Number type of the activations.
    """

    features: int
    stride: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dtype = self.dtype
        y = batch_norm(dtype=dtype, name="bn1")(x)
        y = conv(self.features, 3, dtype=dtype, name="conv1")(y)
        y = PReLU(dtype, name="prelu")(batch_norm(dtype=dtype, name="bn2")(y))
        y = conv(self.features, 3, self.stride, dtype=dtype, name="conv2")(y)
        y = batch_norm(dtype=dtype, name="bn3")(y)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = conv(self.features, 1, self.stride, dtype=dtype, name="shortcut")(x)
            x = batch_norm(dtype=dtype, name="shortcut_bn")(x)
        return x + y


class IResNet(nn.Module):
    """Aligned faces (B, S, S, 3) -> embeddings (B, embedding), not normalised.

    Attributes:
      depths: Number of blocks of each of the four stages; the first block of a stage halves the image.
      widths: Channels of the stages; the stem has the first's.
      embedding: Length of an embedding.
      image_size: S; it fixes the dense layer's size.
      dtype: Number type of the convolutions' activations; the dense layer and what follows it are float32.
    """

    depths: tuple[int, ...] = IRESNET_18
    widths: tuple[int, ...] = (64, 128, 256, 512)
    embedding: int = 512
    image_size: int = ARCFACE_SIZE
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> Array:
        size, dtype = self.image_size, self.dtype
        if images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise ValueError(f"images: expected aligned faces (B, {size}, {size}, 3), got {images.shape}")
        x = conv(self.widths[0], 3, dtype=dtype, name="conv1")(images)
        x = PReLU(dtype, name="prelu")(batch_norm(dtype=dtype, name="bn1")(x))
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), 1):
            for block in range(depth):
                stride = 2 if block == 0 else 1
                x = IResNetBlock(width, stride, dtype, name=f"layer{stage}_{block}")(x)
        x = batch_norm(dtype=dtype, name="bn2")(x).astype(jnp.float32)
        # Channels come first in the dense layer's input, as in the released weights.
        x = nn.Dense(self.embedding, name="dense")(x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1))
        return batch_norm(name="embedding_bn")(x)


def align_for_identity(image: Array, landmarks: Array) -> Array:
    """The crop that ArcFace expects of one image.

    Args:
      image: (H, W, 3) in [-1, 1].
      landmarks: (70, 2) in pixels of the image, y down; see `geometry.arcface_transform`.

    Returns:
      (112, 112, 3) in [-1, 1], grey where the crop leaves the image.
    """
    return jnp.clip(warp_affine(image, arcface_transform(landmarks), ARCFACE_SIZE), -1, 1)


def portrait_identity(network: IResNet, variables: dict, image: Array, landmarks: Array) -> Array:
    """The embedding (512,) of one image and its landmarks, both as `align_for_identity` wants them."""
    return network.apply(variables, align_for_identity(image, landmarks)[None])[0]


def cosine_similarity(a: Array, b: Array) -> Array:
    """Cosine (...) of embeddings (..., N): 1 for the same face, about 0 for different ones."""
    lengths = jnp.sum(a**2, axis=-1) * jnp.sum(b**2, axis=-1)
    return jnp.sum(a * b, axis=-1) / jnp.sqrt(jnp.maximum(lengths, 1e-16))
