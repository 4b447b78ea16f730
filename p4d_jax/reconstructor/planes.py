"""Psi's second half: tokens and the driving motion to an animated tri-plane (Phi_re, G_T).

Source: docs/concepts/reconstructor.md, Eq. 7.6 to 7.8.

B batch, S image size, T = S/2 plane size, P plane upsampling, C plane channels.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax.nn.layers import conv3, leaky, pixel_shuffle, upsample_aligned
from p4d_jax.nn.transformer import CrossBlock, OverlapPatchEmbed, SelfBlock, tokens_to_image
from p4d_jax.reconstructor.config import ReconstructorConfig
from p4d_jax.reconstructor.encoders import MotionTokens
from p4d_jax.types import Array


class Reenactor(nn.Module):
    """Phi_re: tokens of the head at rest and the driving motion -> (B, S/2, S/2, canonical_features[-1])."""

    config: ReconstructorConfig

    @nn.compact
    def __call__(self, tokens: Array, motion_driving: Array, scale: Array) -> Array:
        c = self.config
        side = c.image_size // 16
        x = tokens
        motion_tokens = MotionTokens(c, name="motion")(motion_driving)
        for index in range(c.blocks_re):
            x = CrossBlock(c.token_heads, dtype=c.dtype, name=f"block{index}")(
                x, motion_tokens, (side, side), scale
            )
        x = pixel_shuffle(tokens_to_image(x, side, side), 2)
        x = nn.relu(conv3(c.canonical_features[0], name="conv0", dtype=c.dtype)(upsample_aligned(x)))
        x = nn.relu(conv3(c.canonical_features[1], name="conv1", dtype=c.dtype)(upsample_aligned(x)))
        return conv3(c.canonical_features[2], name="conv2", dtype=c.dtype)(x)


class TriplaneGenerator(nn.Module):
    """G_T: canonical features, detail and lifted features (all (B, T, T, .)) -> (B, 3, P T, P T, C)."""

    config: ReconstructorConfig

    @nn.compact
    def __call__(self, canonical: Array, detail: Array, lifted: Array) -> Array:
        c = self.config
        x = jnp.concatenate([canonical, detail], axis=-1)
        for index, features in enumerate(c.plane_convs_before):
            x = leaky(conv3(features, name=f"before{index}", dtype=c.dtype)(x))
        x, grid = OverlapPatchEmbed(
            c.plane_token_dim, stride=c.plane_stride, dtype=c.dtype, name="patch_embed"
        )(x)
        x = SelfBlock(c.plane_heads, reduction=c.plane_reduction, dtype=c.dtype, name="block0")(x, grid)
        x = pixel_shuffle(tokens_to_image(x, *grid), c.plane_stride)
        x = jnp.concatenate([x, canonical], axis=-1)
        if c.source_lifting:
            x = jnp.concatenate([x, detail], axis=-1)
        for index, features in enumerate(c.plane_convs_after):
            x = leaky(conv3(features, name=f"after{index}", dtype=c.dtype)(x))
        return self.to_planes(x, lifted)

    def to_planes(self, x: Array, lifted: Array) -> Array:
        """Features on the plane's grid -> tri-plane; upsampled planes get the frontal plane's detail by
        pixel shuffle, the other two (which no pixel of the photo is aligned with) by interpolation."""
        c = self.config
        init = nn.initializers.normal(0.15 / np.sqrt(max(1, 128 / x.shape[-1])))
        if c.source_lifting:
            init = nn.initializers.variance_scaling(0.5, "fan_in", "normal")
        planes = conv3(3 * c.plane_channels, name="last", init=init, dtype=c.dtype)(x)
        planes = planes.astype(jnp.float32)
        if c.source_lifting:
            mean = self.param(
                "mean_planes", nn.initializers.normal(0.3), (*planes.shape[1:3], 3 * c.plane_channels)
            )
            planes = planes + mean
        if c.plane_upsample > 1:
            frontal, others = planes[..., : c.plane_channels], planes[..., c.plane_channels :]
            fine = conv3(c.plane_channels * c.plane_upsample**2, name="last_fine", init=init, dtype=c.dtype)(
                jnp.concatenate([x, lifted], axis=-1)
            )
            frontal = jnp.repeat(frontal, c.plane_upsample**2, axis=-1) + fine
            frontal = pixel_shuffle(frontal, c.plane_upsample)
            others = jax.image.resize(others, (*frontal.shape[:3], others.shape[-1]), "bilinear")
            planes = jnp.concatenate([frontal, others], axis=-1)
        batch, height, width, _ = planes.shape
        return planes.reshape(batch, height, width, 3, c.plane_channels).transpose(0, 3, 1, 2, 4)
