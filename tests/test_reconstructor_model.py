"""Psi's structure: sizes of the released model, what the cross-attention scale switches off, its file."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from p4d_jax.errors import UserError
from p4d_jax.nn.layers import pixel_shuffle, pixel_unshuffle, upsample_aligned
from p4d_jax.reconstructor.config import ReconstructorConfig
from p4d_jax.reconstructor.encoders import EncoderDetail
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.reconstructor.weights import load_reconstructor, save_reconstructor
from p4d_jax.train.network_folder import save_converted
from p4d_jax.train.weights import read_about

TINY = ReconstructorConfig(
    image_size=32, global_widths=(4, 4, 8, 8), global_depths=(1, 1, 1, 1), pyramid_features=8,
    pyramid_rates=(1, 2, 3), detail_features=(8, 8), motion_size=109, motion_hidden=8, motion_grid=2,
    token_dim=16, token_heads=2, blocks_de=1, blocks_re=1, canonical_features=(8, 8, 8), plane_token_dim=16,
    plane_heads=2, plane_convs_before=(8,), plane_convs_after=(8,), plane_channels=4, plane_upsample=2,
    background_widths=(4, 4, 8, 8), background_size=32, decoder_hidden=8, feature_channels=4,
    superresolution_size=0, superresolution_channels=(4,), style_dim=8, source_lifting=True, lifted_size=32,
    deformation="expression",
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny():
    model = Reconstructor(TINY)
    image, motion, lifted = jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 109)), jnp.zeros((1, 32, 32, 4))
    shapes = jax.eval_shape(model.init, jax.random.key(0), image, motion, motion, lifted)
    # Drawn by NumPy: to compile an initialisation takes longer than what is tested. Cross-attention, which
    # starts at zero, speaks so.
    rng = np.random.default_rng(0)

    def draw(path, leaf) -> np.ndarray:
        if path[0].key != "params":
            return np.ones(leaf.shape, np.float32)
        fan_in = max(leaf.size // leaf.shape[-1], 1) if leaf.ndim > 1 else 25
        return (rng.standard_normal(leaf.shape) / np.sqrt(fan_in)).astype(np.float32)

    return model, jax.tree_util.tree_map_with_path(draw, shapes)


@functools.partial(jax.jit, static_argnums=0)
def planes_of(model, variables, motion, scale):
    key = jax.random.key(3)
    image, lifted = jax.random.uniform(key, (1, 32, 32, 3)), jax.random.uniform(key, (1, 32, 32, 4))
    scale = jnp.full(1, scale)
    source = model.apply(variables, image, jnp.ones((1, 109)), lifted, scale, method="encode")
    return model.apply(variables, source, motion, scale, method="animate")


def test_full_size_has_the_released_models_parameters_part_by_part():
    rows = json.loads((Path(__file__).parent / "parity/state_keys_reconstructor.json").read_text())
    parts = {
        "encoder_global": ("encoder_global",),
        "encoder_detail": ("encoder_detail",),
        "encoder_canonical": ("canonicalizer", "reenactor"),
        "generator_triplane": ("generator_triplane",),
        "background": ("background",),
        "decoder": ("decoder",),
    }
    model = Reconstructor(ReconstructorConfig())
    image, motion = jnp.zeros((1, 512, 512, 3)), jnp.zeros((1, 548))
    shapes = jax.eval_shape(lambda key: model.init(key, image, motion, motion, None), jax.random.key(0))
    for reference, ours in parts.items():
        expected = sum(int(np.prod(shape)) for key, shape in rows if key.split(".")[0] == reference)
        found = sum(leaf.size for name in ours for leaf in jax.tree.leaves(shapes["params"][name]))
        assert found == expected, reference


def test_scale_zero_switches_all_motion_off(tiny):
    a, b = jnp.zeros((1, 109)), jnp.ones((1, 109)) * 3
    np.testing.assert_array_equal(planes_of(*tiny, a, 0.0), planes_of(*tiny, b, 0.0))
    assert np.abs(planes_of(*tiny, a, 1.0) - planes_of(*tiny, b, 1.0)).max() > 1e-4


def test_planes_have_the_size_the_config_says(tiny):
    assert planes_of(*tiny, jnp.zeros((1, 109)), 1.0).shape == (1, 3, TINY.plane_size, TINY.plane_size, 4)


def test_upsampling_and_pixel_shuffle_agree_with_torch():
    x = np.random.default_rng(0).standard_normal((2, 5, 7, 8)).astype(np.float32)
    nchw = torch.from_numpy(x.transpose(0, 3, 1, 2))
    up = torch.nn.functional.interpolate(nchw, scale_factor=2, mode="bilinear", align_corners=True)
    np.testing.assert_allclose(upsample_aligned(jnp.asarray(x)), up.permute(0, 2, 3, 1), atol=1e-5)
    shuffled = torch.pixel_shuffle(nchw, 2).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(pixel_shuffle(jnp.asarray(x), 2), shuffled)
    np.testing.assert_array_equal(pixel_unshuffle(pixel_shuffle(jnp.asarray(x), 2), 2), x)


def test_detail_encoder_agrees_with_torch():
    config = ReconstructorConfig(detail_features=(4, 6))
    image = np.random.default_rng(1).standard_normal((1, 16, 16, 3)).astype(np.float32)
    model = EncoderDetail(config)
    variables = model.init(jax.random.key(0), jnp.asarray(image))
    grid = torch.linspace(-1, 1, 16)
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    value = torch.cat([torch.from_numpy(image).permute(0, 3, 1, 2), x[None, None], y[None, None]], 1)
    for index, (stride, pad) in enumerate(((2, 3), (1, 1))):
        layer = variables["params"][f"conv{index}"]
        weight = torch.from_numpy(np.array(layer["kernel"])).permute(3, 2, 0, 1)
        bias = torch.from_numpy(np.array(layer["bias"]))
        value = torch.nn.functional.leaky_relu(torch.conv2d(value, weight, bias, stride, pad), 0.01)
    ours = model.apply(variables, jnp.asarray(image))
    np.testing.assert_allclose(ours, value.permute(0, 2, 3, 1), atol=1e-4)


def test_weights_file_keeps_config_story_and_values(tiny, tmp_path):
    model, variables = tiny
    save_reconstructor(tmp_path / "w.npz", model.config, variables, {"steps": 7})
    loaded, values = load_reconstructor(tmp_path / "w.npz")
    assert loaded.config == model.config
    assert read_about(tmp_path / "w.npz") == {"steps": 7}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4), values, variables)


def test_errors_name_the_argument(tmp_path, tiny):
    with pytest.raises(ValueError, match="deformation"):
        ReconstructorConfig(deformation="arms")
    with pytest.raises(ValueError, match=r"unknown fields.*sizes"):
        ReconstructorConfig.from_dict({"sizes": 3})
    with pytest.raises(ValueError, match="nowhere"):
        load_reconstructor(tmp_path / "nowhere.npz")
    model, variables = tiny
    one = jnp.ones(1)
    with pytest.raises(ValueError, match="lifted"):
        model.apply(variables, jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 109)), None, one, method="encode")


def test_a_converted_folder_is_loaded_like_a_file(tiny, tmp_path):
    variables = tiny[1]
    about = {"network": "portrait4d", "config": TINY.to_dict()}
    save_converted(tmp_path / "portrait4d", about, jax.tree.map(np.asarray, variables))
    loaded, values = load_reconstructor(tmp_path / "portrait4d")
    assert loaded.config == TINY
    jax.tree.map(np.testing.assert_array_equal, dict(values), dict(variables))
    save_converted(
        tmp_path / "arcface18", {"network": "arcface18", "config": {"depths": [2]}}, {"params": {}}
    )
    with pytest.raises(UserError, match="arcface18"):
        load_reconstructor(tmp_path / "arcface18")
