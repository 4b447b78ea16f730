"""SSIM and flicker against references in float64, and what they must not see."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from p4d_jax.evaluation.flicker import flicker, second_difference
from p4d_jax.evaluation.pictures import SSIM_WINDOW, ssim, ssim_map

SIDE = 20


@pytest.fixture
def pair(rng):
    """Two pictures that are somewhat alike."""
    image = np.tanh(rng.normal(size=(SIDE, SIDE, 3)))
    return image, np.clip(image + 0.3 * rng.normal(size=image.shape), -1, 1)


def reference_ssim(a, b):
    """Wang's formula, window by window, float64."""
    a, b = a / 2 + 0.5, b / 2 + 0.5
    place = np.arange(11) - 5
    weights = np.exp(-(place[:, None] ** 2 + place[None] ** 2) / (2 * 1.5**2))[..., None]
    weights /= weights.sum()
    result = np.zeros((SIDE - 10, SIDE - 10, 3))
    for i in range(SIDE - 10):
        for j in range(SIDE - 10):
            x, y = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mean_x, mean_y = (weights * x).sum((0, 1)), (weights * y).sum((0, 1))
            var_x, var_y = (
                (weights * (x - mean_x) ** 2).sum((0, 1)),
                (weights * (y - mean_y) ** 2).sum((0, 1)),
            )
            both = (weights * (x - mean_x) * (y - mean_y)).sum((0, 1))
            result[i, j] = (2 * mean_x * mean_y + 1e-4) * (2 * both + 9e-4)
            result[i, j] /= (mean_x**2 + mean_y**2 + 1e-4) * (var_x + var_y + 9e-4)
    return result


def test_ssim_is_the_formula_of_the_paper_and_of_scikit_image(pair):
    found = np.asarray(ssim_map(*map(np.float32, pair)))
    np.testing.assert_allclose(found, reference_ssim(*pair), atol=2e-5)
    _, theirs = structural_similarity(
        *(x / 2 + 0.5 for x in pair), data_range=1, channel_axis=2, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    np.testing.assert_allclose(found, theirs[5:-5, 5:-5], atol=2e-5)


def test_ssim_of_a_picture_with_itself_is_one_and_of_its_negative_is_low(pair):
    assert float(ssim(pair[0], pair[0])) == pytest.approx(1.0, abs=1e-5)
    assert float(ssim(pair[0], -pair[0])) < 0.1 < float(ssim(*pair)) < 1
    assert float(ssim(*pair)) == pytest.approx(float(ssim(*pair[::-1])), abs=1e-6)


def test_ssim_looks_only_where_the_mask_is(pair):
    mask = np.zeros((SIDE, SIDE, 1))
    mask[:, :8] = 1
    spoiled = pair[0].copy()
    spoiled[:, 8 + SSIM_WINDOW // 2 :] = 1
    assert float(ssim(spoiled, pair[0], mask)) == pytest.approx(1.0, abs=1e-5)
    assert float(ssim(spoiled, pair[0])) < 0.95


def test_ssim_refuses_pictures_smaller_than_its_window(pair):
    with pytest.raises(ValueError, match="at least 11 x 11"):
        ssim_map(pair[0][:8], pair[1][:8])


def test_a_film_that_moves_evenly_has_no_second_difference(rng):
    start, speed = rng.normal(size=(2, 6, 6, 3)) * 0.1
    film = start + np.arange(5)[:, None, None, None] * speed
    masks = np.ones((5, 6, 6, 1))
    assert float(second_difference(film, masks)) == pytest.approx(0, abs=1e-4)
    with pytest.raises(ValueError, match="at least 3 frames"):
        second_difference(film[:2], masks[:2])


def test_flicker_is_in_grey_levels_and_forgives_an_error_that_stays(rng):
    truth = rng.uniform(-0.5, 0.5, size=(4, 6, 6, 3))
    masks = np.ones((4, 6, 6, 1))
    same = flicker(truth + 0.25, truth, masks)
    assert float(same.error) == pytest.approx(0, abs=1e-4)
    assert float(same.result) == pytest.approx(float(same.truth), rel=1e-5)
    shaken = truth + np.array([0, 2, 0, 2])[:, None, None, None] / 255  # one level up and down
    assert float(flicker(shaken, truth, masks).error) == pytest.approx(2.0, rel=1e-3)


def test_flicker_outside_the_masks_of_all_three_frames_does_not_count(rng):
    film, masks = np.zeros((3, 6, 6, 3)), np.zeros((3, 6, 6, 1))
    film[1, :, 3:], masks[0, :, :3] = 1.0, 1
    assert float(second_difference(film, masks)) == 0
    masks[2, :, 3:] = 1
    assert float(second_difference(film, masks)) > 10
