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
from p4d_jax.genhead.config import DiscriminatorConfig
from p4d_jax.genhead.discriminator import Discriminator
from p4d_jax.genhead.parts import build_head_parts
from p4d_jax.jobs import train_reenact as job
from p4d_jax.networks.arcface import IResNet
from p4d_jax.networks.lpips import LPIPS, vgg16
from p4d_jax.reconstructor import step as steps
from p4d_jax.reconstructor.losses import LOSSES
from p4d_jax.reconstructor.samples import build_samples
from p4d_jax.reconstructor.training import LossNetworks
from p4d_jax.train.adversarial import Adversary, input_shapes
from p4d_jax.train.config import Term
from p4d_jax.train.state import init_variables, stream_keys
from p4d_jax.types import shaped

BATCH, SIZE, RAYS, POINTS = 2, 32, 16, 12


def main() -> None:
    command_line.enable_compilation_cache()
    config = tiny_config(BATCH)
    config.step.samples = (12, 0)
    config.model.update(deformation="expression", photo_features=4, photo_widths=(4, 4, 4, 4))
    training, constants, state, _ = job.build_training(config)
    object.__setattr__(training.reconstructor.config, "dtype", "float64")  # which no config may say
    keys = jax.random.split(jax.random.key(1), 8)
    lpips, arcface = LPIPS(vgg16((2,) * 5)), IResNet(depths=(1, 1, 1, 1), widths=(2,) * 4, embedding=8)
    picture, face = shaped(1, SIZE, SIZE, 3), shaped(1, 112, 112, 3)
    networks = LossNetworks(
        lpips,
        init_variables(lpips, keys[0], picture, picture),
        arcface,
        init_variables(arcface, keys[1], face),
    )
    critic = Discriminator(DiscriminatorConfig(SIZE, 64, 4, 1, 2))
    of_critic = init_variables(critic, keys[2], input_shapes(SIZE), shaped(2, 25))["params"]
    names = [name for name in LOSSES if name != "upscaled"]
    step_config = dataclasses.replace(training.config, terms=tuple((name, Term(1.0)) for name in names))
    adversary = Adversary(critic, training.optimizer, step_config, 1.0)
    training = dataclasses.replace(training, config=step_config, adversary=adversary)
    constants = double(constants.replace(loss_networks=networks, parts=build_head_parts(constants.head)))
    state = double(state.replace(discriminator=of_critic))
    # Layers that begin at zero make densities of neighbours equal, where L1 has no slope.
    moved = direction(state.params, jax.random.key(10))
    state = state.replace(params=jax.tree.map(jnp.add, state.params, moved))
    pairs = job.build_mixture(config, training, constants.head)(0)
    features = training.reconstructor.config.feature_channels
    random = lambda key, *shape: jax.random.uniform(key, (BATCH, *shape), minval=-0.4, maxval=0.4)
    pairs = double(
        pairs.replace(
            features=random(keys[4], RAYS, RAYS, features),
            background_features=random(keys[5], RAYS, RAYS, features),
            points=random(keys[6], POINTS, 3),
            plane_features=random(keys[7], POINTS, training.reconstructor.config.plane_channels),
        )
    )
    crops = stream_keys(state, "crops", BATCH)
    build = jax.jit(lambda constants, pairs: build_samples(training, RAYS, True, constants, pairs, crops))
    samples = double(build(constants, pairs))

    of_photo = {name for name in names if "photo_features" in LOSSES[name].reads}

    def active_losses(params):
        found, _ = steps.reconstructor_losses(
            training, tuple(names), False, constants, state, params, samples
        )
        variables = {"params": params, "buffers": state.buffers}
        return found | {"density": LOSSES["density"].value(training, variables, samples, crops)}

    def still(name: str) -> tuple[str, ...]:
        """Depth and alpha of the photo have no gradient from what is rendered: there they stand still."""
        return () if name in of_photo else ("photo",)

    # A short way: the many absolute values of L1 must not change their sign on it.
    print(json.dumps(compare(active_losses, state.params, jax.random.key(9), epsilon=1e-7, still=still)))


if __name__ == "__main__":
    main()
