"""Which pixels of a portrait are the person: a matte from the fitted head and the picture's own edges.

No segmentation network ships with the package. What the fitted mesh covers is the person, what is far from it
is not, and between the two the label spreads along equal colours: the random walker of L. Grady (IEEE PAMI
2006). S is the picture's side; x right, y down.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.segmentation import random_walker

WORK_SIZE = 128  # the walker's side: hair needs no more, and its time grows quickly
SURELY_INSIDE = 0.03  # of the head's width: how far from the mesh's rim the person is certain
HAIR_REACH = 0.42  # of the head's width: how far above and beside the mesh hair may lie
SHOULDERS = 1.9  # head widths that shoulders span at the picture's bottom, at most
EDGE_SHARPNESS = 150.0


def estimate_matte(picture: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """(S, S, 1) float32 in [0, 1]: 1 on head, hair and shoulders.

    Args:
      picture: (S, S, 3) uint8 portrait.
      covered: (S, S) bool, what the fitted head's mesh covers.
    """
    size = covered.shape[0]
    if picture.shape != (size, size, 3) or covered.ndim != 2:
        raise ValueError(
            f"picture, covered: expected (S, S, 3) and (S, S), got {picture.shape}, {covered.shape}"
        )
    small = Image.fromarray(picture).resize((WORK_SIZE, WORK_SIZE), Image.Resampling.BOX)
    mask = Image.fromarray(covered).resize((WORK_SIZE, WORK_SIZE), Image.Resampling.NEAREST)
    seeds = place_seeds(np.asarray(mask))
    if not (seeds == 2).any() or not (seeds == 1).any():
        return covered[..., None].astype(np.float32)
    colors = np.asarray(small, np.float64) / 255.0
    person = random_walker(
        colors, seeds, beta=EDGE_SHARPNESS, mode="bf", return_full_prob=True, channel_axis=-1
    )[0]
    soft = np.clip((ndimage.gaussian_filter(person, 0.7) - 0.5) * 3.0 + 0.5, 0.0, 1.0)
    full = Image.fromarray(soft.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(full, np.float32), 0.0, 1.0)[..., None]


def place_seeds(mask: np.ndarray) -> np.ndarray:
    """(W, W) labels for the walker: 1 surely the person, 2 surely not, 0 to be found out."""
    rows, columns = np.nonzero(mask)
    if rows.size == 0:
        return np.zeros(mask.shape, np.int32)
    width = columns.max() - columns.min() + 1
    inside = ndimage.distance_transform_edt(mask) > SURELY_INSIDE * width
    away = ndimage.distance_transform_edt(~mask) > HAIR_REACH * width
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    chin = np.quantile(rows, 0.75)
    middle = columns[rows > chin].mean() if (rows > chin).any() else columns.mean()
    # Shoulders widen below the chin; the body under the neck's end is certain in a narrow column.
    below = np.clip((y - chin) / max(mask.shape[0] - 1 - chin, 1), 0.0, 1.0)
    maybe_body = (y > chin) & (np.abs(x - middle) < (0.5 + below * SHOULDERS / 2 * 1.2) * width)
    body = (y > rows.max() - 1) & (np.abs(x - middle) < 0.25 * width)
    seeds = np.zeros(mask.shape, np.int32)
    seeds[away & ~maybe_body] = 2
    seeds[inside | body] = 1
    return seeds
