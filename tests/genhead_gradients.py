"""Finite differences of every loss of GenHead's training, in float64: prints {loss: [difference, slope]}.

Run by itself: before the package is imported, float32 is made to mean float64, since geometry and losses ask
for float32 by name. Without importance samples, whose places have no gradient.
"""

import json
import os

os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # compiles sooner

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_platforms", "cpu")
import jax.numpy as jnp  # noqa: E402

jnp.float32 = jnp.float64
from genhead_case import tiny_config  # noqa: E402

from p4d_jax import main as command_line  # noqa: E402
from p4d_jax.data.openheads import prepare_stage  # noqa: E402
from p4d_jax.jobs import train_genhead as job  # noqa: E402
from p4d_jax.train import adversarial  # noqa: E402
from p4d_jax.train import genhead_step as steps  # noqa: E402

BATCH, EPSILON = 4, 1e-6


def double(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def direction(tree, key):
    """A random direction of the shape of `tree`, of unit length."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    length = jnp.sqrt(sum(jnp.sum(x**2) for x in drawn))
    return jax.tree.unflatten(structure, [x / length for x in drawn])


def compare(losses, params, key) -> dict:
    """Each loss along one direction: central difference, slope. `sum`: of all, weighted, in reverse mode."""
    along = direction(params, key)
    move = lambda step: jax.tree.map(lambda p, d: p + step * d, params, along)  # noqa: E731
    forward = jax.jit(lambda params: jax.jvp(losses, (params,), (along,)))
    (above, _), (below, _), (_, slopes) = (forward(move(step)) for step in (EPSILON, -EPSILON, 0.0))
    result = {name: [float(above[name] - below[name]) / (2 * EPSILON), float(slopes[name])] for name in above}
    weights = {name: 1.0 + 0.37 * place for place, name in enumerate(sorted(above))}
    total = lambda params: sum(weights[name] * value for name, value in losses(params).items())  # noqa: E731
    gradient = jax.jit(jax.grad(total))(params)
    backward = sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), gradient, along)))
    expected = sum(weights[name] * difference for name, (difference, _) in result.items())
    return result | {f"sum_of_{len(above)}": [float(expected), float(backward)]}


def main() -> None:
    command_line.enable_compilation_cache()
    config = tiny_config(BATCH)
    config.step.samples, config.step.blur = (24, 0), 0.5
    config.step.augment_target = 0.0
    gan, _ = job.build_gan(config)
    state = double(steps.create_gan_state(gan, jax.random.key(3)))
    draw_real, draw_params = job.openheads_draws(gan, prepare_stage(gan.head), 16, BATCH, jax.random.key(5))
    see_real = jax.jit(lambda number: steps.see_reals(gan, gan.head, gan.parts, double(number)))
    real, other, params = see_real(draw_real(0)), see_real(draw_real(1)), double(draw_params(0))
    # An open mouth, so that its losses see rays.
    frames = job.demonstration_frames(gan.head)
    opened = jax.tree.map(lambda x: jnp.broadcast_to(x[3], (BATCH, *x.shape[1:])), double(frames))
    opened = opened.replace(shape=params.shape)
    frames = jax.jit(lambda params: steps.see_frames(gan, 8, gan.head, gan.parts, params))(opened)
    keys = jax.random.split(jax.random.key(7), 4)

    def of_generator(generator):
        losses, _ = steps.generator_losses(gan, True, state, generator, frames)
        variables = {"params": generator, "buffers": state.buffers}
        codes, _ = steps.draw_codes(gan, variables, opened, jnp.float32(0.5), keys[0])
        return {**losses, "density": steps.density_loss(gan, variables, codes.ws, opened, keys[1])}

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
    result |= compare(of_discriminator, state.discriminator, keys[3])
    print(json.dumps(result))


main()
