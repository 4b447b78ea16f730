"""Shoulders of OpenHeads: a surface of static topology that carries the neck on, with or without collar.

A grid of row x azimuth. The first rows are bound to the neck's skin just above where the head mesh ends;
from there it runs down and out: sideways along the trapezius to the shoulder, forwards down the chest.
World units; azimuth 0 is the front.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from p4d_jax.data.openheads_hair import _last_hits
from p4d_jax.types import Array

AZIMUTHS, ROWS = 48, 11
OVERLAP = 0.035  # how far the first row reaches up inside the neck
SHARES = np.array([0.0, 0.0, 0.06, 0.13, 0.22, 0.34, 0.5, 0.7, 1.0, 1.45, 2.2])  # of the way to the shoulder


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


def bind_bust(vertices: np.ndarray, faces: np.ndarray, axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Neck points of the two bound rows: vertex indices (2*AZIMUTHS, 3) and weights (2*AZIMUTHS, 3).

    Args:
      vertices: (V, 3) rest mesh. faces: (F, 3) its skin. axis: (3,) on the neck's axis.
    """
    azimuth = bust_azimuths()
    directions = np.stack([np.sin(azimuth), np.zeros(AZIMUTHS), np.cos(azimuth)], -1)
    bottom = vertices[:, 1].min()
    index = np.zeros((2, AZIMUTHS, 3), np.int32)
    weight = np.zeros((2, AZIMUTHS, 3), np.float32)
    lowest = np.full(AZIMUTHS, np.inf)
    for height in np.arange(bottom + 0.004, bottom + 0.5, 0.008):
        waiting = [lowest == np.inf, (height >= lowest + OVERLAP) & (weight[0].sum(-1) == 0)]
        if (weight.sum(-1) > 0).all():
            break
        found, corner, barycentric = _last_hits(
            np.array([axis[0], height, axis[2]]), directions, vertices[faces]
        )
        for row, wanted in ((1, waiting[0]), (0, waiting[1])):
            chosen = found & wanted
            index[row, chosen], weight[row, chosen] = faces[corner[chosen]], barycentric[chosen]
            if row == 1:
                lowest[chosen] = height
    if (weight.sum(-1) == 0).any():
        raise ValueError("the head's mesh has no neck all around its axis to which shoulders could be joined")
    return index.reshape(-1, 3), weight.reshape(-1, 3)


def build_bust(neck: Array, build: Array) -> tuple[Array, Array]:
    """Bust vertices (ROWS*AZIMUTHS, 3) and their surface coordinates (x, way down from the neck, z).

    Args:
      neck: (2*AZIMUTHS, 3) the bound neck points. build: (4,) around 0: width, slope, depth, slouch.
    """
    neck = neck.reshape(2, AZIMUTHS, 3)
    azimuth = jnp.asarray(bust_azimuths(), jnp.float32)
    sine, cosine = jnp.sin(azimuth), jnp.cos(azimuth)
    inner = neck[0].at[:, (0, 2)].set(neck[1][:, (0, 2)] * 0.985 + 0.015 * neck[1][:, (0, 2)].mean(0))
    share = jnp.asarray(SHARES, jnp.float32)[1:, None]
    reach = jnp.clip(share, 0.0, 1.0) ** 0.9
    start = neck[1]
    width, slope, depth, slouch = build
    side = jnp.abs(sine) ** 1.5
    goal_x = 0.58 * (1 + 0.1 * width) * jnp.sign(sine) * jnp.abs(sine) ** 0.8
    goal_z = start[:, 2].mean() + jnp.where(cosine > 0, 0.20, 0.24) * (1 + 0.15 * depth) * cosine
    drop = (0.20 + 0.05 * slope) * side + jnp.where(cosine > 0, 0.34, 0.26) * (1 - side)
    below = jnp.clip(share - 1.0, 0.0, None)
    base = start[:, 1] * (1 - reach) + start[:, 1].mean() * reach
    x = start[:, 0] + (goal_x - start[:, 0]) * reach
    z = start[:, 2] + (goal_z - start[:, 2]) * reach + 0.02 * slouch * reach
    # The neck runs down steeply before the trapezius spreads; the shoulder falls off at its end.
    y = base - drop * (0.55 * jnp.sqrt(reach + 1e-4) + 0.45 * reach**2) - 0.5 * below
    rows = jnp.stack([x, y, z], -1)
    vertices = jnp.concatenate([inner[None], rows])
    way = jnp.broadcast_to(jnp.asarray(SHARES, jnp.float32)[:, None] * 0.5, (ROWS, AZIMUTHS))
    surface = jnp.stack([vertices[..., 0], way, vertices[..., 2]], -1)
    return vertices.reshape(-1, 3), surface.reshape(-1, 3)
