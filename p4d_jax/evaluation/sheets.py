"""Sheets of pictures of the first held-out people: what was asked for, what was made, what is true."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from p4d_jax.evaluation.people import DRIVEN, DRIVEN_NEUTRAL, TARGET, VIEW_YAWS, VIEWS, Person
from p4d_jax.imaging.writing import to_picture

SHOWN = 8  # people in a sheet


@dataclass(frozen=True)
class Shown:
    """A person, who drives it, and what the model made of it: (F, S, S, 3)."""

    person: Person
    driver: Person
    made: np.ndarray


def in_a_row(images: Sequence) -> np.ndarray:
    """Images (S, S, 3) in [-1, 1] side by side, as uint8."""
    return np.concatenate([to_picture(image) for image in images], axis=1)


def sheet(draw: Callable[[Shown], list], shown: Sequence[Shown]) -> np.ndarray:
    """A row for each person."""
    return np.concatenate([in_a_row(draw(one)) for one in shown])


def draw_self(shown: Shown) -> list:
    """Source, target, result, and five times the error."""
    clip, result = shown.person.clip, shown.made[TARGET]
    error = np.abs(result - clip.image[1]) * clip.mask[1]
    return [clip.image[0], clip.image[1], result, 5.0 * error - 1.0]


def draw_cross(shown: Shown) -> list:
    """Source, driver, result, the true picture of the source so, the result with a neutral face."""
    person, made = shown.person, shown.made
    driver = shown.driver.clip.image[1]
    return [person.clip.image[0], driver, made[DRIVEN], person.truth.image[DRIVEN], made[DRIVEN_NEUTRAL]]


def draw_novel(shown: Shown) -> list:
    """Source; the result from each of `VIEW_YAWS`; the truth."""
    person, views = shown.person, slice(VIEWS, VIEWS + len(VIEW_YAWS))
    return [person.clip.image[0], *shown.made[views], *person.truth.image[views]]


SHEETS = {"self": draw_self, "cross": draw_cross, "novel": draw_novel}
