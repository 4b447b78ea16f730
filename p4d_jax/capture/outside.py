"""What lies outside of a photo that is cut too tightly for the standard crop.

Nothing is known there, and nothing of the face is repeated there. The head goes on as far as the fitted mesh
does, and as thick as its hair is on the same height of the other side; body goes on straight from the photo's
border; the rest is background. Both get the nearest colours that the photo has of them. S pixels a side.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

from p4d_jax.capture.alpha import ATTACHED, SeenHead, attached, estimate_alpha, view_head
from p4d_jax.capture.crop import CROP_SIZE, crop_photo, known_pixels
from p4d_jax.capture.segmentation import NETWORK_SIZE, Segmenter
from p4d_jax.head.model import HeadModel
from p4d_jax.imaging.warping import PhotoPyramid
from p4d_jax.imaging.writing import resize, to_alpha
from p4d_jax.types import FrameParams

DIRECTIONS = 24  # in which the thickness of hair is measured, from above the head to below it, either side
RING = 0.25  # depth of the ring around the head in which hair is looked for, in widths of the head
USUAL = 0.06  # where no hair is seen at all, in widths of the head
SAME_PERSON = 0.85  # overlap, of a given and the estimated alpha, from which on the given one is the person's
SHOULDER_SLOPE = 0.6  # by how much shoulders fall to the side
FEW = 0.02  # share of a material, below which what is known of it is too little
SMOOTHING = (3.0, 9.0, 27.0)  # standard deviations, pixels; each sets in three of them away


@dataclasses.dataclass(frozen=True)
class Cutout:
    """The standard crop of a photo or frame, and the person in it.

    Attributes:
      crop: (512, 512, 3) uint8, continued where the photo ends.
      alpha: (512, 512) float32 in [0, 1], opacity of the person against the background.
      known: (512, 512) float32 in [0, 1], where the crop shows the photo.
    """

    crop: np.ndarray
    alpha: np.ndarray
    known: np.ndarray


def cut_out(
    pyramid: PhotoPyramid,
    matrix: np.ndarray,
    head: HeadModel,
    params: FrameParams,
    segmenter: Segmenter,
    mask: np.ndarray | None = None,
) -> Cutout:
    """Crop and alpha of a fitted photo.

    Args:
      pyramid: The photo.
      matrix: (2, 3) from the photo to its standard crop.
      head: The head model.
      params: Parameters of the fitted head; the camera is that of the crop.
      segmenter: A segmentation network to use again.
      mask: (H, W) uint8, the photo's own alpha, if it has one: the person's, or with something of the
        background.
    """
    crop, known = crop_photo(pyramid, matrix), known_pixels(pyramid, matrix)
    seen = view_head(head, params)
    alpha = estimate_alpha(crop, segmenter.looks(pyramid, matrix, CROP_SIZE), seen, known)
    if mask is not None:
        own = crop_photo(PhotoPyramid(np.dstack([mask] * 3)), matrix)[..., 0] / np.float32(255)
        alpha = combine_alphas(own, alpha, known)
    if known.min() < 1:
        seen = view_head(head, params, CROP_SIZE)
        alpha = continue_alpha(alpha, known, seen)
        crop = continue_colours(crop, alpha, known, seen)
    return Cutout(crop, alpha, known)


def combine_alphas(own: np.ndarray, estimated: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The person's alpha (S, S) of a photo that came with one.

    Whoever cut a person out did it better than the estimate. But an alpha that is a round frame, or keeps a
    desk, holds much that is not the person: of that, the estimate decides.

    Args:
      own: (S, S) float32 in [0, 1], the photo's.
      estimated: (S, S) float32 in [0, 1], the person's.
      known: (S, S) float32 in [0, 1], where the crop shows the photo.
    """
    shared, either = (
        float((known * one).sum()) for one in (np.minimum(own, estimated), np.maximum(own, estimated))
    )
    return own if shared > SAME_PERSON * either else own * estimated


def alpha_of_picture(
    picture: np.ndarray, head: HeadModel, params: FrameParams, segmenter: Segmenter
) -> np.ndarray:
    """The person in a picture that is the whole photo: (S, S) float32 in [0, 1].

    Args:
      picture: (S, S, 3) uint8; of a size that the networks do not take it is looked at larger.
      head: The head model.
      params: Parameters of the head in it; the camera is that of the picture.
      segmenter: A segmentation network to use again.
    """
    size = picture.shape[0]
    looked_at = -(-size // NETWORK_SIZE) * NETWORK_SIZE
    large = resize(picture, looked_at)
    looks = segmenter.looks(PhotoPyramid(large), np.eye(2, 3), looked_at)
    alpha = estimate_alpha(large, looks, view_head(head, params), np.ones(large.shape[:2], np.float32))
    return alpha if looked_at == size else np.asarray(to_alpha(alpha, size))[..., 0]


def continue_alpha(alpha: np.ndarray, known: np.ndarray, seen: SeenHead) -> np.ndarray:
    """Opacity (S, S) float32 of the person, continued where the photo is not known.

    Args:
      alpha: (S, S) in [0, 1].
      known: (S, S) in [0, 1]; what is known is a rectangle.
      seen: The fitted head, S pixels a side.
    """
    rows = np.arange(len(alpha))[:, None]
    distance = seen.distance
    hair = hair_thickness(alpha, known, seen)
    width = max(seen.box[2], 1.0)
    # Its edge is soft over some pixels, as that of hair in photos is.
    grown = np.clip(0.5 + (np.where(rows < seen.chin, hair, 0) - distance) * width / 4, 0, 1)
    border = nearest_known(alpha, known)
    # Hair goes on only where the photo's border shows the person.
    grown *= np.clip(2 * ndimage.gaussian_filter(border, width / 30), 0, 1)
    head = np.where(distance > 0, grown, 1.0) if seen.box[2] else np.zeros_like(alpha)
    body = continue_body(alpha, known, seen.chin)
    continued = known * alpha + (1 - known) * np.maximum(head, body)
    # Where the mesh is larger than the head, it alone would stand out above a border of background.
    mine = attached(continued > ATTACHED, (known >= 1) & (alpha > ATTACHED))
    return (continued * np.where(known >= 1, 1, mine)).astype(np.float32)


def continue_body(alpha: np.ndarray, known: np.ndarray, chin: float) -> np.ndarray:
    """Opacity (S, S) of the body: straight down from the photo's border, sideways along falling shoulders."""
    columns = np.flatnonzero((known >= 1).any(axis=0))
    places = np.arange(len(alpha))
    if not columns.size:
        return np.zeros_like(alpha)
    beyond = np.abs(places - np.clip(places, columns[0], columns[-1]))
    higher = places[:, None] - np.round(SHOULDER_SLOPE * beyond).astype(int)
    border = nearest_known(alpha, known)
    return np.where(higher < chin, 0, border[np.maximum(higher, 0), places[None]])


def hair_thickness(alpha: np.ndarray, known: np.ndarray, seen: SeenHead) -> np.ndarray:
    """(S, S) how far hair stands out from the silhouette in each pixel's direction, in widths of the head.

    Directions are seen from the middle of the head; left and right count as one. Where nothing is known of a
    direction, it is as the nearest one of which something is.
    """
    rows, columns = np.mgrid[: len(alpha), : len(alpha)]
    top, middle, _ = seen.box
    angle = np.arctan2(np.abs(columns + 0.5 - middle), 0.5 * (top + seen.chin) - rows - 0.5)
    place = angle / np.pi * DIRECTIONS - 0.5  # 0: the middle of the first sector, which is above the head
    sector = np.clip(np.round(place), 0, DIRECTIONS - 1).astype(int)
    distance = seen.distance
    ring = (distance > 0) & (distance < RING) & (rows < seen.chin)
    there = ring & (known >= 1)
    whole = np.bincount(sector[ring], minlength=DIRECTIONS)
    area = np.bincount(sector[there], minlength=DIRECTIONS)
    person = np.bincount(sector[there], alpha[there], DIRECTIONS)
    shown = np.flatnonzero((area > 0.25 * whole) & (area > 0))
    if not shown.size:
        return np.full(alpha.shape, USUAL)
    # The ring is RING deep, so the person's share of it tells the thickness.
    thickness = RING * person[shown] / area[shown]
    return np.interp(place, shown, thickness)


def continue_colours(crop: np.ndarray, alpha: np.ndarray, known: np.ndarray, seen: SeenHead) -> np.ndarray:
    """Crop (S, S, 3) uint8 with the colours of person and background where the photo is not known.

    Args:
      crop: (S, S, 3) uint8.
      alpha: (S, S) in [0, 1], opacity of the person, continued.
      known: (S, S) in [0, 1].
      seen: The fitted head, S pixels a side, which tells hair, skin and body apart: each is continued from
        what the photo shows of it.
    """
    image = crop.astype(np.float32)
    above = np.arange(len(crop))[:, None] < seen.chin
    hair = above & (seen.scalp | ~seen.silhouette)
    person = (known >= 1) & (alpha > 0.95)
    # Where the photo shows none of a material, the nearest of the whole person must do.
    materials = np.stack([hair, above & ~hair, np.broadcast_to(~above, hair.shape)])
    colours = np.zeros_like(image)
    for material in materials:
        source = person & material
        enough = source.sum() > FEW * material.sum()
        colours[material] = spread_nearest(image, source if enough else person)[material]
    background = spread_nearest(image, ndimage.binary_erosion((known >= 1) & (alpha < 0.05), iterations=2))
    filled = alpha[..., None] * colours + (1 - alpha[..., None]) * background
    mixed = known[..., None] * image + (1 - known[..., None]) * filled
    return np.clip(mixed + 0.5, 0, 255).astype(np.uint8)


def spread_nearest(image: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """A picture (S, S, C) that has, elsewhere, the colours of the nearest pixels that are sure (S, S).

    They are smoothed, the more the further away; of a picture without sure pixels the mean is everywhere.
    """
    if not sure.any():
        return np.broadcast_to(image.mean(axis=(0, 1)), image.shape)
    distance, (rows, columns) = ndimage.distance_transform_edt(~sure, return_indices=True)
    spread = image[rows, columns]
    smooth = spread
    for deviation in SMOOTHING:
        blurred = ndimage.gaussian_filter(spread, (deviation, deviation, 0), mode="nearest")
        share = np.clip(distance / (3 * deviation), 0, 1)[..., None]
        smooth = (1 - share) * smooth + share * blurred
    return smooth


def nearest_known(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Values (S, S), outside of the known rectangle those of the nearest pixel in it."""
    inside = known >= 1
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not rows.size:
        return values
    places = np.arange(len(values))
    return values[np.clip(places, rows[0], rows[-1])][:, np.clip(places, columns[0], columns[-1])]
