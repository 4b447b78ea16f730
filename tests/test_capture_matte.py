"""The matte follows the picture's edges around the fitted head."""

from __future__ import annotations

import numpy as np
import pytest

from p4d_jax.capture.matte import estimate_matte


def portrait(size: int, rng: np.random.Generator):
    """A face in hair above a shirt on a wall: picture, what the mesh (bald) covers, what is the person."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    face = ((x - 0.5) / 0.17) ** 2 + ((y - 0.5) / 0.23) ** 2 < 1
    hair = ((x - 0.5) / 0.22) ** 2 + ((y - 0.44) / 0.27) ** 2 < 1
    neck = (np.abs(x - 0.5) < 0.09) & (y > 0.6) & (y < 0.85)
    shirt = y > 0.85 + 0.6 * (x - 0.5) ** 2
    picture = np.full((size, size, 3), (150, 170, 190), np.float64)
    for part, color in ((hair, (60, 40, 30)), (shirt, (120, 40, 60)), (neck | face, (210, 160, 130))):
        picture[part] = color
    picture += rng.normal(0, 4, picture.shape)
    skull = ((x - 0.5) / 0.19) ** 2 + ((y - 0.46) / 0.24) ** 2 < 1
    return picture.clip(0, 255).astype(np.uint8), face | skull | neck, face | hair | neck | shirt


def test_hair_and_shoulders_belong_to_the_person_and_the_wall_does_not(rng):
    picture, covered, person = portrait(192, rng)
    matte = estimate_matte(picture, covered)
    assert matte.shape == (192, 192, 1) and matte.dtype == np.float32
    assert matte.min() >= 0 and matte.max() <= 1
    found = matte[..., 0] > 0.5
    overlap = (found & person).sum() / (found | person).sum()
    alone = (covered & person).sum() / (covered | person).sum()
    assert overlap > 0.9, overlap
    assert overlap > alone + 0.2


def test_mesh_that_fills_the_picture_is_its_own_matte():
    covered = np.ones((64, 64), bool)
    matte = estimate_matte(np.zeros((64, 64, 3), np.uint8), covered)
    np.testing.assert_array_equal(matte[..., 0], 1.0)


def test_sizes_that_differ_are_refused():
    with pytest.raises(ValueError, match="covered"):
        estimate_matte(np.zeros((64, 64, 3), np.uint8), np.zeros((32, 32), bool))
