"""How much the landmark network itself errs in the measure of expressions, by how often it looks at a face.

    python -m benchmarks.landmark_looks [--people=20]

Of held-out OpenHeads people at 256², each driven by the next: the expression error of the true rendering, of
the unchanged source, and their ratio (docs/howto/evaluate.md, `cross/expression`), with 1, 5, 9 and 17 looks
at each face; then the same of the head model's own landmarks, projected, which err by the measure's
definition alone.
"""

from __future__ import annotations

import argparse
import itertools
import json

import jax
import numpy as np

from p4d_jax import assets
from p4d_jax.capture.landmarks import Landmarker
from p4d_jax.evaluation import expression
from p4d_jax.evaluation.looks import enlarge
from p4d_jax.evaluation.people import (
    DRIVEN,
    DRIVEN_NEUTRAL,
    OWN_NEUTRAL,
    TARGET,
    UNCHANGED,
    Person,
    draw_people,
    film_motion,
    neutral,
    with_neck,
)
from p4d_jax.geometry import project
from p4d_jax.head.landmarks import mediapipe_landmarks
from p4d_jax.head.skinning import head_vertices
from p4d_jax.imaging.writing import to_picture
from p4d_jax.main import enable_compilation_cache
from p4d_jax.types import FrameParams, take

SIZE = 256
PLACES = {
    "own_neutral": OWN_NEUTRAL, "driven": DRIVEN, "neutral": DRIVEN_NEUTRAL, "unchanged": UNCHANGED,
}  # fmt: skip
Faces = dict[str, np.ndarray | None]  # landmarks (468, 2), or None where no face was found


def detected(person: Person, landmarker: Landmarker, looks: int) -> Faces:
    """Landmarks of a person's true pictures."""
    pictures = {
        "target": person.clip.image[TARGET + 1],
        **{name: person.truth.image[place] for name, place in PLACES.items()},
    }
    found = {name: landmarker.detect(enlarge(to_picture(x)), looks=looks) for name, x in pictures.items()}
    return {name: None if one is None else one.points for name, one in found.items()}


def projected(person: Person, head) -> Faces:
    """The head model's own landmarks in the same pictures; (468, 2), not a number where it has none."""

    @jax.jit
    def project_frame(frame: FrameParams):
        vertices = head_vertices(head, frame.shape, frame.expression, frame.pose, frame.eyes)
        return project(frame.camera, mediapipe_landmarks(head, vertices))[0]

    def points(frame: FrameParams) -> np.ndarray:
        full = np.full((468, 2), np.nan)
        full[np.asarray(head.mediapipe_indices)] = project_frame(frame.replace(shape=source.shape))
        return full

    source, target, driven = person.source, take(person.asked, TARGET), take(person.asked, DRIVEN)
    unchanged = source.replace(camera=driven.camera, pose=with_neck(source.pose, driven.neck))
    frames = {
        "target": target, "own_neutral": neutral(target), "driven": driven, "neutral": neutral(driven),
        "unchanged": unchanged,
    }  # fmt: skip
    return {name: points(frame) for name, frame in frames.items()}


def compare(faces: list[Faces], stable: tuple[int, ...] = expression.STABLE) -> dict[str, float]:
    """Errors of the truth and of the unchanged source, each person driven by the next."""
    errors: dict[str, list[float]] = {"truth": [], "unchanged": []}
    for own, driver in itertools.pairwise(faces):
        if any(points is None for points in (*own.values(), *driver.values())):
            continue
        wanted = expression.expression_displacement(driver["target"], driver["own_neutral"], stable)
        for name, place in (("truth", "driven"), ("unchanged", "unchanged")):
            found = expression.expression_displacement(own[place], own["neutral"], stable)
            errors[name].append(expression.expression_errors(found, wanted)["expression"])
    means = {name: float(np.mean(values)) for name, values in errors.items()}
    return means | {"ratio": means["truth"] / means["unchanged"], "people": len(errors["truth"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=20)
    count = parser.parse_args().people
    enable_compilation_cache()
    head, landmarker = assets.head_model(), Landmarker()
    people = list(draw_people(head, SIZE, "held_out", 0, count, film_motion(head), 0))
    for looks in (1, 5, 9, 17):
        found = compare([detected(person, landmarker, looks) for person in people])
        print(json.dumps({"looks": looks, **{name: round(value, 4) for name, value in found.items()}}))
    known = np.asarray(head.mediapipe_indices).tolist()  # not all of the temples
    stable = tuple(index for index in expression.STABLE if index in known)
    found = compare([projected(person, head) for person in people], stable)
    print(json.dumps({"looks": "head model", **{name: round(value, 4) for name, value in found.items()}}))


if __name__ == "__main__":
    main()
