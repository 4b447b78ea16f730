"""A GenHead's weights as a file, or as the folder that `convert` wrote."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp

from p4d_jax.genhead.config import GenHeadConfig
from p4d_jax.genhead.model import CAMERA_SIZE, GenHead
from p4d_jax.train.weights import _load, _save

RELEASED = GenHeadConfig()


def save_genhead(path: str | Path, config: GenHeadConfig, variables: dict, about: dict) -> None:
    """Writes variables (params and buffers) as float16."""
    _save(path, "genhead", config.to_dict(), variables, about)


@functools.cache
def genhead_shapes(config: GenHeadConfig = RELEASED) -> dict:
    """Shapes of GenHead's variables, nested; nothing is computed."""
    latent, camera = jnp.zeros((1, config.latent_size)), jnp.zeros((1, CAMERA_SIZE))
    shape = jnp.zeros((1, config.shape_size))
    return jax.eval_shape(GenHead(config).init, jax.random.key(0), latent, camera, shape)


def load_genhead(path_or_name: str | Path) -> tuple[GenHead, dict]:
    """As `load_reconstructor`, for GenHead."""
    config, variables = _load(path_or_name, "genhead", GenHeadConfig, genhead_shapes)
    return GenHead(config), variables
