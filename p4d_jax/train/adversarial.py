"""Losses of adversarial training: pure functions, each of which one term is made.

Source: docs/concepts/genhead.md, Eq. 5.5 to 5.8.

Logits (B, 1); `DiscriminatorInput` batches; raw densities. Source: StyleGAN2 (arXiv 1912.04958), R1
(Mescheder et al., arXiv 1801.04406), EG3D (arXiv 2112.07945), Portrait4D (arXiv 2311.18729).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from p4d_jax.genhead.discriminator import DiscriminatorInput
from p4d_jax.genhead.view import GenHeadView
from p4d_jax.imaging.resizing import resize_antialiased
from p4d_jax.nn.stylegan2 import filter_axis
from p4d_jax.types import Array


def generator_loss(fake_logits: Array) -> Array:
    """() non-saturating logistic loss of G."""
    return jax.nn.softplus(-fake_logits).mean()


def discriminator_loss(fake_logits: Array, real_logits: Array) -> Array:
    """() logistic loss of D."""
    return jax.nn.softplus(fake_logits).mean() + jax.nn.softplus(-real_logits).mean()


def gradient_penalty(
    logits: Callable[[DiscriminatorInput], Array],
    real: DiscriminatorInput,
    gamma_image: float,
    gamma_correspondence: float,
    gamma_segmentation: float,
) -> tuple[Array, dict[str, Array]]:
    """R1: half the squared gradient of D's logits at real pictures, each part with its own gamma.

    Args:
      logits: D as a function of its input.
      gamma_image: of the picture and the raw image.

    Returns:
      () weighted penalty, and the mean squared gradient of each part.
    """
    gradient = jax.grad(lambda inputs: logits(inputs).sum())(real)
    squared = jax.tree.map(lambda x: jnp.sum(jnp.square(x), axis=(1, 2, 3)).mean(), gradient)
    image = squared.image + squared.raw
    penalty = gamma_image * image + gamma_correspondence * squared.correspondence
    penalty = 0.5 * (penalty + gamma_segmentation * squared.segmentation)
    parts = {
        "r1_image": image,
        "r1_correspondence": squared.correspondence,
        "r1_segmentation": squared.segmentation,
    }
    return penalty, parts


def part_losses(views: GenHeadView, head_weight: float, solid_weight: float) -> dict[str, Array]:
    """What keeps eyes and mouth in their own branch, and solid, over a batch of views.

    Args:
      head_weight: of the head branch's density inside the masks.
      solid_weight: of the rays' distortion there, and of the background that shows through.
    """
    terms, transmittance = views.terms, 1 - views.opacity
    parts = {}
    heads = (terms.head_in_eyes, terms.head_in_mouth)
    for name, mask, head in zip(("eye", "mouth"), (views.masks.eye, views.masks.mouth), heads, strict=True):
        parts[f"{name}_head"] = head_weight * (head * mask).mean()
        parts[f"{name}_distortion"] = solid_weight * (terms.distortion * mask).mean()
        parts[f"{name}_background"] = solid_weight * (transmittance * mask).mean()
    return parts


def density_difference(densities: Array, perturbed: Array) -> Array:
    """() mean absolute difference of raw densities at points and at points near by."""
    return jnp.abs(densities - perturbed).mean()


def blur_fading(image: Array, sigma: Array, largest: float) -> Array:
    """`nn.stylegan2.blur2d` with a sigma that is not known when compiling, of at most `largest` pixels.

    Args:
      image: (B, H, W, C).
      sigma: (); from 1/3 downwards nothing is blurred.
    """
    reach = int(3 * largest)
    offsets = jnp.arange(-reach, reach + 1)
    weights = jnp.exp2(-jnp.square(offsets / jnp.maximum(sigma, 1e-6)))
    weights = jnp.where(jnp.abs(offsets) <= jnp.floor(3 * sigma), weights, 0.0)
    taps = list(weights / weights.sum())
    for axis in (1, 2):
        image = filter_axis(image, axis, taps, reach, reach)
    return image


def real_input(image: Array, mask: Array, correspondence: Array, resolution: int) -> DiscriminatorInput:
    """What D sees of real pictures (B, S, S, 3) with masks (B, S, S, 1) when G renders `resolution` rays."""
    return DiscriminatorInput(
        image,
        resize_antialiased(image, resolution),
        correspondence,
        resize_antialiased(mask, resolution) * 2 - 1,
    )
