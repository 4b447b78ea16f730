"""Attention over K photos of one person: what several encoders saw, place by place, as one.

Letters: K photos; their features (K, ..., D) lie on one grid of places (...,). Each place's shares of the
photos sum to one, and values are mixed as they are, so that K copies of a photo are that photo, and what one
photo says alone stays as it is. `trust` (K, ...) says how well a photo shows a place, from 0, not at all;
a photo that shows nothing anywhere has no say. Ours; the paper takes one photo (docs/concepts/limits.md).
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax.nn.transformer import dense_init
from p4d_jax.types import Array

LEAST_TRUST = 1e-12  # a trust of 0 has a logarithm


def trust_logits(trust: Array) -> Array:
    """Logits (K, ...) whose softmax over the photos is trust (K, ...) divided by its sum."""
    return jnp.log(trust + LEAST_TRUST)


def mix_photos(values: Array, logits: Array) -> Array:
    """Values (K, ..., D) mixed by the softmax over photos of logits (K, ..., H): (..., D).

    Each of the H logits weighs D / H neighbouring channels.
    """
    heads = logits.shape[-1]
    shares = jax.nn.softmax(logits, axis=0)
    split = values.reshape(*values.shape[:-1], heads, values.shape[-1] // heads)
    return jnp.sum(shares[..., None] * split, axis=0).reshape(values.shape[1:])


def resize_trust(trust: Array, size: int) -> Array:
    """(K, L, L) -> (K, size, size), with antialiasing where it gets smaller."""
    return jax.image.resize(trust, (trust.shape[0], size, size), "linear")


class PhotoAttention(nn.Module):
    """Learned shares: the trusted mean asks, each photo answers. It starts as the mixture by trust alone.

    Attributes:
      heads: H; each has shares of its own, for D / H channels.
    """

    heads: int

    @nn.compact
    def __call__(self, values: Array, trust: Array) -> Array:
        """values (K, ..., D), trust (K, ...) -> (..., D)."""
        width = values.shape[-1]
        size = width // self.heads
        logits = trust_logits(trust)[..., None]
        mean = mix_photos(values, logits)
        project = lambda init, name: nn.DenseGeneral((self.heads, size), kernel_init=init, name=name)
        query = project(nn.initializers.zeros, "query")(nn.LayerNorm(name="norm_mean")(mean))
        key = project(dense_init, "key")(nn.LayerNorm(name="norm_photo")(values))
        return mix_photos(values, logits + jnp.einsum("...hd,k...hd->k...h", query, key) / np.sqrt(size))
