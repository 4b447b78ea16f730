"""What does not change in a training of GenHead: networks, optimizers, the head; and how a run begins."""

from __future__ import annotations

import dataclasses

import jax
import optax
from jax.sharding import Mesh

from p4d_jax.genhead.config import GenHeadStepConfig
from p4d_jax.genhead.discriminator import Discriminator
from p4d_jax.genhead.latent_encoder import LatentEncoder
from p4d_jax.genhead.model import GenHead
from p4d_jax.genhead.parts import HeadParts
from p4d_jax.head.model import HeadModel
from p4d_jax.train.adversarial import Adversary, input_shapes
from p4d_jax.train.state import TrainState, create_state, init_variables, lazy_adam, lazy_share
from p4d_jax.types import Array, shaped


@dataclasses.dataclass(frozen=True, eq=False)
class GenHeadTraining:
    """What does not change in a run: networks, head, settings, devices. Hashed by identity."""

    genhead: GenHead
    discriminator: Discriminator
    config: GenHeadStepConfig
    head: HeadModel
    parts: HeadParts
    mesh: Mesh

    @property
    def encoder(self) -> LatentEncoder:
        """Of real pictures at half their size, as wide as D."""
        c = self.discriminator.config
        sizes = (c.image_size // 2, c.channel_base, c.channel_max)
        return LatentEncoder(self.genhead.config.latent_size, *sizes, self.discriminator.dtype)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Of G."""
        return lazy_adam(self.config.density_every)

    @property
    def encoder_optimizer(self) -> optax.GradientTransformation:
        """Adam; its memory is StyleGAN2's, its momentum the usual one: no adversary moves its target."""
        return optax.scale_by_adam(b1=0.9, b2=0.99, eps=1e-8)

    @property
    def adversary(self) -> Adversary:
        """D, as it learns."""
        every = self.config.penalty_every
        rate = self.config.discriminator_rate * lazy_share(every)
        return Adversary(self.discriminator, lazy_adam(every), self.config, rate)


def create_genhead_state(training: GenHeadTraining, key: Array) -> TrainState:
    """A new run's state, from a typed key."""
    key_g, key_d = jax.random.split(key)
    config, size = training.genhead.config, training.genhead.config.image_size
    latent, label, shape = shaped(2, config.latent_size), shaped(2, 25), shaped(2, config.shape_size)
    generator = init_variables(training.genhead, key_g, latent, label, shape)
    discriminator = init_variables(training.discriminator, key_d, input_shapes(size), label)["params"]
    encoder = {}
    if training.config.reconstructs:
        half, alpha = shaped(2, size // 2, size // 2, 3), shaped(2, size // 2, size // 2, 1)
        key_e = jax.random.fold_in(key_d, 1)
        encoder = init_variables(training.encoder, key_e, half, alpha, half)["params"]
    return create_state(
        generator, training.optimizer, jax.random.key_data(key),
        discriminator=discriminator, discriminator_optimizer=training.adversary.optimizer,
        encoder=encoder, encoder_optimizer=training.encoder_optimizer,
    )  # fmt: skip
