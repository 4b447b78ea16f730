"""A reconstructor's weights as a file, or as the folder that `convert` wrote."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp

from p4d_jax.reconstructor.config import ReconstructorConfig
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.train.network_folder import network_folder
from p4d_jax.train.weights import _is_of, _load, _save

RELEASED = ReconstructorConfig()


def save_reconstructor(path: str | Path, config: ReconstructorConfig, variables: dict, about: dict) -> None:
    """Writes variables (params and buffers) as float16."""
    _save(path, "reconstructor", config.to_dict(), variables, about)


def load_reconstructor(path_or_name: str | Path) -> tuple[Reconstructor, dict]:
    """The module and its variables (float32) from a file, a converted folder, or a name in `NAMES`.

    Returns:
      Reconstructor (its `config` tells the sizes) and variables {'params': ..., 'buffers': ...}.
    """
    config, variables = _load(path_or_name, "reconstructor", ReconstructorConfig, variable_shapes)
    return Reconstructor(config), variables


@functools.cache
def variable_shapes(config: ReconstructorConfig = RELEASED) -> dict:
    """Shapes of a reconstructor's variables, nested; nothing is computed."""
    image = jnp.zeros((1, config.image_size, config.image_size, 3))
    motion = jnp.zeros((1, config.motion_size))
    size = config.lifted_size
    lifted = jnp.zeros((1, size, size, 4)) if config.source_lifting else None
    # A closure: eval_shape takes arrays only, and there may be no lifted image.
    init = lambda key: Reconstructor(config).init(key, image, motion, motion, lifted)
    return jax.eval_shape(init, jax.random.key(0))


def reconstructor_folder(path: str | Path) -> Path:
    """The folder of a converted reconstructor: `path` itself, or the one reconstructor in that workdir."""
    return network_folder(Path(path), functools.partial(_is_of, ReconstructorConfig))
