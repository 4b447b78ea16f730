"""Light of OpenHeads: second-order spherical harmonics, precomputed self-shadowing, highlights.

Real spherical harmonics, 9 numbers a colour channel, in the world frame (y up, face towards +z); they
are scaled so that unit radiance from everywhere is the coefficient vector `AMBIENT` and gives irradiance 1.
The mesh carries a transfer vector a vertex and channel (Sloan et al., "Precomputed Radiance Transfer",
SIGGRAPH 2002): irradiance = <transfer, light>, with the shadows that nose, brows, chin and lips cast. The
red channel's transfer is diffused further over the skin than the blue one's, which is what light
scattering below the skin does to shadows (d'Eon and Luebke, GPU Gems 3, chapter 14).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from p4d_jax.data.dice import Dice
from p4d_jax.geometry import exact_products
from p4d_jax.types import Array

LIGHTS = 3  # key, fill, rim
AMBIENT = (2.0 * np.sqrt(np.pi),) + (0.0,) * 8  # unit radiance from everywhere
COSINE_LOBE = np.array([1.0] + [2.0 / 3.0] * 3 + [0.25] * 5, np.float32)  # Ramamoorthi and Hanrahan 2001


@struct.dataclass
class Light:
    """Light of one scene.

    Attributes:
      harmonics: (..., 9, 3) radiance coefficients of everything that shines.
      directions: (..., LIGHTS, 3) unit vectors towards the lamps, for highlights.
      colors: (..., LIGHTS, 3) linear intensities of the lamps.
      ambient: (..., 3) mean radiance.
    """

    harmonics: Array
    directions: Array
    colors: Array
    ambient: Array


def spherical_harmonics(directions):
    """Nine real basis functions at unit vectors: (..., 3) -> (..., 9). Works on numpy and jax arrays."""
    x, y, z = directions[..., 0], directions[..., 1], directions[..., 2]
    xp = np if isinstance(directions, np.ndarray) else jnp
    one = xp.ones_like(x)
    return xp.stack(
        [
            0.282095 * one,
            0.488603 * y,
            0.488603 * z,
            0.488603 * x,
            1.092548 * x * y,
            1.092548 * y * z,
            0.315392 * (3 * z * z - 1),
            1.092548 * x * z,
            0.546274 * (x * x - y * y),
        ],
        axis=-1,
    )


def cosine_transfer(normals):
    """Transfer of an unshadowed surface with these normals: (..., 3) -> (..., 9)."""
    return spherical_harmonics(normals) * COSINE_LOBE


@exact_products
def random_light(key: Array) -> Light:
    """Draws ambient, sky and ground, and three lamps, coloured; mean irradiance of the face near 1.

    Kinds range from soft daylight (mostly ambient) to a hard side lamp. The lamps stand in the head's
    world, the key anywhere in the frontal half space with a preference for above.
    """
    dice = Dice(key, 40)
    softness = 0.5 * (dice.uniform() + dice.uniform())  # 1: overcast, 0: one hard lamp
    behind = dice.uniform(1.6, 2.8) * (1.0 - 2.0 * dice.chance(0.5))
    yaw = jnp.stack([0.75 * dice.normal(), 1.2 * dice.normal(), behind])
    lift = dice.uniform(-0.25, 1.0, (LIGHTS,)) * jnp.array([1.0, 0.7, 0.8])
    directions = jnp.stack([jnp.sin(yaw) * jnp.cos(lift), jnp.sin(lift), jnp.cos(yaw) * jnp.cos(lift)], -1)
    shares = dice.uniform(0.3, 1.0, (LIGHTS,)) * jnp.array([1.0, 0.45, 0.5])
    strength = (0.35 + 1.1 * (1 - softness)) * shares
    warmth, tint, sky = 0.12 * dice.normal((LIGHTS + 1,)), 0.03 * dice.normal((LIGHTS + 1,)), dice.normal()
    hues = jnp.exp(jnp.stack([warmth, tint, -warmth], -1))  # (LIGHTS + 1, 3)
    colors = strength[:, None] * hues[:LIGHTS]
    ambient = (0.25 + 0.5 * softness) * hues[LIGHTS]
    harmonics = jnp.asarray(AMBIENT, jnp.float32)[:, None] * ambient
    # A lamp of finite size: its harmonics are damped by degree, so that order two does not ring.
    lamp = spherical_harmonics(directions) * jnp.array([1.0] + [0.95] * 3 + [0.85] * 5)
    harmonics += jnp.einsum("lk,lc->kc", lamp, colors) * jnp.pi
    overhead = jnp.zeros(9).at[1].set(1.0)
    harmonics += overhead[:, None] * ambient * (0.8 + 0.5 * sky)
    return Light(harmonics, directions, colors, ambient)


@exact_products
def irradiance(transfer: Array, light: Light) -> Array:
    """Irradiance (..., 3) of vertices with transfer (..., 3 channels, 9), kept positive.

    A smooth floor instead of a clamp: second-order harmonics dip below zero opposite to a strong lamp.
    """
    value = jnp.einsum("...ck,kc->...c", transfer, light.harmonics)
    floor = 0.06 * light.ambient
    return floor + jax.nn.softplus(8.0 * (value - floor)) / 8.0


@exact_products
def highlights(normals: Array, view: Array, light: Light, shininess: Array) -> Array:
    """Blinn-Phong highlights of the lamps, energy-normalised: (..., 3) linear colour.

    Args:
      normals, view: (..., 3) unit vectors; `view` points towards the eye.
      light: The lamps.
      shininess: Exponent, a scalar or (...).
    """
    total = 0.0
    for lamp in range(LIGHTS):
        direction = light.directions[lamp]
        half = direction + view
        half = half * jax.lax.rsqrt(jnp.sum(half * half, -1, keepdims=True) + 1e-6)
        facing = jnp.clip(normals @ direction * 4.0, 0.0, 1.0)
        cosine = jnp.clip(jnp.sum(normals * half, -1), 1e-4, 1.0)
        lobe = facing * (shininess + 8.0) / 8.0 * jnp.exp(shininess * jnp.log(cosine))
        total += lobe[..., None] * light.colors[lamp]
    return total


def bake_transfer(
    vertices: np.ndarray, normals: np.ndarray, faces: np.ndarray, count: int = 36
) -> np.ndarray:
    """Shadowed transfer of a rigid mesh, (V, 9), by `count` parallel depth maps. numpy, done once a head.

    Args:
      vertices: (V, 3). normals: (V, 3) unit. faces: (F, 3).
      count: Number of directions, on a Fibonacci sphere.
    """
    step = np.arange(count) + 0.5
    height, turn = 1 - 2 * step / count, np.pi * (1 + 5**0.5) * step
    ring = np.sqrt(1 - height**2)
    directions = np.stack([ring * np.cos(turn), height, ring * np.sin(turn)], -1)
    points = _scatter_points(vertices, faces)
    transfer = np.zeros((len(vertices), 9))
    for direction, basis in zip(directions, spherical_harmonics(directions), strict=True):
        cosine = normals @ direction
        lit = cosine > 0
        visible = np.zeros(len(vertices))
        visible[lit] = _visible(vertices[lit], points, direction)
        transfer += (4.0 / count) * (np.maximum(cosine, 0) * visible)[:, None] * basis
    return transfer.astype(np.float32)


def _scatter_points(vertices: np.ndarray, faces: np.ndarray, spacing: float = 0.012) -> np.ndarray:
    """Points that cover every triangle about `spacing` apart, (P, 3)."""
    corners = vertices[faces]
    longest = np.linalg.norm(corners - np.roll(corners, 1, 1), axis=-1).max(1)
    clouds = [vertices]
    for n in range(1, 9):
        chosen = corners[np.clip(np.ceil(longest / spacing), 1, 8) == n]
        i, j = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
        keep = i + j <= n
        weights = np.stack([i[keep], j[keep], n - i[keep] - j[keep]], -1) / n
        clouds.append((weights @ chosen).reshape(-1, 3))
    return np.concatenate(clouds)


def _visible(vertices: np.ndarray, points: np.ndarray, direction: np.ndarray, size: int = 128) -> np.ndarray:
    """Which vertices see the direction past the cloud of points, (V,) in {0, 1}."""
    side = np.cross(direction, [0.3, 0.9, 0.1])
    side /= np.linalg.norm(side)
    frame = np.stack([side, np.cross(direction, side), direction], -1)
    cloud, targets = points @ frame, vertices @ frame
    low, high = cloud[:, :2].min(0), cloud[:, :2].max(0)
    scale = (size - 1) / (high - low).max()
    cell = np.rint((cloud[:, :2] - low) * scale).astype(np.int64)
    depth = np.full(size * size, -np.inf)
    np.maximum.at(depth, cell[:, 1] * size + cell[:, 0], cloud[:, 2])
    cell = np.rint((targets[:, :2] - low) * scale).astype(np.int64)
    bias = 1.5 / scale + 0.012
    return (targets[:, 2] > depth[cell[:, 1] * size + cell[:, 0]] - bias).astype(np.float64)
