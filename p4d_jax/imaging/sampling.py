"""Reading a picture at points: bilinear, or the nearest pixel.

Places are uv in [0, 1] over the picture, v down, or pixel coordinates, whose whole numbers are pixel centres.
The readers differ in what lies beyond the edge, and each keeps the order of its sums.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from p4d_jax.types import Array

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped


def sample_image(
    image: Float[Array, "height width channels"], uv: Float[Array, "*points 2"]
) -> Float[Array, "*points channels"]:
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


def sample_or_zero(
    image: Float[Array, "height width channels"],
    column: Float[Array, "*points"],
    row: Float[Array, "*points"],
) -> Float[Array, "*points channels"]:
    """Bilinear, zeros outside: image (H, W, C) at pixel coordinates (...) -> (..., C)."""
    height, width, channels = image.shape
    table = image.reshape(height * width, channels)
    left, top = jnp.floor(column), jnp.floor(row)
    result = jnp.zeros((*column.shape, channels), image.dtype)
    for j, i in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
        inside = (j >= 0) & (j < width) & (i >= 0) & (i < height)
        weight = (1 - jnp.abs(column - j)) * (1 - jnp.abs(row - i)) * inside
        index = jnp.clip(i, 0, height - 1) * width + jnp.clip(j, 0, width - 1)
        result = result + weight[..., None].astype(image.dtype) * table[index.astype(jnp.int32)]
    return result


def four_pixels(place: Array, size: int) -> list[tuple[Array, Array]]:
    """The pixels around a place and their bilinear weights, for what is more than a mean of values.

    place: (..., 2) pixel coordinates x, y in a picture (size, size).

    Returns:
      Four times an index (...) int32 into the picture's rows one after another, that of the edge for pixels
      outside, and a weight (...): the left pixels first, of each side the upper first.
    """
    corner = jnp.floor(place)
    share, corner = place - corner, corner.astype(jnp.int32)
    around = []
    for right in (0, 1):
        for down in (0, 1):
            column, row = (jnp.clip(corner[..., k] + (right, down)[k], 0, size - 1) for k in (0, 1))
            weight = jnp.abs(1 - right - share[..., 0]) * jnp.abs(1 - down - share[..., 1])
            around.append((row * size + column, weight))
    return around


def nearest_pixel(
    image: Shaped[Array, "side side channels"], uv: Float[Array, "*points 2"]
) -> Shaped[Array, "*points channels"]:
    """Pixels (..., C) of an image (s, s, C) at uv (..., 2), outside of [0, 1] those of the edge."""
    size = image.shape[0]
    column, row = jnp.moveaxis(jnp.clip((uv * size).astype(jnp.int32), 0, size - 1), -1, 0)
    return image.reshape(size * size, -1)[row * size + column]
