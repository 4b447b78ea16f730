"""From a portrait to the code that GenHead would make it from: a distribution over z.

The half of a variational autoencoder that GenHead lacks (ours; the paper has none): with it the generator
can be asked to give a picture back, which teaches it sooner, and with smaller batches, than a discriminator
alone.
Source: Kingma and Welling (arXiv 1312.6114), Larsen et al. (arXiv 1512.09300). NHWC; B batch, S image size.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from p4d_jax.nn.stylegan2 import DiscriminatorBlock, EqualizedConv, block_channels, block_resolutions
from p4d_jax.types import Array


class LatentEncoder(nn.Module):
    """Picture, mask and correspondence map -> mean and log variance of z.

    The correspondence map tells shape, expression and camera, so that z need not.

    Attributes:
      latent_size: Z of the generator.
      image_size: S, a power of two from 8 on.
      channel_base, channel_max: see `nn.stylegan2.block_channels`.
      dtype: of the activations.
    """

    latent_size: int
    image_size: int
    channel_base: int
    channel_max: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image: Array, mask: Array, correspondence: Array) -> tuple[Array, Array]:
        """(B, S, S, 3) in [-1, 1], (B, S, S, 1) in [0, 1], (B, S, S, 3) -> two of (B, Z), the second <= 0."""
        size = self.image_size
        if image.shape[1:] != (size, size, 3):
            raise ValueError(f"image: expected (B, {size}, {size}, 3), got {image.shape}")
        channels = lambda side: block_channels(side, self.channel_base, self.channel_max)
        x = jnp.concatenate([image, mask * 2 - 1, correspondence], axis=-1)
        x = EqualizedConv(channels(size), kernel=1, dtype=self.dtype, name="from_rgb")(x)
        for side in block_resolutions(size)[:0:-1]:
            x = DiscriminatorBlock(channels(side // 2), dtype=self.dtype, name=f"block{side}")(x)
        x = nn.Dense(2 * self.latent_size, name="latent")(x.reshape(x.shape[0], -1).astype(jnp.float32))
        mean, spread = jnp.split(x, 2, axis=-1)
        return mean, -nn.softplus(spread)


def kl_divergence(mean: Array, log_variance: Array) -> Array:
    """(B,) nats between the normal distribution (B, Z) and the standard one."""
    return 0.5 * jnp.sum(jnp.square(mean) + jnp.exp(log_variance) - log_variance - 1, axis=-1)
