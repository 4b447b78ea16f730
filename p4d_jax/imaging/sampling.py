"""Reading a picture at points: bilinear, or the nearest pixel."""

from __future__ import annotations

import jax.numpy as jnp

from p4d_jax.types import Array


def sample_image(image: Array, uv: Array) -> Array:
    """Bilinear, edge pixels repeated: image (H, W, C) at uv (..., 2) in [0, 1], v down -> (..., C)."""
    height, width, _ = image.shape
    x = jnp.clip(uv[..., 0] * width - 0.5, 0.0, width - 1.0)
    y = jnp.clip(uv[..., 1] * height - 0.5, 0.0, height - 1.0)
    x0, y0 = jnp.floor(x).astype(jnp.int32), jnp.floor(y).astype(jnp.int32)
    x1, y1 = jnp.minimum(x0 + 1, width - 1), jnp.minimum(y0 + 1, height - 1)
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    flat = image.reshape(-1, image.shape[-1])
    pick = lambda row, column: flat[row * width + column]
    top = pick(y0, x0) * (1 - fx) + pick(y0, x1) * fx
    bottom = pick(y1, x0) * (1 - fx) + pick(y1, x1) * fx
    return top * (1 - fy) + bottom * fy


def nearest_pixel(image: Array, uv: Array) -> Array:
    """Pixels (..., C) of an image (s, s, C) at uv (..., 2), outside of [0, 1] those of the edge."""
    size = image.shape[0]
    column, row = jnp.moveaxis(jnp.clip((uv * size).astype(jnp.int32), 0, size - 1), -1, 0)
    return image.reshape(size * size, -1)[row * size + column]
