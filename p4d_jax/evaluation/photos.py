"""How well a photo's own view is reconstructed, before the avatar is personalised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p4d_jax.avatar.model import AvatarModel
from p4d_jax.capture.photo import Capture
from p4d_jax.evaluation.held_out import Rays, reenact
from p4d_jax.evaluation.motions import own_motions
from p4d_jax.evaluation.people import VIEW_YAWS, novel_views
from p4d_jax.evaluation.pictures import image_measures
from p4d_jax.imaging.writing import to_alpha, to_image
from p4d_jax.types import on_host, stack


@dataclass(frozen=True)
class PhotoResult:
    """What a model made of a photo.

    Attributes:
      measures: PSNR and SSIM of the photo's own view in its alpha.
      images: The photo, the result, and the result from each of `VIEW_YAWS`; (S, S, 3) in [-1, 1].
    """

    measures: dict[str, float]
    images: list[np.ndarray]


def measure_photo(model: AvatarModel, captured: Capture, rays: Rays) -> PhotoResult:
    """Self-reconstruction of a captured photo."""
    size, params = model.config.picture_size, on_host(captured.params)
    image = np.asarray(to_image(captured.crop, size))
    alpha = to_alpha(captured.alpha, size)
    frames = stack([params, *novel_views(params)])
    motions = own_motions(model, image, params, 1 + len(VIEW_YAWS))
    made = reenact(model, image, params, frames, motions, rays, alpha)
    values = image_measures(made[0], image, alpha, alpha)
    return PhotoResult({key: round(float(values[key]), 3) for key in ("psnr", "ssim")}, [image, *made])
