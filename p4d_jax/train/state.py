"""What a training run of Psi carries from step to step, and its moving average."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import struct

from p4d_jax.types import Array


def jit_init(init: Callable) -> Callable:
    """A module's `init`, jitted: on a CPU hardly optimised, since it runs once.

    LLVM takes five times as long to optimise the random numbers of hundreds of parameters.
    """
    whole = jax.jit(init)
    if jax.default_backend() != "cpu":
        return whole
    quick = jax.jit(init, compiler_options={"xla_backend_optimization_level": 0})

    def call(*args):
        # Inside another program, of which only shapes may be asked, options are that program's.
        traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(args))
        return (whole if traced else quick)(*args)

    return call


@struct.dataclass
class TrainState:
    """A pytree, checkpointed as it is.

    Attributes:
      step: () int32 steps done.
      seconds: () float32 training time so far, over restarts.
      params: trained parameters.
      buffers: stored constants (`w_avg`).
      average: exponential moving average of the parameters, what is shipped.
      optimizer: optax state.
      discriminator, discriminator_optimizer: of D and its optax state; empty where nothing is adversarial.
      key: the run's random key; each step folds its number in.
    """

    step: Array
    seconds: Array
    params: dict
    buffers: dict
    average: dict
    optimizer: optax.OptState
    discriminator: dict
    discriminator_optimizer: optax.OptState
    key: Array


def build_optimizer(
    beta1: float, beta2: float, epsilon: float, clip_norm: float
) -> optax.GradientTransformation:
    """Adam's direction, of a gradient no longer than `clip_norm` (0: any)."""
    adam = optax.scale_by_adam(b1=beta1, b2=beta2, eps=epsilon)
    return optax.chain(optax.clip_by_global_norm(clip_norm), adam) if clip_norm else adam


def create_state(
    variables: dict, optimizer: optax.GradientTransformation, key: Array, discriminator: dict | None = None
) -> TrainState:
    """A new run's state.

    Args:
      variables: Psi's. discriminator: D's parameters.
      key: raw.
    """
    params, discriminator = variables["params"], discriminator or {}
    return TrainState(
        jnp.zeros((), jnp.int32),
        jnp.zeros((), jnp.float32),
        params,
        variables.get("buffers", {}),
        jax.tree.map(jnp.copy, params),
        optimizer.init(params),
        discriminator,
        optimizer.init(discriminator),
        key,
    )


def average_decay(images: Array, batch: int, half_life: float, ramp: float = 0.05) -> Array:
    """Decay of the moving average a step: half-life in images, at most `ramp` of the images seen so far."""
    half_life = jnp.minimum(half_life, jnp.maximum(images * ramp, 1e-6))
    return 0.5 ** (batch / half_life)


def learning_rate(progress: float, step: int, peak: float, warmup: int, final: float = 0.01) -> float:
    """Linear warm-up over `warmup` steps, then a cosine from `peak` to `final` times it at progress 1."""
    cosine = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    return peak * cosine * min(1.0, (step + 1) / max(warmup, 1))
