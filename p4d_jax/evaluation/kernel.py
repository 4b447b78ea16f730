"""The kernel distance between two sets of features (KID; Binkowski et al. 2018, arXiv 1801.01401).

The unbiased estimate of the squared maximum mean discrepancy for the kernel (x . y / D + 1)^3, over all
features at once: what the paper's mean over random subsets estimates with more noise. It may be negative
where the sets do not differ. Float64 NumPy on the host.
"""

from __future__ import annotations

import numpy as np

ROWS_AT_ONCE = 1024  # of the kernel's matrix


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """The distance of features (N, D) and (M, D); N, M >= 2.

    Raises:
      ValueError: A set is too small, or the lengths of the features differ.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if min(len(first), len(second)) < 2 or first.shape[1:] != second.shape[1:]:
        raise ValueError(
            f"first, second: expected (N, D) and (M, D) with N, M >= 2, got {first.shape} and {second.shape}"
        )
    within = 0.0
    for features in (first, second):
        itself = np.sum(polynomial_kernel(np.sum(features**2, axis=1), features.shape[1]))
        within += (kernel_sum(features, features) - itself) / (len(features) * (len(features) - 1))
    return float(within - 2 * kernel_sum(first, second) / (len(first) * len(second)))


def polynomial_kernel(products: np.ndarray, size: int) -> np.ndarray:
    """(x . y / D + 1)^3 of inner products, D = `size`."""
    return (products / size + 1) ** 3


def kernel_sum(first: np.ndarray, second: np.ndarray) -> float:
    """Sum of the kernel over all pairs of features (N, D) and (M, D)."""
    blocks = (first[start : start + ROWS_AT_ONCE] for start in range(0, len(first), ROWS_AT_ONCE))
    return sum(float(polynomial_kernel(block @ second.T, first.shape[1]).sum()) for block in blocks)
