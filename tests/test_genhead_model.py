"""GenHead, its discriminator, StyleGAN2's parts: import, and what each must do."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parity_cases import FOLDER

from p4d_jax.convert.genhead import NETWORKS, dense_behind_image
from p4d_jax.convert.mapping import convert_state
from p4d_jax.errors import UserError
from p4d_jax.genhead.config import DiscriminatorConfig, GenHeadConfig
from p4d_jax.genhead.discriminator import Discriminator
from p4d_jax.genhead.model import GenHead
from p4d_jax.nn import stylegan2
from p4d_jax.train.adversarial import DiscriminatorInput

SMALL = GenHeadConfig(
    latent_size=12, style_size=16, shape_size=5, plane_size=8, plane_channels=4, channel_base=64,
    channel_max=16, background_size=4, background_mapping_layers=3, background_channel_base=64,
    background_channel_max=8, decoder_hidden=8, feature_channels=6, superresolution_size=8,
    superresolution_channels=(8,),
)  # fmt: skip
SMALL_DISCRIMINATOR = DiscriminatorConfig(
    image_size=8, channel_base=64, channel_max=8, mapping_layers=2, group_size=2
)


def draw_variables(module, *inputs) -> dict:
    """Variables as at the start, but for noise and w_avg, without a compilation a leaf."""
    generator = np.random.default_rng(0)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        scale = 0.0 if "bias" in name else 1.0
        if "'mapping'" in name and "'layer" in name:
            scale /= stylegan2.MAPPING_LR_MULTIPLIER
        return jnp.asarray(scale * generator.standard_normal(leaf.shape), leaf.dtype)

    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="module")
def small():
    """A small GenHead, its variables, and three latents with their conditions."""
    generator = np.random.default_rng(0)
    latent, camera, shape = (
        jnp.asarray(generator.standard_normal((3, size)), jnp.float32) for size in (12, 25, 7)
    )
    genhead = GenHead(SMALL)
    return genhead, draw_variables(genhead, latent, camera, shape), (latent, camera, shape)


# Import ---------------------------------------------------------------------------------------------------


def released_state() -> dict[str, np.ndarray]:
    """Every key of the released GenHead with its shape, without values."""
    parts = {
        "backbone.": "genhead_backbone", "background.": "background_generator",
        "superresolution.": "superresolution", "decoder.": "field_decoder",
    }  # fmt: skip
    rows = {
        prefix + row["key"]: row["shape"]
        for prefix, case in parts.items()
        for row in json.loads((FOLDER / f"{case}.json").read_text())["state"]
    }
    rows["deformer.flame_deform.canonical_shape"] = [1, 5023, 3]
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in rows.items()}


def test_every_key_of_the_released_genhead_has_its_place():
    network, state = NETWORKS["genhead"], released_state()
    assert set(network.marks) <= set(state)
    shapes = network.init_shapes()
    converted = convert_state(state, network.rules, shapes, "genhead")
    assert jax.tree.map(np.shape, converted.variables) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    assert {key.split(".")[-1] for key in converted.unused} == {
        "resample_filter", "noise_const", "noise_strength", "canonical_shape"
    }  # fmt: skip
    assert not any("noise" in key and key.startswith("back") for key in converted.unused)
    with pytest.raises(UserError, match=r"backbone\.synthesis\.b512"):
        convert_state(
            {"backbone.synthesis.b512.conv0.weight": np.zeros((2, 2, 3, 3))}, network.rules, shapes, "x"
        )


def test_every_key_of_the_released_discriminator_has_its_place():
    network = NETWORKS["genhead_discriminator"]
    rows = json.loads((FOLDER / "discriminator.json").read_text())["state"]
    state = {row["key"]: np.broadcast_to(np.float32(0), row["shape"]) for row in rows}
    assert set(network.marks) <= set(state)
    converted = convert_state(state, network.rules, network.init_shapes(), "discriminator")
    assert all(key.endswith("resample_filter") for key in converted.unused)


def test_a_dense_layer_behind_an_image_keeps_its_meaning(rng):
    image, weight = rng.standard_normal((3, 4, 4)), rng.standard_normal((5, 48))
    ours = image.transpose(1, 2, 0).reshape(-1) @ dense_behind_image(weight)
    np.testing.assert_allclose(ours, weight @ image.reshape(-1))


def test_configs_survive_json():
    for config in (GenHeadConfig(), SMALL):
        assert GenHeadConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert GenHeadConfig().image_size == 512
    with pytest.raises(ValueError, match="plane_sise"):
        GenHeadConfig.from_dict({"plane_sise": 8})
    values = json.loads(json.dumps(SMALL_DISCRIMINATOR.to_dict()))
    assert DiscriminatorConfig(**values) == SMALL_DISCRIMINATOR


# Generator ------------------------------------------------------------------------------------------------


def test_truncation_ends_at_the_style_and_at_the_mean(small):
    genhead, variables, inputs = small
    styles = jax.jit(lambda training: genhead.apply(variables, *inputs, training, method="map"))
    mean = variables["buffers"]["backbone"]["w_avg"]
    full, none = styles(1.0), styles(0.0)
    assert full.shape == (3, 4, 16)
    np.testing.assert_array_equal(full, jnp.broadcast_to(full[:, :1], full.shape))
    np.testing.assert_array_equal(none, jnp.broadcast_to(mean, full.shape))
    np.testing.assert_allclose(styles(0.25), 0.25 * full + 0.75 * mean, rtol=1e-5, atol=1e-6)
    coarse = stylegan2.truncate_styles(full, mean, 0.25, 3)
    np.testing.assert_array_equal(coarse[:, 3:], full[:, 3:])
    np.testing.assert_allclose(coarse[:, :3], styles(0.25)[:, :3], rtol=1e-5, atol=1e-6)


def test_styles_know_the_direction_of_a_latent_and_of_a_condition_only_their_own(small):
    genhead, variables, (latent, camera, shape) = small
    styles = jax.jit(lambda *inputs: genhead.apply(variables, *inputs, method="map"))
    base = styles(latent, camera, shape)
    np.testing.assert_allclose(styles(3 * latent, camera, shape), base, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(styles(latent, camera, shape.at[:, 5:].set(9.0)), base)  # beyond shape_size
    for other in (styles(latent, camera + 1, shape), styles(latent, camera, shape.at[:, 4].add(1.0))):
        assert jnp.abs(other - base).max() > 1e-3
    order = jnp.array([2, 0, 1])
    np.testing.assert_allclose(
        styles(latent[order], camera[order], shape[order]), base[order], rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match="camera, shape"):
        genhead.apply(variables, latent, camera, shape[:, :3], method="map")


def test_noise_is_stored_left_out_or_drawn(key):
    network = stylegan2.SynthesisNetwork(resolution=4, image_channels=3, channel_base=32)
    ws = jax.random.normal(key, (2, 2, 8))
    variables = draw_variables(network, ws)

    @jax.jit
    def three(variables, key):
        draw = lambda noise: network.apply(variables, ws, noise, rngs={"noise": key})
        return draw("const"), draw("none"), draw("random")

    const, none, drawn = three(variables, jax.random.key(2))
    assert const.shape == (2, 4, 4, 3)
    again, none_again, other = three(variables, jax.random.key(3))
    np.testing.assert_array_equal(const, again)
    np.testing.assert_array_equal(none, none_again)
    pairs = ((drawn, other), (const, drawn), (const, none), (drawn, none))
    assert all(jnp.abs(first - second).max() > 1e-2 for first, second in pairs)

    def quiet(path, leaf):
        return leaf * 0 if "noise_strength" in jax.tree_util.keystr(path) else leaf

    silent = three(jax.tree_util.tree_map_with_path(quiet, variables), jax.random.key(2))
    for image in silent:
        np.testing.assert_allclose(image, none, atol=1e-5)
    with pytest.raises(ValueError, match="noise"):
        network.apply(variables, ws, "constant")
    with pytest.raises(ValueError, match="ws"):
        network.apply(variables, ws[:, :1])


def test_planes_are_parts_then_head_and_every_weight_has_a_gradient(small):
    genhead, variables, inputs = small

    @jax.jit
    def run(params):
        def loss(params):
            everything = {"params": params, "buffers": variables["buffers"]}
            image = genhead.apply(everything, *inputs, method=lambda g, *x: g.backbone.synthesize(g.map(*x)))
            return jnp.square(image + 0.1).mean(), image

        return jax.grad(loss, has_aux=True)(params)

    gradient, image = run(variables["params"])
    planes = genhead.apply(variables, image, method=lambda g, image: g.split_planes(image))
    assert image.shape == (3, 8, 8, 24) and planes.shape == (3, 2, 3, 8, 8, 4)
    np.testing.assert_array_equal(planes[1, 0, 2], image[1, ..., 8:12])
    np.testing.assert_array_equal(planes[1, 1, 0], image[1, ..., 12:16])
    leaves = jax.tree_util.tree_leaves_with_path(gradient["backbone"])
    assert all(jnp.isfinite(leaf).all() for _, leaf in leaves)
    assert not [jax.tree_util.keystr(path) for path, leaf in leaves if not jnp.abs(leaf).max() > 0]


def test_a_clamp_bounds_activations_and_nothing_else(key):
    x, w = 50 * jax.random.normal(key, (1, 4, 4, 6)), jnp.ones((1, 8))
    free = stylegan2.SynthesisLayer(5)
    variables = draw_variables(free, x, w)
    variables["params"]["bias"] = jnp.array([-40.0, 0, 0.1, 3, 40])
    expected = jax.jit(free.apply)(variables, x, w)
    clamped = jax.jit(stylegan2.SynthesisLayer(5, clamp=2.0).apply)(variables, x, w)
    np.testing.assert_array_equal(clamped, jnp.clip(expected, -2, 2))
    assert (jnp.abs(expected) > 2).any() and (jnp.abs(expected) < 2).any()


# Discriminator --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [1, 3])
def test_downsampled_convolution_agrees_with_torch(rng, kernel):
    image = rng.standard_normal((2, 6, 8, 3)).astype(np.float32)
    weight = rng.standard_normal((kernel, kernel, 3, 4)).astype(np.float32)
    taps = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64
    pad = 1 + kernel // 2
    padded = torch.nn.functional.pad(torch.tensor(image).permute(0, 3, 1, 2), (pad,) * 4)
    filtered = torch.nn.functional.conv2d(padded, taps.expand(3, 1, 4, 4), groups=3)
    expected = torch.nn.functional.conv2d(filtered, torch.tensor(weight).permute(3, 2, 0, 1), stride=2)
    ours = jax.jit(stylegan2.convolve_downsampled)(image, weight)
    assert ours.shape == (2, 3, 4, 4)
    np.testing.assert_allclose(ours, expected.permute(0, 2, 3, 1), atol=1e-4)
    if kernel == 1:  # the residual blocks' shortcut: first halved, then mixed
        halved = stylegan2.convolve(stylegan2.downsample2d(jnp.asarray(image)), jnp.asarray(weight))
        np.testing.assert_allclose(halved, ours, atol=1e-5)


@pytest.mark.parametrize("group_size", [2, 3, 16])
def test_stddev_of_groups_against_float64(rng, group_size):
    x = rng.standard_normal((6, 4, 4, 3))
    group = min(group_size, 6)
    expected = np.zeros(6)
    for first in range(6 // group):
        members = range(first, 6, 6 // group)
        expected[members] = np.sqrt(x[members].var(axis=0) + 1e-8).mean()
    ours = stylegan2.minibatch_stddev(jnp.asarray(x, jnp.float32), group_size)
    np.testing.assert_array_equal(ours[..., :3], x.astype(np.float32))
    np.testing.assert_allclose(ours[..., 3], np.broadcast_to(expected[:, None, None], (6, 4, 4)), rtol=1e-5)


def test_stddev_of_equal_images_is_nought_and_groups_must_divide():
    x = jnp.broadcast_to(jnp.arange(16.0).reshape(4, 4, 1), (4, 4, 4, 1))
    np.testing.assert_allclose(stylegan2.minibatch_stddev(x, 4)[..., 1], 1e-4, rtol=1e-3)
    with pytest.raises(ValueError, match="groups of 3"):
        stylegan2.minibatch_stddev(x, 3)


@pytest.fixture(scope="module")
def judge():
    """A small discriminator, its variables, and four images that it judges."""
    generator = np.random.default_rng(3)
    draw = lambda size, channels: jnp.asarray(
        np.tanh(generator.standard_normal((4, size, size, channels))), jnp.float32
    )
    inputs = DiscriminatorInput(draw(8, 3), draw(4, 3), draw(8, 3), draw(4, 1))
    camera = jnp.asarray(generator.standard_normal((4, 25)), jnp.float32)
    network = Discriminator(SMALL_DISCRIMINATOR)
    variables = draw_variables(network, inputs, camera)
    return network, variables, inputs, camera


def test_logits_know_every_part_the_camera_and_the_group(judge):
    network, variables, inputs, camera = judge
    logits = jax.jit(lambda inputs, camera: network.apply(variables, inputs, camera)[:, 0])
    base = logits(inputs, camera)
    assert base.shape == (4,)
    for field in ("image", "raw", "correspondence", "segmentation"):
        changed = inputs.replace(**{field: getattr(inputs, field).at[0].add(0.5)})
        difference = jnp.abs(logits(changed, camera) - base)
        assert difference[0] > 1e-4, field
        # Groups of two out of four: images 0 and 2, 1 and 3.
        np.testing.assert_allclose(difference[jnp.array([1, 3])], 0, atol=1e-6)
        assert difference[2] > 0
    moved = jnp.abs(logits(inputs, camera.at[0].add(1.0)) - base)
    assert moved[0] > 1e-4 and jnp.abs(moved[1:]).max() < 1e-6
    order = jnp.array([2, 3, 0, 1])  # groups stay together
    swapped = logits(jax.tree.map(lambda x: x[order], inputs), camera[order])
    np.testing.assert_allclose(swapped, base[order], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="image"):
        network.apply(variables, inputs.replace(image=inputs.raw), camera)


def test_gradient_penalty_differentiates_twice(judge):
    """R1 under jit. Without biases the logits are homogeneous in the weights of some layers: by Euler's
    theorem, weights times gradient is then twice the penalty, which is a square of the logits' slope."""
    network, variables, inputs, camera = judge

    def penalty(variables):
        slope = jax.grad(lambda inputs: network.apply(variables, inputs, camera).sum())(inputs)
        return sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(slope)) / 4

    value, gradient = jax.jit(jax.value_and_grad(penalty))(variables)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    layers = gradient["params"]

    def along(*path):
        weights, slopes = variables["params"], layers
        for name in path:
            weights, slopes = weights[name], slopes[name]
        return jnp.vdot(weights, slopes)

    for path in (("from_rgb",), ("block4", "conv"), ("block4", "dense"), ("mapping", "layer1")):
        np.testing.assert_allclose(along(*path, "weight"), 2 * value, rtol=1e-3)
    residual = along("block8", "skip") + along("block8", "conv1", "weight")
    np.testing.assert_allclose(residual, 2 * value, rtol=1e-3)
    assert jnp.abs(along("block8", "conv0", "weight")) > 0
