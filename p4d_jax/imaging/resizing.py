"""Resizing of images (..., H, W, C), as PyTorch's `interpolate` with align_corners = false."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax.types import Array

if TYPE_CHECKING:
    from jaxtyping import Float


@functools.cache
def _resize_matrix(source: int, target: int, antialias: bool) -> np.ndarray:
    """Row k holds the weights (source,) of target pixel k: a triangle filter about its centre.

    Without antialiasing the triangle is one source pixel wide; with it, as wide as a target pixel when that
    is larger. Weights outside the image go to its edge without antialiasing, and are dropped, the others
    normalised, with it.
    """
    scale = source / target
    centre = (np.arange(target) + 0.5) * scale - 0.5
    if antialias:
        distance = np.abs(np.arange(source)[None] - centre[:, None]) / max(scale, 1.0)
    else:
        distance = np.abs(np.arange(source)[None] - np.clip(centre, 0, source - 1)[:, None])
    weights = np.maximum(1 - distance, 0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _resize(image: Array, size: int | tuple[int, int], antialias: bool) -> Array:
    if image.ndim < 3:
        raise ValueError(f"image: expected shape (..., H, W, C), got {image.shape}")
    height, width = (size, size) if isinstance(size, int) else size
    precision = jax.lax.Precision.HIGHEST
    if image.shape[-3] != height:
        rows = jnp.asarray(_resize_matrix(image.shape[-3], height, antialias), image.dtype)
        image = jnp.einsum("yi,...ijc->...yjc", rows, image, precision=precision)
    if image.shape[-2] != width:
        columns = jnp.asarray(_resize_matrix(image.shape[-2], width, antialias), image.dtype)
        image = jnp.einsum("xj,...yjc->...yxc", columns, image, precision=precision)
    return image


def resize_antialiased(
    image: Float[Array, "*batch height width channels"], size: int | tuple[int, int]
) -> Float[Array, "*batch rows columns channels"]:
    """`image` (..., H, W, C) resized bilinearly, low-pass filtered where it shrinks: (..., h, w, C)."""
    return _resize(image, size, antialias=True)


def resize_bilinear(
    image: Float[Array, "*batch height width channels"], size: int | tuple[int, int]
) -> Float[Array, "*batch rows columns channels"]:
    """`image` (..., H, W, C) resized bilinearly between pixel centres, unfiltered: (..., h, w, C)."""
    return _resize(image, size, antialias=False)


def average_blocks(image: Array, factor: int) -> Array:
    """`image` (S, S, C) with each factor x factor block of pixels averaged into one; of NumPy or JAX."""
    size = image.shape[0] // factor
    return image.reshape(size, factor, size, factor, -1).mean((1, 3))
