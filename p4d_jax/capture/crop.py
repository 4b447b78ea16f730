"""The standard crop: the square of a photo that the default camera sees.

The fit says where in the photo the camera's square lies (centre and side); the crop is that square at 512 x
512. It stays upright as the photo is, the head's roll is the camera's; only a photo lying on its side is
turned by quarter turns. A crop that reaches beyond the photo repeats the photo's border, and `known_pixels`
says where it does: what belongs there is `outside`'s matter. Matrices (2, 3) map photo pixels to crop pixels:
with their inverse a result is pasted back. Pixel coordinates: see `sampling`.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from p4d_jax.capture.fit import Fit
from p4d_jax.geometry import axis_angle_to_matrix, exact_products, intrinsics_from_fov
from p4d_jax.imaging.warping import PhotoPyramid, apply_matrix, invert_matrix
from p4d_jax.types import CAMERA_RADIUS, Array, Camera

CROP_SIZE = 512
SOFT_BORDER = 4.0  # crop pixels, see `known_pixels`


def quarter_turn(roll: float) -> np.ndarray:
    """(2, 3) rotation about the photo's corner by quarter turns that leaves a face's roll within 45 degrees.

    roll: radians, clockwise on the screen.
    """
    turns = round(roll / (np.pi / 2)) % 4
    cosine, sine = ((1, 0), (0, 1), (-1, 0), (0, -1))[turns]
    return np.array([[cosine, sine, 0], [-sine, cosine, 0]], np.float64)


def crop_matrix(centre: np.ndarray, side: float, size: int = CROP_SIZE) -> np.ndarray:
    """(2, 3) from the photo to the crop of its upright square at `centre` with sides of `side` pixels."""
    scale = size / side
    offset = size / 2 - scale * np.asarray(centre, np.float64)
    return np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])


def square_of_matrix(matrix: np.ndarray, size: int = CROP_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of `crop_matrix`: centre (2,) and side () of the upright square that a matrix (2, 3) cuts."""
    side = size / matrix[0, 0]
    return (size / 2 - matrix[:, 2]) / matrix[0, 0], np.asarray(side)


def crop_photo(pyramid: PhotoPyramid, matrix: np.ndarray, size: int = CROP_SIZE) -> np.ndarray:
    """(size, size, 3) uint8; beyond the photo, the colours of its border.

    matrix: (2, 3) photo -> crop, upright but for quarter turns.
    """
    sampled = pyramid.sample(invert_matrix(matrix), (size, size))
    low, high = photo_box(pyramid, matrix)
    first, last = np.ceil(low - 0.5 + 1e-6).astype(int), np.ceil(high - 0.5 - 1e-6).astype(int) - 1
    columns, rows = (
        np.clip(np.arange(size), *np.clip((first[axis], last[axis]), 0, size - 1)) for axis in (0, 1)
    )
    return np.ascontiguousarray(sampled[rows][:, columns])


def known_pixels(pyramid: PhotoPyramid, matrix: np.ndarray, size: int = CROP_SIZE) -> np.ndarray:
    """(size, size) float32 in [0, 1]: where `crop_photo` shows the photo; it rises to 1 within 4 pixels."""
    low, high = photo_box(pyramid, matrix)
    known = np.ones((size, size), np.float32)
    ticks = np.arange(size, dtype=np.float32) + 0.5
    for line, along in ((ticks[None], 0), (ticks[:, None], 1)):
        for inside, cut in (
            (line - low[along], low[along] > 0.5),
            (high[along] - line, high[along] < size - 0.5),
        ):
            if cut:  # the photo's border lies in the crop
                known = np.minimum(known, np.clip(inside / SOFT_BORDER, 0, 1))
    return known.astype(np.float32)


def photo_box(pyramid: PhotoPyramid, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The photo's upper left and lower right corners in the crop, (2,) each, x then y, crop pixels."""
    corners = np.array([[0, 0], [pyramid.width, pyramid.height]], np.float64)
    there = apply_matrix(matrix, corners)
    return there.min(axis=0), there.max(axis=0)


@exact_products
def camera_in_square(fit: Fit, centre: Array, side: Array) -> Camera:
    """The camera that sees a fitted head in a square that need not be the head's own.

    A film's crop stands still while the head moves in it. The camera of the head's own square is turned
    until the world's origin appears off-centre as it should, and moved away until the size is right; what
    this changes in perspective is second order at 12 degrees of view.

    Args:
      fit: Fit of one frame.
      centre: (2,) centre of the square, photo pixels.
      side: () side of the square, photo pixels.
    """
    intrinsics = intrinsics_from_fov()
    offset = (fit.centre - centre) / side / intrinsics[0, 0] * jnp.array([1.0, -1.0])
    ray = jnp.concatenate([offset, -jnp.ones(1)])
    turn = _rotation_between(jnp.array([0.0, 0.0, -1.0]), ray / jnp.linalg.norm(ray))
    to_camera = turn @ axis_angle_to_matrix(fit.rotation)
    translation = ray * CAMERA_RADIUS * side / fit.side
    cam2world = jnp.eye(4).at[:3, :3].set(to_camera.T).at[:3, 3].set(-to_camera.T @ translation)
    return Camera(cam2world, intrinsics)


def _rotation_between(source: Array, target: Array) -> Array:
    """(3, 3) the smallest rotation that takes one unit vector to another, not opposite one."""
    axis = jnp.cross(source, target)
    sine = jnp.linalg.norm(axis)
    angle = jnp.arctan2(sine, jnp.dot(source, target))
    return axis_angle_to_matrix(axis * angle / jnp.maximum(sine, 1e-12))
