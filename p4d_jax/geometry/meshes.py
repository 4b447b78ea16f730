"""Triangle meshes: vertices (V, 3), faces (F, 3)."""

from __future__ import annotations

import jax.numpy as jnp

from p4d_jax.geometry.rotations import unit
from p4d_jax.types import Array


def vertex_normals(vertices: Array, faces: Array) -> Array:
    """Area-weighted unit normals, (V, 3)."""
    corners = vertices[faces]
    of_faces = jnp.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return unit(jnp.zeros_like(vertices).at[faces.reshape(-1)].add(jnp.repeat(of_faces, 3, axis=0)))
