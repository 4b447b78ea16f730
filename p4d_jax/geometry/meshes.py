"""Triangle meshes: vertices (V, 3), faces (F, 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from p4d_jax.geometry.rotations import unit
from p4d_jax.types import Array

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def vertex_normals(
    vertices: Float[Array, "*batch vertices 3"], faces: Int[Array, "faces 3"]
) -> Float[Array, "*batch vertices 3"]:
    """Area-weighted unit normals, (V, 3)."""
    corners = vertices[faces]
    of_faces = jnp.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return unit(jnp.zeros_like(vertices).at[faces.reshape(-1)].add(jnp.repeat(of_faces, 3, axis=0)))
