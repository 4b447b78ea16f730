"""A reconstructor's weights as a file, or as the folder that `convert` wrote."""

from __future__ import annotations

import functools
from pathlib import Path

from p4d_jax.reconstructor.config import ReconstructorConfig
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.train.network_folder import network_folder
from p4d_jax.train.weights import _is_of, _load, _save


def save_reconstructor(path: str | Path, config: ReconstructorConfig, variables: dict, about: dict) -> None:
    """Writes variables (params and buffers) as float16."""
    _save(path, "reconstructor", config.to_dict(), variables, about)


def load_reconstructor(path_or_name: str | Path) -> tuple[Reconstructor, dict]:
    """The module and its variables (float32) from a file, a converted folder, or a name in `NAMES`.

    Returns:
      Reconstructor (its `config` tells the sizes) and variables {'params': ..., 'buffers': ...}.
    """
    config, variables = _load(path_or_name, "reconstructor", ReconstructorConfig)
    return Reconstructor(config), variables


def reconstructor_folder(path: str | Path) -> Path:
    """The folder of a converted reconstructor: `path` itself, or the one reconstructor in that workdir."""
    return network_folder(Path(path), functools.partial(_is_of, ReconstructorConfig))
