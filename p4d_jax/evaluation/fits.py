"""APD and AED: heads fitted to results, against heads fitted to true pictures, by the capture's own fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from p4d_jax.capture.fit import action_scores, fit_photos
from p4d_jax.capture.landmark_head import landmark_head
from p4d_jax.evaluation.case import Looks, PersonFaces, Row
from p4d_jax.evaluation.facts import rotation_angle
from p4d_jax.evaluation.looks import Look
from p4d_jax.geometry import axis_angle_to_matrix
from p4d_jax.head.model import HeadModel

FIT_BATCH = 8


def compare_fits(people: Sequence[PersonFaces], head: HeadModel) -> list[Row]:
    """APD and AED of self-reenactment, and of each result against its driver."""
    true = fit_all(head, [one.true for one in people], ("source", "target", "driven"))
    made = fit_all(head, [one.seen for one in people], ("self", "driven"))
    driven_by, components = [*true[1:], true[0]], head.expression_basis.shape[-1]
    return [measure_fits(*fits, components) for fits in zip(true, made, driven_by, strict=True)]


@dataclass(frozen=True)
class HeadFit:
    """A fitted head.

    Attributes:
      rotation: (3, 3) world to camera.
      expression: (100,) coefficients.
    """

    rotation: np.ndarray
    expression: np.ndarray


def fit_looks(head: HeadModel, looks: Sequence[Look | None]) -> list[HeadFit | None]:
    """`capture.fit.fit_photos` of many looks, in batches of one size."""
    small = landmark_head(head)
    seen = [index for index, value in enumerate(looks) if value is not None]
    result: list[HeadFit | None] = [None] * len(looks)
    for start in range(0, len(seen), FIT_BATCH):
        chosen = seen[start : start + FIT_BATCH]
        filled = chosen + chosen[:1] * (FIT_BATCH - len(chosen))
        points = np.stack([looks[i].landmarks.points for i in filled]).astype(np.float32)
        iris = np.stack([looks[i].landmarks.iris[:, 0] for i in filled]).astype(np.float32)
        scores = np.stack([action_scores(looks[i].landmarks) for i in filled])
        fit = fit_photos(small, jnp.asarray(points), jnp.asarray(iris), jnp.asarray(scores))
        rotation, expression = np.asarray(fit.rotation), np.asarray(fit.expression)
        rotation = np.asarray(axis_angle_to_matrix(jnp.asarray(rotation)))
        for place, index in enumerate(chosen):
            result[index] = HeadFit(rotation[place], expression[place])
    return result


def fit_all(head: HeadModel, people: Sequence[Looks], names: Sequence[str]) -> list[dict]:
    """Fits of the named looks of all people: a dict from name to `HeadFit` or None for each."""
    fits = iter(fit_looks(head, [looks[name] for looks in people for name in names]))
    return [{name: next(fits) for name in names} for _ in people]


def measure_fits(true: dict, made: dict, driver: dict, components: int) -> Row:
    """APD and AED: the angle between the heads' fitted rotations, and the mean difference of the expressions.

    Args:
      true: Fits to true pictures, by name.
      made: Fits to the model's pictures.
      driver: Fits to true pictures of the person that drives.
      components: Expression coefficients that the head has.
    """
    row = {}
    pairs = {
        ("self", ""): (made["self"], true["target"]),
        ("self", "_unchanged"): (true["source"], true["target"]),
        ("cross", ""): (made["driven"], driver["target"]),
        ("cross", "_truth"): (true["driven"], driver["target"]),
    }
    for (part, suffix), (found, wanted) in pairs.items():
        if found is not None and wanted is not None:
            row[f"{part}/pose_degrees{suffix}"] = rotation_angle(found.rotation, wanted.rotation)
            row[f"{part}/coefficients{suffix}"] = expression_distance(found, wanted, components)
    return row


def expression_distance(found: HeadFit, wanted: HeadFit, components: int) -> float:
    """Mean absolute difference of the expression coefficients that the head has."""
    return float(np.abs(found.expression - wanted.expression)[:components].mean())
