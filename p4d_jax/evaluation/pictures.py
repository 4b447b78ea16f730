"""Pictures against true pictures: PSNR, SSIM, MS-SSIM and LPIPS.

Images (H, W, 3) in [-1, 1], masks (H, W, 1) >= 0; of one picture, `vmap` for many. Nothing here is
differentiated in training.
"""

from __future__ import annotations

from collections.abc import Iterator

import dm_pix
import jax
import numpy as np
from scipy import ndimage

from p4d_jax.evaluation.case import Case, Row, named
from p4d_jax.evaluation.looks import PictureNetworks
from p4d_jax.evaluation.people import DRIVEN, TARGET, VIEW_YAWS, VIEWS
from p4d_jax.train.losses import halve, psnr, weighted_mean
from p4d_jax.types import Array

SSIM_WINDOW = 11  # pixels
SSIM_SIGMA = 1.5  # pixels
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of MS-SSIM, finest first
MS_SSIM_LEAST = (SSIM_WINDOW - 1) * 2 ** (len(SCALE_WEIGHTS) - 1) + 1  # pixels a side


def compare_pictures(case: Case) -> Iterator[tuple[str, float]]:
    """Self-reenactment against the target, and the driven picture against the true one."""
    clip, truth, networks = case.person.clip, case.person.truth, case.networks
    wanted = (clip.image[1], clip.mask[1], clip.face_mask[1])
    yield from named("self", compare_images(networks, case.made[TARGET], *wanted)).items()
    yield from named("self", compare_images(networks, clip.image[0], *wanted), "_unchanged").items()
    wanted = (truth.image[DRIVEN], truth.mask[DRIVEN], truth.face_mask[DRIVEN])
    yield from named("cross", compare_images(networks, case.made[DRIVEN], *wanted)).items()


def compare_views(case: Case) -> Iterator[tuple[str, float]]:
    """Novel views against the true ones, and what a side view loses against the frontal one."""
    truth, views = case.person.truth, {}
    for place, yaw in enumerate(VIEW_YAWS, VIEWS):
        views[yaw] = image_measures(
            case.made[place], truth.image[place], truth.mask[place], truth.face_mask[place]
        )
    for yaw, measures in views.items():
        for name in ("psnr", "psnr_face", "ssim"):
            yield f"novel/{name}_{yaw:+d}", float(measures[name])
        if yaw:
            yield f"novel/drop_{yaw:+d}", float(views[0]["psnr"] - measures["psnr"])


def compare_images(networks: PictureNetworks, image, target, mask, face_mask) -> Row:
    """`image_measures`, and LPIPS of the image in the mask before the target's background."""
    row = {name: float(value) for name, value in image_measures(image, target, mask, face_mask).items()}
    if networks.lpips is not None:
        row["lpips"] = float(networks.lpips(target + (image - target) * mask, target))
    return row


@jax.jit
def image_measures(image: Array, target: Array, mask: Array, face_mask: Array) -> dict[str, Array]:
    """PSNR and SSIM in the mask of head, hair and shoulders, and (`_face`) of the parametric head alone."""
    return {
        "psnr": psnr(image, target, mask),
        "psnr_face": psnr(image, target, face_mask),
        "ssim": ssim(image, target, mask),
        "ssim_face": ssim(image, target, face_mask),
    }


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
        image * 0.5 + 0.5,
        target * 0.5 + 0.5,
        filter_size=SSIM_WINDOW,
        filter_sigma=SSIM_SIGMA,
        return_map=True,
    )


def ssim(image: Array, target: Array, mask: Array | None = None) -> Array:
    """Mean of `ssim_map` over the pixels of a mask (H, W, 1); over all for None."""
    margin = SSIM_WINDOW // 2
    inner = None if mask is None else mask[margin:-margin, margin:-margin]
    return weighted_mean(ssim_map(image, target), inner)


def ms_ssim(picture: np.ndarray, target: np.ndarray) -> float:
    """Structural similarity over five scales, of pictures (H, W, 3) uint8; on the host, in float64.

    Wang, Simoncelli, Bovik, "Multiscale structural similarity for image quality assessment" (2003): contrast
    and structure of each scale, and luminance of the coarsest, to the powers of `SCALE_WEIGHTS`; window and
    constants of SSIM, each channel by itself, means of 2 x 2 pixels between the scales. A mean contrast and
    structure below 0 counts as 0.

    Raises:
      ValueError: The pictures differ in size, or are too small for five scales.
    """
    if picture.shape != target.shape or min(picture.shape[:2]) < MS_SSIM_LEAST:
        raise ValueError(
            f"picture, target: expected one shape of at least {MS_SSIM_LEAST} x {MS_SSIM_LEAST} pixels, got"
            f" {picture.shape} and {target.shape}"
        )
    a, b = picture / 255.0, target / 255.0
    result = np.ones(picture.shape[-1])
    for scale, weight in enumerate(SCALE_WEIGHTS):
        luminance, structure = similarity_maps(a, b)
        if scale == len(SCALE_WEIGHTS) - 1:
            structure = luminance * structure
        result *= np.maximum(structure.mean((0, 1)), 0) ** weight
        a, b = (halve(x) for x in (a, b))
    return float(result.mean())


def similarity_maps(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The factors of SSIM of (H, W, 3) in [0, 1]: luminance; contrast and structure. (H - 10, W - 10, 3)."""
    margin, (c1, c2) = SSIM_WINDOW // 2, (0.01**2, 0.03**2)

    def blur(x: np.ndarray) -> np.ndarray:
        for axis in (0, 1):
            x = ndimage.gaussian_filter1d(x, SSIM_SIGMA, axis, radius=margin)
        return x[margin:-margin, margin:-margin]

    mean_a, mean_b = blur(a), blur(b)
    variances = blur(a * a) - mean_a**2 + blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return luminance, (2 * covariance + c2) / (variances + c2)
