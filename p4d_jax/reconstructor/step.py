"""One training step of Psi: self-reenactment on pairs of pictures (docs/concepts/training.md).

    pairs -> what the head model says of them (`samples`)
          -> Psi (`forward`), its losses (`losses`), its update -> its lazy regularisers
          -> the discriminator's update (`train.adversarial`)

Each is a program of its own: one of all would compile for minutes. Which terms count changes with the images
seen, and with that a program: `Term.active` is asked on the host. Views are rendered by `shard_map`, each
device its own; all else is one program over the whole batch, so that a run on many devices is the run on one.

Letters: B pairs of all devices, R rays a side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import optax

from p4d_jax.data.samples import HeadPair
from p4d_jax.reconstructor.forward import Rendered, labelled_fakes, labelled_reals, render_samples
from p4d_jax.reconstructor.losses import LOSSES
from p4d_jax.reconstructor.samples import Sample, build_samples
from p4d_jax.reconstructor.training import Constants, ReconstructorTraining
from p4d_jax.train import losses
from p4d_jax.train.adversarial import LabelledInput, blur_fake, discriminator_update, penalty_update
from p4d_jax.train.devices import jit_batch, jit_update, replicated, split
from p4d_jax.train.flops import Work
from p4d_jax.train.loss_table import weight_at
from p4d_jax.train.state import TrainState, descend, moved_average, stream_key, stream_keys
from p4d_jax.types import Array

Report = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class TrainingHooks:
    """Programs that a variant of the training adds (`reconstructor.multiview`).

    Attributes:
      describe: (R, state, pairs) -> pairs with other driving pictures, or None.
      regularise: (R, state, rate, constants, pairs) -> (state, losses), every `every` steps, or None.
    """

    describe: Callable | None = None
    regularise: Callable | None = None
    every: int = 4


def build_step(
    training: ReconstructorTraining,
    constants: Constants,
    draw_pairs: Callable[[int], HeadPair],
    batch: int,
    hooks: TrainingHooks = TrainingHooks(),
    work: Work | None = None,
) -> Callable[[TrainState, Array], tuple[TrainState, Report]]:
    """The step: (state, learning rate) -> (state, report).

    Args:
      draw_pairs: a number of the step -> pairs (B,), split over the devices.
      batch: B.
      hooks: what v2 adds.
      work: what counts the programs' arithmetic.
    """
    config, mesh, work = training.config, training.mesh, work or Work()
    whole_views = "whole_view" in LOSSES.reads_of(config.weighted())
    everywhere, shared = replicated(mesh), split(mesh)
    prepare = jit_batch(mesh, work, prepare_samples, "training", "resolution", "whole")
    update = jit_update(
        mesh, work, reconstructor_update, "training", "active", "blurred",
        results=(everywhere, everywhere, shared),
    )  # fmt: skip
    regularise = jit_update(mesh, work, density_update, "training")
    discriminate = jit_update(mesh, work, critic_update, "training", "blurred")
    penalise = jit_update(mesh, work, critic_penalty_update, "training", "blurred")

    def step(state: TrainState, rate: Array) -> tuple[TrainState, Report]:
        # Where the run is.
        number = int(state.step)
        images = number * batch
        resolution, active = config.resolution(images), config.active(images)
        blurred = config.blurs(images)

        # Data: pairs, and what the head model says of them. No gradient.
        pairs = draw_pairs(number)
        if hooks.describe:
            pairs = hooks.describe(resolution, state, pairs)
        samples = prepare(training, resolution, whole_views, constants, state, pairs)

        # Psi: forward, losses, gradients, update.
        state, report, fakes = update(training, active, blurred, state, rate, constants, samples)

        # Its regularisers, every few steps.
        if "density" in active and (number + 1) % config.density_every == 0:
            state, more = regularise(training, state, rate, samples)
            report |= more
        if hooks.regularise and (number + 1) % hooks.every == 0:
            state, more = hooks.regularise(resolution, state, rate, constants, pairs)
            report |= more

        # The discriminator, and its penalty every few steps.
        if fakes is not None:
            state, more = discriminate(training, blurred, state, rate, samples, fakes)
            report |= more
            if (number + 1) % config.penalty_every == 0:
                state, more = penalise(training, blurred, state, rate, samples)
                report |= more

        return state.replace(step=state.step + 1), report

    return step


# Data -----------------------------------------------------------------------------------------------------


def prepare_samples(
    training: ReconstructorTraining,
    resolution: int,
    whole: bool,
    constants: Constants,
    state: TrainState,
    pairs: HeadPair,
) -> Sample:
    """The samples of a step's pairs (B,); see `samples.build_sample`."""
    keys = stream_keys(state, "crops", pairs.scale.shape[0])
    return build_samples(training, resolution, whole, constants, pairs, keys)


# Psi ------------------------------------------------------------------------------------------------------


def reconstructor_update(
    training: ReconstructorTraining,
    active: tuple[str, ...],
    blurred: bool,
    state: TrainState,
    rate: Array,
    constants: Constants,
    samples: Sample,
) -> tuple[TrainState, Report, LabelledInput | None]:
    """Psi's step on samples (B,): the new state, its report, and what D is shown of it."""
    config, batch = training.config, samples.scale.shape[0]

    # Forward and losses.
    def objective(params):
        terms, out = reconstructor_losses(training, active, blurred, constants, state, params, samples)
        return sum(terms.values()), (terms, out)

    # Gradients.
    gradients, (terms, out) = jax.grad(objective, has_aux=True)(state.params)

    # Update, and the moving average.
    params, optimizer = descend(training.optimizer, rate, gradients, state.params, state.optimizer)
    average = moved_average(
        state.average, params, state.images(batch) + batch, batch,
        config.average_half_life, config.average_ramp,
    )  # fmt: skip
    state = state.replace(params=params, optimizer=optimizer, average=average)

    # Report, and the fakes for D.
    learned = {name: gradients[name] for name in config.trained or gradients}
    report = {**terms, "gradient_norm": optax.tree.norm(learned)}
    if "image" in active:  # else nothing need be rendered
        report["psnr"] = jax.vmap(losses.psnr)(out.image, samples.targets.image, samples.face).mean()
    fakes = labelled_fakes(samples, out) if "logits" in LOSSES.reads_of(active) else None
    return state, report, jax.lax.stop_gradient(fakes)


def reconstructor_losses(
    training: ReconstructorTraining,
    active: tuple[str, ...],
    blurred: bool,
    constants: Constants,
    state: TrainState,
    params: dict,
    samples: Sample,
) -> tuple[dict[str, Array], Rendered]:
    """The weighted losses of Psi's parameters that are active, by name, and what Psi made of the samples."""
    images, batch = state.images(samples.scale.shape[0]), samples.scale.shape[0]
    counted = [name for name in active if not LOSSES[name].lazy]
    variables = {"params": params, "buffers": state.buffers}
    out = render_samples(training, variables, samples, stream_keys(state, "rays", batch))
    if "logits" in LOSSES.reads_of(counted):
        fakes = blur_fake(training.config, blurred, labelled_fakes(samples, out), images)
        key = stream_key(state, "augmentation of Psi's fakes")
        out = out.replace(logits=training.adversary.logits(state.discriminator, fakes, state.augment, key))
    terms = {
        name: weight_at(training.config.term(name), images)
        * LOSSES[name].value(constants.loss_networks, samples.targets, out)
        for name in counted
    }
    return terms, out


def density_update(
    training: ReconstructorTraining, state: TrainState, rate: Array, samples: Sample
) -> tuple[TrainState, Report]:
    """Psi's step on the density regulariser alone, `density_every` times as heavy."""
    config, keys = training.config, stream_keys(state, "density", samples.scale.shape[0])
    weight = weight_at(config.term("density"), state.images(len(keys)))

    def objective(params):
        variables = {"params": params, "buffers": state.buffers}
        loss = weight * LOSSES["density"].value(training, variables, samples, keys)
        return config.density_every * loss, loss

    gradients, loss = jax.grad(objective, has_aux=True)(state.params)
    params, optimizer = descend(training.optimizer, rate, gradients, state.params, state.optimizer)
    return state.replace(params=params, optimizer=optimizer), {"density": loss}


# The discriminator ----------------------------------------------------------------------------------------


def critic_update(
    training: ReconstructorTraining,
    blurred: bool,
    state: TrainState,
    rate: Array,
    samples: Sample,
    fakes: LabelledInput,
) -> tuple[TrainState, Report]:
    """D's step on the targets and on what Psi made of them."""
    return discriminator_update(training.adversary, blurred, state, rate, labelled_reals(samples), fakes)


def critic_penalty_update(
    training: ReconstructorTraining, blurred: bool, state: TrainState, rate: Array, samples: Sample
) -> tuple[TrainState, Report]:
    """D's step on R1 at the targets."""
    return penalty_update(training.adversary, blurred, state, rate, labelled_reals(samples))
