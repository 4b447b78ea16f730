"""The filter of a film's motion: a still head is still, a moving one is not late, a blink stays a blink."""

from __future__ import annotations

import numpy as np
import pytest

from p4d_jax.capture.smoothing import noise_of, smooth_still

RATE, WIDTH = 25, 0.25  # frames a second; seconds


def smooth(values: np.ndarray) -> np.ndarray:
    return smooth_still(values, np.arange(len(values)) / RATE, WIDTH)


def test_noise_is_told_and_motion_is_not_noise(rng):
    noise = rng.normal(0, [0.01, 0.03], (2000, 2))
    np.testing.assert_allclose(noise_of(noise), [0.01, 0.03], rtol=0.15)
    slow = np.sin(np.arange(2000) / 8)[:, None]
    np.testing.assert_allclose(noise_of(noise + slow), [0.01, 0.03], rtol=0.3)


def test_a_still_head_is_still(rng):
    noise = rng.normal(0, 1, (400, 3))
    still = smooth(5 + noise)
    assert still.std(axis=0).max() < 0.3
    assert abs(still.mean() - 5 - noise.mean()) < 0.05


def test_a_blink_among_noise_stays_where_and_what_it_was(rng):
    blink = np.zeros(200)
    blink[100:105] = [0.5, 1, 1, 0.7, 0.3]
    seen = smooth((blink + rng.normal(0, 0.01, 200))[:, None])[:, 0]
    np.testing.assert_allclose(seen[98:108], blink[98:108], atol=0.06)
    assert seen[:90].std() < 0.004


def test_nothing_lags(rng):
    truth = np.cumsum(np.convolve(rng.normal(0, 1, 440), np.ones(40) / 40, "valid"))[:, None]
    seen = smooth(truth + rng.normal(0, 0.05, truth.shape))
    error = [np.mean((seen[10 + k : -10 + k] - truth[10:-10]) ** 2) for k in (-1, 0, 1)]
    assert error[1] < 0.3 * min(error[0], error[2])
    backwards = smooth(truth[::-1])[::-1]
    np.testing.assert_allclose(backwards, smooth(truth), atol=1e-9)


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_short_clips_stay_finite(length):
    values = np.arange(length, dtype=float)[:, None]
    assert np.isfinite(smooth(values)).all()
    np.testing.assert_array_equal(smooth_still(values, values[:, 0], 0), values)


def test_frames_count_by_their_times(rng):
    """Of a film whose second half has a fourth of the frames a second, as of one with even frames."""
    times = np.concatenate([np.arange(200) / 50, 4 + np.arange(50) / 12.5])
    noise = rng.normal(0, 1, (250, 1))
    fast, slow = np.split(smooth_still(noise, times, WIDTH), [200])
    assert fast.std() < 0.25 < slow.std() < 0.6


def test_channels_by_themselves_are_as_if_each_were_alone(rng):
    noise = rng.normal(0, 1, (60, 3)) * [1.0, 0.1, 0.0]
    noise[20:40, 1] = noise[20, 1]
    times = np.arange(60) / RATE
    alone = [smooth_still(column[:, None], times, WIDTH) for column in noise.T]
    np.testing.assert_allclose(smooth_still(noise, times, WIDTH, together=False), np.hstack(alone))


def test_frames_that_repeat_another_are_no_sign_of_little_noise(rng):
    held = np.concatenate([rng.normal(0, 1, (100, 1)), np.full((100, 1), 3.0)])
    assert noise_of(held) == pytest.approx(1, rel=0.3)
    assert noise_of(np.ones((9, 2))) == pytest.approx(0, abs=1e-6)
