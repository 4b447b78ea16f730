"""Where a film is cut: neighbouring frames that show something else.

Frames are compared as small grey pictures, by their correlation: 1 for equal ones whatever their brightness,
about 0 for two that have nothing in common. A head that turns or a hand that comes up leaves most of it as it
was.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from PIL import Image

THUMBNAIL = 24  # pixels a side
SAME_SHOT = 0.6  # correlation of neighbouring frames, below which there is a cut between them
FLAT = 1.0  # grey levels of standard deviation, below which a picture shows nothing


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """(24, 24) float32, of mean 0 and length 1, of a picture (H, W, 3) uint8; zeros of a flat one."""
    grey = Image.fromarray(picture).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX).convert("L")
    values = np.asarray(grey, np.float32)
    values = values - values.mean()
    length = np.linalg.norm(values)
    return values / length if length > FLAT * THUMBNAIL else np.zeros_like(values)


def is_cut(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether two thumbnails of neighbouring frames are of different shots, which flat ones do not tell."""
    return bool(before.any() and after.any() and (before * after).sum() < SAME_SHOT)


def is_one_clip(pictures: Sequence[np.ndarray]) -> bool:
    """Whether pictures (H, W, 3) uint8 in order are frames of one clip, and not photos put together.

    Frames have one size, and few cuts: at most one in eight neighbours.
    """
    if len({picture.shape[:2] for picture in pictures}) > 1:
        return False
    cuts = [is_cut(*pair) for pair in pairwise(map(thumbnail, pictures))]
    return sum(cuts) <= len(cuts) / 8
