"""Psi's encoders: photo and motion vector to tokens of a head at rest, detail and background.

B batch, S image size, T = S/2 plane size, M motion size. Networks are NHWC; images in [-1, 1]. Source:
Portrait4D (arXiv 2311.18729, section 4.2 and appendix), docs/concepts/reconstructor.md, 7.1.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax.numpy as jnp
from flax import struct

from p4d_jax.nn.layers import add_coordinates, conv3, leaky
from p4d_jax.nn.resnet import AtrousPyramid, ResNet
from p4d_jax.nn.transformer import CrossBlock, OverlapPatchEmbed, dense_init
from p4d_jax.reconstructor.config import ReconstructorConfig
from p4d_jax.types import Array


@struct.dataclass
class SourceFeatures:
    """What Psi keeps of a source, before any driving motion.

    Attributes:
      tokens: (B, N, D) canonicalised tokens, Phi_de's output.
      detail: (B, T, T, d) E_detail's output.
      lifted: (B, T, T, k) the lifted image folded to the plane's grid, k = 0 without source lifting.
      background: (B, b, b, F) background features in [0, 1].
      photo: (B, S, S, photo_features + 2) of the photo's pixels, the last two depth and alpha
        (`texture.mesh_depth_and_alpha`), or None; of K fused photos (B, K, S, S, photo_features + 2).
    """

    tokens: Array
    detail: Array
    lifted: Array
    background: Array
    photo: Array | None = None


class EncoderGlobal(nn.Module):
    """E_global: (B, S, S, 3) -> (B, S/8, S/8, pyramid_features)."""

    config: ReconstructorConfig

    @nn.compact
    def __call__(self, image: Array) -> Array:
        c = self.config
        dtype = jnp.dtype(c.dtype)
        x = ResNet(c.global_widths, c.global_depths, dtype, name="encoder")(add_coordinates(image))
        return AtrousPyramid(c.pyramid_features, c.pyramid_rates, dtype, name="decoder")(x)


class EncoderDetail(nn.Module):
    """E_detail: five convolutions, the first of stride 2: (B, S, S, k) -> (B, S/2, S/2, detail)."""

    config: ReconstructorConfig

    @nn.compact
    def __call__(self, image: Array) -> Array:
        c, x = self.config, add_coordinates(image)
        for index, features in enumerate(c.detail_features):
            first = index == 0
            x = leaky(
                conv3(features, 2 if first else 1, 7 if first else 3, name=f"conv{index}", dtype=c.dtype)(x)
            )
        return x


class MotionTokens(nn.Module):
    """Motion vector (B, M) -> motion tokens (B, grid², token_dim)."""

    config: ReconstructorConfig

    @nn.compact
    def __call__(self, motion: Array) -> Array:
        c = self.config
        dense = lambda n, name: nn.Dense(n, kernel_init=dense_init, dtype=c.dtype, name=name)
        x = leaky(dense(c.motion_hidden, "map0")(motion))
        x = leaky(dense(c.motion_hidden, "map1")(x))
        x = dense(c.motion_grid**2 * c.token_dim, "proj")(x)
        return x.reshape(x.shape[0], c.motion_grid**2, c.token_dim)


class Canonicalizer(nn.Module):
    """Phi_de: global features and the source's motion -> tokens of a head at rest."""

    config: ReconstructorConfig

    @nn.compact
    def __call__(self, features: Array, motion_source: Array, scale: Array) -> Array:
        c = self.config
        x, grid = OverlapPatchEmbed(c.token_dim, dtype=c.dtype, name="patch_embed")(features)
        motion_tokens = MotionTokens(c, name="motion")(motion_source)
        for index in range(c.blocks_de):
            x = CrossBlock(c.token_heads, dtype=c.dtype, name=f"block{index}")(x, motion_tokens, grid, scale)
        return x


class UNet(nn.Module):
    """Shallow U-Net: (B, b, b, 3) -> (B, b, b, features), of the background before its sigmoid.

    Attributes:
      widths: four. features: of the output. dtype: of the layers.
    """

    widths: tuple[int, ...]
    features: int
    dtype: str

    @nn.compact
    def __call__(self, image: Array) -> Array:
        w = self.widths
        conv = functools.partial(conv3, dtype=self.dtype)
        grow = lambda x: jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        h1 = leaky(conv(w[0], 2, name="input")(add_coordinates(image)))
        skips = [h1]
        for index in range(3):
            x = leaky(conv(w[index], name=f"down{index}")(skips[-1]))
            skips.append(conv(w[index + 1], 2, name=f"down{index}_stride")(x))
        x = leaky(conv(w[3], name="middle")(skips[-1]))
        for index, features in enumerate((w[2], w[1], w[0], w[0])):
            x = leaky(conv(features, name=f"up{index}")(jnp.concatenate([x, skips.pop()], axis=-1)))
            x = conv(features, name=f"up{index}_conv")(grow(x))
        return conv(self.features, name="out")(x)
