"""What a training run carries from step to step: parameters, their average, optimizers, random keys."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct

from p4d_jax.train.devices import once_jit
from p4d_jax.types import Array

FROZEN = "frozen"  # label of parameters that stand still
Params = TypeVar("Params")


@struct.dataclass
class TrainState:
    """A pytree, checkpointed as it is.

    Attributes:
      step: () int32 steps done.
      seconds: () float32 training time so far, over restarts.
      params: trained parameters of the network that is shipped, Psi or GenHead.
      buffers: what it stores beside them: constants and running means (`w_avg`).
      average: exponential moving average of the parameters, what is shipped.
      optimizer: optax state.
      discriminator, discriminator_optimizer: of D and its optax state; empty where nothing is adversarial.
      encoder, encoder_optimizer: of GenHead's `LatentEncoder`, which only training has; else empty.
      augment: () probability of augmentation before D.
      key: the run's random key, raw; each step folds its number in, see `stream_key`.
    """

    step: Array
    seconds: Array
    params: dict
    buffers: dict
    average: dict
    optimizer: optax.OptState
    discriminator: dict
    discriminator_optimizer: optax.OptState
    encoder: dict
    encoder_optimizer: optax.OptState
    augment: Array
    key: Array

    def images(self, batch: int) -> Array:
        """() float32 pictures that were trained on before this step, `batch` a step."""
        return (self.step * batch).astype(jnp.float32)

    def variables(self) -> dict:
        """What is shipped: the moving average of the parameters, and the buffers."""
        return {"params": self.average, "buffers": self.buffers}


def init_variables(network: nn.Module, key: Array, *inputs) -> dict:
    """Random variables of a network, in one program; Flax alone compiles one for each operation and shape.

    Args:
      key: typed.
      inputs: shapes of what the network takes (`types.shaped`), or None.
    """
    return once_jit(lambda key: network.lazy_init(key, *inputs))(key)


def create_state(
    variables: dict,
    optimizer: optax.GradientTransformation,
    key: Array,
    *,
    discriminator: dict | None = None,
    discriminator_optimizer: optax.GradientTransformation | None = None,
    encoder: dict | None = None,
    encoder_optimizer: optax.GradientTransformation | None = None,
) -> TrainState:
    """A new run's state.

    Args:
      variables: of the network that is trained; `optimizer` of its parameters.
      key: raw.
      discriminator, encoder: their parameters, where there are such networks, with their optimizers.
    """
    params, discriminator, encoder = variables["params"], discriminator or {}, encoder or {}
    optimizers = (optimizer, discriminator_optimizer, encoder_optimizer)

    def begin(*trained: dict) -> tuple[dict, list[optax.OptState]]:
        states = [one.init(x) if one else () for one, x in zip(optimizers, trained, strict=True)]
        return jax.tree.map(jnp.copy, trained[0]), states

    average, states = once_jit(begin)(params, discriminator, encoder)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        seconds=jnp.zeros((), jnp.float32),
        params=params,
        buffers=variables.get("buffers", {}),
        average=average,
        optimizer=states[0],
        discriminator=discriminator,
        discriminator_optimizer=states[1],
        encoder=encoder,
        encoder_optimizer=states[2],
        augment=jnp.zeros((), jnp.float32),
        key=key,
    )


# Random numbers -------------------------------------------------------------------------------------------


def stream_key(state: TrainState, name: str) -> Array:
    """The typed key of one use of random numbers at the state's step.

    It depends on the run's key, the step's number and the name alone: uses of two names do not share numbers,
    and a new use changes no other's.
    """
    at_step = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    return jax.random.fold_in(at_step, np.uint32(zlib.crc32(name.encode())))


def stream_keys(state: TrainState, name: str, count: int) -> Array:
    """Raw keys (count, 2), one for each sample of a batch; see `stream_key`."""
    return jax.random.key_data(jax.random.split(stream_key(state, name), count))


# Optimizers -----------------------------------------------------------------------------------------------


def build_optimizer(
    beta1: float,
    beta2: float,
    epsilon: float,
    clip_norm: float = 0.0,
    rates: Mapping[str, float] | None = None,
    label: Callable[[tuple], str] | None = None,
) -> optax.GradientTransformation:
    """Adam's direction, of a gradient no longer than `clip_norm` (0: any).

    Args:
      rates: multiples of the learning rate by label; None: of all parameters alike.
      label: a parameter's path (keys of `jax.tree_util`) -> its label, one of `rates` or `FROZEN`.
    """
    adam = lambda rate: optax.chain(
        optax.scale_by_adam(b1=beta1, b2=beta2, eps=epsilon), *([optax.scale(rate)] if rate != 1.0 else [])
    )
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    if rates is None:
        return optax.chain(*clip, adam(1.0))

    def labels(params: dict) -> dict:
        return jax.tree_util.tree_map_with_path(lambda path, _: label(path), params)

    learning = {name: optax.identity() for name in rates}
    moving = {name: adam(rate) for name, rate in rates.items()}
    held = {FROZEN: optax.set_to_zero()}
    return optax.chain(
        optax.multi_transform(learning | held, labels),  # what stands still has no part in the norm
        *clip,
        optax.multi_transform(moving | held, labels),
    )


def lazy_share(every: int) -> float:
    """By what a rate is multiplied where a regulariser every `every` steps is a step of its own."""
    return every / (every + 1)


def lazy_adam(every: int) -> optax.GradientTransformation:
    """Adam with betas (0, 0.99) whose memory is as long with a regulariser every few steps as without.

    Source: StyleGAN2 (arXiv 1912.04958, appendix B, lazy regularisation).
    """
    return optax.scale_by_adam(b1=0.0, b2=0.99 ** lazy_share(every), eps=1e-8)


def descend(
    optimizer: optax.GradientTransformation,
    rate: Array,
    gradients: Params,
    params: Params,
    optimizer_state: optax.OptState,
) -> tuple[Params, optax.OptState]:
    """Parameters and optimizer's state after one step along the gradients, at a learning rate."""
    updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
    return optax.apply_updates(params, optax.tree.scale(-rate, updates)), optimizer_state


# Schedules ------------------------------------------------------------------------------------------------


def moved_average(
    average: Params, params: Params, images: Array, batch: int, half_life: float, ramp: float
) -> Params:
    """The moving average after a step that gave `params`, `images` seen with it; see `average_decay`."""
    return optax.incremental_update(params, average, 1 - average_decay(images, batch, half_life, ramp))


def average_decay(images: Array, batch: int, half_life: float, ramp: float = 0.05) -> Array:
    """Decay of the moving average a step: half-life in images, at most `ramp` of the images seen so far."""
    half_life = jnp.minimum(half_life, jnp.maximum(images * ramp, 1e-6))
    return 0.5 ** (batch / half_life)


def learning_rate(progress: float, step: int, peak: float, warmup: int, final: float = 0.01) -> float:
    """Linear warm-up over `warmup` steps, then a cosine from `peak` to `final` times it at progress 1."""
    cosine = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    return peak * cosine * min(1.0, (step + 1) / max(warmup, 1))
