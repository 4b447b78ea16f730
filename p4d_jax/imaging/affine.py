"""Pictures warped by an affine map, as kornia warps them (the aligned crops of ArcFace and PD-FGC)."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from p4d_jax.geometry import dot_in_order, round_product
from p4d_jax.imaging.sampling import sample_or_zero
from p4d_jax.types import Array


def _unit_steps(count: int) -> np.ndarray:
    """`count` numbers (float32) from -1 to 1, counted from the nearer end and rounded once."""
    step = np.float64(np.float32(2) / np.float32(count - 1))
    index = np.arange(count)
    return np.where(index < count // 2, step * index - 1, 1 - step * (count - 1 - index)).astype(np.float32)


def _source_from_target(matrix: Array, source: tuple[int, int], target: tuple[int, int]) -> Array:
    """The inverse (2, 3) of `matrix` between images of (height, width), where each spans [-1, 1]^2.

    In the order of kornia 0.9: pixels to [-1, 1] on both sides, then the inverse by cofactors.
    """
    width, height = (np.float32(2 / (extent - 1)) for extent in source[::-1])
    to_pixel = height / (width * height), width / (width * height)
    rows = []
    for row, extent in zip(matrix, target[::-1], strict=True):
        scale = np.float32(2 / (extent - 1))
        linear = [round_product(scale * round_product(row[k] * to_pixel[k])) for k in range(2)]
        shift = dot_in_order((row[0], row[1]), to_pixel) + row[2]
        rows.append((*linear, round_product(scale * shift) - 1))
    (a, b, c), (d, e, f) = rows
    determinant = dot_in_order((a, d), (e, -b))
    # One product of these two is contracted there, and left to the compiler here.
    cofactors = ((e, -b, b * f - round_product(c * e)), (-d, a, c * d - round_product(a * f)))
    return jnp.stack([jnp.stack([cofactor / determinant for cofactor in row]) for row in cofactors])


def warp_affine(image: Array, matrix: Array, size: int | tuple[int, int]) -> Array:
    """`image` (H, W, C) moved by `matrix` (2, 3), read bilinearly, zero outside: (height, width, C).

    `matrix` maps source to target pixels (x, y), y down; integer coordinates are pixel centres. Coordinates
    are float32 within [-1, 1] across the image, which places a pixel of 512 to within some 5e-5; their
    roundings are those of kornia 0.9's `warp_affine`, since white noise shows every one of them.
    """
    if image.ndim != 3 or matrix.shape != (2, 3):
        raise ValueError(f"image must be (H, W, C) and matrix (2, 3), got {image.shape} and {matrix.shape}")
    target = (size, size) if isinstance(size, int) else size
    source = image.shape[:2]
    if min(*source, *target) < 2:
        raise ValueError(f"image, size: both need 2 x 2 pixels at least, got {source} and {target}")
    inverse = _source_from_target(matrix, source, target)
    y, x = _unit_steps(target[0])[:, None], _unit_steps(target[1])[None]
    source_x, source_y = (
        round_product((dot_in_order((row[0], row[1]), (x, y)) + row[2] + 1) * ((extent - 1) / 2))
        for row, extent in zip(inverse, source[::-1], strict=True)
    )
    return sample_or_zero(image, source_x, source_y)
