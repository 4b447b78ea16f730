"""Alpha: how much of each pixel of a crop belongs to the person.

A segmentation network tells people from background, but loses some on unusual pictures and knows no one
from his neighbour. The fitted mesh knows where the head is, but neither hair nor shoulders. So looks of the
network are trusted by how well they agree with the mesh, what is well inside the head is person, and what is
far from the head, or not attached to it, is not. Random walks, coarse then fine, give that the photo's edges
(`imaging.alpha`).
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from p4d_jax.capture.segmentation import NETWORK_SIZE
from p4d_jax.geometry import project
from p4d_jax.head.model import HeadModel
from p4d_jax.head.skinning import head_vertices
from p4d_jax.imaging.alpha import refine_alpha
from p4d_jax.imaging.resizing import average_blocks, resize_bilinear
from p4d_jax.render.raster import rasterize
from p4d_jax.train.devices import once_jit
from p4d_jax.types import Array, FrameParams

WALK_SIZE = 128
# Above the chin, distances from the head's silhouette in widths of the head: up to the first the network
# alone decides, beyond the second nobody is this person.
NEAR, FAR = 0.15, 0.5
LIP_TO_CHIN = 0.45  # height of the chin below the lips, in that of the lips below the eyes
TRUST = 8  # the power of a look's agreement with the mesh that it is weighted by
ATTACHED = 0.4  # opacity of what attaches a place to the head
_enlarge = jax.jit(resize_bilinear, static_argnums=1)


@dataclasses.dataclass(frozen=True)
class SeenHead:
    """The fitted mesh in the crop, N pixels a side.

    Attributes:
      silhouette: (N, N) bool, where the mesh is seen, neck and bust included.
      scalp: (N, N) bool, where its scalp is; nowhere, of a head model that does not name it.
      chin: Height of the chin, in pixels from the top.
    """

    silhouette: np.ndarray
    scalp: np.ndarray
    chin: float

    @property
    def box(self) -> tuple[float, float, float]:
        """Top, middle (x) and width of what is above the chin, pixels; all 0 if nothing is."""
        rows = np.arange(len(self.silhouette))[:, None]
        above = self.silhouette & (rows < self.chin)
        down, across = np.flatnonzero(above.any(axis=1)), np.flatnonzero(above.any(axis=0))
        if not down.size:
            return 0.0, 0.0, 0.0
        return float(down[0]), (across[0] + across[-1] + 1) / 2, float(across[-1] + 1 - across[0])

    @property
    def inside(self) -> np.ndarray:
        """(N, N) bool, what is surely the person: well inside, and no bust, which is guesswork."""
        size = len(self.silhouette)
        eroded = ndimage.binary_erosion(self.silhouette, iterations=max(1, size // 64), border_value=1)
        return eroded & (np.arange(size)[:, None] < self.chin)

    @property
    def distance(self) -> np.ndarray:
        """(N, N) distance from the silhouette in widths of the head; 0 on it, and all 0 without a head."""
        if not self.box[2]:
            return np.zeros(self.silhouette.shape)
        return ndimage.distance_transform_edt(~self.silhouette) / self.box[2]


def view_head(head: HeadModel, params: FrameParams, size: int = WALK_SIZE) -> SeenHead:
    """The fitted head as its camera sees it, `size` pixels a side."""
    silhouette, scalp, chin = _view(head, params, size)
    return SeenHead(np.asarray(silhouette), np.asarray(scalp), float(chin))


@functools.partial(once_jit, static_argnames="size")
def _view(head: HeadModel, params: FrameParams, size: int):
    vertices = head_vertices(head, params.shape, params.expression, params.pose, params.eyes)
    raster = rasterize(vertices, head.faces, params.camera, size, cull_back_faces=False)
    hairy = jnp.zeros(len(vertices), bool).at[head.regions.get("scalp", jnp.zeros(0, int))].set(True)
    scalp = hairy[raster.vertex_index].all(axis=-1) & raster.mask
    height = lambda name: project(params.camera, vertices[head.regions[name]])[0][:, 1]
    lip = jnp.max(height("lips"))
    eyes = 0.5 * (jnp.mean(height("left_eyeball")) + jnp.mean(height("right_eyeball")))
    return raster.mask, scalp, size * (lip + LIP_TO_CHIN * (lip - eyes))


def combine_looks(looks: np.ndarray, seen: SeenHead, known: np.ndarray) -> np.ndarray:
    """Opacity (N, N) float32 in [0, 1] of the person whose head is seen, from looks of a segmentation.

    Args:
      looks: (L, N, N) in [0, 1], how likely there are people, in several looks.
      seen: The fitted head, N pixels a side.
      known: (N, N) in [0, 1], where the photo is known; looks are judged there.
    """
    inside, distance = seen.inside, seen.distance
    above = np.arange(len(known))[:, None] < seen.chin
    agreement = np.array([_mean(look, inside * known) for look in looks])
    away = above & (distance > 0.5 * (NEAR + FAR))
    agreement *= np.array([1 - _mean(look, away * known, 0.0) for look in looks])
    trust = np.maximum(agreement, 1e-2) ** TRUST
    opacity = np.tensordot(trust / trust.sum(), looks, 1)
    opacity *= np.where(above, np.clip((FAR - distance) / (FAR - NEAR), 0, 1), 1)
    opacity = np.maximum(opacity, inside)
    return (opacity * attached(opacity > ATTACHED, inside)).astype(np.float32)


def attached(people: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(N, N) bool, one pixel wider than those connected parts of people (N, N) bool that touch `inside`."""
    if not inside.any():
        return np.ones(people.shape, bool)
    parts, _ = ndimage.label(people)
    mine = np.setdiff1d(parts[inside], [0])
    return ndimage.binary_dilation(np.isin(parts, mine), np.ones((3, 3)))


def estimate_alpha(crop: np.ndarray, looks: np.ndarray, seen: SeenHead, known: np.ndarray) -> np.ndarray:
    """Person against background.

    Args:
      crop: (S, S, 3) uint8, S a multiple of 256.
      looks: (L, 256, 256) in [0, 1], of the crop's square: `Segmenter.looks`.
      seen: The fitted head: `view_head`.
      known: (S, S) float32 in [0, 1], where the crop shows the photo.

    Returns:
      (S, S) float32 in [0, 1].
    """
    size = crop.shape[0]
    if crop.shape != (size, size, 3) or size % NETWORK_SIZE:
        raise ValueError(f"crop: expected (S, S, 3) with S a multiple of {NETWORK_SIZE}, got {crop.shape}")
    image = crop.astype(np.float32) / 127.5 - 1
    shrink = lambda x, to: average_blocks(x[..., None], x.shape[0] // to)[..., 0]
    small = np.stack([shrink(look, WALK_SIZE) for look in looks])
    opacity = combine_looks(small, seen, shrink(known, WALK_SIZE))[..., None]
    for walk in (WALK_SIZE, NETWORK_SIZE):
        opacity = _refine(average_blocks(image, size // walk), opacity)
    return np.asarray(_enlarge(opacity, size))[..., 0]


@jax.jit
def _refine(image: Array, opacity: Array) -> Array:
    """`refine_alpha` of an opacity of any size."""
    return refine_alpha(image, resize_bilinear(opacity, image.shape[0]))


def _mean(values: np.ndarray, weights: np.ndarray, of_nothing: float = 1.0) -> float:
    total = weights.sum()
    return float((values * weights).sum() / total) if total > 0 else of_nothing
