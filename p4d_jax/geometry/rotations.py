"""Directions, and rotations as axis-angle (radians) and matrices; all differentiable everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from p4d_jax.geometry.precision import exact_products
from p4d_jax.types import Array

if TYPE_CHECKING:
    from jaxtyping import Float


def unit(vectors: Array) -> Array:
    """Vectors (..., 3) of length one; a zero vector stays zero."""
    return vectors * jax.lax.rsqrt(jnp.sum(vectors**2, axis=-1, keepdims=True) + 1e-20)


def _sinc(squared: Array) -> Array:
    """sin(x) / x as a function of x^2, smooth at zero with all its derivatives."""
    small = squared < 0.1
    x = jnp.sqrt(jnp.where(small, 1.0, squared))
    series = 1 - squared / 6 * (1 - squared / 20 * (1 - squared / 42 * (1 - squared / 72)))
    return jnp.where(small, series, jnp.sin(x) / x)


def _cross_matrix(vector: Array) -> Array:
    """The matrix K of (..., 3) vectors with K p = vector x p: (..., 3, 3)."""
    x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
    zero = jnp.zeros_like(x)
    rows = (zero, -z, y, z, zero, -x, -y, x, zero)
    return jnp.stack(rows, axis=-1).reshape(*vector.shape[:-1], 3, 3)


@exact_products
def axis_angle_to_matrix(axis_angle: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3 3"]:
    """Rotation matrices (..., 3, 3) of axis-angle vectors (..., 3), radians (Rodrigues).

    Smooth at zero, derivatives included.
    """
    if axis_angle.shape[-1] != 3:
        raise ValueError(f"axis_angle: the last axis must be 3, got shape {axis_angle.shape}")
    squared = jnp.sum(axis_angle**2, axis=-1)[..., None, None]
    cross = _cross_matrix(axis_angle)
    half = _sinc(squared / 4)
    return jnp.eye(3, dtype=axis_angle.dtype) + _sinc(squared) * cross + 0.5 * half**2 * (cross @ cross)


def _matrix_to_quaternion(matrix: Float[Array, "3 3"]) -> Float[Array, " 4"]:
    """Unit quaternion (w, x, y, z), w >= 0, of one rotation matrix (3, 3).

    Row k of the symmetric matrix 4 q q^T is read off the rotation for each k; the row of the largest
    component divides by the largest number and is the accurate one.
    """
    m = matrix
    diagonal = jnp.stack(
        [
            1 + m[0, 0] + m[1, 1] + m[2, 2],
            1 + m[0, 0] - m[1, 1] - m[2, 2],
            1 - m[0, 0] + m[1, 1] - m[2, 2],
            1 - m[0, 0] - m[1, 1] + m[2, 2],
        ]
    )
    wx, wy, wz = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
    xy, xz, yz = m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1]
    outer = jnp.stack(
        [
            jnp.stack([diagonal[0], wx, wy, wz]),
            jnp.stack([wx, diagonal[1], xy, xz]),
            jnp.stack([wy, xy, diagonal[2], yz]),
            jnp.stack([wz, xz, yz, diagonal[3]]),
        ]
    )
    row = outer[jnp.argmax(diagonal)]
    quaternion = row / jnp.linalg.norm(row)
    return jnp.where(quaternion[0] < 0, -quaternion, quaternion)


def matrix_to_axis_angle(matrix: Float[Array, "*batch 3 3"]) -> Float[Array, "*batch 3"]:
    """Axis-angle vectors (..., 3), of angles in [0, pi], of rotation matrices (..., 3, 3)."""
    if matrix.shape[-2:] != (3, 3):
        raise ValueError(f"matrix: the last axes must be (3, 3), got shape {matrix.shape}")

    def one(rotation: Array) -> Array:
        quaternion = _matrix_to_quaternion(rotation)
        w, vector = quaternion[0], quaternion[1:]
        squared = jnp.sum(vector**2)
        small = squared < 1e-8
        length = jnp.sqrt(jnp.where(small, 1.0, squared))
        scale = jnp.where(small, 2.0 / w, 2.0 * jnp.arctan2(length, w) / length)
        return scale * vector

    flat = matrix.reshape(-1, 3, 3)
    return jax.vmap(one)(flat).reshape(*matrix.shape[:-2], 3)
