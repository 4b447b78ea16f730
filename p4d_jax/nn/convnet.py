"""Layers of the classic convolutional classifiers, as they run once trained. NHWC.

Batch normalisation here reads its running statistics (collection `batch_stats`: `mean`, `var`) and never
updates them: the networks built of it are given and frozen. Parameters are float32, `dtype` is
that of activations.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from p4d_jax.types import Array


def conv(
    features: int,
    kernel: int | tuple[int, int],
    stride: int = 1,
    padding: int | tuple[int, int] | None = None,
    use_bias: bool = False,
    dtype: jnp.dtype = jnp.float32,
    name: str | None = None,
) -> nn.Conv:
    """Convolution with symmetric zero padding: `padding` (rows, columns), or half the kernel."""
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    if padding is None:
        padding = (size[0] // 2, size[1] // 2)
    elif isinstance(padding, int):
        padding = (padding, padding)
    pads = [(pad, pad) for pad in padding]
    return nn.Conv(features, size, stride, pads, use_bias=use_bias, dtype=dtype, name=name)


def batch_norm(
    epsilon: float = 1e-5, dtype: jnp.dtype = jnp.float32, name: str | None = None
) -> nn.BatchNorm:
    """Batch normalisation by running statistics."""
    return nn.BatchNorm(use_running_average=True, epsilon=epsilon, dtype=dtype, name=name)


class PReLU(nn.Module):
    """ReLU with a learned slope for the negative values of each channel.

    Attributes:
      dtype: Number type of the activations.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        slope = self.param("slope", nn.initializers.constant(0.25), (x.shape[-1],))
        return jnp.where(x >= 0, x, x * slope.astype(self.dtype))
