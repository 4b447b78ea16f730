"""People against background in squares of a photo, by MediaPipe's selfie segmentation.

The network sees 256 x 256 pixels and knows bodies from pictures that show more of them than the standard crop
does. So it looks at the crop's square and at wider ones, at each also in the mirror. Pixels beyond the
photo repeat its border: grey ones there make it lose the person. Source: "MediaPipe Selfie Segmentation",
model card of the general model, 2021.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from p4d_jax.capture.crop import crop_photo
from p4d_jax.capture.networks import load_network
from p4d_jax.imaging.warping import PhotoPyramid

NETWORK_SIZE = 256
WIDTHS = (1.0, 1.25, 1.5)  # sides of the squares that are looked at, in sides of the crop


class Segmenter:
    """The network; not to be shared between threads."""

    def __init__(self, threads: int = 2):
        """threads: CPU threads that the network uses."""
        self._network = load_network("selfie_segmentation", threads)

    def segment(self, square: np.ndarray) -> np.ndarray:
        """(256, 256) float32 in [0, 1]: how likely pixels of square (256, 256, 3) uint8 are people.

        The mean of the square's and of its mirror image's, so that mirrored squares have mirrored people.
        """
        if square.shape != (NETWORK_SIZE, NETWORK_SIZE, 3) or square.dtype != np.uint8:
            raise ValueError(f"square: expected uint8 (256, 256, 3), got {square.dtype} {square.shape}")
        pixels = square.astype(np.float32) / 255
        seen = self._network(pixels)[0][0, ..., 0]
        mirrored = self._network(pixels[:, ::-1])[0][0, ..., 0]
        return 0.5 * (seen + mirrored[:, ::-1])

    def looks(self, pyramid: PhotoPyramid, matrix: np.ndarray, side: int) -> np.ndarray:
        """(3, 256, 256) float32 in [0, 1]: people in a square of the photo, as seen in it and in wider ones.

        Args:
          pyramid: The photo.
          matrix: (2, 3) from the photo to the square, `side` pixels wide.
          side: Pixels of the square that `matrix` speaks of.
        """
        found = []
        for width in WIDTHS:
            scale = NETWORK_SIZE / side / width
            shift = NETWORK_SIZE / 2 * (1 - 1 / width)
            wider = scale * matrix + np.array([[0, 0, shift], [0, 0, shift]])
            people = Image.fromarray(self.segment(crop_photo(pyramid, wider, NETWORK_SIZE)))
            box = (shift, shift, NETWORK_SIZE - shift, NETWORK_SIZE - shift)
            found.append(people.resize((NETWORK_SIZE, NETWORK_SIZE), Image.Resampling.BILINEAR, box))
        return np.clip(np.stack([np.asarray(people) for people in found]), 0, 1)
