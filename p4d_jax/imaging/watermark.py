"""Marks that tell synthetic pictures: one to be seen, one to be found by a program.

The invisible mark is a fixed pattern of noise, two grey levels strong, spread over the whole picture; it is
found by correlation, also after compression and resizing, but not after cropping or turning. Anyone with this
file can find it and take it away: it helps those who want to know, and hinders nobody who wants to deceive.
Pictures are uint8 (H, W, 3), or (H, W, 4) with alpha, which stays, but under the word that is to be seen.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

TEXT = "synthetic"
SEED, SIDE = 20240417, 128  # of the pattern, and its pixels a side before it is stretched over a picture
STRENGTH = 2.0  # grey levels, standard deviation
FOUND = 8.0  # score from which a picture has the mark; others score within some 4 of 0


def mark_visibly(picture: np.ndarray) -> np.ndarray:
    """The picture with a word in its lower right corner."""
    image = Image.fromarray(picture).convert("RGBA")
    label = Image.new("RGBA", image.size)
    pen = ImageDraw.Draw(label)
    size = max(10, round(0.05 * min(image.size)))
    font = ImageFont.load_default(size)
    corner = image.width - 0.4 * size, image.height - 0.3 * size
    left, top, right, bottom = pen.textbbox(corner, TEXT, font, anchor="rd")
    margin = size // 4
    pen.rectangle((left - margin, top - margin, right + margin, bottom + margin), (0, 0, 0, 110))
    pen.text(corner, TEXT, (255, 255, 255, 230), font, anchor="rd")
    return np.asarray(Image.alpha_composite(image, label))[..., : picture.shape[-1]]


def mark_invisibly(picture: np.ndarray) -> np.ndarray:
    """The picture with the pattern in its luminance."""
    noise = STRENGTH * stretched(*picture.shape[:2])
    colors = np.clip(picture[..., :3] + noise[..., None] + 0.5, 0, 255).astype(np.uint8)
    return np.concatenate([colors, picture[..., 3:]], axis=-1)


def invisible_score(picture: np.ndarray) -> float:
    """How surely a picture has the invisible mark: standard deviations from chance; see `FOUND`."""
    grey = picture[..., :3].astype(np.float32).mean(axis=-1)
    fine = grey - ndimage.gaussian_filter(grey, max(grey.shape) / SIDE)
    small = Image.fromarray(fine).resize((SIDE, SIDE), Image.Resampling.BOX)
    seen = np.asarray(small) - np.mean(small)
    # Strong edges of the picture would drown the pattern.
    seen = np.clip(seen, -3 * STRENGTH, 3 * STRENGTH)
    return float(np.sum(seen * pattern()) / (np.sqrt(np.mean(seen**2)) * SIDE + 1e-9))


@functools.cache
def pattern() -> np.ndarray:
    """(SIDE, SIDE) noise without slow parts, mean 0, standard deviation 1."""
    noise = np.random.default_rng(SEED).standard_normal((SIDE, SIDE)).astype(np.float32)
    noise -= ndimage.gaussian_filter(noise, 2.0, mode="wrap")
    return (noise - noise.mean()) / noise.std()


@functools.lru_cache(maxsize=8)
def stretched(height: int, width: int) -> np.ndarray:
    """The pattern over a picture of a size."""
    image = Image.fromarray(pattern()).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


MARKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "visible": mark_visibly,
    "invisible": mark_invisibly,
}


def mark(picture: np.ndarray, names: Iterable[str]) -> np.ndarray:
    """The picture with all marks of these names; none leaves it as it is.

    Raises:
      ValueError: There is no such mark.
    """
    for name in names:
        if name not in MARKS:
            raise ValueError(f"no mark {name!r}; there are {', '.join(MARKS)}")
        picture = MARKS[name](picture)
    return picture
