"""From tri-plane features of points to densities and features: EG3D's decoder.

Source: docs/concepts/rendering.md, Eq. 4.8.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from p4d_jax.nn.stylegan2 import EqualizedDense
from p4d_jax.types import Array

SHOWN_DENSITY = 60.0


class FieldDecoder(nn.Module):
    """Mean of the planes' features -> hidden layer of softplus -> density and features.

    What else is shown of a point enters the hidden layer and the density through layers of its own, which
    begin at zero; and its last channel, how surely something is there, is itself a density. An opaque surface
    takes densities of a hundred, hence `SHOWN_DENSITY`.

    Attributes:
      features: C' output features, of which the first three are RGB.
      hidden: Width of the hidden layer.
      dtype: Number type of the layers; the results are float32.
    """

    features: int = 32
    hidden: int = 64
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, plane_features: Array, shown: Array | None = None) -> tuple[Array, Array]:
        """Features of the three planes (3, ..., C) -> raw density (..., 1), features (..., C') in [0, 1].

        shown: (..., k) more that is known of the points, the last in [0, 1], or None.

        The features' sigmoid is stretched by 0.001 on both sides, so that 0 and 1 can be reached.
        """
        at_planes = sum(plane_features) / len(plane_features)  # a reduction over three is slow on a CPU
        x = EqualizedDense(self.hidden, dtype=self.dtype, name="hidden_layer")(at_planes)
        more = 0.0
        if shown is not None:
            y = EqualizedDense(self.hidden, dtype=self.dtype, name="shown_hidden")(at_planes, shown)
            y = jax.nn.softplus(y)
            begin = functools.partial(nn.Dense, kernel_init=nn.initializers.zeros, dtype=self.dtype)
            x += begin(self.hidden, False, name="shown_layer")(y)
            solid = shown[..., -1:].astype(self.dtype)
            more = SHOWN_DENSITY * (solid + begin(1, name="shown_density")(y))
        x = jax.nn.softplus(x)
        density = EqualizedDense(1, dtype=self.dtype, name="density")(x) + more
        features = EqualizedDense(self.features, dtype=self.dtype, name="features_layer")(x)
        features = jax.nn.sigmoid(features.astype(jnp.float32)) * 1.002 - 0.001
        return density.astype(jnp.float32), features
