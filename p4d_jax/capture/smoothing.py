"""A film's fitted motion without the jitter of its landmarks, and without lag.

Each frame becomes a mean of the frames around it, before and after, weighted by how near they are in time and
how alike in value: a still head is averaged over a quarter of a second to either side, and a blink, which is
larger than the noise, stays as it is (a bilateral filter, which has zero phase). The noise is told from the
film: fourth differences of a head's motion are mostly noise, and the lower fourth of them does not see those
that are not. Frames without a face, which repeat another, tell nothing. T frames, C channels.
"""

from __future__ import annotations

from math import comb

import numpy as np
from scipy import ndimage

WIDTH = 0.25  # seconds, standard deviation in time
LIKE = 2.0  # standard deviations of the noise by which values may differ and still count as alike
FIRST = 0.6  # frames, standard deviation of the Gaussian after which values are compared
PASSES = 2
LEAST = 1e-9  # noise, lest a division be by 0
SIGMAS = 3  # deviations in time to which the mean reaches


def smooth_still(values: np.ndarray, times: np.ndarray, width: float, together: bool = True) -> np.ndarray:
    """Values (T, C) without noise where they hold still.

    Args:
      values: One row a frame.
      times: (T,) seconds, ascending, of the frames.
      width: Seconds, standard deviation in time; 0 changes nothing.
      together: Whether the channels of a frame are alike or not together, or each by itself.
    """
    if width <= 0 or len(values) < 3:
        return values
    noise = noise_of(values, together)
    reach = min(max(1, round(SIGMAS * width / float(np.median(np.diff(times))))), len(values) - 1)
    smooth = ndimage.gaussian_filter1d(values, FIRST, axis=0, mode="nearest")
    for _ in range(PASSES):
        total, weights = np.zeros_like(values), np.zeros((len(values), 1 if together else values.shape[1]))
        for shift in range(-reach, reach + 1):
            low, high = max(0, -shift), min(len(values), len(values) - shift)
            here, there = slice(low, high), slice(low + shift, high + shift)
            unlike = ((smooth[here] - smooth[there]) / (LIKE * noise)) ** 2
            unlike = unlike.mean(axis=1, keepdims=True) if together else unlike
            later = (times[there] - times[here])[:, None] / width
            weight = np.exp(-0.5 * later**2 - 0.5 * unlike)
            total[here] += weight * values[there]
            weights[here] += weight
        smooth = total / weights
    return smooth


def noise_of(values: np.ndarray, together: bool = True) -> np.ndarray:
    """(C,) standard deviation of white noise in values (T, C); together: see `smooth_still`."""
    order = min(4, len(values) - 1)
    differences = np.abs(np.diff(values, n=order, axis=0))
    moved = np.broadcast_to(differences.any(axis=1, keepdims=True), differences.shape)
    moved = moved if together else differences > 0
    told = zip(differences.T, moved.T, strict=True)
    lower = [np.quantile(column[rows], 0.25) if rows.any() else 0.0 for column, rows in told]
    # A fourth of a normal variable's sizes are below 0.3186 deviations; differences of order n have variance
    # (2n choose n).
    return np.array(lower) / (0.3186 * np.sqrt(comb(2 * order, order))) + LEAST
