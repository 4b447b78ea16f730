"""Alpha: how much of each pixel of a crop belongs to the person, without a segmentation network.

The fitted mesh knows the head but neither hair nor shoulders. So it only seeds: well inside the head is
person, far from it near the upper and side borders is background, a column under the neck is shoulders. What
lies between is decided by a random walk on the pixels, which crosses edges of colour reluctantly. The result
is brought to full size by a guided filter, which gives it the photo's edges (both: `imaging.alpha`).
"""

from __future__ import annotations

import jax
import numpy as np
from scipy import ndimage

from p4d_jax.head.model import HeadModel
from p4d_jax.head.skinning import head_vertices
from p4d_jax.imaging.alpha import BACKGROUND_SEED, PERSON_SEED, guided_filter, walk_from_seeds
from p4d_jax.imaging.resizing import average_blocks
from p4d_jax.render.raster import rasterize
from p4d_jax.types import FrameParams

WALK_SIZE = 128


@jax.jit
def head_silhouette(head: HeadModel, params: FrameParams) -> jax.Array:
    """(128, 128) bool: where the fitted mesh is seen in the crop."""
    vertices = head_vertices(head, params.shape, params.expression, params.pose, params.eyes)
    return rasterize(vertices, head.faces, params.camera, WALK_SIZE, cull_back_faces=False).mask


def seed_regions(silhouette: np.ndarray) -> np.ndarray:
    """(N, N) bool silhouette -> (N, N) int labels: 0 unknown, 1 background, 2 person."""
    size = silhouette.shape[0]
    rows, columns = np.mgrid[:size, :size]
    down = np.flatnonzero(silhouette.any(axis=1))
    if down.size == 0:
        return np.zeros((size, size), np.int32)
    upper = silhouette & (rows < down[0] + 0.6 * (down[-1] - down[0]))  # the head without neck and bust
    across = np.flatnonzero(upper.any(axis=0))
    width, middle = across[-1] - across[0] + 1, (across[0] + across[-1]) / 2
    face_bottom = down[0] + 0.9 * (down[-1] - down[0])  # below it the mesh's neck is guesswork
    inside = ndimage.binary_erosion(silhouette, iterations=max(1, size // 64)) & (rows < face_bottom)
    shoulders = (rows > face_bottom) & (np.abs(columns - middle) < 0.3 * width)
    distance = ndimage.distance_transform_edt(~silhouette)
    # Hair rises above the head and hangs beside it; below the chin nobody knows but the borders do not start.
    border = (rows < size // 40 + 1) | (columns < size // 40 + 1) | (columns >= size - size // 40 - 1)
    far = (distance > 0.38 * width) | (border & (distance > 0.2 * width))
    background = far & (rows < down[0] + 0.75 * (down[-1] - down[0]))
    labels = np.zeros((size, size), np.int32)
    labels[background] = BACKGROUND_SEED
    labels[inside | shoulders] = PERSON_SEED
    return labels


def estimate_alpha(crop: np.ndarray, head: HeadModel, params: FrameParams) -> np.ndarray:
    """Person against background.

    Args:
      crop: (S, S, 3) uint8, S a multiple of 128.
      head: The head model.
      params: Parameters of the fitted head; the camera is that of the crop.

    Returns:
      (S, S) float32 in [0, 1].
    """
    scale = crop.shape[0] // WALK_SIZE
    if crop.shape != (scale * WALK_SIZE, scale * WALK_SIZE, 3) or scale < 1:
        raise ValueError(f"crop: expected (S, S, 3) with S a multiple of {WALK_SIZE}, got {crop.shape}")
    image = crop.astype(np.float32) / 255
    small = average_blocks(image, scale)
    labels = seed_regions(np.asarray(head_silhouette(head, params)))
    if not ((labels == BACKGROUND_SEED).any() and (labels == PERSON_SEED).any()):
        return np.ones(crop.shape[:2], np.float32)  # the head fills the crop: there is no background
    walked = walk_from_seeds(small, labels)
    rough = ndimage.zoom(walked, scale, order=1, mode="nearest", grid_mode=True)
    refined = guided_filter(image.mean(axis=-1), rough.astype(np.float32), radius=2 * scale, epsilon=1e-3)
    return np.clip((refined - 0.35) / 0.3, 0, 1).astype(np.float32)
