"""Exact float32 products on every device, and products whose rounding no compiler changes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from p4d_jax.types import Array


def exact_products(function: Callable) -> Callable:
    """The function with matrix products in full float32, on any device and under any setting.

    Accelerators round the factors of float32 products unless told otherwise, GPUs to 10 and TPUs to 7 bits of
    mantissa: too few for places, which are found from differences of squares and turned again and again.
    Networks are free to take the faster products.
    """

    @functools.wraps(function)
    def exact(*args, **kwargs):
        with jax.default_matmul_precision("float32"):
            return function(*args, **kwargs)

    return exact


def round_product(product: Array) -> Array:
    """A product, rounded to float32 before anything is added to it.

    Compilers contract a * b + c into one operation with one rounding, and move constants out of products.
    Where the last bit decides (which of two equally near triangles counts; a pixel coordinate into white
    noise), the roundings must be those of the reference. On a CPU no compiler drops a minimum with the
    largest float, nor rearranges across it. On a GPU a * b + c is contracted nevertheless (seen on an H200,
    JAX 0.11), so that ties fall otherwise there.
    """
    return jnp.minimum(product, jnp.finfo(jnp.float32).max)


def divide_by_one(numerators: Array, divisor: Array) -> Array:
    """Many numbers divided by one positive number, each quotient rounded correctly.

    XLA multiplies by the inverse where all lanes share a divisor; this gives each lane its own.
    """
    return numerators / jnp.maximum(divisor, -jnp.abs(numerators))


def dot_in_order(a: Sequence[Array], b: Sequence[Array]) -> Array:
    """a . b of vectors given by their components, every product and sum rounded, from the first on."""
    total = round_product(a[0] * b[0])
    for x, y in zip(a[1:], b[1:], strict=True):
        total = total + round_product(x * y)
    return total
