"""Adversarial training: what a discriminator D sees, its losses, its steps.

D is any network from a `DiscriminatorInput` and camera labels to logits (B, 1). Its step and its R1 penalty
are functions from a `TrainState` to the next; blur and augmentation stand between pictures and D in both, and
before a generator that is taught by it. Letters: B batch, S image size, R rays a side. Source: StyleGAN2
(arXiv 1912.04958), R1 (Mescheder et al., arXiv 1801.04406), EG3D (arXiv 2112.07945), Portrait4D
(arXiv 2311.18729).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from p4d_jax.imaging.resizing import resize_antialiased
from p4d_jax.nn.stylegan2 import filter_axis
from p4d_jax.train.augment import Augmentation, adapt_probability, augment
from p4d_jax.train.config import StepSettings
from p4d_jax.train.state import TrainState, descend, stream_key
from p4d_jax.types import Array, shaped


@struct.dataclass
class DiscriminatorInput:
    """What the discriminator sees of a batch; a pytree, so that R1 takes a gradient of each part.

    Attributes:
      image: (B, S, S, 3) in [-1, 1].
      raw: (B, R, R, 3) in [-1, 1].
      correspondence: (B, S, S, 3) the head model's correspondence map, canonical coordinates of each pixel.
      segmentation: (B, R, R, 1) opacity · 2 − 1.
    """

    image: Array
    raw: Array
    correspondence: Array
    segmentation: Array


def input_shapes(size: int) -> DiscriminatorInput:
    """Shapes of two pictures of `size` pixels a side, for a discriminator's `lazy_init`."""
    return DiscriminatorInput(*(shaped(2, size, size, channels) for channels in (3, 3, 3, 1)))


@struct.dataclass
class LabelledInput:
    """A batch for D, with the camera label (B, 25) that each sample is judged by."""

    inputs: DiscriminatorInput
    label: Array


@dataclasses.dataclass(frozen=True)
class Adversary:
    """A discriminator that learns: what does not change in a run.

    Attributes:
      network: D.
      optimizer: of D.
      settings: R1, blur and augmentation.
      rate: of D, a multiple of the run's learning rate.
    """

    network: nn.Module
    optimizer: optax.GradientTransformation
    settings: StepSettings
    rate: float

    def logits(self, params: dict, shown: LabelledInput, probability: Array, key: Array) -> Array:
        """D's logits (B, 1), of augmented pictures where the settings say so.

        Args:
          probability: () of augmentation.
        """
        inputs = shown.inputs
        if self.settings.augment_target:
            inputs = augment(Augmentation(), inputs, probability, key)
        return self.network.apply({"params": params}, inputs, shown.label)


# Losses ---------------------------------------------------------------------------------------------------


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


# Steps of D -----------------------------------------------------------------------------------------------


def discriminator_update(
    adversary: Adversary,
    blurred: bool,
    state: TrainState,
    rate: Array,
    real: LabelledInput,
    fake: LabelledInput,
) -> tuple[TrainState, dict[str, Array]]:
    """D's step on real pictures and on fakes: the new state, and its report.

    Args:
      blurred: whether pictures are blurred before D.
    """
    settings, batch = adversary.settings, real.label.shape[0]
    real = blur_real(settings, blurred, real, state.images(batch))
    fake = blur_fake(settings, blurred, fake, state.images(batch))
    keys = [stream_key(state, f"augmentation of D's {name}") for name in ("reals", "fakes")]

    def objective(params):
        reals = adversary.logits(params, real, state.augment, keys[0])
        fakes = adversary.logits(params, fake, state.augment, keys[1])
        return discriminator_loss(fakes, reals), (reals, fakes)

    (loss, (reals, fakes)), gradients = jax.value_and_grad(objective, has_aux=True)(state.discriminator)
    state = move_discriminator(adversary, state, rate, gradients)
    sign = jnp.sign(reals).mean()
    report = {
        "discriminator": loss,
        "real_logit": reals.mean(),
        "fake_logit": fakes.mean(),
        "real_sign": sign,
        "fake_sign": jnp.sign(fakes).mean(),
        "discriminator_gradient": optax.tree.norm(gradients),
    }
    if settings.augment_target:
        speed = batch / settings.augment_images
        probability = adapt_probability(state.augment, sign, settings.augment_target, speed)
        state, report = state.replace(augment=probability), report | {"augment": probability}
    return state, report


def penalty_update(
    adversary: Adversary, blurred: bool, state: TrainState, rate: Array, real: LabelledInput
) -> tuple[TrainState, dict[str, Array]]:
    """D's step on R1 alone, `penalty_every` times as heavy; see `discriminator_update`."""
    settings = adversary.settings
    real = blur_real(settings, blurred, real, state.images(real.label.shape[0]))
    key = stream_key(state, "augmentation of R1's reals")

    def objective(params):
        penalty, parts = gradient_penalty(
            lambda inputs: adversary.logits(params, real.replace(inputs=inputs), state.augment, key),
            real.inputs, settings.gamma_image, settings.gamma_correspondence, settings.gamma_segmentation,
        )  # fmt: skip
        return settings.penalty_every * penalty, parts

    gradients, parts = jax.grad(objective, has_aux=True)(state.discriminator)
    return move_discriminator(adversary, state, rate, gradients), parts


def move_discriminator(adversary: Adversary, state: TrainState, rate: Array, gradients: dict) -> TrainState:
    """The state after one step of D along the gradients."""
    params, optimizer_state = descend(
        adversary.optimizer,
        rate * adversary.rate,
        gradients,
        state.discriminator,
        state.discriminator_optimizer,
    )
    return state.replace(discriminator=params, discriminator_optimizer=optimizer_state)


# What D sees ----------------------------------------------------------------------------------------------


def real_input(image: Array, mask: Array, correspondence: Array, resolution: int) -> DiscriminatorInput:
    """What D sees of real pictures (B, S, S, 3) with masks (B, S, S, 1) when G renders `resolution` rays."""
    return DiscriminatorInput(
        image,
        resize_antialiased(image, resolution),
        correspondence,
        resize_antialiased(mask, resolution) * 2 - 1,
    )


def blur_sigma(settings: StepSettings, images: Array) -> Array:
    """Sigma, in pixels, of the blur of pictures before D after so many images."""
    return settings.blur * fade(images, settings.blur_images)


def fade(images: Array, over: float) -> Array:
    """From 1 at the start to 0 at `over` images."""
    return jnp.clip(1 - images / over, 0.0, 1.0) if over else jnp.zeros_like(images)


def blur_fake(settings: StepSettings, blurred: bool, fake: LabelledInput, images: Array) -> LabelledInput:
    """Made pictures, blurred after so many images; what they were made from stays sharp."""
    if not blurred:
        return fake
    image = blur_fading(fake.inputs.image, blur_sigma(settings, images), settings.blur)
    return fake.replace(inputs=fake.inputs.replace(image=image))


def blur_real(settings: StepSettings, blurred: bool, real: LabelledInput, images: Array) -> LabelledInput:
    """Real pictures, and what was made from them, blurred after so many images."""
    if not blurred:
        return real
    blur = lambda x: blur_fading(x, blur_sigma(settings, images), settings.blur)
    inputs = real.inputs.replace(
        image=blur(real.inputs.image), raw=blur(real.inputs.raw), segmentation=blur(real.inputs.segmentation)
    )
    return real.replace(inputs=inputs)


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
