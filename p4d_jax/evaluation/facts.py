"""What is known of a person's frames, by which results are sorted into bins: facts, not results."""

from __future__ import annotations

import numpy as np

from p4d_jax.evaluation.case import Row, named
from p4d_jax.evaluation.people import TARGET, VIEW_YAWS, VIEWS, Person
from p4d_jax.geometry import axis_angle_to_matrix
from p4d_jax.types import FrameParams, take


def about_person(person: Person, names: tuple[str, ...]) -> Row:
    """Facts of the person's frames, named `about/...`: degrees, and shares shut.

    Args:
      names: Names of the head model's expression components; nothing is known of the eyes of a head without
        ARKit's blinks.
    """
    source, target = person.source, take(person.asked, TARGET)
    row = {
        "source_yaw": abs(head_yaw(source)),
        "turn": rotation_angle(head_rotation(source), head_rotation(target)),
    }
    row |= {f"view_angle_{yaw:+d}": abs(yaw_between(person, i)) for i, yaw in enumerate(VIEW_YAWS)}
    if "eyeBlinkLeft" in names:
        row |= {"source_eyes_shut": eyes_shut(source, names), "target_eyes_shut": eyes_shut(target, names)}
    return named("about", row)


def yaw_between(person: Person, view: int) -> float:
    """Degrees of yaw from the source picture to a novel view."""
    return head_yaw(take(person.asked, VIEWS + view)) - head_yaw(person.source)


def head_rotation(frame: FrameParams) -> np.ndarray:
    """(3, 3) the head's rotation as the camera sees it: world to camera, after the neck."""
    return np.asarray(frame.camera.cam2world)[:3, :3].T @ np.asarray(axis_angle_to_matrix(frame.neck))


def head_yaw(frame: FrameParams) -> float:
    """Degrees by which the face looks past the camera, positive to the viewer's right; 0 is frontal."""
    normal = head_rotation(frame)[:, 2]
    return float(np.degrees(np.arctan2(normal[0], normal[2])))


def eyes_shut(frame: FrameParams, names: tuple[str, ...]) -> float:
    """Mean of ARKit's blink coefficients of both eyes: 0 open, 1 shut."""
    return float(np.mean([frame.expression[names.index(f"eyeBlink{side}")] for side in ("Left", "Right")]))


def rotation_angle(a: np.ndarray, b: np.ndarray) -> float:
    """Degrees between two rotation matrices (3, 3)."""
    # By the chord, which keeps its digits for small angles, where the trace's arccos loses them.
    chord = np.linalg.norm(np.asarray(a, np.float64) - np.asarray(b, np.float64)) / np.sqrt(8)
    return float(np.degrees(2 * np.arcsin(np.clip(chord, 0, 1))))
