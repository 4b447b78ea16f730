"""Weights of a reconstructor in one `.npz`: float16 arrays, and the config and its story as JSON.

Keys: `config` (JSON of `ReconstructorConfig.to_dict`), `about` (JSON: command, steps, samples, machine) and
one array a parameter named by its path in the variables, `params/encoder_global/...`. Loading runs no code.
"""

from __future__ import annotations

import json
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax.errors import UserError
from p4d_jax.models.converted import load_converted
from p4d_jax.models.reconstructor import Reconstructor, ReconstructorConfig

EMBEDDED = Path(__file__).resolve().parent.parent / "embedded"
NAMES = {"reenact_demo": EMBEDDED / "reenact_demo.npz"}


def save_reconstructor(path: str | Path, config: ReconstructorConfig, variables: dict, about: dict) -> None:
    """Writes variables (params and buffers) as float16."""
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    arrays = {name: np.asarray(value, np.float16) for name, value in flat.items()}
    too_large = [name for name, value in arrays.items() if not np.isfinite(value).all()]
    if too_large:
        raise ValueError(f"variables: not finite in float16: {too_large}")
    texts = {"config": json.dumps(config.to_dict()), "about": json.dumps(about)}
    np.savez_compressed(path, **arrays, **{name: np.array(text) for name, text in texts.items()})


def load_reconstructor(path_or_name: str | Path) -> tuple[Reconstructor, dict]:
    """The module and its variables (float32) from a file, a converted folder, or a name in `NAMES`.

    Returns:
      Reconstructor (its `config` tells the sizes) and variables {'params': ..., 'buffers': ...}.
    """
    path = NAMES.get(str(path_or_name), Path(path_or_name))
    if path.is_dir():
        return _load_converted_reconstructor(path)
    if not path.is_file():
        raise ValueError(
            f"weights: no file {str(path)!r}; give the path of an exported .npz or one of {sorted(NAMES)}"
        )
    with np.load(path, allow_pickle=False) as stored:
        if "config" not in stored:
            raise ValueError(f"weights: {str(path)!r} is not an exported reconstructor (no 'config' in it)")
        config = ReconstructorConfig.from_dict(json.loads(str(stored["config"])))
        flat = {
            name: jnp.asarray(stored[name].astype(np.float32))
            for name in stored.files
            if name not in ("config", "about")
        }
    return Reconstructor(config), flax.traverse_util.unflatten_dict(flat, sep="/")


def _load_converted_reconstructor(folder: Path) -> tuple[Reconstructor, dict]:
    name, values, variables = load_converted(folder)
    try:
        config = ReconstructorConfig.from_dict(values)
    except ValueError:
        raise UserError(f"weights: {str(folder)!r} holds the network {name!r}, not a reconstructor") from None
    return Reconstructor(config), jax.tree.map(jnp.asarray, variables)


def read_about(path_or_name: str | Path) -> dict:
    """The story of exported weights: command, steps, samples, wall time, machine."""
    with np.load(NAMES.get(str(path_or_name), Path(path_or_name)), allow_pickle=False) as stored:
        return json.loads(str(stored["about"]))
