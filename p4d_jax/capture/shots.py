"""Where a film is cut: neighbouring frames that show something else, or somebody else before the same.

Frames are compared as small grey pictures, by their correlation: 1 for equal ones whatever their brightness,
about 0 for two that have nothing in common. A head that turns or a hand that comes up leaves most of it as it
was. Faces are compared by the greys at their landmarks, which stay where a head turns and speaks. Where one
shot dissolves into another, the frames between are mixtures of both, as no motion makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from PIL import Image
from scipy import ndimage

from p4d_jax.capture.landmarks import Landmarks

THUMBNAIL = 24  # pixels a side
SAME_SHOT = 0.6  # correlation of neighbouring frames, below which there is a cut between them
# Correlation of the faces of neighbouring frames below which they are two people's: of one person who turns
# and speaks it is 0.98 or more, of photos of different people 0.84 or less.
SAME_FACE = 0.9
BLUR = 0.06  # of faces before they are compared, in distances between the eyes
# Of dissolves: half of how many frames they take; how far frames between may be from a mixture of both ends,
# as a share of how far these are apart, and from the share of it that they should have.
DISSOLVES = (3, 6, 12, 24)
MIXED, EVEN = 0.2, 0.2
FLAT = 1.0  # grey levels of standard deviation, below which a picture shows nothing


def grey_thumbnail(picture: np.ndarray) -> np.ndarray:
    """(24, 24) uint8 grey levels of a picture (H, W, 3) uint8."""
    small = Image.fromarray(picture).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small.convert("L"))


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """(24, 24) float32, of mean 0 and length 1, of a picture (H, W, 3) uint8; zeros of a flat one."""
    return normalised(grey_thumbnail(picture))


def normalised(values: np.ndarray) -> np.ndarray:
    """Grey levels with mean 0 and length 1; zeros of a flat picture."""
    values = np.float32(values) - values.mean()
    length = np.linalg.norm(values)
    return values / length if length > FLAT * np.sqrt(values.size) else np.zeros_like(values)


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


def face_greys(picture: np.ndarray, landmarks: Landmarks) -> np.ndarray:
    """(468,) greys at the landmarks of a face in a picture (H, W, 3) uint8, of mean 0 and length 1."""
    margin = 0.5 * landmarks.eye_distance
    low = np.floor(np.maximum(landmarks.points.min(axis=0) - margin, 0)).astype(int)
    high = np.ceil(landmarks.points.max(axis=0) + margin).astype(int)
    face = picture[low[1] : high[1], low[0] : high[0]]
    if not face.size:
        return np.zeros(len(landmarks.points), np.float32)
    blur = BLUR * landmarks.eye_distance
    step = max(int(blur), 1)  # a blur needs no finer pixels
    grey = np.asarray(Image.fromarray(face).reduce(step).convert("L"), np.float32)
    grey = ndimage.gaussian_filter(grey, blur / step)
    places = ((landmarks.points - low) / step - 0.5).T[::-1]
    return normalised(ndimage.map_coordinates(grey, places, order=1, mode="nearest"))


def find_new_faces(greys: Sequence[np.ndarray | None]) -> list[int]:
    """Frames that show somebody else than the frame before, by `face_greys` of each, None without a face.

    What is over after one frame, such as a flash or landmarks that slipped, is none.
    """

    def alike(first: int, second: int) -> bool:
        one, other = greys[max(first, 0)], greys[min(second, len(greys) - 1)]
        return one is None or other is None or float(one @ other) >= SAME_FACE

    pairs = lambda i: ((i - 1, i), (i - 1, i + 1), (i - 2, i))
    return [i for i in range(1, len(greys)) if not any(alike(*pair) for pair in pairs(i))]


def find_dissolves(greys: np.ndarray) -> list[int]:
    """Middle frames of dissolves of one shot into another, by `grey_thumbnail` (T, 24, 24) of all."""
    found: list[int] = []
    for half in DISSOLVES:
        even = np.linspace(0, 1, 2 * half + 1)
        for middle in range(half, len(greys) - half):
            start, end = greys[middle - half], greys[middle + half]
            near = any(abs(middle - other) <= 2 * half for other in found)
            if near or not is_cut(normalised(start), normalised(end)):
                continue
            frames = np.float32(greys[middle - half : middle + half + 1]).reshape(2 * half + 1, -1)
            frames = frames - frames[0]
            change = frames[-1]
            shares = frames @ change / (change @ change)
            off = np.linalg.norm(frames - shares[:, None] * change, axis=1)
            if off.max() < MIXED * np.linalg.norm(change) and np.abs(shares - even).max() < EVEN:
                found.append(middle)
    return sorted(found)
