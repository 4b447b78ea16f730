"""The Fréchet distance between two sets of features, each seen as a Gaussian (arXiv 1706.08500, equation 6).

Float64 NumPy on the host: a covariance of 2048 features has eigenvalues over many orders of magnitude, whose
square roots enter the distance. Statistics are gathered batch by batch, and merge: those of several hosts or
runs are those of all their features together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and scatter of features seen so far.

    Attributes:
      count: number of feature vectors.
      mean: (D,) their mean; zeros where there are none.
      scatter: (D, D) sum of (x - mean)(x - mean)^T.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def empty(cls, size: int) -> FeatureStatistics:
        """Of no features of length `size`."""
        return cls(0, np.zeros(size), np.zeros((size, size)))

    @classmethod
    def of(cls, features: np.ndarray) -> FeatureStatistics:
        """Of features (N, D), N >= 1."""
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or not len(features):
            raise ValueError(f"features: expected shape (N, D) with N >= 1, got {features.shape}")
        if not np.isfinite(features).all():
            raise ValueError("features: expected finite numbers, got NaN or infinity")
        mean = features.mean(0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    def merge(self, other: FeatureStatistics) -> FeatureStatistics:
        """Of both sets of features together (Chan, Golub, LeVeque 1983)."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"other: expected features of length {len(self.mean)}, got length {len(other.mean)}"
            )
        count = self.count + other.count
        if not count:
            return self
        shift = other.mean - self.mean
        between = np.outer(shift, shift) * (self.count * other.count / count)
        return FeatureStatistics(
            count, self.mean + shift * (other.count / count), self.scatter + other.scatter + between
        )

    def update(self, features: np.ndarray) -> FeatureStatistics:
        """With features (N, D) added."""
        return self.merge(FeatureStatistics.of(features))

    @property
    def covariance(self) -> np.ndarray:
        """(D, D), unbiased: scatter / (count - 1)."""
        if self.count < 2:
            raise ValueError(f"covariance: needs at least 2 feature vectors, got {self.count}")
        return self.scatter / (self.count - 1)


def frechet_distance(
    mean1: np.ndarray, covariance1: np.ndarray, mean2: np.ndarray, covariance2: np.ndarray
) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two Gaussians, means (D,) and covariances (D, D).

    The trace of the product's root is the sum of the singular values of C1^(1/2) C2^(1/2): no root of a
    matrix that need not be symmetric, no complex numbers, and exact where covariances have no full rank.
    """
    mean1, mean2 = np.asarray(mean1, np.float64), np.asarray(mean2, np.float64)
    size = mean1.shape[0]
    for name, value, shape in (
        ("mean2", mean2, (size,)),
        ("covariance1", covariance1, (size, size)),
        ("covariance2", covariance2, (size, size)),
    ):
        if np.shape(value) != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {np.shape(value)}")
    values1, vectors1 = _eigen(covariance1)
    values2, vectors2 = _eigen(covariance2)
    product = np.sqrt(values1)[:, None] * (vectors1.T @ vectors2) * np.sqrt(values2)
    overlap = np.linalg.svd(product, compute_uv=False).sum()
    return float(np.sum((mean1 - mean2) ** 2) + values1.sum() + values2.sum() - 2 * overlap)


def _eigen(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, those below 0 by rounding set to 0, and vectors as columns."""
    values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
    return np.maximum(values, 0), vectors
