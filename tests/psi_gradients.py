"""Finite differences of every loss of Psi's training, in float64: prints {loss: [difference, slope]}.

Run by itself: see `finite_differences`. Without importance samples, whose places have no gradient. The
networks that judge, and what only a GenHead knows of a pair, are random: a gradient does not ask for sense.
"""

import json

from finite_differences import compare, direction, double  # isort: skip

import dataclasses

import jax
import jax.numpy as jnp
from psi_case import tiny_config

from p4d_jax import main as command_line
from p4d_jax.jobs import train_reenact as job
from p4d_jax.models.discriminator import Discriminator, DiscriminatorConfig, DiscriminatorInput
from p4d_jax.models.identity import IResNet
from p4d_jax.models.perceptual import LPIPS, vgg16
from p4d_jax.render.part_fusion import build_head_parts
from p4d_jax.train import reenact_losses
from p4d_jax.train import reenact_step as steps
from p4d_jax.train.state import jit_init

BATCH, SIZE, RAYS, POINTS = 2, 32, 16, 12


def main() -> None:
    command_line.enable_compilation_cache()
    config = tiny_config(BATCH)
    config.step.samples = (12, 0)
    config.model.update(deformation="expression", photo_features=4, photo_widths=(4, 4, 4, 4))
    psi, given, state, _ = job.build_psi(config)
    object.__setattr__(psi.reconstructor.config, "dtype", "float64")  # which no config may say
    keys = jax.random.split(jax.random.key(1), 8)
    lpips, arcface = LPIPS(vgg16((2,) * 5)), IResNet(depths=(1, 1, 1, 1), widths=(2,) * 4, embedding=8)
    picture, face = jnp.zeros((1, SIZE, SIZE, 3)), jnp.zeros((1, 112, 112, 3))
    judges = reenact_losses.Judges(
        lpips, jit_init(lpips.init)(keys[0], picture, picture), arcface, jit_init(arcface.init)(keys[1], face)
    )
    critic = Discriminator(DiscriminatorConfig(SIZE, 64, 4, 1, 2))
    shown = DiscriminatorInput(*(jnp.zeros((2, SIZE, SIZE, n)) for n in (3, 3, 3, 1)))
    judged = jit_init(critic.init)(keys[2], shown, jnp.zeros((2, 25)))["params"]
    names = [name for name in reenact_losses.TERMS if name not in ("upscaled", "density")]
    terms = tuple((name, reenact_losses.Term(1.0)) for name in names)
    psi = dataclasses.replace(
        psi,
        discriminator=critic,
        config=dataclasses.replace(psi.config, terms=(*terms, ("density", reenact_losses.Term(1.0)))),
    )
    given = double(given.replace(judges=judges, parts=build_head_parts(given.head)))
    state = double(state.replace(discriminator=judged))
    # Layers that begin at zero make densities of neighbours equal, where L1 has no slope.
    moved = direction(state.params, jax.random.key(10))
    state = state.replace(params=jax.tree.map(jnp.add, state.params, moved))
    pairs = job.build_draw(config, psi, given.head)(0)
    features = psi.reconstructor.config.feature_channels
    random = lambda key, *shape: jax.random.uniform(key, (BATCH, *shape), minval=-0.4, maxval=0.4)  # noqa: E731
    pairs = double(
        pairs.replace(
            features=random(keys[4], RAYS, RAYS, features),
            background_features=random(keys[5], RAYS, RAYS, features),
            points=random(keys[6], POINTS, 3),
            plane_features=random(keys[7], POINTS, psi.reconstructor.config.plane_channels),
        )
    )
    keys = steps.step_keys(state, 0, BATCH)
    build = jax.jit(lambda given, pairs: steps.build_samples(psi, RAYS, True, given, pairs, keys))
    samples = double(build(given, pairs))

    of_photo = tuple(name for name in names if reenact_losses.TERMS[name].photo)
    others = tuple(name for name in names if name not in of_photo)

    def losses(params):
        found, _ = steps.reenact_losses(psi, of_photo, given, state, params, samples)
        # The relief has no gradient from what is rendered: there it stands still.
        still = {**params, "photo": state.params["photo"]}
        found |= steps.reenact_losses(psi, others, given, state, still, samples)[0]
        found["density"] = steps.density_loss(psi, state, still, samples)
        return found

    key = jax.random.key(9)
    # A short way: the many absolute values of L1 must not change their sign on it.
    print(json.dumps(compare(losses, state.params, key, epsilon=1e-7)))


if __name__ == "__main__":
    main()
