"""Finite differences of every loss of GenHead's training, in float64: prints {loss: [difference, slope]}.

Run by itself: see `finite_differences`. Without importance samples, whose places have no gradient.
"""

import json

from finite_differences import compare, double  # isort: skip

import jax
import jax.numpy as jnp
from genhead_case import tiny_config

from p4d_jax import main as command_line
from p4d_jax.data.openheads import OpenHeadsSettings, prepare_stage
from p4d_jax.jobs import train_genhead as job
from p4d_jax.train import adversarial
from p4d_jax.train import genhead_step as steps

BATCH = 4
RECONSTRUCTION = ("reconstruction", "reconstruction_raw", "reconstruction_mask")


def main() -> None:
    command_line.enable_compilation_cache()
    config = tiny_config(BATCH)
    config.step.samples, config.step.blur = (24, 0), 0.5
    config.step.augment_target = 0.0
    config.step.reconstruction_weight = config.step.skin_weight = 1.0
    gan, _ = job.build_gan(config)
    state = double(steps.create_gan_state(gan, jax.random.key(3)))
    draw_real, draw_params = job.openheads_draws(
        gan, prepare_stage(gan.head), 16, BATCH, jax.random.key(5), OpenHeadsSettings()
    )
    see_real = jax.jit(lambda number: steps.see_reals(gan, gan.head, gan.parts, double(number)))
    real, other, params = see_real(draw_real(0)), see_real(draw_real(1)), double(draw_params(0))
    # An open mouth, so that its losses see rays.
    frames = job.demonstration_frames(gan.head)
    opened = jax.tree.map(lambda x: jnp.broadcast_to(x[3], (BATCH, *x.shape[1:])), double(frames))
    opened = opened.replace(shape=params.shape)
    frames = jax.jit(lambda params: steps.see_frames(gan, 8, gan.head, gan.parts, params))(opened)
    seen = jax.jit(lambda params: steps.see_frames(gan, 8, gan.head, gan.parts, params))(real.portrait.params)
    keys = jax.random.split(jax.random.key(7), 4)

    def of_generator(generator):
        losses, _ = steps.generator_losses(gan, True, state, generator, frames)
        variables = {"params": generator, "buffers": state.buffers}
        codes, _ = steps.draw_codes(gan, variables, opened, jnp.float32(0.5), keys[0])
        return {**losses, "density": steps.density_loss(gan, variables, codes.ws, opened, keys[1])}

    def of_reconstruction(both):
        losses, _ = steps.reconstruction_losses(gan, state, *both, real, seen)
        return {name: losses[name] for name in ("kl", "skin", *RECONSTRUCTION)}

    def of_discriminator(discriminator):
        shown = steps.real_pictures(gan, 8, True, real, jnp.float32(0))
        label = real.label
        logits = lambda inputs: steps.judge(gan, discriminator, inputs, label, state.augment, keys[2])  # noqa: E731
        loss = adversarial.discriminator_loss(logits(fake), logits(shown))
        return {
            "discriminator": loss,
            "penalty": adversarial.gradient_penalty(logits, shown, 1.0, 10.0, 3.0)[0],
        }

    fake = jax.jit(lambda other: steps.real_pictures(gan, 8, True, other, jnp.float32(0)))(other)
    result = compare(of_generator, state.generator, keys[3])
    result |= compare(of_reconstruction, (state.generator, state.encoder), keys[3])
    result |= compare(of_discriminator, state.discriminator, keys[3])
    print(json.dumps(result))


main()
