"""A function of rows, for the rows that are needed: rays that meet the person, pixels that show it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from p4d_jax.types import Array

Result = TypeVar("Result")


def map_chosen(function: Callable[..., Result], chosen: Array, rows: tuple, parts: int) -> Result:
    """`function` of the rows that are chosen, in blocks as large as a part of all; zeros for the others.

    A loop over as many blocks as it takes, so that the time is that of the chosen rows. No gradient, since
    the number of turns is known only as the program runs.

    Args:
      function: Of pytrees like `rows`, with n in place of N rows, each row for itself, to one of (n, ...).
      chosen: (N,) bool.
      rows: Pytrees of (N, ...).
      parts: N / n, at least 1 and a divisor of N.
    """
    count = len(chosen)
    if count % parts:
        raise ValueError(f"parts: {count} rows cannot be cut into {parts} equal parts")
    size = count // parts
    place = jnp.cumsum(chosen) - 1  # of the chosen ones among themselves
    total = place[-1] + 1
    order = jnp.nonzero(chosen, size=count, fill_value=0)[0]

    def block(start: Array) -> Result:
        taken = jax.lax.dynamic_slice_in_dim(order, start, size)
        return function(*jax.tree.map(lambda x: x[taken], rows))

    def turn(state: tuple[Array, Result]) -> tuple[Array, Result]:
        start, results = state
        write = lambda all_, new: jax.lax.dynamic_update_slice_in_dim(all_, new, start, 0)
        return start + size, jax.tree.map(write, results, block(start))

    start = jnp.zeros((), jnp.int32)
    all_of = lambda x: jnp.zeros((count, *x.shape[1:]), x.dtype)
    empty = jax.tree.map(all_of, jax.eval_shape(block, start))
    _, results = jax.lax.while_loop(lambda state: state[0] < total, turn, (start, empty))

    def back(result: Array) -> Array:
        there = chosen.reshape(-1, *[1] * (result.ndim - 1))
        return jnp.where(there, result[jnp.maximum(place, 0)], jnp.zeros((), result.dtype))

    return jax.tree.map(back, results)
