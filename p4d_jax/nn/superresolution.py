"""From the rendered feature image to the final image: EG3D's hybrid upsampling.

Source: docs/concepts/rendering.md, Eq. 4.9.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn

from p4d_jax.imaging.resizing import resize_antialiased
from p4d_jax.nn.stylegan2 import SynthesisBlock
from p4d_jax.types import Array


class SuperResolution(nn.Module):
    """Resize to `input_resolution`, then a synthesis block, which doubles the image, for each of `channels`.

    Attributes:
      channels: Channels of each block; the image ends at input_resolution * 2 ** len(channels).
      input_resolution: Side to which features are resized first; 0 leaves them at any size.
      clamp: Bound of the activations; checkpoints trained in half precision have 256 (`nn.stylegan2`).
      dtype: Number type of the activations.
    """

    channels: Sequence[int] = (256, 128)
    input_resolution: int = 128
    clamp: float | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Array, w: Array) -> Array:
        """features (B, R, R, C), first three channels RGB in [-1, 1], and style (B, W) -> (B, R', R', 3)."""
        if features.ndim != 4 or features.shape[-1] < 3:
            raise ValueError(f"features: expected shape (B, R, R, C) with C >= 3, got {features.shape}")
        x = resize_antialiased(features, self.input_resolution) if self.input_resolution else features
        rgb = x[..., :3]
        ws = jnp.stack([w] * 3)
        for index, channels in enumerate(self.channels):
            block = SynthesisBlock(channels, clamp=self.clamp, dtype=self.dtype, name=f"block{index}")
            x, rgb = block(x, rgb, ws)
        return rgb
