"""One training step of GenHead: adversarial, on single pictures with masks and parameters.

    real pictures, frames to generate -> what the head model says of them (`frames`)
      -> G on random codes (`forward`), its losses (`losses`), its update -> D's update (`train.adversarial`)
      -> lazy regularisers of both

Ours, where the config asks for it: a step that gives real pictures back, beside these or, at first, instead.
Each is a program of its own: one of all would compile for minutes. Views are rendered by `shard_map`, each
device its own; all else is one program over the whole batch, so that D's statistics of a batch, the means of
styles and the swap of conditions cross devices by themselves.

Letters: B samples of all devices, R rays a side. Source: docs/concepts/genhead.md, Eq. 5.5 to 5.8.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from p4d_jax.data.samples import Portrait
from p4d_jax.genhead.forward import (
    draw_codes,
    labelled_fakes,
    make_codes,
    moved_style_means,
    render_codes,
    swap_probability,
)
from p4d_jax.genhead.frames import Frames, Reals, rasterize_frames, rasterize_reals
from p4d_jax.genhead.losses import LOSSES, Generated, reconstruction_targets, weighted_losses
from p4d_jax.genhead.training import GenHeadTraining
from p4d_jax.train import losses
from p4d_jax.train.adversarial import LabelledInput, blur_fake, discriminator_update, penalty_update
from p4d_jax.train.devices import jit_batch, jit_update, replicated, split
from p4d_jax.train.flops import Work
from p4d_jax.train.loss_table import weight_at
from p4d_jax.train.state import TrainState, descend, lazy_share, moved_average, stream_key
from p4d_jax.types import Array, FrameParams

Report = dict[str, Array]
StyleMeans = tuple[Array, Array]  # (W,) over a batch: of the tri-planes, of the background


def build_genhead_step(
    training: GenHeadTraining,
    draw_real: Callable[[int], Portrait],
    draw_params: Callable[[int], FrameParams],
    batch: int,
    work: Work | None = None,
) -> Callable[[TrainState, Array], tuple[TrainState, Report]]:
    """The step: (state, share of the learning rates) -> (state, report).

    Args:
      draw_real: a number of the step -> real pictures (B,), split over the devices.
      draw_params: a number -> frames (B,) to generate, from the distribution of the real ones.
      batch: B.
      work: what counts the programs' arithmetic.
    """
    work = work or Work()
    config, mesh, head, parts = training.config, training.mesh, training.head, training.parts
    everywhere, shared = replicated(mesh), split(mesh)
    see_frames = jit_batch(mesh, work, rasterize_frames, "training", "resolution")
    see_reals = jit_batch(mesh, work, rasterize_reals, "training")
    make_fakes = jit_batch(mesh, work, fresh_fakes, "training")
    reconstruct = jit_update(mesh, work, reconstruction_update, "training", "active")
    generate = jit_update(
        mesh, work, generator_update, "training", "active", "blurred",
        results=(everywhere, everywhere, shared),
    )  # fmt: skip
    discriminate = jit_update(mesh, work, critic_update, "training", "blurred")
    penalise = jit_update(mesh, work, critic_penalty_update, "training", "resolution", "blurred")
    regularise = jit_update(mesh, work, density_update, "training")

    def step(state: TrainState, rate: Array) -> tuple[TrainState, Report]:
        # Where the run is.
        number, report = int(state.step), {}
        images = number * batch
        resolution, active, blurred = config.resolution(images), config.active(images), config.blurs(images)
        alone = config.reconstructs and images < config.reconstruction_images

        # Data: real pictures, and what the head model says of them. No gradient.
        reals = see_reals(training, head, parts, draw_real(number))

        # Giving real pictures back: G and the encoder.
        if alone or (config.reconstructs and (number + 1) % config.reconstruction_every == 0):
            frames = see_frames(training, resolution, head, parts, reals.portrait.params)
            state, report = reconstruct(training, active, state, rate, reals, frames)

        if not alone:
            # G against D: forward, losses, gradients, update.
            frames = see_frames(training, resolution, head, parts, draw_params(3 * number))
            state, more, fakes = generate(training, active, blurred, state, rate, frames)
            report |= more

            # D, on other fakes unless it is to be shown the same; and its penalty every few steps.
            if not config.reuse_fakes:
                frames = see_frames(training, resolution, head, parts, draw_params(3 * number + 2))
                fakes = make_fakes(training, state, frames)
            state, more = discriminate(training, blurred, state, rate, reals, fakes)
            report |= more
            if (number + 1) % config.penalty_every == 0:
                state, more = penalise(training, resolution, blurred, state, rate, reals)
                report |= more

        # G's regulariser, every few steps.
        if "density" in active and (number + 1) % config.density_every == 0:
            state, more = regularise(training, state, rate, draw_params(3 * number + 1))
            report |= more

        return state.replace(step=state.step + 1), report

    return step


# G against D ----------------------------------------------------------------------------------------------


def generator_update(
    training: GenHeadTraining,
    active: tuple[str, ...],
    blurred: bool,
    state: TrainState,
    rate: Array,
    frames: Frames,
) -> tuple[TrainState, Report, LabelledInput]:
    """G's step on frames (B,): the new state, its report, and the pictures that it made, not blurred."""

    # Forward and losses.
    def objective(generator):
        terms, made, means = generator_losses(training, active, blurred, state, generator, frames)
        return sum(terms.values()), (terms, made, means)

    # Gradients.
    gradients, (terms, made, means) = jax.grad(objective, has_aux=True)(state.params)

    # Update.
    rate = rate * training.config.generator_rate * lazy_share(training.config.density_every)
    state = move_generator(training, state, rate, gradients, means, frames.label.shape[0])

    # Report, and the fakes for D.
    report = {**terms, "generator_gradient": optax.tree.norm(gradients)}
    return state, report, jax.lax.stop_gradient(labelled_fakes(made.views, frames))


def generator_losses(
    training: GenHeadTraining,
    active: tuple[str, ...],
    blurred: bool,
    state: TrainState,
    generator: dict,
    frames: Frames,
) -> tuple[dict[str, Array], Generated, StyleMeans]:
    """The weighted losses of G's parameters on frames (B,), by name, and what it made of them."""
    config, images = training.config, state.images(frames.label.shape[0])
    variables = {"params": generator, "buffers": state.buffers}
    swap = swap_probability(config, images)
    codes, means = draw_codes(training, variables, frames.params, swap, stream_key(state, "G's codes"))
    views = render_codes(training, variables, codes, frames)
    fakes = blur_fake(config, blurred, labelled_fakes(views, frames), images)
    key = stream_key(state, "augmentation of G's fakes")
    logits = training.adversary.logits(state.discriminator, fakes, state.augment, key)
    made = Generated(variables, codes, frames.params, frames, views, logits)
    return weighted_losses(training, active, state, "adversarial", made), made, means


def fresh_fakes(training: GenHeadTraining, state: TrainState, frames: Frames) -> LabelledInput:
    """Pictures for D's step, of other frames and codes than G's step had."""
    swap = swap_probability(training.config, state.images(frames.label.shape[0]))
    variables = {"params": state.params, "buffers": state.buffers}
    key = stream_key(state, "codes of fresh fakes")
    codes, _ = draw_codes(training, variables, frames.params, swap, key)
    return labelled_fakes(render_codes(training, variables, codes, frames), frames)


def critic_update(
    training: GenHeadTraining,
    blurred: bool,
    state: TrainState,
    rate: Array,
    reals: Reals,
    fakes: LabelledInput,
) -> tuple[TrainState, Report]:
    """D's step on real pictures and on fakes."""
    shown = reals.for_discriminator(fakes.inputs.raw.shape[1])
    return discriminator_update(training.adversary, blurred, state, rate, shown, fakes)


def critic_penalty_update(
    training: GenHeadTraining, resolution: int, blurred: bool, state: TrainState, rate: Array, reals: Reals
) -> tuple[TrainState, Report]:
    """D's step on R1 at real pictures."""
    return penalty_update(training.adversary, blurred, state, rate, reals.for_discriminator(resolution))


# G alone --------------------------------------------------------------------------------------------------


def reconstruction_update(
    training: GenHeadTraining,
    active: tuple[str, ...],
    state: TrainState,
    rate: Array,
    reals: Reals,
    frames: Frames,
) -> tuple[TrainState, Report]:
    """G's and the encoder's step on giving real pictures (B,) back.

    Args:
      frames: what the head model says of the real pictures' parameters.
    """

    # Forward and losses.
    def objective(params):
        terms, means = reconstruction_losses(training, active, state, *params, reals, frames)
        return sum(terms.values()), (terms, means)

    # Gradients.
    of_both, (terms, means) = jax.grad(objective, has_aux=True)((state.params, state.encoder))

    # Update.
    rate = rate * training.config.generator_rate
    encoder, encoder_optimizer = descend(
        training.encoder_optimizer, rate, of_both[1], state.encoder, state.encoder_optimizer
    )
    state = move_generator(training, state, rate, of_both[0], means, reals.label.shape[0])
    state = state.replace(encoder=encoder, encoder_optimizer=encoder_optimizer)

    # Report.
    return state, {**terms, "reconstruction_gradient": optax.tree.norm(of_both[0])}


def reconstruction_losses(
    training: GenHeadTraining,
    active: tuple[str, ...],
    state: TrainState,
    generator: dict,
    encoder: dict,
    reals: Reals,
    frames: Frames,
) -> tuple[dict[str, Array], StyleMeans]:
    """The weighted losses of giving real pictures (B,) back, by name, and the batch's mean styles."""
    portrait, images = reals.portrait, state.images(reals.label.shape[0])
    halves = [jax.vmap(losses.halve)(x) for x in (portrait.image, portrait.mask, reals.correspondence)]
    mean, log_variance = training.encoder.apply({"params": encoder}, *halves)
    noise = jax.random.normal(stream_key(state, "noise of the encoder's codes"), mean.shape)
    latent = mean + jnp.exp(log_variance / 2) * noise
    variables = {"params": generator, "buffers": state.buffers}
    swap, key = swap_probability(training.config, images), stream_key(state, "codes of real pictures")
    codes, means = make_codes(training, variables, latent, frames.params, swap, key)
    made = Generated(
        variables, codes, frames.params, frames, render_codes(training, variables, codes, frames),
        target=reconstruction_targets(training, reals, frames), code=(mean, log_variance),
    )  # fmt: skip
    return weighted_losses(training, active, state, "reconstruction", made), means


def density_update(
    training: GenHeadTraining, state: TrainState, rate: Array, params: FrameParams
) -> tuple[TrainState, Report]:
    """G's step on the density regulariser alone, `density_every` times as heavy."""
    config, images = training.config, state.images(params.shape.shape[0])
    swap, weight = swap_probability(config, images), weight_at(config.term("density"), images)

    def objective(generator):
        variables = {"params": generator, "buffers": state.buffers}
        codes, _ = draw_codes(training, variables, params, swap, stream_key(state, "codes of density"))
        made = Generated(variables, codes, params, key=stream_key(state, "density loss"))
        loss = weight * LOSSES["density"].value(training, made)
        return config.density_every * loss, loss

    gradients, loss = jax.grad(objective, has_aux=True)(state.params)
    rate = rate * config.generator_rate * lazy_share(config.density_every)
    params, optimizer = descend(training.optimizer, rate, gradients, state.params, state.optimizer)
    return state.replace(params=params, optimizer=optimizer), {"density": loss}


def move_generator(
    training: GenHeadTraining, state: TrainState, rate: Array, gradients: dict, means: StyleMeans, batch: int
) -> TrainState:
    """The state after a step of G: parameters, their moving average, mean styles."""
    config = training.config
    params, optimizer = descend(training.optimizer, rate, gradients, state.params, state.optimizer)
    average = moved_average(
        state.average, params, state.images(batch) + batch, batch,
        config.average_half_life, config.average_ramp,
    )  # fmt: skip
    buffers = moved_style_means(state.buffers, means)
    return state.replace(params=params, optimizer=optimizer, average=average, buffers=buffers)
