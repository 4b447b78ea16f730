"""Many small random draws from one key: one call of the generator, handed out piece by piece.

A hundred separate draws compile to a hundred copies of the generator; a table is compiled once.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from p4d_jax.types import Array


class Dice:
    """Hands out independent draws in order; used up within one traced function, never kept.

    Attributes:
      table: (count,) uniform in [0, 1).
    """

    def __init__(self, key: Array, count: int):
        self.table = jax.random.uniform(key, (count,))
        self._used = 0

    def uniform(self, low=0.0, high=1.0, shape: tuple[int, ...] = ()) -> Array:
        """Uniform in [low, high)."""
        count = math.prod(shape)
        if self._used + count > self.table.shape[0]:
            raise ValueError(f"count: {self.table.shape[0]} draws are not enough; give Dice a larger count")
        value = self.table[self._used : self._used + count].reshape(shape)
        self._used += count
        return low + (high - low) * value

    def normal(self, shape: tuple[int, ...] = (), cut: float = 2.5) -> Array:
        """Standard normal, cut at +-`cut`."""
        edge = math.erf(cut / math.sqrt(2.0))
        return math.sqrt(2.0) * jax.lax.erf_inv(self.uniform(-edge, edge, shape))

    def chance(self, probability) -> Array:
        """1.0 with this probability, else 0.0."""
        return (self.uniform() < probability).astype(jnp.float32)

    def choice(self, weights: Array) -> Array:
        """Index drawn in proportion to `weights` (n,)."""
        total = jnp.cumsum(weights)
        return jnp.clip(jnp.searchsorted(total, self.uniform() * total[-1]), 0, len(weights) - 1)
