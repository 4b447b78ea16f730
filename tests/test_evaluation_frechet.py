"""The Fréchet distance against closed forms, and its streaming statistics against NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p4d_jax.evaluation.frechet import FeatureStatistics, frechet_distance


def _covariance(rng, size, rank):
    root = rng.standard_normal((size, rank))
    return root @ root.T


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 12), rank=st.integers(1, 12))
def test_equal_gaussians_have_no_distance_and_the_distance_is_symmetric(seed, size, rank):
    rng = np.random.default_rng(seed)
    a, b = _covariance(rng, size, rank), _covariance(rng, size, rank)
    mean_a, mean_b = rng.standard_normal((2, size))
    scale = np.trace(a) + np.trace(b) + 1
    assert abs(frechet_distance(mean_a, a, mean_a, a)) < 1e-7 * scale
    there, back = frechet_distance(mean_a, a, mean_b, b), frechet_distance(mean_b, b, mean_a, a)
    assert there == pytest.approx(back, abs=1e-7 * scale)
    assert there >= np.sum((mean_a - mean_b) ** 2) - 1e-7 * scale


def test_gaussians_of_one_set_of_axes(rng):
    """Where covariances commute, it is the distance of the deviations along the axes."""
    axes, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    s, t = rng.uniform(0, 3, (2, 6))
    mean, shift = rng.standard_normal((2, 6))
    found = frechet_distance(mean, axes * s**2 @ axes.T, mean + shift, axes * t**2 @ axes.T)
    assert found == pytest.approx(np.sum(shift**2) + np.sum((s - t) ** 2), rel=1e-9)


def test_gaussians_of_two_dimensions(rng):
    """The trace of a 2x2 root is sqrt(tr + 2 sqrt(det))."""
    a, b = _covariance(rng, 2, 2), _covariance(rng, 2, 2)
    product = a @ b
    overlap = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    found = frechet_distance(np.zeros(2), a, np.zeros(2), b)
    assert found == pytest.approx(np.trace(a) + np.trace(b) - 2 * overlap, rel=1e-9)


def test_gaussians_of_any_axes_against_the_root_of_the_product(rng):
    a, b = _covariance(rng, 20, 30), _covariance(rng, 20, 30)
    values, vectors = np.linalg.eig(a @ b)
    root = vectors * np.sqrt(values) @ np.linalg.inv(vectors)
    np.testing.assert_allclose(root @ root, a @ b, atol=1e-8)
    found = frechet_distance(np.zeros(20), a, np.zeros(20), b)
    assert found == pytest.approx(np.trace(a + b - 2 * root).real, rel=1e-9)


def test_statistics_of_batches_are_those_of_all(rng):
    features = rng.standard_normal((50, 5)) * 0.01 + 1000.0
    statistics = FeatureStatistics.empty(5)
    for batch in np.split(features, [1, 7, 30]):
        statistics = statistics.update(batch)
    assert statistics.count == 50
    np.testing.assert_allclose(statistics.mean, features.mean(0), rtol=1e-14)
    np.testing.assert_allclose(statistics.covariance, np.cov(features, rowvar=False), rtol=1e-8, atol=1e-14)
    halves = FeatureStatistics.of(features[25:]).merge(FeatureStatistics.of(features[:25]))
    np.testing.assert_allclose(halves.covariance, statistics.covariance, rtol=1e-8, atol=1e-14)


def test_samples_of_one_gaussian_are_near(rng):
    root = rng.standard_normal((4, 4))
    a, b = (FeatureStatistics.of(rng.standard_normal((4000, 4)) @ root) for _ in range(2))
    shifted = FeatureStatistics.of(rng.standard_normal((4000, 4)) @ root + 1.0)
    assert 0 <= frechet_distance(a.mean, a.covariance, b.mean, b.covariance) < 0.05
    assert frechet_distance(a.mean, a.covariance, shifted.mean, shifted.covariance) == pytest.approx(
        4, abs=0.5
    )


def test_fewer_samples_than_features(rng):
    """Singular covariances: the overlap is the sum of singular values of the product of centred samples."""
    a, b = rng.standard_normal((15, 40)), 2 * rng.standard_normal((25, 40))
    s, t = FeatureStatistics.of(a), FeatureStatistics.of(b)
    product = (a - a.mean(0)) @ (b - b.mean(0)).T / np.sqrt(14 * 24)
    overlap = np.linalg.svd(product, compute_uv=False).sum()
    traces = np.trace(s.covariance) + np.trace(t.covariance)
    expected = np.sum((s.mean - t.mean) ** 2) + traces - 2 * overlap
    assert frechet_distance(s.mean, s.covariance, t.mean, t.covariance) == pytest.approx(expected, rel=1e-7)


def test_wrong_input_is_named(rng):
    with pytest.raises(ValueError, match=r"mean2: expected shape \(3,\)"):
        frechet_distance(np.zeros(3), np.eye(3), np.zeros(2), np.eye(3))
    with pytest.raises(ValueError, match=r"covariance1: expected shape \(3, 3\)"):
        frechet_distance(np.zeros(3), np.eye(2), np.zeros(3), np.eye(3))
    with pytest.raises(ValueError, match="at least 2 feature vectors, got 1"):
        _ = FeatureStatistics.of(np.zeros((1, 3))).covariance
    with pytest.raises(ValueError, match="finite"):
        FeatureStatistics.of(np.full((2, 3), np.nan))
    with pytest.raises(ValueError, match="length 3, got length 2"):
        FeatureStatistics.of(np.zeros((2, 3))).update(np.zeros((2, 2)))
