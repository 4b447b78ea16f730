"""Every reference case of `convert.check_parity` runs: in full, or of the largest ones call and shapes.

Of those that are traced alone the tests carry the JSON without the arrays; weights and inputs are one number
each, seen in the right shape.
"""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from parity_cases import FOLDER, changed, keep_views, load_case

from p4d_jax.convert.check_parity import CASES, MEASURES, RELATIVE_ERROR
from p4d_jax.convert.parity import genhead, reconstructor
from p4d_jax.convert.parity.fixtures import Case

# Half a minute and gigabytes each, in full.
TRACED = ("discriminator", "encoder_canonical", "genhead_backbone", "reconstructor")
# Of the relative error, where it is far below the command's own bound.
BOUNDS = dict.fromkeys(("rays", "alignment"), 3e-6)
BOUNDS |= dict.fromkeys(("neck_deformation", "part_deformation"), 2e-6)
BOUNDS |= dict.fromkeys(("lbs", "arcface", "lpips_vgg", "motion_encoder"), 1e-5)
BOUNDS |= dict.fromkeys(("encoder_global", "triplane_decoder"), 1e-5)


def only_traced(function, **_):
    """In the place of `jax.jit`: what the function gives has its shapes, and no values."""

    def run(*arguments):
        shapes = jax.eval_shape(function, *arguments)
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)

    return run


def case_without_values(name: str) -> Case:
    """The case's inputs and weights, each one number that is seen as an array of the right shape."""
    path = FOLDER / f"{name}.json"
    assert path.is_file(), f"tests/parity has no {name}.json: copy it, for no test runs the case {name!r}"
    description = json.loads(path.read_text())
    shaped = lambda shape, value=0.0: np.broadcast_to(np.float32(value), shape)
    outputs, strides = {}, {}
    for key, row in description["outputs"].items():
        *first, height, width = row["shape"] if len(row["shape"]) > 1 else (1, *row["shape"])
        stride = strides[key] = row["stride_last_two"]
        shape = (*first, -(-height // stride), -(-width // stride)) if stride > 1 else row["shape"]
        outputs[key] = shaped(shape)
    return Case(
        inputs={key: shaped(shape) for key, shape in description["inputs"].items()},
        outputs=outputs,
        state={row["key"]: shaped(row["shape"]) for row in description["state"]},
        strides=strides,
        seed=description["seed"],
    )


@pytest.mark.parametrize("name", TRACED)
def test_the_largest_cases_can_be_called_and_give_the_reference_s_shapes(name, monkeypatch):
    case = case_without_values(name)
    for module in (genhead, reconstructor):
        monkeypatch.setattr(module, "jax", changed(jax, jit=only_traced))
    keep_views(monkeypatch)
    ours = CASES[name](case)
    assert set(ours) == set(case.outputs)
    for output, value in ours.items():
        case.error(output, value)  # raises for another shape


@pytest.mark.parametrize("name", sorted(set(CASES) - set(TRACED)))
def test_agrees_with_the_reference(name):
    case, measure = load_case(name), MEASURES.get(name, RELATIVE_ERROR)
    with jax.default_matmul_precision("float32"):
        ours = CASES[name](case)
    assert set(ours) == set(case.outputs)
    for output, value in ours.items():
        assert measure.of(case, output, value) < BOUNDS.get(name, measure.bound), output
