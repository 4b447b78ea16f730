"""Convolutions and changes of resolution that several networks share. NHWC."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from p4d_jax.geometry import exact_products
from p4d_jax.types import Array

conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def add_coordinates(image: Array) -> Array:
    """Appends x and y in [-1, 1] (corner pixels at the ends): (B, H, W, C) -> (B, H, W, C + 2)."""
    batch, height, width, _ = image.shape
    y, x = jnp.meshgrid(jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij")
    xy = jnp.broadcast_to(jnp.stack([x, y], -1), (batch, height, width, 2))
    return jnp.concatenate([image, xy.astype(image.dtype)], axis=-1)


def pixel_shuffle(x: Array, factor: int) -> Array:
    """(B, H, W, C f²) -> (B, H f, W f, C), channels ordered as PyTorch's PixelShuffle (C, f, f)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, channels // factor**2, factor, factor)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(batch, height * factor, width * factor, -1)


def pixel_unshuffle(x: Array, factor: int) -> Array:
    """Inverse of `pixel_shuffle`: (B, H f, W f, C) -> (B, H, W, C f²)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // factor, factor, width // factor, factor, channels)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height // factor, width // factor, -1)


@exact_products
def upsample_aligned(x: Array, factor: int = 2) -> Array:
    """Bilinear, corner pixels stay corners (align_corners): (B, H, W, C) -> (B, fH, fW, C)."""

    def matrix(size: int) -> np.ndarray:
        place = np.arange(size * factor) * (size - 1) / (size * factor - 1)
        low = np.minimum(place.astype(int), size - 2)
        weights = np.zeros((size * factor, size), np.float32)
        weights[np.arange(size * factor), low] = 1 - (place - low)
        weights[np.arange(size * factor), low + 1] = place - low
        return weights

    x = jnp.einsum("yh,bhwc->bywc", matrix(x.shape[1]), x)
    return jnp.einsum("xw,bywc->byxc", matrix(x.shape[2]), x)


def conv3(
    features: int,
    stride: int = 1,
    kernel: int = 3,
    name: str | None = None,
    init=conv_init,
    dtype: str | jnp.dtype = jnp.float32,
) -> nn.Conv:
    """Convolution with bias and symmetric zero padding."""
    padding = [(kernel // 2, kernel // 2)] * 2
    return nn.Conv(
        features, (kernel, kernel), stride, padding, kernel_init=init, dtype=jnp.dtype(dtype), name=name
    )


def leaky(x: Array) -> Array:
    return nn.leaky_relu(x, 0.01)
