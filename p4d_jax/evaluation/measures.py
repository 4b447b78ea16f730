"""What pictures and films are measured by, beside the losses: SSIM, and how unevenly a film moves.

Images (H, W, 3) in [-1, 1], masks (H, W, 1) >= 0; of one picture or one film, `vmap` for many. PSNR is
`losses.psnr`. Nothing here is differentiated in training.
"""

from __future__ import annotations

import dm_pix
import jax.numpy as jnp
from flax import struct

from p4d_jax.train.losses import weighted_mean
from p4d_jax.types import Array

SSIM_WINDOW = 11  # pixels
GREY_LEVELS = 127.5  # of 255, in one unit of [-1, 1]


def ssim_map(image: Array, target: Array) -> Array:
    """Structural similarity around each pixel whose window lies in the image: (H - 10, W - 10, 3), <= 1.

    Wang et al., "Image Quality Assessment" (2004): Gaussian window 11 x 11 of sigma 1.5, K1 = 0.01,
    K2 = 0.03, each channel by itself, colours in [0, 1].
    """
    if image.shape != target.shape or min(image.shape[:2]) < SSIM_WINDOW:
        raise ValueError(
            f"image, target: expected one shape of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, got"
            f" {image.shape} and {target.shape}"
        )
    return dm_pix.ssim(
        image * 0.5 + 0.5, target * 0.5 + 0.5, filter_size=SSIM_WINDOW, filter_sigma=1.5, return_map=True
    )


def ssim(image: Array, target: Array, mask: Array | None = None) -> Array:
    """Mean of `ssim_map` over the pixels of a mask (H, W, 1); over all for None."""
    margin = SSIM_WINDOW // 2
    inner = None if mask is None else mask[margin:-margin, margin:-margin]
    return weighted_mean(ssim_map(image, target), inner)


@struct.dataclass
class Flicker:
    """How unevenly a film moves, in grey levels of 255: mean |x(t+1) - 2 x(t) + x(t-1)| in the mask.

    Attributes:
      result, truth: of the film and of the true one.
      error: of their difference; 0 where the film errs by the same in every frame, or not at all.
    """

    result: Array
    truth: Array
    error: Array


def second_difference(film: Array, masks: Array) -> Array:
    """Mean of |x(t+1) - 2 x(t) + x(t-1)| of a film (T >= 3, H, W, C), in grey levels of 255.

    masks: (T, H, W, 1); a pixel counts by the largest of its three.
    """
    if film.shape[0] < 3:
        raise ValueError(f"film: a second difference takes at least 3 frames, got {film.shape[0]}")
    change = jnp.abs(film[2:] - 2.0 * film[1:-1] + film[:-2])
    weights = jnp.maximum(jnp.maximum(masks[2:], masks[1:-1]), masks[:-2])
    return GREY_LEVELS * weighted_mean(change, weights)


def flicker(film: Array, truth: Array, masks: Array) -> Flicker:
    """`Flicker` of a film (T, H, W, 3) against the true one, where the truth's masks (T, H, W, 1) are."""
    return Flicker(*(second_difference(x, masks) for x in (film, truth, film - truth)))
