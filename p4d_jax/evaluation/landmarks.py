"""How far the landmarks of a result are from the target's, and whether there is a face at all."""

from __future__ import annotations

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from p4d_jax.capture.landmarks import Landmarks
from p4d_jax.evaluation.case import Case, named
from p4d_jax.evaluation.expression import EYES, MOUTH
from p4d_jax.geometry.similarity import fit_similarity


def compare_landmarks(case: Case) -> Iterator[tuple[str, float]]:
    """Landmark errors of self-reenactment, and whether faces were found."""
    true, seen = case.true, case.seen
    yield "self/face_found", float(seen["self"] is not None)
    yield "cross/face_found", float(seen["driven"] is not None)
    for suffix, found in (("", seen["self"]), ("_unchanged", true["source"])):
        if found is not None and true["target"] is not None:
            errors = landmark_errors(found.landmarks, true["target"].landmarks)
            yield from named("self", errors, suffix).items()


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


def keypoint_distance(found: Landmarks, wanted: Landmarks) -> float:
    """Mean distance of all points, in pixels of the pictures in which they were found."""
    return float(np.linalg.norm(found.points - wanted.points, axis=1).mean())
