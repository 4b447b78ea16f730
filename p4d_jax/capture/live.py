"""A face followed from picture to picture while it moves, as a webcam shows it.

What `capture_film` does with a whole film, of one picture at a time: each face is looked for around the one
before and fitted from its solution, with the shape that the first picture gave and in the square where its
head was. Nothing of the future is known, so what moves is smoothed by what came before alone.
"""

from __future__ import annotations

import jax
import numpy as np

from p4d_jax.capture.crop import quarter_turn
from p4d_jax.capture.fit import Fit, FitSettings, fit_photo
from p4d_jax.capture.landmark_head import LandmarkHead, bake_shape, landmark_head
from p4d_jax.capture.landmarks import LandmarkDetector, Landmarker, Landmarks
from p4d_jax.capture.photo import SMALLEST_EYE_DISTANCE, face_roll, params_in_square, turned_targets
from p4d_jax.head.model import HeadModel
from p4d_jax.types import FrameParams

KEPT = 0.35  # share of the picture before in what moves: calm, and half a picture late
# The solver goes on with the next picture, so that it is where more steps lead to: the same error of the
# landmarks, actions within 0.03 of theirs.
LIVE_SETTINGS = FitSettings(rough_iterations=0, iterations=2)
MOVING = ("rotation", "centre", "side", "expression", "jaw", "eyes")


class LiveCapture:
    """Follows the largest face; holds the state of one person before one camera."""

    def __init__(self, head: HeadModel, landmarker: LandmarkDetector | None = None):
        """Begins with the next picture.

        Args:
          head: The head model that is fitted.
          landmarker: A landmark detector of this thread to use again; None makes one.
        """
        self._landmarker = landmarker or Landmarker()
        self._small = landmark_head(head)
        self.restart()

    def restart(self) -> None:
        """Forgets the person: the next picture gives shape and square anew."""
        self._person: LandmarkHead | None = None  # with the shape baked in
        self._first: Fit | None = None
        self._last: Fit | None = None
        self._seen: Landmarks | None = None
        self._turn: np.ndarray | None = None

    def see(self, picture: np.ndarray) -> FrameParams | None:
        """Parameters of the face in the next picture, in the square of the first; None if there is none.

        Args:
          picture: (H, W, 3) uint8.
        """
        self._seen = self._landmarker.detect(picture, self._seen)
        if self._seen is None or self._seen.eye_distance < SMALLEST_EYE_DISTANCE:
            self._last = None
            return None
        if self._person is None:
            self._turn = quarter_turn(face_roll(self._seen.points))
            fit = fit_photo(self._small, *turned_targets(self._seen, self._turn))
            self._first, self._person = fit, bake_shape(self._small, fit.shape)
            fit = fit.replace(unknowns=fit.unknowns.replace(shape=np.zeros(0, np.float32)))
        else:
            start = None if self._last is None else self._last.unknowns
            priors = None if start is None else LIVE_SETTINGS
            fit = fit_photo(self._person, *turned_targets(self._seen, self._turn), start=start, priors=priors)
            fit = fit.replace(shape=self._first.shape)
        self._last = fit if self._last is None else _calm(self._last, fit)
        return params_in_square(self._last, self._first.centre, self._first.side)


@jax.jit
def _calm(before: Fit, now: Fit) -> Fit:
    """The fit of a picture, what moves mixed with that before; the solver goes on from its own."""
    mixed = {name: KEPT * getattr(before, name) + (1 - KEPT) * getattr(now, name) for name in MOVING}
    return now.replace(**mixed)
