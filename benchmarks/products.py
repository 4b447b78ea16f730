"""Times beside those of a matrix product in the same process, by which machines and days can be compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

ROWS = 2048  # of the matrices
PRODUCT_FLOPS = 2 * ROWS**3


def build_product() -> Callable[[], jax.Array]:
    """The product of two 2048 x 2048 float32 matrices."""
    matrix, product = jnp.ones((ROWS, ROWS)), jax.jit(jnp.matmul)
    return lambda: product(matrix, matrix)


def timed(run: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return 1e3 * (time.perf_counter() - start)


def in_products(found: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Median, least and most of each row's milliseconds, the median also in those of the row 'product'."""
    unit = statistics.median(found["product"])
    return {
        name: {
            "median_ms": statistics.median(times),
            "least_ms": min(times),
            "most_ms": max(times),
            "products": statistics.median(times) / unit,
        }
        for name, times in found.items()
    }
