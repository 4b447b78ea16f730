"""Who a face is: the colours of many places of it, the crop that a face-recognition network takes, distances.

Without such a network the colours tell. The shape of a head does not: fitted to one picture, it recognises
one true OpenHeads person in six, where colours recognise all. NumPy, on the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from p4d_jax.capture.landmarks import eye_centres
from p4d_jax.geometry.similarity import ARCFACE_SIZE, ARCFACE_TEMPLATE, fit_similarity
from p4d_jax.imaging.affine import warp_affine
from p4d_jax.types import Array

# fmt: off
# Where a face's colours are taken: a landmark, a shift right and down in eye distances, in the face's frame.
PLACES = (
    *((index, 0.0, 0.0) for index in range(0, 468, 8)),
    (151, 0.0, 0.0), (50, 0.0, 0.0), (280, 0.0, 0.0), (205, 0.0, 0.0), (425, 0.0, 0.0), (4, 0.0, 0.0),
    (199, 0.0, 0.0), (0, 0.0, 0.06), (17, 0.0, -0.08), (105, 0.0, 0.0), (334, 0.0, 0.0),
    (10, 0.0, -0.35), (10, 0.0, -0.65), (109, -0.25, -0.3), (338, 0.25, -0.3),  # hair above the forehead
    (127, -0.3, -0.1), (356, 0.3, -0.1), (152, 0.0, 0.35), (152, 0.0, 0.9),  # at the temples, neck, clothes
)
PLACE_RADIUS = 0.08  # eye distances
# fmt: on


@dataclass(frozen=True)
class DescriptionScale:
    """How much each of the numbers that describe a person counts.

    Attributes:
      spread: (D,) standard deviation between two pictures of one person.
      relevance: (D,) in [0, 1], the share of a number's variance that is between people.
    """

    spread: np.ndarray
    relevance: np.ndarray


def face_colors(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(3 len(PLACES),) colours of the places of a face: mean, red - green and green - blue of each.

    Of each place the median over a small disc; places outside the picture take the nearest of its border.

    Args:
      picture: (H, W, 3) uint8.
      points: (468, 2) landmarks in its pixels.
    """
    left, right = eye_centres(points)
    x = left - right
    y = np.array([-x[1], x[0]])
    height, width = picture.shape[:2]
    side = np.linspace(-PLACE_RADIUS, PLACE_RADIUS, 7)
    disc = np.array([(u, v) for u in side for v in side if u * u + v * v <= PLACE_RADIUS**2 * 1.01])
    colors = []
    for index, right_by, down_by in PLACES:
        at = points[index] + (disc[:, :1] + right_by) * x + (disc[:, 1:] + down_by) * y
        column, row = np.clip(np.floor(at).astype(int), 0, [width - 1, height - 1]).T
        colors.append(np.median(picture[row, column] / 255.0, axis=0))
    red, green, blue = np.transpose(colors)
    return np.concatenate([(red + green + blue) / 3, red - green, green - blue])


def learn_scale(first: np.ndarray, second: np.ndarray) -> DescriptionScale:
    """`DescriptionScale` of two descriptions (N, D) each of N people."""
    within = np.mean((first - second) ** 2, axis=0) / 2
    total = (first.var(axis=0) + second.var(axis=0)) / 2
    relevance = np.maximum(0.0, 1.0 - within / np.maximum(total, 1e-12))
    return DescriptionScale(np.sqrt(within) + 0.02 * np.sqrt(total) + 1e-6, relevance)


def description_distances(found: np.ndarray, known: np.ndarray, scale: DescriptionScale) -> np.ndarray:
    """(N, M) distances of descriptions (N, D) and (M, D).

    Each number counts by its relevance, and with the saturated square log(1 + d^2) of its distance d in units
    of its spread: a place that a hair covers in one picture only does not outweigh all others.
    """
    difference = (found[:, None] - known[None]) / scale.spread
    return (np.log1p(difference**2) * scale.relevance).mean(-1)


def cosine_distances(found: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(N, M) one minus the cosine of embeddings (N, D) and (M, D)."""
    unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    return 1.0 - unit(found) @ unit(known).T


def is_recognised(distances: np.ndarray, own: np.ndarray) -> np.ndarray:
    """(N,) whether the nearest of the known is the right one: distances (N, M), own (N,) its column."""
    return distances.argmin(axis=1) == own


def arcface_points(points: np.ndarray) -> np.ndarray:
    """The five points (5, 2) of ArcFace's template, of landmarks (468, 2) in continuous pixels.

    The template names its points as the viewer sees them: the subject's right eye and corner of the mouth
    come first. Pixel centres of `warp_affine`, which reads the crop, are integers.
    """
    left, right = eye_centres(points)
    return np.stack([right, left, points[4], points[61], points[291]]) - 0.5


def crop_for_arcface(image: Array, five: Array) -> Array:
    """The crop (112, 112, 3) in [-1, 1] that ArcFace expects of image (H, W, 3), by `arcface_points`."""
    matrix = fit_similarity(five, jnp.array(ARCFACE_TEMPLATE))
    return jnp.clip(warp_affine(image, matrix, ARCFACE_SIZE), -1, 1)
