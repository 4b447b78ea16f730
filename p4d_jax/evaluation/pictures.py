"""Pictures against true pictures: PSNR, SSIM and LPIPS.

Images (H, W, 3) in [-1, 1], masks (H, W, 1) >= 0; of one picture, `vmap` for many. Nothing here is
differentiated in training.
"""

from __future__ import annotations

from collections.abc import Iterator

import dm_pix
import jax

from p4d_jax.evaluation.case import Case, Row, named
from p4d_jax.evaluation.looks import PictureNetworks
from p4d_jax.evaluation.people import DRIVEN, TARGET, VIEW_YAWS, VIEWS
from p4d_jax.train.losses import psnr, weighted_mean
from p4d_jax.types import Array

SSIM_WINDOW = 11  # pixels


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
        image * 0.5 + 0.5, target * 0.5 + 0.5, filter_size=SSIM_WINDOW, filter_sigma=1.5, return_map=True
    )


def ssim(image: Array, target: Array, mask: Array | None = None) -> Array:
    """Mean of `ssim_map` over the pixels of a mask (H, W, 1); over all for None."""
    margin = SSIM_WINDOW // 2
    inner = None if mask is None else mask[margin:-margin, margin:-margin]
    return weighted_mean(ssim_map(image, target), inner)
