"""From tri-plane features of points to densities and features (SPEC section 4; EG3D's decoder)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from p4d_jax.nn.stylegan2 import EqualizedDense
from p4d_jax.types import Array


class FieldDecoder(nn.Module):
    """Mean of the planes' features -> hidden layer of softplus -> density and features.

    What else is shown of a point enters the hidden layer through a layer of its own, which begins at zero.

    Attributes:
      features: C' output features, of which the first three are RGB.
      hidden: width of the hidden layer.
      dtype: of the layers; the results are float32.
    """

    features: int = 32
    hidden: int = 64
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, plane_features: Array, shown: Array | None = None) -> tuple[Array, Array]:
        """Features of the three planes (3, ..., C) -> raw density (..., 1), features (..., C') in [0, 1].

        shown: (..., k) more that is known of the points, or None.

        The features' sigmoid is stretched by 0.001 on both sides, so that 0 and 1 can be reached.
        """
        at_planes = plane_features.mean(0)
        x = EqualizedDense(self.hidden, dtype=self.dtype, name="hidden_layer")(at_planes)
        if shown is not None:
            y = jnp.concatenate([at_planes, shown], axis=-1)
            y = jax.nn.softplus(EqualizedDense(self.hidden, dtype=self.dtype, name="shown_hidden")(y))
            zeros = nn.initializers.zeros
            x += nn.Dense(self.hidden, False, kernel_init=zeros, dtype=self.dtype, name="shown_layer")(y)
        x = jax.nn.softplus(x)
        density = EqualizedDense(1, dtype=self.dtype, name="density")(x)
        features = EqualizedDense(self.features, dtype=self.dtype, name="features_layer")(x)
        features = jax.nn.sigmoid(features.astype(jnp.float32)) * 1.002 - 0.001
        return density.astype(jnp.float32), features
