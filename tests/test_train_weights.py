"""Weights in a file: out and in again, in both formats; damaged or foreign ones are one line."""

from __future__ import annotations

import dataclasses
import json
import struct

import jax
import numpy as np
import pytest

from p4d_jax.errors import UserError
from p4d_jax.train.weights import _load, _save, read_about

VARIABLES = {
    "params": {
        "layer": {
            "kernel": np.float32([[1, 2], [3, 4.5]]),
            "bias": np.float32([0, 1]),
            "scale": np.float32(3),
        }
    }
}
SHAPES = jax.tree.map(lambda value: jax.ShapeDtypeStruct(value.shape, value.dtype), VARIABLES)
ENDINGS = (".npz", ".safetensors")


@dataclasses.dataclass(frozen=True)
class Config:
    size: int = 2

    @classmethod
    def from_dict(cls, values: dict) -> Config:
        return cls(**values)


def save(path, variables=VARIABLES, config=None):
    _save(path, "toy", {"size": 2} if config is None else config, variables, {"steps": 7})
    return path


def load(path):
    return _load(path, "toy", Config, lambda config: SHAPES)


@pytest.mark.parametrize("ending", ENDINGS)
def test_weights_come_back(tmp_path, ending):
    path = save(tmp_path / f"weights{ending}")
    config, variables = load(path)
    assert config == Config(2) and read_about(path) == {"steps": 7}
    assert jax.tree.structure(variables) == jax.tree.structure(VARIABLES)
    jax.tree.map(np.testing.assert_array_equal, variables, VARIABLES)
    with pytest.raises(UserError, match="not an exported other"):
        _load(path, "other", Config, lambda config: SHAPES)


def changed(**layer) -> dict:
    return {"params": {"layer": VARIABLES["params"]["layer"] | layer}}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (changed(kernel=np.zeros((3, 2))), r"params/layer/kernel has shape \(3, 2\), expected \(2, 2\)"),
        (changed(more=np.zeros(1)), "'params/layer/more', which its network does not have"),
        ({"params": {"layer": {"bias": np.zeros(2)}}}, "lacks 'params/layer/kernel'"),
    ],
)
def test_foreign_parameters_are_named(tmp_path, ending, variables, said):
    with pytest.raises(UserError, match=said):
        load(save(tmp_path / f"weights{ending}", variables))


def test_parameters_that_are_no_floats_are_named(tmp_path):
    with np.load(save(tmp_path / "weights.npz")) as stored:
        arrays = {name: stored[name] for name in stored.files}
    for wrong in (np.array("text"), np.zeros((2, 2), int)):
        np.savez(tmp_path / "wrong.npz", **arrays | {"params/layer/kernel": wrong})
        with pytest.raises(UserError, match=r"params/layer/kernel is of type .*, expected floats"):
            load(tmp_path / "wrong.npz")


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_float16_does_not_hold_is_not_written(tmp_path, ending):
    with pytest.raises(UserError, match=r"not finite in float16.*params/layer/bias"):
        save(tmp_path / f"weights{ending}", changed(bias=np.float32([1e6, 0])))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ENDINGS)
def test_damaged_files_are_one_line(tmp_path, ending):
    raw = save(tmp_path / f"weights{ending}").read_bytes()
    broken = tmp_path / f"broken{ending}"
    for data in (b"", raw[: len(raw) // 2], raw[:20], b"\xff" * 100):
        broken.write_bytes(data)
        with pytest.raises(UserError, match=f"broken\\{ending}"):
            load(broken)
    with pytest.raises(UserError, match="its config is broken"):
        load(save(broken, config={"sizes": 3}))
    with pytest.raises(UserError, match="no file"):
        load(tmp_path / f"missing{ending}")


def test_safetensors_of_numbers_that_are_not_finite_or_no_floats(tmp_path):
    raw = save(tmp_path / "weights.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    path = tmp_path / "changed.safetensors"
    path.write_bytes(raw[: 8 + size] + np.full(7, np.nan, np.float16).tobytes())
    with pytest.raises(UserError, match="not finite"):
        load(path)
    header = json.loads(raw[8 : 8 + size])
    text = json.dumps(header | {"params/layer/bias": header["params/layer/bias"] | {"dtype": "I16"}}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])
    with pytest.raises(UserError, match="expected floats"):
        load(path)
