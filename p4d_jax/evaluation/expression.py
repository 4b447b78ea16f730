"""What a face does, whoever it belongs to: how far each landmark is from the same person's neutral face.

Landmarks are MediaPipe's 468 points, in pixels; errors are shares of the distance between the eye centres.
NumPy, on the host.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from p4d_jax.capture.fit import LIPS
from p4d_jax.capture.landmarks import LEFT_EYE_CONTOUR, RIGHT_EYE_CONTOUR, eye_centres, eye_distance
from p4d_jax.evaluation.case import Looks, PersonFaces, Row, named
from p4d_jax.evaluation.looks import Look
from p4d_jax.evaluation.statistics import jackknife, net_ratio, ratio
from p4d_jax.head.model import HeadModel

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
# fmt: on


def compare_expressions(people: Sequence[PersonFaces], head: HeadModel) -> list[Row]:
    """How far each result's expression is from its driver's, each against its own neutral face."""
    driven_by = [*people[1:], people[0]]
    return [
        measure_expression(driver.true, one.true, one.seen)
        for one, driver in zip(people, driven_by, strict=True)
    ]


def measure_expression(driver: Looks, true: Looks, made: Looks) -> Row:
    """The errors of one person; nothing where a face is missing, so that a ratio compares the same people.

    Args:
      driver: True looks of the person that drives.
      true: Those of the person that is driven.
      made: Looks at the model's pictures of that one.
    """
    wanted = displacement(driver["target"], driver["own_neutral"])
    candidates = {
        "": displacement(made["driven"], made["neutral"]),
        "_unchanged": displacement(true["unchanged"], true["neutral"]),
        "_truth": displacement(true["driven"], true["neutral"]),
    }
    if wanted is None or any(value is None for value in candidates.values()):
        return {}
    row = {}
    for suffix, found in candidates.items():
        row |= named("cross", expression_errors(found, wanted), suffix)
    return row


def displacement(seen: Look | None, neutral: Look | None) -> np.ndarray | None:
    """`expression_displacement` of two looks; None where a face is missing."""
    if seen is None or neutral is None:
        return None
    return expression_displacement(seen.landmarks.points, neutral.landmarks.points)


def expression_ratios(rows: Sequence[Row]) -> dict[str, dict]:
    """How much of the unchanged source's error the result and the truth have, and net of the truth's."""
    report, having = {}, [row for row in rows if "cross/expression" in row]
    for name in ("expression", *PARTS, "openings") if having else ():
        columns = [f"cross/{name}", f"cross/{name}_unchanged", f"cross/{name}_truth"]
        values = np.array([[row[column] for column in columns] for row in having])
        report |= {
            f"cross/{name}_ratio": jackknife(ratio, values[:, :2]),
            f"cross/{name}_ratio_truth": jackknife(ratio, values[:, 2:0:-1]),
            f"cross/{name}_ratio_net": jackknife(net_ratio, values),
        }
    return report


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
