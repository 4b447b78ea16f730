"""Weights of a network in one file: float16 arrays, and the config and its story as JSON.

A `.npz`, or of the ending `.safetensors` a file of that format. Keys: `network` ('reconstructor' or
'genhead'; a file without it holds a reconstructor), `config` (JSON of its config's `to_dict`), `about` (JSON:
command, steps, samples, machine) and one array a parameter named by its path in the variables,
`params/encoder_global/...`; in safetensors the first three are its metadata. Loading runs no code, and what
is no finite parameter of the network's own shape is refused.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import flax
import jax
import numpy as np
import safetensors
from safetensors.numpy import save_file

from p4d_jax.errors import UserError, printable
from p4d_jax.npz import Header, Npz, open_npz
from p4d_jax.train.network_folder import load_converted, network_folder

EMBEDDED = Path(__file__).resolve().parent.parent / "embedded"
NAMES = {name: EMBEDDED / f"{name}.npz" for name in ("reenact_demo", "genhead_demo")}
_TEXTS = ("network", "config", "about")
_KIND = "a file of weights"


def _save(path: str | Path, network: str, config: dict, variables: dict, about: dict) -> None:
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    with np.errstate(over="ignore"):  # told in one line below
        arrays = {name: np.array(value, np.float16, order="C") for name, value in flat.items()}
    too_large = [name for name, value in arrays.items() if not np.isfinite(value).all()]
    if too_large:
        raise UserError(f"{path}: not finite in float16, so not written: {', '.join(too_large[:4])}")
    texts = {"network": network, "config": json.dumps(config), "about": json.dumps(about)}
    if Path(path).suffix == ".safetensors":
        save_file(arrays, path, texts)
    else:
        np.savez_compressed(path, **arrays, **{name: np.array(text) for name, text in texts.items()})


class _Safetensors:
    """A `.safetensors` file with the methods of `Npz`; its header is checked by the library."""

    def __init__(self, opened, path: Path) -> None:
        self._opened, self._path, self._texts = opened, path, opened.metadata() or {}
        self.headers = {name: self._header(name) for name in opened.keys()}  # noqa: SIM118  no dict

    def _header(self, name: str) -> Header:
        part = self._opened.get_slice(name)
        kinds = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
        if part.get_dtype() not in kinds:
            raise UserError(f"{self._path}: {printable(name)} is of type {part.get_dtype()}, expected floats")
        return Header(tuple(part.get_shape()), np.dtype(kinds[part.get_dtype()]), False)

    def read(self, name: str) -> np.ndarray:
        value = self._opened.get_tensor(name)
        if not np.isfinite(value).all():
            raise UserError(f"{self._path}: {printable(name)} holds values that are not finite")
        return value

    def text(self, name: str) -> str:
        if name not in self._texts:
            raise UserError(f"{self._path}: not {_KIND}, it lacks {name!r}")
        return self._texts[name]

    def has(self, name: str) -> bool:
        return name in self._texts


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Npz | _Safetensors]:
    if path.suffix != ".safetensors":
        with open_npz(path, _KIND) as opened:
            yield opened
        return
    try:
        opened = safetensors.safe_open(path, framework="numpy")
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: not {_KIND}, or damaged ({printable(str(error))[:200]})") from None
    with opened:
        yield _Safetensors(opened, path)


def _load(path_or_name: str | Path, network: str, config_class, shapes: Callable[[object], dict]):
    """Config and variables of a file or folder that holds `network`.

    Args:
      shapes: config -> nested shapes of the network's variables.
    """
    path = NAMES.get(str(path_or_name), Path(path_or_name))
    if path.is_dir():
        return _load_folder(path, network, config_class)
    if not path.is_file():
        raise UserError(
            f"weights: no file {str(path)!r}; give the path of exported weights or one of {sorted(NAMES)}"
        )
    with _open(path) as stored:
        held = stored.text("network") if stored.has("network") else "reconstructor"
        if not stored.has("config") or held != network:
            raise UserError(f"weights: {str(path)!r} is not an exported {network}")
        config = _config(path, stored.text("config"), config_class)
        names = [name for name in stored.headers if name not in _TEXTS]
        strange = [name for name in names if stored.headers[name].dtype.kind != "f"]
        if strange:
            told = f"{printable(strange[0])[:200]} is of type {stored.headers[strange[0]].dtype}"
            raise UserError(f"{path}: {told}, expected floats")
        flat = {name: stored.read(name).astype(np.float32) for name in names}
    if path not in NAMES.values():  # those are ours, and tracing the network takes seconds
        _check_shapes(path, {name: value.shape for name, value in flat.items()}, shapes(config))
    # `device_put`, since `jnp.asarray` compiles a program for each shape
    return config, jax.device_put(flax.traverse_util.unflatten_dict(flat, sep="/"))


def _config(path: Path, text: str, config_class):
    try:
        return config_class.from_dict(json.loads(text))
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise UserError(f"{path}: its config is broken ({printable(str(error))[:200]})") from None


def _check_shapes(path: Path, found: dict[str, tuple[int, ...]], expected: dict) -> None:
    wanted = {
        name: tuple(value.shape) for name, value in flax.traverse_util.flatten_dict(expected, sep="/").items()
    }
    if missing := sorted(wanted.keys() - found.keys()):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{path}: lacks {missing[0]!r}{more} of its network's parameters")
    if extra := sorted(found.keys() - wanted.keys()):
        raise UserError(f"{path}: holds {extra[0][:200]!r}, which its network does not have")
    for name, shape in wanted.items():
        if found[name] != shape:
            raise UserError(f"{path}: {name} has shape {found[name]}, expected {shape}")


def _load_folder(folder: Path, network: str, config_class):
    name, values, variables = load_converted(network_folder(folder, functools.partial(_is_of, config_class)))
    try:
        config = config_class.from_dict(values)
    except ValueError:
        raise UserError(f"weights: {str(folder)!r} holds the network {name!r}, not a {network}") from None
    return config, jax.device_put(variables)


def _is_of(config_class, about: dict) -> bool:
    """Whether a folder's about.json is of a network with that class of config."""
    try:
        config_class.from_dict(about["config"])
    except ValueError:
        return False
    return True


def read_about(path_or_name: str | Path) -> dict:
    """The story of exported weights: command, steps, samples, wall time, machine."""
    with _open(NAMES.get(str(path_or_name), Path(path_or_name))) as stored:
        return json.loads(stored.text("about"))
