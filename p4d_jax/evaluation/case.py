"""What an evaluator is given: one held-out person with all that was made of it, or the faces of all people.

A row is a dict of one person's numbers, named `part/measure`; beside some are those of the source picture as
it is, `_unchanged`, and those of the true rendering, `_truth`, which say what the measure itself misses.
docs/howto/evaluate.md defines every one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from p4d_jax.evaluation.looks import Look, PictureNetworks
from p4d_jax.evaluation.people import Person

Row = dict[str, float]
Looks = Mapping[str, Look | None]  # of the named pictures; None where no face was found


@dataclass(frozen=True)
class Case:
    """One person, and what a model made of it.

    Attributes:
      person: The person, with the true pictures.
      made: (F, S, S, 3) pictures in [-1, 1] of the frames `Person.asked`.
      true: Looks at true pictures, by the names of `looks.true_faces`.
      seen: Looks at the model's pictures, by the names of `looks.made_faces`.
      networks: What looks at pictures.
    """

    person: Person
    made: np.ndarray
    true: Looks
    seen: Looks
    networks: PictureNetworks


@dataclass(frozen=True)
class PersonFaces:
    """What is kept of a person for measures between people. Person i is driven by person i + 1.

    Attributes:
      true: Looks at true pictures, by the names of `looks.true_faces`.
      seen: Looks at the model's pictures, by the names of `looks.made_faces`.
    """

    true: Looks
    seen: Looks


def named(part: str, row: Row, suffix: str = "") -> Row:
    """Numbers under their part's name."""
    return {f"{part}/{name}{suffix}": value for name, value in row.items()}
