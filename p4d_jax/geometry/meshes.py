"""Triangle meshes: vertices (V, 3), faces (F, 3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from p4d_jax.types import Array


def vertex_normals(vertices: Array, faces: Array) -> Array:
    """Area-weighted unit normals, (V, 3)."""
    corners = vertices[faces]
    normal = jnp.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = jnp.zeros_like(vertices)
    for corner in range(3):
        total = total.at[faces[:, corner]].add(normal)
    return total * jax.lax.rsqrt(jnp.sum(total**2, -1, keepdims=True) + 1e-20)
