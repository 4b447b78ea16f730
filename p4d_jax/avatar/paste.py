"""An avatar's pictures pasted back into the photo that it was made of, or into a film of the same person.

Only the head is pasted: what is around it stays the photo, to the bit. Its region is where the photo or the
picture shows the person, without the body below the chin; inside it the picture counts, and at its rim the
picture fades into the photo, so that no seam shows. Shoulders stay still because they stay the photo's, which
is why the head should not travel: see `Strength`.

Pixel coordinates are those of `imaging.warping`; S pixels a side of the avatar's pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from scipy import ndimage

from p4d_jax.capture.crop import CROP_SIZE
from p4d_jax.geometry import project
from p4d_jax.imaging.warping import PhotoPyramid, apply_matrix, compose_matrices, invert_matrix, output_step
from p4d_jax.imaging.writing import to_alpha
from p4d_jax.reconstructor.field import Frame
from p4d_jax.types import Camera

# Of the region's end: standard deviation of its softness, as a share of the picture's side and, at least, in
# pixels of the photo, with which white on black begins with less than 3 of 255; how far beyond the person it
# lies, and how far it goes where the picture ends, in such deviations.
SOFTNESS, SOFT_PIXELS = 0.02, 4.5
REACH, BORDER = 2.0, 5.0
# World units from the neck joint to where the head ends in the middle of the picture, below it, and how much
# higher that is, per unit to either side of the neck's half width.
CHIN, RISE, NECK_HALF_WIDTH = 0.34, 0.85, 0.13


@dataclass(frozen=True)
class PasteBack:
    """Where an avatar's pictures lie in its photo.

    Attributes:
      photo: (H, W, 3) uint8, the whole photo.
      matrix: (2, 3) photo pixels to crop pixels, `Capture.crop_matrix`.
      person: (S, S) in [0, 1], the person in the photo's crop; None for a film, whose head the pictures
        cover, so that the region stays inside of theirs.
      head: (S, S) in [0, 1], where the crop shows the head's surroundings and not the body's, and is not near
        its end.
      softness: Standard deviation of the region's end, pixels of the avatar's pictures.
    """

    photo: np.ndarray
    matrix: np.ndarray
    person: np.ndarray | None
    head: np.ndarray
    softness: float

    @classmethod
    def of(cls, avatar, photo: np.ndarray, matrix: np.ndarray) -> PasteBack:
        """The place of an avatar's pictures.

        Args:
          avatar: An `Avatar`.
          photo: (H, W, 3) uint8 that it was made of, of several the first.
          matrix: (2, 3) of that photo's `Capture.crop_matrix`.
        """
        person = np.asarray(avatar.image_alpha())[..., 0]
        softness = softness_of(matrix, avatar.size)
        head = head_surroundings(avatar.params.camera, avatar.size, softness)
        return cls(photo, matrix, person, head * inside_border(avatar.size, softness), softness)

    def into_film(self, matrix: np.ndarray) -> PasteBack:
        """The place in a film of the person, whose head poses the pictures have (`Avatar.drive`, `at`).

        matrix: (2, 3) film pixels to crop pixels, `FilmCapture.crop_matrix`.
        """
        size = len(self.head)
        softness = softness_of(matrix, size)
        return replace(
            self, matrix=matrix, person=None, head=inside_border(size, softness), softness=softness
        )

    def __call__(self, frame: Frame, photo: np.ndarray | None = None) -> np.ndarray:
        """(H, W, 3) uint8: the photo with the head of a frame of the avatar.

        photo: (H, W, 3) uint8 in place of the avatar's own, with the head at the same place.
        """
        return self.paste(frame.picture, self.region(frame), self.photo if photo is None else photo)

    def region(self, frame: Frame) -> np.ndarray:
        """(S, S) in [0, 1]: how much of each pixel the frame's picture gives."""
        size = len(self.head)
        shown = np.asarray(to_alpha(np.asarray(frame.alpha), size))[..., 0]
        width = 2 * round(REACH * self.softness) + 1
        if self.person is None:
            reached = ndimage.grey_erosion(shown, size=(width, width))
        else:
            reached = ndimage.grey_dilation(np.maximum(self.person, shown), size=(width, width))
        soft = ndimage.gaussian_filter(reached, self.softness, mode="nearest")
        return smoothstep((soft - 0.02) / 0.96) * self.head

    def paste(self, picture: np.ndarray, region: np.ndarray, photo: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8: a photo (H, W, 3), and a picture (S, S, 3) as far as its region (S, S) says."""
        size = len(picture)
        left, top, right, bottom = self.window(photo)
        to_picture = self.matrix * (size / CROP_SIZE)
        from_window = compose_matrices(to_picture, np.array([[1.0, 0, left], [0, 1.0, top]]))
        extent = (right - left, bottom - top)
        new = PhotoPyramid(picture).sample(from_window, extent).astype(np.float32)
        weight = Image.fromarray(region.astype(np.float32)).transform(
            extent, Image.Transform.AFFINE, tuple(from_window.ravel()), Image.Resampling.BILINEAR
        )
        pasted = photo.copy()
        old = pasted[top:bottom, left:right].astype(np.float32)
        mixed = old + np.asarray(weight)[..., None] * (new - old)
        pasted[top:bottom, left:right] = np.round(mixed)
        return pasted

    def window(self, photo: np.ndarray) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the pixels of a photo (H, W, 3) that the crop touches."""
        corners = np.array([[0, 0], [CROP_SIZE, 0], [0, CROP_SIZE], [CROP_SIZE, CROP_SIZE]], np.float64)
        places = apply_matrix(invert_matrix(self.matrix), corners)
        height, width = photo.shape[:2]
        left, top = np.clip(np.floor(places.min(axis=0)), 0, (width, height)).astype(int)
        right, bottom = np.clip(np.ceil(places.max(axis=0)), 0, (width, height)).astype(int)
        return left, top, right, bottom


def softness_of(matrix: np.ndarray, size: int) -> float:
    """`PasteBack.softness` of pictures of `size` pixels a side in a photo with a crop matrix (2, 3)."""
    return max(SOFTNESS * size, SOFT_PIXELS * output_step(matrix) * size / CROP_SIZE)


def head_surroundings(camera: Camera, size: int, softness: float) -> np.ndarray:
    """(size, size) in [0, 1]: 1 around the head of a camera's view, 0 below a line under chin and hair.

    The line is the photo's, upright as the body is, whatever the head's roll. softness: see `PasteBack`.
    """
    (u, v), distance = project(camera, np.zeros(3, np.float32))
    scale = float(distance) / float(camera.intrinsics[0, 0])  # world units a picture's side
    ticks = (np.arange(size) + 0.5) / size
    across, down = np.abs(ticks - float(u))[None] * scale, (ticks - float(v))[:, None] * scale
    end = CHIN - RISE * np.maximum(across - NECK_HALF_WIDTH, 0)
    return smoothstep((end - down) / scale * size / (BORDER * softness) + 0.5)


def inside_border(size: int, softness: float) -> np.ndarray:
    """(size, size) in [0, 1]: 0 at a picture's end, 1 well inside of it. softness: see `PasteBack`."""
    ticks = np.arange(size)
    inside = smoothstep(np.minimum(ticks, size - 1 - ticks) / (BORDER * softness))
    return np.minimum(inside[:, None], inside[None])


def smoothstep(x: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, between them so smooth that no eye sees where it begins: quintic."""
    x = np.clip(x, 0, 1)
    return x * x * x * (10 - 15 * x + 6 * x * x)
