"""Reads reference cases: what the public PyTorch modules compute, for weights and inputs made from a seed.

A case is NAME.json and NAME.npz. Inputs are stored, or drawn where they are large images; weights are made
again from a seed by the rule that the JSON gives for each row of the state. Layouts are PyTorch's.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from p4d_jax.errors import UserError

TOLERANCE = 1e-4  # of the largest value of an output


@dataclass(frozen=True)
class Case:
    """One reference case.

    Attributes:
      inputs: name -> array.
      outputs: name -> array, every `strides[name]`-th row and column of the reference.
      state: key -> weights in the order of the module's state_dict.
      strides: output name -> stride of the last two axes.
      seed: of weights and drawn images.
    """

    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    state: dict[str, np.ndarray]
    strides: dict[str, int]
    seed: int

    def image(self, key: str, shape: tuple[int, ...]) -> np.ndarray:
        """The input image `key`, which is drawn and not stored: values in (-1, 1), PyTorch's layout."""
        return draw_image(key, shape, self.seed)

    def error(self, name: str, ours: np.ndarray) -> float:
        """max |ours - reference| / max |reference| of one output, after the stride."""
        difference, largest = self._difference(name, ours)
        return float(difference.max() / largest)

    def share_of_pixels(self, name: str, ours: np.ndarray) -> float:
        """The share of pixels of one output (..., C, H, W) where a channel differs by more than `TOLERANCE`.

        Of a rasterizer an empty pixel is zero in every output, so that one whose mask differs counts.
        """
        difference, largest = self._difference(name, ours)
        return float((~(difference <= TOLERANCE * largest)).any(-3).mean())

    def _difference(self, name: str, ours: np.ndarray) -> tuple[np.ndarray, float]:
        """|ours - reference| and max |reference| (1 where all is zero)."""
        stride = self.strides[name]
        ours, reference = np.asarray(ours), self.outputs[name]
        if stride > 1:
            ours = ours[..., ::stride, ::stride]
        if ours.shape != reference.shape:
            raise ValueError(f"{name}: shape {ours.shape} differs from the reference's {reference.shape}")
        return np.abs(ours - reference), float(np.abs(reference).max()) or 1.0


def _weights(name: str, seed: int, row: dict) -> np.ndarray:
    key, shape = row["key"], tuple(row["shape"])
    if row["rule"] == "normal":
        generator = np.random.default_rng([seed, zlib.crc32(f"{name}/{key}".encode())])
        value = generator.standard_normal(shape, dtype=np.float32)
        value = value * np.float32(row["std"]) + np.float32(row["mean"])
        if row.get("then") == "abs(w)+0.5":
            value = np.abs(value) + np.float32(0.5)
        if name == "lpips_vgg" and key.startswith("lin"):
            value = np.abs(value)
        return value
    if key.endswith("resample_filter"):
        taps = np.array([1, 3, 3, 1], np.float32)
        return np.outer(taps, taps) / taps.sum() ** 2
    if shape == (1, 3, 1, 1):
        values = (-0.030, -0.088, -0.188) if key.endswith("shift") else (0.458, 0.448, 0.450)
        return np.array(values, np.float32).reshape(shape)
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    raise UserError(f"case {name!r}: no rule for the value of the state's row {row}")


def seeded_state(description: dict) -> dict[str, np.ndarray]:
    """The weights of a case, by its JSON: key -> array, in the order of the module's state_dict."""
    name, seed = description["name"], description["seed"]
    return {row["key"]: _weights(name, seed, row) for row in description["state"]}


def draw_image(key: str, shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    """The input image `key` of a case, which is drawn and not stored: values in (-1, 1)."""
    generator = np.random.default_rng([seed, zlib.crc32(f"in/{key}".encode())])
    return np.tanh(generator.standard_normal(shape, dtype=np.float32))


def load_case(name: str, folder: Path) -> Case:
    """The case `name`: stored inputs, outputs and the module's weights.

    Images that a case's note calls drawn are not among the inputs: `Case.image` makes them.

    Raises:
      UserError: a file is missing, cannot be read, or does not hold what its JSON lists.
    """
    try:
        description = json.loads((folder / f"{name}.json").read_text())
        with np.load(folder / f"{name}.npz") as arrays:
            inputs = {key: arrays[f"in_{key}"] for key in description["inputs"]}
            outputs = {key: arrays[f"out_{key}"] for key in description["outputs"]}
        strides = {key: row["stride_last_two"] for key, row in description["outputs"].items()}
        _check_shapes(description, inputs, outputs)
        seed = description["seed"]
        state = seeded_state(description)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"case {name!r}: {error.filename} is missing") from error
    except (
        OSError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"case {name!r} in {folder} cannot be read ({reason})") from error
    return Case(inputs, outputs, state, strides, seed)


def _check_shapes(description: dict, inputs: dict, outputs: dict) -> None:
    shapes = {f"in_{key}": tuple(shape) for key, shape in description["inputs"].items()}
    for key, row in description["outputs"].items():
        shapes[f"out_{key}"] = tuple(row["shape"])
        if (stride := row["stride_last_two"]) > 1:
            *first, height, width = row["shape"]
            shapes[f"out_{key}"] = (*first, -(-height // stride), -(-width // stride))
    arrays = {f"in_{key}": value for key, value in inputs.items()}
    arrays |= {f"out_{key}": value for key, value in outputs.items()}
    for key, value in arrays.items():
        if value.shape != shapes[key]:
            raise UserError(
                f"case {description['name']!r}: {key} has shape {value.shape}, its JSON says {shapes[key]}"
            )
