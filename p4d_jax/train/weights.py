"""Weights of a network in one `.npz`: float16 arrays, and the config and its story as JSON.

Keys: `network` ('reconstructor' or 'genhead'; a file without it holds a reconstructor), `config` (JSON of its
config's `to_dict`), `about` (JSON: command, steps, samples, machine) and one array a parameter named by its
path in the variables, `params/encoder_global/...`. Loading runs no code.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax.errors import UserError
from p4d_jax.train.network_folder import load_converted, network_folder

EMBEDDED = Path(__file__).resolve().parent.parent / "embedded"
NAMES = {name: EMBEDDED / f"{name}.npz" for name in ("reenact_demo", "genhead_demo")}
_TEXTS = ("network", "config", "about")


def _save(path: str | Path, network: str, config: dict, variables: dict, about: dict) -> None:
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    arrays = {name: np.asarray(value, np.float16) for name, value in flat.items()}
    too_large = [name for name, value in arrays.items() if not np.isfinite(value).all()]
    if too_large:
        raise ValueError(f"variables: not finite in float16: {too_large}")
    texts = {"network": network, "config": json.dumps(config), "about": json.dumps(about)}
    np.savez_compressed(path, **arrays, **{name: np.array(text) for name, text in texts.items()})


def _load(path_or_name: str | Path, network: str, config_class):
    """Config and variables of a file or folder that holds `network`."""
    path = NAMES.get(str(path_or_name), Path(path_or_name))
    if path.is_dir():
        return _load_folder(path, network, config_class)
    if not path.is_file():
        raise ValueError(
            f"weights: no file {str(path)!r}; give the path of an exported .npz or one of {sorted(NAMES)}"
        )
    with np.load(path, allow_pickle=False) as stored:
        held = str(stored["network"]) if "network" in stored else "reconstructor"
        if "config" not in stored or held != network:
            raise ValueError(f"weights: {str(path)!r} is not an exported {network}")
        config = config_class.from_dict(json.loads(str(stored["config"])))
        flat = {
            name: jnp.asarray(stored[name].astype(np.float32)) for name in stored.files if name not in _TEXTS
        }
    return config, flax.traverse_util.unflatten_dict(flat, sep="/")


def _load_folder(folder: Path, network: str, config_class):
    name, values, variables = load_converted(network_folder(folder, functools.partial(_is_of, config_class)))
    try:
        config = config_class.from_dict(values)
    except ValueError:
        raise UserError(f"weights: {str(folder)!r} holds the network {name!r}, not a {network}") from None
    return config, jax.tree.map(jnp.asarray, variables)


def _is_of(config_class, about: dict) -> bool:
    """Whether a folder's about.json is of a network with that class of config."""
    try:
        config_class.from_dict(about["config"])
    except ValueError:
        return False
    return True


def read_about(path_or_name: str | Path) -> dict:
    """The story of exported weights: command, steps, samples, wall time, machine."""
    with np.load(NAMES.get(str(path_or_name), Path(path_or_name)), allow_pickle=False) as stored:
        return json.loads(str(stored["about"]))
