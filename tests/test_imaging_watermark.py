"""Marks of synthetic pictures: found again, hardly seen, and in the alpha only where they must be."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from p4d_jax import assets
from p4d_jax.imaging.video import open_video
from p4d_jax.imaging.watermark import FOUND, invisible_score, mark_invisibly, mark_visibly
from p4d_jax.imaging.writing import save_video


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


def test_alpha_stays_but_under_the_word(photo):
    nothing = np.concatenate([photo, np.zeros_like(photo[..., :1])], axis=-1)
    shown = mark_visibly(nothing)[..., 3] > 0
    rows, columns = np.nonzero(shown)
    assert 0.002 < shown.mean() < 0.05 and rows.min() > 0.9 * len(photo) and columns.min() > 0.6 * len(photo)
    rgba = np.concatenate([photo, photo[..., :1]], axis=-1)
    np.testing.assert_array_equal(mark_invisibly(rgba)[..., 3], rgba[..., 3])
    np.testing.assert_array_equal(mark_invisibly(rgba)[..., :3], mark_invisibly(photo))


def test_the_invisible_mark_is_found_in_a_film(photo, tmp_path):
    save_video(tmp_path / "marked.mp4", [mark_invisibly(photo)] * 2)
    assert all(invisible_score(frame.picture) > FOUND for frame in open_video(tmp_path / "marked.mp4"))
