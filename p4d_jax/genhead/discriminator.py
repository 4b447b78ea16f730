"""The dual discriminator: does a head look real, do its two images agree, does it follow the mesh?

It sees ten channels at the size of the sharp image: sharp image 3, volume-rendered image 3, correspondence
map 3, segmentation 1; the last three are resized where they are smaller. NHWC; B batch, S image size, R rays
a side. Source: Portrait4D (arXiv 2311.18729, section 4.1), EG3D's dual discrimination (arXiv 2112.07945),
StyleGAN2's residual discriminator; docs/concepts/genhead.md.

The logit of an image depends on its batch by `minibatch_stddev`: a batch must divide into groups, and where
it is split over devices, the statistics cross them.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp

from p4d_jax.genhead.config import DiscriminatorConfig
from p4d_jax.imaging.resizing import resize_antialiased
from p4d_jax.nn.stylegan2 import (
    DiscriminatorBlock,
    DiscriminatorEpilogue,
    EqualizedConv,
    MappingNetwork,
    block_channels,
    block_resolutions,
)
from p4d_jax.train.adversarial import DiscriminatorInput
from p4d_jax.types import Array


class Discriminator(nn.Module):
    """D: `train.adversarial.DiscriminatorInput` and camera labels (B, 25) -> logits (B, 1)."""

    config: DiscriminatorConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: DiscriminatorInput, camera: Array) -> Array:
        c, size = self.config, self.config.image_size
        if inputs.image.ndim != 4 or inputs.image.shape[1:] != (size, size, 3):
            raise ValueError(f"image: expected (B, {size}, {size}, 3), got {inputs.image.shape}")
        parts = (inputs.raw, inputs.correspondence, inputs.segmentation)
        x = jnp.concatenate([inputs.image, *(resize_antialiased(part, size) for part in parts)], axis=-1)
        channels = lambda side: block_channels(side, c.channel_base, c.channel_max)
        common = {"clamp": c.clamp, "dtype": self.dtype}
        x = EqualizedConv(channels(size), kernel=1, **common, name="from_rgb")(x)
        for side in block_resolutions(size)[:0:-1]:
            x = DiscriminatorBlock(channels(side // 2), **common, name=f"block{side}")(x)
        features = channels(4)
        x = DiscriminatorEpilogue(features, c.group_size, c.clamp, name="block4")(x)
        projection = MappingNetwork(features, c.mapping_layers, name="mapping")(None, camera)
        return jnp.sum(x * projection, axis=-1, keepdims=True) / math.sqrt(features)
