"""Who is meant, of several people in a picture, and how well a face is seen."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from p4d_jax.capture.landmarks import (
    LEFT_EYE_CONTOUR,
    RIGHT_EYE_CONTOUR,
    LandmarkDetector,
    Landmarks,
)
from p4d_jax.errors import UserError

Person = int | tuple[float, float]  # a number, from 1 at the left, or a point of the face, pixels

# fmt: off
LIPS = (
    61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409,
    78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308,
)
# fmt: on

# Scatter of landmarks over several looks, in eye distances. On nine photos of open faces eyes have 0.005 to
# 0.012 and lips 0.007 to 0.014; behind a bar or dark glasses 0.013 to 0.03, and 0.018 to 0.06.
COVERED_EYES, COVERED_MOUTH = 0.0125, 0.016
UNSURE, REFUSED_SCATTER = 0.025, 0.05  # of the whole face
COVERAGE, REFUSED_COVERAGE = 0.95, 0.5  # share of the face's landmarks that lies in the picture
REFUSED_CONFIDENCE = 0.5


@dataclasses.dataclass(frozen=True)
class Visibility:
    """How well a face is seen; scatter is nan from a detector that does not measure it.

    Attributes:
      coverage: Share of the face's landmarks that lies in the picture, in [0, 1].
      confidence: Of the networks that there is a face, in [0, 1].
      scatter: Mean scatter of all landmarks over several looks, in eye distances; likewise of the eyes' and
        of the lips'.
    """

    coverage: float
    confidence: float
    scatter: float
    eyes_scatter: float
    mouth_scatter: float

    @property
    def doubts(self) -> list[str]:
        """What makes the result worse than it could be, each a few words; none of a face seen well."""
        doubts = []
        if self.coverage < COVERAGE:
            doubts.append(f"{1 - self.coverage:.0%} of the face lie outside of the picture and are guessed")
        if self.eyes_scatter > COVERED_EYES:
            doubts.append("the eyes are covered or hard to see, so that gaze and lids are guessed")
        if self.mouth_scatter > COVERED_MOUTH:
            doubts.append("the mouth is covered or hard to see, so that it is guessed")
        if self.scatter > UNSURE:
            doubts.append("it is hardly seen as a human face")
        return doubts

    @property
    def refusal(self) -> str:
        """Why no head can be fitted to the face, or empty."""
        if self.coverage < REFUSED_COVERAGE:
            return (
                f"only {self.coverage:.0%} of the face lie in the picture, {REFUSED_COVERAGE:.0%} are needed"
            )
        if self.confidence < REFUSED_CONFIDENCE or self.scatter > REFUSED_SCATTER:
            return (
                f"the face is too uncertain (confidence {self.confidence:.2f}, scatter of its points"
                f" {self.scatter:.3f} eye distances, at most {REFUSED_SCATTER})"
            )
        return ""

    def report(self) -> dict[str, float]:
        """The measured numbers, rounded, for a report."""
        numbers = dataclasses.asdict(self).items()
        return {name: round(value, 4) for name, value in numbers if np.isfinite(value)}


def see_face(landmarks: Landmarks, shape: tuple[int, ...]) -> Visibility:
    """How well a face is seen in a picture of a shape (H, W, ...)."""
    inside = ((landmarks.points >= 0) & (landmarks.points <= (shape[1], shape[0]))).all(axis=-1)
    scatter = np.full(len(inside), np.nan) if landmarks.scatter is None else landmarks.scatter
    eyes = [*LEFT_EYE_CONTOUR, *RIGHT_EYE_CONTOUR]
    return Visibility(
        coverage=float(inside.mean()),
        confidence=landmarks.score,
        scatter=float(scatter.mean()),
        eyes_scatter=float(scatter[eyes].mean()),
        mouth_scatter=float(scatter[list(LIPS)].mean()),
    )


def find_person(
    picture: np.ndarray, landmarker: LandmarkDetector, person: Person | None, name: str
) -> Landmarks | None:
    """Landmarks of the person who is meant; of the largest face if nobody is, None if there is no face.

    Args:
      picture: (H, W, 3) uint8.
      landmarker: The landmark detector.
      person: Who is meant.
      name: What messages call the picture.

    Raises:
      UserError: There are faces, but not the one that is meant.
    """
    if person is None:
        return landmarker.detect(picture)
    people = landmarker.people(picture)
    if not people:
        return None
    if isinstance(person, int):
        if not 1 <= person <= len(people):
            count = "is one face" if len(people) == 1 else f"are {len(people)} faces"
            raise UserError(f"person: {person}, but there {count} in {name}, numbered from 1 at the left")
        return people[person - 1]
    point = np.asarray(person, float)
    nearest = min(people, key=lambda one: np.linalg.norm(one.points.mean(axis=0) - point))
    if np.linalg.norm(nearest.points.mean(axis=0) - point) > 2 * nearest.eye_distance:
        places = ", ".join("({:.0f}, {:.0f})".format(*one.points.mean(axis=0)) for one in people)
        raise UserError(f"person: no face at {person} of {name}; there are faces at {places}")
    return nearest


def draw_people(picture: np.ndarray, people: list[Landmarks]) -> np.ndarray:
    """The picture (H, W, 3) uint8 with a box and a number on each face, as `person` counts them."""
    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    for number, landmarks in enumerate(people, 1):
        low, high = landmarks.points.min(axis=0), landmarks.points.max(axis=0)
        size = max(12.0, 0.4 * float(high[1] - low[1]))
        pen.rectangle((*low, *high), outline="lime", width=max(2, int(size / 16)))
        font = ImageFont.load_default(size)
        pen.text(
            tuple(low), str(number), fill="lime", font=font, stroke_width=int(size / 16), stroke_fill="black"
        )
    return np.asarray(image)
