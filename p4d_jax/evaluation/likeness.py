"""How alike two faces in pictures are: in expression, in pose, in who they are. NumPy, on the host.

Landmarks are MediaPipe's 468 points, in pixels; errors are shares of the distance between the eye centres.
What a face does is told from what it is by its own neutral face: `expression_displacement`. Who it is,
without a face-recognition network, the colours of many places tell (`face_colors`). The shape of a head does
not: fitted to one picture, it recognises one true OpenHeads person in six, where colours recognise all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from p4d_jax.capture.fit import LIPS
from p4d_jax.capture.landmarks import (
    LEFT_EYE_CONTOUR,
    RIGHT_EYE_CONTOUR,
    Landmarks,
    eye_centres,
    eye_distance,
)
from p4d_jax.geometry.similarity import ARCFACE_SIZE, ARCFACE_TEMPLATE, fit_similarity
from p4d_jax.imaging.affine import warp_affine
from p4d_jax.types import Array

# fmt: off
EYES = (*LEFT_EYE_CONTOUR, *RIGHT_EYE_CONTOUR)
MOUTH = LIPS
BROWS = (
    70, 63, 105, 66, 107, 46, 53, 52, 65, 55,
    300, 293, 334, 296, 336, 276, 283, 282, 295, 285,
)
STABLE = (  # bridge and wings of the nose, corners of the eyes, middle of the forehead, temples
    168, 6, 197, 195, 5, 4, 33, 133, 263, 362, 9, 151, 127, 356, 234, 454, 98, 327,
)
# Pairs whose distance opens mouth and eyes: lips, corners of the mouth against each other and the lips, lids.
OPENINGS = (
    (13, 14), (61, 291), (61, 0), (291, 17),
    (386, 374), (385, 380), (387, 373), (159, 145), (158, 153), (160, 144),
)
PARTS = {"mouth": MOUTH, "eyes": EYES, "brows": BROWS}
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


# Expression ------------------------------------------------------------------------------------------------


def landmark_errors(found: Landmarks, wanted: Landmarks) -> dict[str, float]:
    """Mean distances in shares of the wanted eye distance: as seen, and after a similarity of all points."""
    matrix = np.asarray(fit_similarity(jnp.asarray(found.points), jnp.asarray(wanted.points)))
    aligned = found.points @ matrix[:, :2].T + matrix[:, 2]
    errors = {}
    for name, points in (("mouth", list(MOUTH)), ("eyes", list(EYES))):
        for kind, places in (("", found.points), ("_aligned", aligned)):
            distance = np.linalg.norm(places[points] - wanted.points[points], axis=1)
            errors[name + kind] = float(distance.mean() / wanted.eye_distance)
    return errors


def fit_plane_similarity(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`geometry.fit_similarity` in float64: linear part (2, 2) and shift (2,) between points (N, 2)."""
    s, t = source - source.mean(0), target - target.mean(0)
    spread = np.sum(s**2)
    a, b = np.sum(s * t) / spread, np.sum(s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]) / spread
    linear = np.array([[a, -b], [b, a]])
    return linear, target.mean(0) - linear @ source.mean(0)


def in_face_frame(points: np.ndarray, face: np.ndarray) -> np.ndarray:
    """Points (N, 2) in a face's (468, 2) frame: 0 between its eyes, x along them, eye distances."""
    left, right = eye_centres(face)
    x = (left - right) / eye_distance(face) ** 2
    centred = points - (left + right) / 2
    return np.stack([centred @ x, centred @ np.array([-x[1], x[0]])], axis=-1)


def expression_displacement(
    points: np.ndarray, neutral: np.ndarray, stable: Sequence[int] = STABLE
) -> np.ndarray:
    """(468, 2) how far each landmark is from the same person's neutral face, in eye distances.

    The face is first brought onto the neutral one by the similarity of its `stable` points; the result is in
    the neutral face's frame, so that no similarity of either picture changes it.

    Args:
      points, neutral: (468, 2) pixels, best of two pictures from one direction.
    """
    linear, shift = fit_plane_similarity(points[list(stable)], neutral[list(stable)])
    aligned = points @ linear.T + shift
    return in_face_frame(aligned, neutral) - in_face_frame(neutral, neutral)


def expression_errors(found: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """Mean distance of two `expression_displacement`s, in eye distances.

    Over mouth, eyes and brows, the mean of these three (`expression`), and over the differences of
    `OPENINGS`, which a shift of the found points as a whole does not touch.
    """
    difference = found - wanted
    distance = np.linalg.norm(difference, axis=-1)
    errors = {name: float(distance[list(points)].mean()) for name, points in PARTS.items()}
    first, second = np.transpose(OPENINGS)
    opening = np.linalg.norm(difference[first] - difference[second], axis=-1).mean()
    return errors | {"expression": float(np.mean(list(errors.values()))), "openings": float(opening)}


# Pose ------------------------------------------------------------------------------------------------------


def rotation_angle(a: np.ndarray, b: np.ndarray) -> float:
    """Degrees between two rotation matrices (3, 3)."""
    # By the chord, which keeps its digits for small angles, where the trace's arccos loses them.
    chord = np.linalg.norm(np.asarray(a, np.float64) - np.asarray(b, np.float64)) / np.sqrt(8)
    return float(np.degrees(2 * np.arcsin(np.clip(chord, 0, 1))))


# Identity --------------------------------------------------------------------------------------------------


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
