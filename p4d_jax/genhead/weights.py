"""A GenHead's weights as a file, or as the folder that `convert` wrote."""

from __future__ import annotations

from pathlib import Path

from p4d_jax.genhead.config import GenHeadConfig
from p4d_jax.genhead.model import GenHead
from p4d_jax.train.weights import _load, _save


def save_genhead(path: str | Path, config: GenHeadConfig, variables: dict, about: dict) -> None:
    """Writes variables (params and buffers) as float16."""
    _save(path, "genhead", config.to_dict(), variables, about)


def load_genhead(path_or_name: str | Path) -> tuple[GenHead, dict]:
    """As `load_reconstructor`, for GenHead."""
    config, variables = _load(path_or_name, "genhead", GenHeadConfig)
    return GenHead(config), variables
