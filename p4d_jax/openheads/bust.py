"""Shoulders of OpenHeads: a surface of static topology that carries the neck on, with or without collar.

A grid of row x azimuth. The first row is the open rim of the head's mesh; from there it runs down and out:
sideways along the trapezius to the shoulder, forwards down the chest. World units; azimuth 0 is the front.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from p4d_jax.types import Array

AZIMUTHS, ROWS = 48, 10
SHARES = np.array([0.0, 0.06, 0.13, 0.22, 0.34, 0.5, 0.7, 1.0, 1.45, 2.2])  # of the way to the shoulder


def bust_azimuths() -> np.ndarray:
    """(AZIMUTHS,) in [-pi, pi)."""
    return (np.arange(AZIMUTHS) + 0.5) / AZIMUTHS * 2 * np.pi - np.pi


def bust_faces() -> np.ndarray:
    """(faces, 3), vertices row-major (row, azimuth), counter-clockwise from outside."""
    row, column = np.meshgrid(np.arange(ROWS - 1), np.arange(AZIMUTHS), indexing="ij")
    a = row * AZIMUTHS + column
    b = row * AZIMUTHS + (column + 1) % AZIMUTHS
    c, d = a + AZIMUTHS, b + AZIMUTHS
    return np.concatenate([np.stack([a, c, b], -1), np.stack([b, c, d], -1)]).reshape(-1, 3).astype(np.int32)


def bind_bust(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rim of the neck at each azimuth: vertex indices (AZIMUTHS, 2), weights, and the rim's middle (3,).

    Args:
      vertices: (V, 3) rest mesh. faces: (F, 3) all its triangles, open below the neck.
    """
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    unique, count = np.unique(edges, axis=0, return_counts=True)
    rim = np.unique(unique[count == 1])
    rim = rim[vertices[rim, 1] < 0.5 * vertices[:, 1].min()]
    if len(rim) < 8:
        raise ValueError("the head's mesh has no open rim below the neck to which shoulders could be joined")
    low, high = vertices[rim].min(0), vertices[rim].max(0)
    middle = 0.5 * (low + high)
    place = rim_azimuth(vertices[rim], middle)
    order = np.argsort(place)
    rim, place = np.append(rim[order], rim[order[0]]), np.append(place[order], place[order[0]] + 2 * np.pi)
    wanted = (bust_azimuths() - place[0]) % (2 * np.pi) + place[0]
    after = np.clip(np.searchsorted(place, wanted, side="right"), 1, len(place) - 1)
    share = (wanted - place[after - 1]) / np.maximum(place[after] - place[after - 1], 1e-9)
    index = np.stack([rim[after - 1], rim[after]], -1)
    return index, np.stack([1 - share, share], -1), middle


def rim_azimuth(points, middle):
    """Azimuth of points (..., 3) about the vertical axis through the rim's middle; numpy or jax."""
    xp = np if isinstance(points, np.ndarray) else jnp
    return xp.arctan2(points[..., 0] - middle[0], points[..., 2] - middle[2])


def way_to_rim(vertices: np.ndarray, rim: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """(V,) minus the distance of each vertex to the rim at its azimuth; rim (AZIMUTHS, 3)."""
    azimuth = rim_azimuth(vertices, middle)
    column = np.rint((azimuth + np.pi) / (2 * np.pi) * AZIMUTHS - 0.5).astype(int) % AZIMUTHS
    near = np.linalg.norm(vertices[:, None] - rim[(column[:, None] + np.arange(-3, 4)) % AZIMUTHS], axis=-1)
    return -near.min(1)


def build_bust(rim: Array, build: Array) -> tuple[Array, Array]:
    """Bust vertices (ROWS*AZIMUTHS, 3) and their surface coordinates (x, way down from the rim, z).

    Args:
      rim: (AZIMUTHS, 3) the neck's rim. build: (4,) around 0: width, slope, depth, slouch.
    """
    azimuth = jnp.asarray(bust_azimuths(), jnp.float32)
    sine, cosine = jnp.sin(azimuth), jnp.cos(azimuth)
    share = jnp.asarray(SHARES, jnp.float32)[:, None]
    reach = jnp.clip(share, 0.0, 1.0)
    width, slope, depth, slouch = build
    side = jnp.abs(sine) ** 1.5
    goal_x = 0.60 * (1 + 0.1 * width) * jnp.sign(sine) * jnp.abs(sine) ** 0.8
    goal_z = (
        rim[:, 2].mean() + jnp.where(cosine > 0, 0.24, 0.22) * (1 + 0.15 * depth) * cosine + 0.02 * slouch
    )
    drop = (0.15 + 0.05 * slope) * side + jnp.where(cosine > 0, 0.40, 0.45) * (1 - side)
    x = rim[:, 0] + (goal_x - rim[:, 0]) * reach
    z = rim[:, 2] + (goal_z - rim[:, 2]) * reach
    # The trapezius runs out almost straight; the shoulder falls off at its end.
    y = rim[:, 1] - drop * (0.7 * reach + 0.3 * reach**3) - 0.5 * jnp.clip(share - 1.0, 0.0, None)
    vertices = jnp.stack([x, y, z], -1)
    way = jnp.broadcast_to(share * 0.5, (ROWS, AZIMUTHS))
    surface = jnp.stack([vertices[..., 0], way, vertices[..., 2]], -1)
    return vertices.reshape(-1, 3), surface.reshape(-1, 3)
