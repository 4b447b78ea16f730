"""A small `HeadModel` made from nothing: an ellipsoid with eyeballs, random bases and smooth weights.

For tests that need a head's data but not its looks. Metres, FLAME's frame: about 0.2 tall, face towards +z.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from p4d_jax.head.model import NECK, NEIGHBOURS, HeadModel


def sphere(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit sphere: vertices (V, 3), faces (F, 3) counter-clockwise seen from outside."""
    latitude = np.linspace(0, np.pi, rows + 1)[1:-1]
    longitude = np.arange(columns) * 2 * np.pi / columns
    theta, phi = np.meshgrid(latitude, longitude, indexing="ij")
    ring = np.stack([np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)], -1)
    vertices = np.concatenate([ring.reshape(-1, 3), [[0, 1, 0], [0, -1, 0]]])
    top, bottom = len(vertices) - 2, len(vertices) - 1
    faces = []
    for j in range(columns):
        k = (j + 1) % columns
        faces.append((top, j, k))
        faces.append((bottom, (rows - 2) * columns + k, (rows - 2) * columns + j))
        for i in range(rows - 2):
            a, b, c, d = i * columns + j, i * columns + k, (i + 1) * columns + j, (i + 1) * columns + k
            faces += [(a, c, d), (a, d, b)]
    return vertices, np.array(faces, np.int32)


def vertex_neighbours(faces: np.ndarray, vertices: int) -> np.ndarray:
    """(V, 10): the vertex and its ring, padded with V; plain loops, for reference."""
    rings: list[list[int]] = [[v] for v in range(vertices)]
    for a, b, c in faces.tolist():
        for first, second in ((a, b), (b, c), (c, a), (b, a), (c, b), (a, c)):
            if second not in rings[first]:
                rings[first].append(second)
    table = np.full((vertices, NEIGHBOURS), vertices, np.int32)
    for v, ring in enumerate(rings):
        table[v, : min(len(ring), NEIGHBOURS)] = ring[:NEIGHBOURS]
    return table


def synthetic_head(
    rows: int = 12, columns: int = 16, shapes: int = 6, expressions: int = 5, seed: int = 0
) -> HeadModel:
    """A head of three closed pieces: skull, left and right eyeball. All shapes of `HeadModel` are kept."""
    rng = np.random.default_rng(seed)
    unit, faces = sphere(rows, columns)
    eye_unit, eye_faces = sphere(6, 8)
    skull = unit * [0.07, 0.11, 0.09]
    eyes = [eye_unit * 0.012 + [side * 0.03, 0.02, 0.075] for side in (1, -1)]
    template = np.concatenate([skull, *eyes])
    n, e, count = len(skull), len(eye_unit), len(template)
    left, right = np.arange(n, n + e), np.arange(n + e, n + 2 * e)
    faces = np.concatenate([faces, eye_faces + n, eye_faces + n + e]).astype(np.int32)

    weights = np.zeros((count, 5))
    weights[:n, 0] = np.clip(-(skull[:, 1] + 0.05) * 20, 0, 1)
    weights[:n, 2] = np.clip((skull[:, 2] - 0.02) * 20, 0, 1) * (skull[:, 1] < 0) * (1 - weights[:n, 0])
    weights[left, 3] = weights[right, 4] = 1
    weights[:n, 1] = 1 - weights[:n].sum(1)

    regressor = np.zeros((5, count))
    regressor[3, left] = regressor[4, right] = 1 / e
    for joint, place in enumerate([(0, -0.1, 0), (0, -0.06, -0.02), (0, -0.03, 0.03)]):
        regressor[joint, np.argsort(np.square(skull - place).sum(1))[:8]] = 1 / 8

    front = np.flatnonzero((skull[faces[: 2 * columns * (rows - 1)]].mean(1))[:, 2] > 0.02)
    below = np.flatnonzero((skull[faces[: 2 * columns * (rows - 1)]].mean(1))[:, 1] < -0.01)

    def embedding(*size: int, among: np.ndarray = front) -> tuple[jnp.ndarray, jnp.ndarray]:
        barycentric = rng.dirichlet(np.ones(3), size)
        return jnp.asarray(faces[rng.choice(among, size)]), jnp.asarray(barycentric, jnp.float32)

    landmarks, contour, mediapipe = embedding(68), embedding(79, 17, among=below), embedding(40)
    lips = np.flatnonzero((skull[:, 2] > 0.05) & (np.abs(skull[:, 1] + 0.04) < 0.03))
    regions = {
        "face": np.flatnonzero(skull[:, 2] > 0),
        "left_eyeball": left,
        "right_eyeball": right,
        "lips": lips,
        "eyelids": np.flatnonzero((skull[:, 2] > 0.05) & (skull[:, 1] > 0)),
        "without_inner_mouth": np.arange(count),
    }
    coarse_unit, coarse_faces = sphere(6, 8)
    nearest = np.argmin(np.square(coarse_unit[:, None] - unit[None]).sum(-1), axis=1)
    template, regressor = template.astype(np.float32), regressor.astype(np.float32)

    def smooth(*size: int) -> jnp.ndarray:
        wave = rng.normal(size=(3, *size)) * 20
        return jnp.asarray(0.003 * np.sin(np.tensordot(template, wave, 1)), jnp.float32)

    return HeadModel(
        template=jnp.asarray(template),
        shape_basis=smooth(3, shapes),
        expression_basis=smooth(3, expressions),
        pose_basis=smooth(3, 36) * 0.2,
        joint_regressor=jnp.asarray(regressor),
        skinning_weights=jnp.asarray(weights, jnp.float32),
        faces=jnp.asarray(faces),
        origin=jnp.asarray((regressor @ template)[NECK]),
        landmark_triangles=landmarks[0],
        landmark_barycentric=landmarks[1],
        contour_triangles=contour[0],
        contour_barycentric=contour[1],
        mediapipe_indices=jnp.asarray(np.sort(rng.permutation(468)[:40]), jnp.int32),
        mediapipe_triangles=mediapipe[0],
        mediapipe_barycentric=mediapipe[1],
        regions={name: jnp.asarray(value, jnp.int32) for name, value in regions.items()},
        neighbours=jnp.asarray(vertex_neighbours(faces, count)),
        decimated_faces=jnp.asarray(coarse_faces),
        decimated_triangles=jnp.asarray(np.repeat(nearest[:, None], 3, 1), jnp.int32),
        decimated_barycentric=jnp.asarray(np.tile([1.0, 0, 0], (len(nearest), 1)), jnp.float32),
        uv=jnp.zeros((count, 2)),
        name="synthetic",
    )
