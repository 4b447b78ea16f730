"""Where landmarks lie on a head mesh, found by the landmark network itself.

The mean head is painted simply (lips, brows, irises), rendered from a few directions, and MediaPipe's 468
points are projected back onto the triangles under them. What several views agree on is kept. Lids and inner
lips, where the mesh has a rim, are then snapped to it, so that they part when eye or mouth opens.
Metres, y up, face towards +z; V vertices.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax.capture.landmarks import LANDMARKS, Landmarker
from p4d_jax.geometry import look_at_camera
from p4d_jax.head.model import WORLD_SCALE
from p4d_jax.render.raster import interpolate, rasterize

SIZE = 512
VIEWS = tuple((yaw, pitch) for yaw in (-0.35, -0.18, 0.0, 0.18, 0.35) for pitch in (-0.15, 0.0, 0.15))
AGREEMENT = 0.006  # metres: the median distance of the views' places from their middle

UPPER_INNER_LIP = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
LOWER_INNER_LIP = (95, 88, 178, 87, 14, 317, 402, 318, 324)
LIDS = (33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173)
LIDS += (263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398)
OVAL = (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152)
OVAL += (148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)
# iBUG's 68 points among MediaPipe's 468
IBUG = (127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356)
IBUG += (70, 63, 105, 66, 107, 336, 296, 334, 293, 300, 168, 197, 5, 4, 75, 97, 2, 326, 305)
IBUG += (33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380)
IBUG += (61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87)


def paint(template: np.ndarray, regions: dict[str, np.ndarray]) -> np.ndarray:
    """(V, 3) colours in [0, 1] by which a landmark network knows a face."""
    colours = np.tile([0.80, 0.62, 0.52], (len(template), 1))
    colours[regions["lips"]] = [0.62, 0.28, 0.28]
    colours[regions["scalp"]] = [0.20, 0.14, 0.10]
    colours[regions["inner_mouth"]] = [0.25, 0.08, 0.08]
    for side in ("left", "right"):
        ball = regions[f"{side}_eyeball"]
        centre = template[ball].mean(0)
        away = template[ball] - centre
        forward = away[:, 2] / np.linalg.norm(away, axis=1)
        colours[ball] = np.where(forward[:, None] > 0.9, [0.15, 0.10, 0.08], [0.92, 0.92, 0.92])
        offset = template - centre
        outward = offset[:, 0] * np.sign(centre[0])
        # a brow: an arched band above the eye
        arch = 0.022 - 6.0 * (outward - 0.004) ** 2
        brow = (np.abs(offset[:, 1] - arch) < 0.0045) & (outward > -0.019) & (outward < 0.027)
        colours[brow & (offset[:, 2] > -0.005)] = [0.25, 0.17, 0.12]
    return colours


def hits(template: np.ndarray, faces: np.ndarray, colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangle (n, 468) and barycentric (n, 468, 3) under each landmark in the views that show a face."""
    world = jnp.asarray(template * WORLD_SCALE, jnp.float32)
    corners = world[faces]
    normal = jnp.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    smooth = jnp.zeros_like(world).at[faces.reshape(-1)].add(jnp.repeat(normal, 3, axis=0))
    smooth /= jnp.linalg.norm(smooth, axis=-1, keepdims=True) + 1e-12
    light = jnp.array([0.3, 0.5, 0.8]) / jnp.linalg.norm(jnp.array([0.3, 0.5, 0.8]))
    shaded = jnp.asarray(colours) * (0.45 + 0.6 * jnp.clip(smooth @ light, 0, 1))[:, None]
    draw = jax.jit(lambda camera: rasterize(world, jnp.asarray(faces), camera, SIZE, False))
    landmarker, found = Landmarker(), []
    for yaw, pitch in VIEWS:
        raster = draw(look_at_camera(yaw, pitch, 4.0))
        image = interpolate(raster, jnp.asarray(faces), shaded)
        image = jnp.where(raster.mask[..., None], image, jnp.array([0.55, 0.6, 0.65]))
        picture = np.asarray(jnp.clip(image, 0, 1) * 255).astype(np.uint8)
        face = landmarker.detect(picture)
        if face is None:
            continue
        place = np.clip(face.points, 0, SIZE - 1)
        rows, columns = np.nonzero(np.asarray(raster.mask))
        nearest = [np.argmin((columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2) for x, y in place]
        row, column = rows[nearest], columns[nearest]
        found.append(
            (np.asarray(raster.face_index)[row, column], np.asarray(raster.barycentric)[row, column])
        )
    if len(found) < 5:
        raise RuntimeError(f"the landmark network sees a face in only {len(found)} of {len(VIEWS)} views")
    return np.stack([f for f, _ in found]), np.stack([b for _, b in found])


def snap(points: np.ndarray, places: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """For each place (n, 3) the candidate vertex nearest to it as seen from the front."""
    offset = points[candidates][None, :, :2] - places[:, None, :2]
    return candidates[np.argmin((offset**2).sum(-1) - 0.02 * points[candidates][None, :, 2] * 0.01, axis=1)]


def contour_embedding(template: np.ndarray, static: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """(79, 17) vertices of the jaw's silhouette for the head's yaw in degrees, row k for yaw k - 39."""
    rows = np.tile(static, (79, 1))
    for row in range(79):
        yaw = np.radians(row - 39)
        across = template[:, 0] * np.cos(yaw) + template[:, 2] * np.sin(yaw)
        for index in range(17):
            if index == 8:
                continue
            level = np.abs(template[skin, 1] - template[static[index], 1]) < 0.006
            side = -1.0 if index < 8 else 1.0
            chosen = skin[level]
            if len(chosen):
                rows[row, index] = chosen[np.argmax(side * across[chosen])]
    return rows


def embed_landmarks(
    template: np.ndarray, faces: np.ndarray, regions: dict[str, np.ndarray], jaw: np.ndarray
) -> dict[str, jnp.ndarray]:
    """The landmark fields of a `HeadModel`, for the mean head."""
    triangle, weights = hits(template, faces, paint(template, regions))
    places = np.einsum("nlk,nlkc->nlc", weights, template[faces[triangle]])
    middle = np.median(places, axis=0)
    distance = np.linalg.norm(places - middle, axis=-1)
    best = distance.argmin(0)
    index = np.arange(LANDMARKS)
    vertices, share = faces[triangle[best, index]], weights[best, index]
    agreed = np.median(distance, axis=0) < AGREEMENT
    agreed[list(OVAL)] = False
    lips = regions["lips"]
    for group, candidates in (
        (UPPER_INNER_LIP, lips[jaw[lips] < 0.3]),
        (LOWER_INNER_LIP, lips[jaw[lips] > 0.6]),
        (LIDS, regions["eyelids"]),
    ):
        group = np.array(group)
        vertices[group] = snap(template, middle[group], candidates)[:, None]
        share[group] = [1.0, 0.0, 0.0]
        agreed[group] = True
    static, static_share = vertices[list(IBUG)], share[list(IBUG)]
    skin = np.setdiff1d(
        np.union1d(regions["front"], regions["face"]), np.union1d(regions["ears"], regions["neck"])
    )
    corner = static[np.arange(17), static_share[:17].argmax(-1)]
    contour = contour_embedding(template, corner, skin)
    kept = np.flatnonzero(agreed)
    return {
        "landmark_triangles": jnp.asarray(static, jnp.int32),
        "landmark_barycentric": jnp.asarray(static_share, jnp.float32),
        "contour_triangles": jnp.asarray(np.repeat(contour[..., None], 3, -1), jnp.int32),
        "contour_barycentric": jnp.tile(jnp.array([1.0, 0.0, 0.0]), (79, 17, 1)),
        "mediapipe_indices": jnp.asarray(kept, jnp.int32),
        "mediapipe_triangles": jnp.asarray(vertices[kept], jnp.int32),
        "mediapipe_barycentric": jnp.asarray(share[kept], jnp.float32),
    }
