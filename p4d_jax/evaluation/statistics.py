"""Means over people, their standard errors, and ratios of means."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def statistics(values: Sequence[float], of: str = "people") -> dict[str, float | int | None]:
    """Mean, its standard error (None for one value) and count, under the name of what is counted."""
    values = np.asarray(values, np.float64)
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return {
        "mean": round(float(values.mean()), 5),
        "standard_error": None if error is None else round(error, 5),
        of: len(values),
    }


def jackknife(estimate: Callable[[np.ndarray], float], values: np.ndarray) -> dict:
    """An estimate from rows (N, ...), and its standard error by leaving out one at a time."""
    count, error = len(values), None
    if count > 1:
        left_out = np.array([estimate(np.delete(values, i, axis=0)) for i in range(count)])
        error = round(float(np.sqrt((count - 1) * np.mean((left_out - left_out.mean()) ** 2))), 5)
    return {"mean": round(float(estimate(values)), 5), "standard_error": error, "people": count}


def ratio(values: np.ndarray) -> float:
    """Mean of column 0 over the mean of column 1."""
    above, below = values.mean(0)
    return above / max(below, 1e-12)


def net_ratio(values: np.ndarray) -> float:
    """Root mean square of column 0 over that of column 1, both without column 2's: the measure's own."""
    result, unchanged, floor = np.mean(values**2, axis=0)
    return np.sqrt(max(result - floor, 0.0) / max(unchanged - floor, 1e-12))
