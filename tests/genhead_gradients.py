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
from p4d_jax.jobs import train_genhead as job
from p4d_jax.openheads.config import OpenHeadsSettings
from p4d_jax.openheads.scene import prepare_scene
from p4d_jax.train import adversarial

BATCH = 4
RECONSTRUCTION = ("reconstruction", "reconstruction_raw", "reconstruction_mask")


def main() -> None:
    command_line.enable_compilation_cache()
    config = tiny_config(BATCH)
    config.step.samples, config.step.blur = (24, 0), 0.5
    config.step.augment_target = 0.0
    config.step.reconstruction_weight = config.step.skin_weight = 1.0
    training, _ = job.build_gan(config)
    state = double(steps.create_genhead_state(training, jax.random.key(3)))
    draw_real, draw_params = job.openheads_draws(
        training, prepare_scene(training.head), 16, BATCH, jax.random.key(5), OpenHeadsSettings()
    )
    see_real = jax.jit(
        lambda number: steps.rasterize_reals(training, training.head, training.parts, double(number))
    )
    real, other, params = see_real(draw_real(0)), see_real(draw_real(1)), double(draw_params(0))
    # An open mouth, so that its losses see rays.
    frames = job.demonstration_frames(training.head)
    opened = jax.tree.map(lambda x: jnp.broadcast_to(x[3], (BATCH, *x.shape[1:])), double(frames))
    opened = opened.replace(shape=params.shape)
    frames = jax.jit(
        lambda params: steps.rasterize_frames(training, 8, training.head, training.parts, params)
    )(opened)
    seen = jax.jit(lambda params: steps.rasterize_frames(training, 8, training.head, training.parts, params))(
        real.portrait.params
    )
    keys = jax.random.split(jax.random.key(7), 4)

    def of_generator(generator):
        losses, _ = steps.generator_losses(training, True, state, generator, frames)
        variables = {"params": generator, "buffers": state.buffers}
        codes, _ = steps.draw_codes(training, variables, opened, jnp.float32(0.5), keys[0])
        return {**losses, "density": steps.density_loss(training, variables, codes.ws, opened, keys[1])}

    def of_reconstruction(both):
        losses, _ = steps.reconstruction_losses(training, state, *both, real, seen)
        return {name: losses[name] for name in ("kl", "skin", *RECONSTRUCTION)}

    def of_discriminator(discriminator):
        shown = steps.real_pictures(training, 8, True, real, jnp.float32(0))
        label = real.label
        logits = lambda inputs: steps.discriminator_logits(
            training, discriminator, inputs, label, state.augment, keys[2]
        )
        loss = adversarial.discriminator_loss(logits(fake), logits(shown))
        return {
            "discriminator": loss,
            "penalty": adversarial.gradient_penalty(logits, shown, 1.0, 10.0, 3.0)[0],
        }

    fake = jax.jit(lambda other: steps.real_pictures(training, 8, True, other, jnp.float32(0)))(other)
    result = compare(of_generator, state.generator, keys[3])
    result |= compare(of_reconstruction, (state.generator, state.encoder), keys[3])
    result |= compare(of_discriminator, state.discriminator, keys[3])
    print(json.dumps(result))


main()
