"""A head pasted into its photo: the photo stays what it is around it, and no seam shows."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from p4d_jax.avatar.paste import PasteBack, head_surroundings, inside_border, softness_of
from p4d_jax.capture.crop import crop_matrix
from p4d_jax.geometry import look_at_camera

SIZE = 128


def disc(radius: float, size: int = SIZE, shift: float = 0.0) -> np.ndarray:
    """(size, size) alpha of a head in the middle, `shift` pixels to the right."""
    ticks = np.arange(size) - size / 2 + 0.5
    return (np.hypot(ticks[None] - shift, ticks[:, None]) < radius).astype(np.float32)


def place_of(scale: float) -> PasteBack:
    """A black photo whose crop is `scale` times as large as the avatar's pictures."""
    side = scale * SIZE
    photo = np.zeros((round(2 * side), round(1.5 * side), 3), np.uint8)
    matrix = crop_matrix(np.array([0.75 * side + 0.3, 0.8 * side]), side)
    softness = softness_of(matrix, SIZE)
    head = head_surroundings(look_at_camera(0.0, 0.0, 4.0), SIZE, softness) * inside_border(SIZE, softness)
    return PasteBack(photo, matrix, disc(30), head, softness)


def white_frame(shift: float) -> SimpleNamespace:
    return SimpleNamespace(picture=np.full((SIZE, SIZE, 3), 255, np.uint8), alpha=disc(30, shift=shift))


@pytest.mark.parametrize("scale", [0.7, 1.0, 3.0])
@pytest.mark.parametrize("shift", [0, 12, 30])
def test_white_on_black_begins_without_a_seam_and_outside_nothing_changes(scale, shift):
    place = place_of(scale)
    frame = white_frame(shift)
    pasted, region = place(frame)[..., 0], place.region(frame)
    left, top, right, bottom = place.window(place.photo)
    changed = pasted > 0
    assert not changed[:, :left].any() and not changed[:, right:].any()
    assert not changed[:top].any() and not changed[bottom:].any()
    rim = changed & ndimage.binary_dilation(~changed)
    assert rim.any() and pasted[rim].max() < 3
    assert pasted.max() >= 254 and region.max() > 0.99
    assert region[0].max() == region[-1].max() == region[:, 0].max() == 0


def test_the_region_holds_the_head_where_it_was_and_where_it_is_and_no_body():
    place = place_of(2.0)
    region = place.region(white_frame(12))
    above = np.arange(SIZE)[:, None] < 0.65 * SIZE
    assert region[(place.person > 0) & above].min() > 0.9
    assert region[(disc(30, shift=12) > 0) & above].min() > 0.9
    assert region[-2:].max() == 0


def test_in_a_film_the_region_stays_inside_of_the_head():
    place = place_of(2.0)
    film = place.into_film(place.matrix)
    frame = white_frame(0)
    assert film.region(frame)[frame.alpha == 0].max() < 0.05
    assert film.region(frame)[SIZE // 2, SIZE // 2] > 0.99
