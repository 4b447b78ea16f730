"""How unevenly a film moves: second differences in time.

Films (T, H, W, 3) in [-1, 1], masks (T, H, W, 1) >= 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import struct

from p4d_jax.evaluation.case import Case
from p4d_jax.evaluation.people import FILM
from p4d_jax.train.losses import weighted_mean
from p4d_jax.types import Array

MIN_FRAMES = 3  # of a second difference
GREY_LEVELS = 127.5  # of 255, in one unit of [-1, 1]


def compare_films(case: Case) -> Iterator[tuple[str, float]]:
    """Flicker of the film against the true one: of head, hair and shoulders, and the face."""
    truth = case.person.film
    if truth is None:
        return
    for suffix, masks in (("", truth.mask), ("_face", truth.face_mask)):
        values = _flicker(case.made[FILM:], truth.image, masks)
        result, true, error = (float(x) for x in (values.result, values.truth, values.error))
        yield f"flicker/change{suffix}", result
        yield f"flicker/change{suffix}_truth", true
        yield f"flicker/excess{suffix}", result - true
        yield f"flicker/error{suffix}", error


@struct.dataclass
class Flicker:
    """How unevenly a film moves, in grey levels of 255: mean |x(t+1) - 2 x(t) + x(t-1)| in the mask.

    Attributes:
      result, truth: of the film and of the true one.
      error: of their difference; 0 where the film errs by the same in every frame, or not at all.
    """

    result: Array
    truth: Array
    error: Array


def second_difference(film: Array, masks: Array) -> Array:
    """Mean of |x(t+1) - 2 x(t) + x(t-1)| of a film (T >= 3, H, W, C), in grey levels of 255.

    masks: (T, H, W, 1); a pixel counts by the largest of its three.
    """
    if film.shape[0] < 3:
        raise ValueError(f"film: a second difference takes at least 3 frames, got {film.shape[0]}")
    change = jnp.abs(film[2:] - 2.0 * film[1:-1] + film[:-2])
    weights = jnp.maximum(jnp.maximum(masks[2:], masks[1:-1]), masks[:-2])
    return GREY_LEVELS * weighted_mean(change, weights)


def flicker(film: Array, truth: Array, masks: Array) -> Flicker:
    """`Flicker` of a film (T, H, W, 3) against the true one, where the truth's masks (T, H, W, 1) are."""
    return Flicker(*(second_difference(x, masks) for x in (film, truth, film - truth)))


_flicker = jax.jit(flicker)
