"""ResNet without normalisation and DeepLabV3's atrous pyramid, at output stride 8.

NHWC, ReLU; `dtype` is that of the activations, parameters are float32. Without normalisation an image's
brightness and colour reach the tri-plane unchanged, which is why Live 3D Portrait (arXiv 2305.02310) took it
out. Sources: ResNet (arXiv 1512.03385), DeepLabV3 (arXiv 1706.05587): the last two stages trade stride for
dilation 2 and 4.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax.numpy as jnp

from p4d_jax.types import Array

conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def convolution(
    features: int,
    kernel: int,
    stride: int = 1,
    dilation: int = 1,
    name: str | None = None,
    dtype: jnp.dtype = jnp.float32,
) -> nn.Conv:
    """Bias-free convolution with symmetric zero padding that keeps the size at stride 1."""
    pad = dilation * (kernel - 1) // 2
    return nn.Conv(
        features,
        (kernel, kernel),
        stride,
        [(pad, pad), (pad, pad)],
        kernel_dilation=dilation,
        use_bias=False,
        kernel_init=conv_init,
        dtype=dtype,
        name=name,
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    features: int
    stride: int = 1
    dilation: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv = functools.partial(convolution, dtype=self.dtype)
        shortcut = x
        if self.stride != 1 or x.shape[-1] != self.features:
            shortcut = conv(self.features, 1, self.stride, name="downsample")(x)
        y = nn.relu(conv(self.features, 3, self.stride, self.dilation, name="conv1")(x))
        y = conv(self.features, 3, 1, self.dilation, name="conv2")(y)
        return nn.relu(shortcut + y)


class ResNet(nn.Module):
    """Four stages of basic blocks, output stride 8: (B, S, S, C) -> (B, S/8, S/8, widths[3]).

    Attributes:
      widths: Channels of the four stages; the stem has widths[0].
      depths: Blocks of each stage; ResNet-34 is (3, 4, 6, 3) with widths (64, 128, 256, 512).
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image: Array) -> Array:
        x = nn.relu(convolution(self.widths[0], 7, 2, name="conv1", dtype=self.dtype)(image))
        x = nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
        stages = zip(self.widths, self.depths, (1, 2, 1, 1), (1, 1, 2, 4), strict=True)
        for number, (width, depth, stride, dilation) in enumerate(stages, 1):
            for block in range(depth):
                name = f"layer{number}_{block}"
                x = BasicBlock(width, stride if block == 0 else 1, dilation, self.dtype, name=name)(x)
        return x


class AtrousPyramid(nn.Module):
    """ASPP: a 1x1, three dilated 3x3 and the image's mean, mixed, then one 3x3: (B, h, w, C) -> features."""

    features: int = 256
    rates: tuple[int, ...] = (12, 24, 36)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv = functools.partial(convolution, dtype=self.dtype)
        branches = [nn.relu(conv(self.features, 1, name="branch_point")(x))]
        for index, rate in enumerate(self.rates):
            branches.append(nn.relu(conv(self.features, 3, 1, rate, name=f"branch_{index}")(x)))
        mean = nn.relu(conv(self.features, 1, name="branch_mean")(x.mean((1, 2), keepdims=True)))
        branches.append(jnp.broadcast_to(mean, branches[0].shape))
        x = nn.relu(conv(self.features, 1, name="project")(jnp.concatenate(branches, axis=-1)))
        return nn.relu(conv(self.features, 3, name="mix")(x))
