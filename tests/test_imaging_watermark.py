"""Marks of synthetic pictures: found again, hardly seen, and never in the alpha."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from p4d_jax import assets
from p4d_jax.imaging.watermark import FOUND, MARKS, invisible_score, mark_invisibly, mark_visibly


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return assets.photo("astronaut")


def compressed(picture: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def test_the_invisible_mark_is_found_after_compression_and_resizing_and_not_where_it_is_not(photo):
    marked = mark_invisibly(photo)
    smaller = np.asarray(Image.fromarray(marked).resize((384, 384), Image.Resampling.LANCZOS))
    for picture in (marked, compressed(marked, 75), smaller):
        assert invisible_score(picture) > FOUND
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (200, 300, 3), np.uint8) for _ in range(20)]
    for picture in (photo, photo[:, ::-1], smaller[::-1], *noise):
        assert abs(invisible_score(picture)) < 0.7 * FOUND


def test_the_invisible_mark_is_hardly_seen(photo):
    error = np.mean((mark_invisibly(photo).astype(float) - photo) ** 2)
    assert 10 * np.log10(255**2 / error) > 40


def test_the_visible_mark_is_in_its_corner(photo):
    changed = np.abs(mark_visibly(photo).astype(int) - photo).max(axis=-1) > 0
    rows, columns = np.nonzero(changed)
    assert rows.min() > 0.9 * len(photo) and columns.min() > 0.6 * photo.shape[1]


@pytest.mark.parametrize("name", MARKS)
def test_alpha_stays(photo, name):
    rgba = np.concatenate([photo, photo[..., :1]], axis=-1)
    marked = MARKS[name](rgba)
    np.testing.assert_array_equal(marked[..., 3], rgba[..., 3])
    assert (marked[..., :3] != rgba[..., :3]).any()
