"""The released reconstructors' keys all have a place."""

import json

import numpy as np
import pytest
from parity_cases import FOLDER, keep_views

from p4d_jax.avatar.motion_source import motion_source_name
from p4d_jax.convert.mapping import convert_state
from p4d_jax.convert.reconstructor import CONFIG, NETWORKS, RECONSTRUCTOR, variable_shapes
from p4d_jax.errors import UserError


@pytest.fixture(scope="module")
def released():
    """Key -> tensor of the released shapes; one zero, seen as each of them."""
    rows = json.loads((FOLDER / "state_keys_reconstructor.json").read_text())
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in rows}


@pytest.fixture(scope="module")
def shapes():
    return variable_shapes()


def test_every_released_key_becomes_a_variable_or_is_listed_with_its_reason(released, shapes, monkeypatch):
    keep_views(monkeypatch)
    converted = convert_state(released, RECONSTRUCTOR, shapes, "portrait4d")
    kept = {"resample_filter", "noise_const", "noise_strength"}
    assert {key.rsplit(".", 1)[1] for key in converted.unused} == kept
    assert all(key.startswith("superresolution.") for key in converted.unused)
    sizes = [int(np.prod(v.shape)) for k, v in released.items() if k not in converted.unused]
    assert sum(sizes) == pytest.approx(225e6, rel=0.01)


def test_buffers_of_the_head_model_are_left_out(released, shapes, monkeypatch):
    keep_views(monkeypatch)
    extra = {"deformer.flame_deform.flame_model.v_template": np.zeros((5023, 3), np.float32)}
    converted = convert_state({**released, **extra}, RECONSTRUCTOR, shapes, "portrait4d")
    assert "head asset" in converted.unused["deformer.flame_deform.flame_model.v_template"]


def test_a_motion_vector_of_another_length_is_named_with_both_shapes(released, shapes):
    small = {"encoder_canonical.maps.0.weight": np.zeros((512, 109), np.float32)}
    with pytest.raises(UserError, match=r"maps\.0\.weight.*\(512, 109\).*\(548, 512\)"):
        convert_state(small, RECONSTRUCTOR, shapes, "portrait4d")


def test_the_three_released_models_are_recognised_by_keys_that_they_have(released):
    assert set(NETWORKS) == {"portrait4d", "portrait4d-static", "portrait4d-v2"}
    for network in NETWORKS.values():
        assert set(network.marks) <= set(released)
        assert network.config == CONFIG.to_dict()
        assert network.about == {"motion_source": motion_source_name(CONFIG)}
        json.dumps(network.config)
