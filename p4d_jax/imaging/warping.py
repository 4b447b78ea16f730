"""Resampling of uint8 photos by similarity transforms, with antialiasing.

Pixel coordinates are continuous: (0, 0) is the top-left corner of the top-left pixel, pixel centres sit at
+0.5, x right, y down. Matrices are (2, 3) and map *output* pixels to *photo* pixels unless named otherwise.
"""

from __future__ import annotations

import numpy as np
from PIL import Image


class PhotoPyramid:
    """A photo and its halvings, made when first needed.

    Sampling from the level whose pixels are about as large as the output's is cheap and does not alias,
    however large the photo.
    """

    def __init__(self, photo: np.ndarray):
        """photo: (H, W, 3) uint8."""
        if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8:
            raise ValueError(f"photo: expected uint8 (H, W, 3), got {photo.dtype} {photo.shape}")
        self.height, self.width = photo.shape[:2]
        self._levels = [Image.fromarray(np.ascontiguousarray(photo))]

    def level(self, step: float) -> tuple[Image.Image, int]:
        """The level fit for sampling every `step` photo pixels, and how many photo pixels its pixels span."""
        wanted = max(0, int(np.floor(np.log2(max(step, 1e-6)) + 0.5)))
        while len(self._levels) <= wanted and min(self._levels[-1].size) >= 4:
            self._levels.append(self._levels[-1].reduce(2))
        index = min(wanted, len(self._levels) - 1)
        return self._levels[index], 2**index

    def sample(self, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Output image (height, width, 3) uint8 of `size` = (width, height); zeros outside the photo.

        matrix: (2, 3) output pixels -> photo pixels.
        """
        level, scale = self.level(output_step(matrix))
        coefficients = tuple((np.asarray(matrix, np.float64) / scale).ravel())
        return np.asarray(
            level.transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
        )


def output_step(matrix: np.ndarray) -> float:
    """Photo pixels between neighbouring output pixels of a (2, 3) similarity."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def square_matrix(centre: np.ndarray, side: float, angle: float, size: int, flip: bool = False) -> np.ndarray:
    """(2, 3) from a (size, size) output to the photo's square at `centre` (pixels), rotated by `angle`.

    side: length of the square in photo pixels; angle: radians, clockwise on the screen; flip: mirror left
    and right in the output.
    """
    cosine, sine = np.cos(angle), np.sin(angle)
    linear = np.array([[cosine, -sine], [sine, cosine]]) * (side / size)
    if flip:
        linear = linear @ np.diag([-1.0, 1.0])
    offset = np.asarray(centre, np.float64) - linear @ np.full(2, size / 2)
    return np.concatenate([linear, offset[:, None]], axis=1)


def apply_matrix(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(2, 3) applied to points (..., 2)."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def invert_matrix(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a (2, 3) affine map."""
    inverse = np.linalg.inv(matrix[:, :2])
    return np.concatenate([inverse, -(inverse @ matrix[:, 2:])], axis=1)


def compose_matrices(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """(2, 3) of outer after inner."""
    linear = outer[:, :2] @ inner[:, :2]
    return np.concatenate([linear, outer[:, :2] @ inner[:, 2:] + outer[:, 2:]], axis=1)
