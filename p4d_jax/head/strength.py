"""How much of a driver's motion reaches the head, part by part. Imports no JAX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

STRONGEST = 3.0


@dataclass(frozen=True)
class Strength:
    """Factors of a driver's motion: 1 is as the driver moves, 0 leaves the part as the photo has it.

    Attributes:
      expression: Of the face but for the lids' blinks and the gaze, in [0, 3].
      pose: Of the head's rotation and of its way through the picture, in [0, 3].
      travel: Of the head's way through the picture, beside `pose`, in [0, 3].
      gaze: Of the eyes' rotation, and of the lids that follow it, in [0, 3].
      blink_left: Of the blinks of the person's left eye, in [0, 3].
      blink_right: Of the blinks of the person's right eye, in [0, 3].
    """

    expression: float = 1.0
    pose: float = 1.0
    travel: float = 1.0
    gaze: float = 1.0
    blink_left: float = 1.0
    blink_right: float = 1.0

    def __post_init__(self):
        for field in fields(self):
            if not 0.0 <= (value := getattr(self, field.name)) <= STRONGEST:
                raise ValueError(f"{field.name}={value}: expected a number from 0 to {STRONGEST:g}")

    def of_components(self, names: Sequence[str], count: int) -> np.ndarray:
        """(count,) the factor of each expression component.

        Args:
          names: ARKit's names of the leading components; without them blinks and gaze are not told apart.
          count: Number of components.
        """
        factors = np.full(count, self.expression, np.float32)
        for index, name in enumerate(names):
            if name.startswith("eyeLook"):
                factors[index] = self.gaze
            elif name.startswith("eyeBlink"):
                factors[index] = self.blink_left if name.endswith("Left") else self.blink_right
        return factors
