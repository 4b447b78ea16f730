"""Rays through the pixel centres of a pinhole camera (docs/concepts/rendering.md, 4.1).

Rays are listed row by row, the top row first; directions have unit length, so that a depth along a ray is a
distance in world units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from p4d_jax.geometry import exact_products
from p4d_jax.types import Array, Camera

if TYPE_CHECKING:
    from jaxtyping import Float


@exact_products
def rays_through(
    camera: Camera, uv: Float[Array, "*rays 2"]
) -> tuple[Float[Array, "*rays 3"], Float[Array, "*rays 3"]]:
    """World origins (..., 3) and unit directions (..., 3) of one camera's rays through `uv` (..., 2)."""
    intrinsics = camera.intrinsics
    x = (uv[..., 0] - intrinsics[0, 2]) / intrinsics[0, 0]
    y = (intrinsics[1, 2] - uv[..., 1]) / intrinsics[1, 1]
    local = jnp.stack([x, y, -jnp.ones_like(x)], axis=-1)
    local = local / jnp.linalg.norm(local, axis=-1, keepdims=True)
    directions = local @ camera.cam2world[:3, :3].T
    return jnp.broadcast_to(camera.cam2world[:3, 3], directions.shape), directions


def pixel_centres(resolution: int) -> Float[Array, "pixels 2"]:
    """Image coordinates (R * R, 2) of the pixel centres, row-major, the top row first."""
    centres = (jnp.arange(resolution) + 0.5) / resolution
    v, u = jnp.meshgrid(centres, centres, indexing="ij")
    return jnp.stack([u, v], axis=-1).reshape(-1, 2)


def generate_rays(
    camera: Camera, resolution: int
) -> tuple[Float[Array, "pixels 3"], Float[Array, "pixels 3"]]:
    """Origins and unit directions, each (R * R, 3), of one camera's R x R image."""
    return rays_through(camera, pixel_centres(resolution))


@exact_products
def depth_normals(camera: Camera, depth: Float[Array, "side side"]) -> Float[Array, "side side 3"]:
    """(R, R, 3) unit normals of the surface that a depth map (R, R) describes, towards the camera.

    In the camera's frame: x right, y up, z towards the camera. From central differences of neighbouring
    pixels' points, so an edge's own normals are those of the step across it.
    """
    origins, directions = generate_rays(camera, depth.shape[0])
    points = (origins + directions * depth.reshape(-1, 1)).reshape(*depth.shape, 3)
    down, right = jnp.gradient(points, axis=(0, 1))
    normals = jnp.cross(-down, right) @ camera.cam2world[:3, :3]
    normals = normals / jnp.maximum(jnp.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
    return jnp.where(normals[..., 2:] < 0, -normals, normals)
