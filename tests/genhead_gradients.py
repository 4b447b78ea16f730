"""Finite differences of every loss of GenHead's training, in float64: prints {loss: [difference, slope]}.

Run by itself: see `finite_differences`. Without importance samples, whose places have no gradient.
"""

import json

from finite_differences import compare, double  # isort: skip

import jax
import jax.numpy as jnp
from genhead_case import tiny_config

from p4d_jax import main as command_line
from p4d_jax.genhead import step as steps
from p4d_jax.genhead.config import RECONSTRUCTION
from p4d_jax.genhead.frames import rasterize_frames, rasterize_reals
from p4d_jax.genhead.losses import LOSSES, Generated
from p4d_jax.genhead.sources import PortraitSettings, openheads
from p4d_jax.genhead.training import create_genhead_state
from p4d_jax.jobs import train_genhead as job
from p4d_jax.train import adversarial

BATCH, RAYS = 4, 8


def main() -> None:
    command_line.enable_compilation_cache()
    config = tiny_config(BATCH)
    config.step.samples, config.step.blur = (24, 0), 0.5
    config.step.augment_target = 0.0
    config.terms.update({name: (1.0,) for name in RECONSTRUCTION})
    training, _ = job.build_training(config)
    active = training.config.active(0)
    state = double(create_genhead_state(training, jax.random.key(3)))
    source = openheads(PortraitSettings(BATCH, seed=5), training)
    see_reals = jax.jit(
        lambda portrait: rasterize_reals(training, training.head, training.parts, double(portrait))
    )
    see_frames = jax.jit(
        lambda params: rasterize_frames(training, RAYS, training.head, training.parts, params)
    )
    reals, others = see_reals(source.draw_real(0)), see_reals(source.draw_real(1))
    params = double(source.draw_params(0))
    # An open mouth, so that its losses see rays.
    frames = job.demonstration_frames(training.head)
    opened = jax.tree.map(lambda x: jnp.broadcast_to(x[3], (BATCH, *x.shape[1:])), double(frames))
    opened = opened.replace(shape=params.shape)
    frames, of_reals = see_frames(opened), see_frames(reals.portrait.params)
    keys = jax.random.split(jax.random.key(7), 4)

    def of_generator(generator):
        losses, _, _ = steps.generator_losses(training, active, True, state, generator, frames)
        variables = {"params": generator, "buffers": state.buffers}
        codes, _ = steps.draw_codes(training, variables, opened, jnp.float32(0.5), keys[0])
        made = Generated(variables, codes, opened, key=keys[1])
        return {**losses, "density": LOSSES["density"].value(training, made)}

    def of_reconstruction(both):
        losses, _ = steps.reconstruction_losses(training, active, state, *both, reals, of_reals)
        return {name: losses[name] for name in RECONSTRUCTION}

    settings, adversary = training.config, training.adversary
    blur = lambda reals: adversarial.blur_real(settings, True, reals.for_discriminator(RAYS), jnp.float32(0))

    def of_discriminator(discriminator):
        logits = lambda shown: adversary.logits(discriminator, shown, state.augment, keys[2])
        of_input = lambda inputs: logits(real.replace(inputs=inputs))
        penalty, _ = adversarial.gradient_penalty(of_input, real.inputs, 1.0, 10.0, 3.0)
        return {
            "discriminator": adversarial.discriminator_loss(logits(fake), logits(real)),
            "penalty": penalty,
        }

    real, fake = jax.jit(blur)(reals), jax.jit(blur)(others).replace(label=reals.label)
    result = compare(of_generator, state.params, keys[3])
    result |= compare(of_reconstruction, (state.params, state.encoder), keys[3])
    result |= compare(of_discriminator, state.discriminator, keys[3])
    print(json.dumps(result))


main()
