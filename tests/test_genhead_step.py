"""GenHead's training: gradients of its losses, its schedules, what its steps change and what they leave."""

import dataclasses
import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from genhead_case import ROOT, tiny_config

from p4d_jax.errors import UserError
from p4d_jax.genhead import step as steps
from p4d_jax.genhead.config import DiscriminatorConfig, GenHeadStepConfig
from p4d_jax.genhead.discriminator import Discriminator
from p4d_jax.genhead.forward import swap_probability
from p4d_jax.genhead.frames import rasterize_frames, rasterize_reals
from p4d_jax.genhead.losses import LOSSES
from p4d_jax.genhead.sources import PortraitSettings, openheads
from p4d_jax.genhead.training import create_genhead_state
from p4d_jax.jobs import train_genhead as job
from p4d_jax.train import adversarial, augment
from p4d_jax.train.adversarial import DiscriminatorInput
from p4d_jax.train.config import Term
from p4d_jax.train.loss_table import weight_at
from p4d_jax.train.state import average_decay, lazy_share

BATCH = 8


@pytest.fixture(scope="module")
def training():
    return job.build_training(tiny_config(BATCH))[0]


@pytest.fixture(scope="module")
def state(training):
    return create_genhead_state(training, jax.random.key(3))


@pytest.fixture(scope="module")
def draws(training):
    source = openheads(PortraitSettings(BATCH, seed=5), training)
    return source.draw_real, source.draw_params


@pytest.fixture(scope="module")
def generated(training, state, frames):
    active = training.config.active(0)
    step = jax.jit(functools.partial(steps.generator_update, training, active, False))
    return step(state, jnp.float32(1), frames)


@pytest.fixture(scope="module")
def frames(training, draws):
    return jax.jit(functools.partial(rasterize_frames, training, 8))(
        training.head, training.parts, draws[1](0)
    )


# Losses ---------------------------------------------------------------------------------------------------


def test_every_loss_has_the_gradient_of_finite_differences_in_float64():
    """In a process of its own: it makes all of the package compute in float64."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "genhead_gradients.py")], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-2000:]
    errors = json.loads(result.stdout.splitlines()[-1])
    assert set(errors) == {*LOSSES, "discriminator", "penalty"}
    for name, (difference, slope) in errors.items():
        assert abs(slope) > 1e-12, name
        assert abs(difference - slope) <= 1e-5 * abs(slope), (name, difference, slope)


def test_r1_is_the_double_backward_of_torch(rng):
    """Penalty and its gradient for a discriminator of two layers, against torch.autograd twice."""
    first, second = (rng.standard_normal(shape) for shape in ((16, 5), (5, 1)))
    shown = [rng.standard_normal((2, 2, 2, channels)) for channels in (1, 1, 1, 1)]
    gammas = (1.0, 10.0, 3.0)

    def penalty(weights):
        def logits(inputs):
            flat = jnp.concatenate([x.reshape(2, -1) for x in jax.tree.leaves(inputs)], axis=1)
            return jnp.tanh(flat @ weights[0]) @ weights[1]

        return adversarial.gradient_penalty(logits, DiscriminatorInput(*map(jnp.asarray, shown)), *gammas)[0]

    value, slopes = jax.value_and_grad(penalty)((jnp.asarray(first), jnp.asarray(second)))
    weights = [torch.tensor(w, requires_grad=True) for w in (first, second)]
    inputs = [torch.tensor(x, requires_grad=True) for x in shown]
    flat = torch.cat([x.reshape(2, -1) for x in inputs], dim=1)
    logits = torch.tanh(flat @ weights[0]) @ weights[1]
    gradients = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    image, raw, correspondence, segmentation = (g.square().sum((1, 2, 3)).mean() for g in gradients)
    expected = (gammas[0] * (image + raw) + gammas[1] * correspondence + gammas[2] * segmentation) / 2
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    for slope, weight in zip(slopes, weights, strict=True):
        np.testing.assert_allclose(slope, weight.grad, rtol=1e-4, atol=1e-5)


def test_logistic_losses_against_numpy(rng):
    fake, real = rng.standard_normal((2, 6, 1)) * 3
    softplus = lambda x: np.log1p(np.exp(x))
    np.testing.assert_allclose(adversarial.generator_loss(fake), softplus(-fake).mean(), rtol=1e-5)
    expected = softplus(fake).mean() + softplus(-real).mean()
    np.testing.assert_allclose(adversarial.discriminator_loss(fake, real), expected, rtol=1e-5)


@pytest.mark.parametrize("sigma", [0.2, 0.5, 1.0])
def test_the_fading_blur_is_the_fixed_one(rng, sigma):
    from p4d_jax.nn.stylegan2 import blur2d

    image = jnp.asarray(rng.standard_normal((1, 12, 12, 2)), jnp.float32)
    faded = adversarial.blur_fading(image, jnp.float32(sigma), 1.5)
    np.testing.assert_allclose(faded, blur2d(image, sigma), atol=1e-6)


# Schedules ------------------------------------------------------------------------------------------------


def test_schedules_are_the_papers():
    config = GenHeadStepConfig(stages=((0, 64), (1000, 96)))
    at = lambda images: jnp.float32(images)
    assert swap_probability(config, at(0)) == 1
    assert swap_probability(config, at(500_000)) == pytest.approx(0.75)
    assert swap_probability(config, at(2e6)) == 0.5
    assert adversarial.blur_sigma(config, at(100_000)) == pytest.approx(5)
    assert adversarial.blur_sigma(config, at(1e6)) == 0
    assert [config.resolution(n) for n in (0, 999, 1000)] == [64, 64, 96]
    assert average_decay(jnp.float32(1e6), 32, 10_000.0) == pytest.approx(0.5 ** (32 / 10_000))
    assert lazy_share(16) == pytest.approx(16 / 17)


def test_a_term_that_fades_falls_evenly_to_nothing():
    term = Term(2.0, 100.0, 300.0, True)
    assert [term.active(n) for n in (99, 100, 299, 300)] == [False, True, True, False]
    weights = [float(weight_at(term, jnp.float32(n))) for n in (100, 150, 200, 299)]
    assert weights == pytest.approx([2.0, 1.5, 1.0, 0.01])
    assert weight_at(Term(2.0), jnp.float32(1e9)) == 2.0
    with pytest.raises(ValueError, match="last="):
        Term(1.0, fades=True)


# Steps ----------------------------------------------------------------------------------------------------


def changed(before, after) -> bool:
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return any(not np.array_equal(a, b) for a, b in pairs)


def test_the_generators_step_leaves_the_discriminator(state, generated):
    new, metrics, fakes = generated
    shown = fakes.inputs
    assert changed(state.params, new.params) and changed(state.average, new.average)
    assert not changed(state.discriminator, new.discriminator)
    assert shown.image.shape == (BATCH, 16, 16, 3) and shown.segmentation.shape == (BATCH, 8, 8, 1)
    assert all(np.isfinite(value) for value in metrics.values())
    moved = new.buffers["backbone"]["w_avg"]
    assert changed(state.buffers["backbone"]["w_avg"], moved)
    behind = "background_generator"
    assert changed(state.buffers[behind]["w_avg"], new.buffers[behind]["w_avg"])
    assert not changed(
        {k: v for k, v in state.buffers["backbone"].items() if k != "w_avg"},
        {k: v for k, v in new.buffers["backbone"].items() if k != "w_avg"},
    )


def test_every_parameter_of_both_networks_learns(training, state, draws, frames, generated):
    new, _, fakes = generated
    for path, before in jax.tree.leaves_with_path(state.params):
        after = functools.reduce(lambda tree, key: tree[key.key], path, new.params)
        # The noise starts with strength zero: its gradient may vanish, but that of a strength does not.
        assert changed(before, after), jax.tree_util.keystr(path)
    step = jax.jit(functools.partial(steps.critic_update, training, False))
    real = jax.jit(functools.partial(rasterize_reals, training))(training.head, training.parts, draws[0](0))
    learned, _ = step(new, jnp.float32(1), real, fakes)
    assert not changed(new.params, learned.params)
    for path, before in jax.tree.leaves_with_path(state.discriminator):
        after = functools.reduce(lambda tree, key: tree[key.key], path, learned.discriminator)
        assert changed(before, after), jax.tree_util.keystr(path)


def test_ada_follows_the_sign_of_real_logits():
    move = lambda sign: float(augment.adapt_probability(jnp.float32(0.5), jnp.float32(sign), 0.6, 0.08))
    assert move(0.9) == pytest.approx(0.58) and move(0.1) == pytest.approx(0.42)
    assert float(augment.adapt_probability(jnp.float32(0.99), jnp.float32(1), 0.6, 0.08)) == 1.0


def test_rematerialised_views_one_at_a_time_are_the_same(training, state, frames, generated):
    frugal = dataclasses.replace(
        training, config=dataclasses.replace(training.config, rematerialize=True, views_at_once=1)
    )
    active = frugal.config.active(0)
    step = jax.jit(functools.partial(steps.generator_update, frugal, active, False))
    _, metrics, fakes = step(state, jnp.float32(1), frames)
    np.testing.assert_allclose(fakes.inputs.image, generated[2].inputs.image, atol=2e-5)
    for name, value in metrics.items():
        np.testing.assert_allclose(value, generated[1][name], rtol=2e-4, atol=1e-6, err_msg=name)


# Augmentation ---------------------------------------------------------------------------------------------


def test_augmentation_with_probability_nought_changes_nothing_and_moves_all_parts_alike(rng):
    ramp = jnp.asarray(np.tile(np.linspace(-1, 1, 16), (16, 1)), jnp.float32)
    make = lambda channels, size: jnp.broadcast_to(
        jax.image.resize(ramp, (size, size), "linear")[None, ..., None], (3, size, size, channels)
    )
    shown = DiscriminatorInput(make(3, 16), make(3, 8), make(3, 16), make(1, 8))
    key = jax.random.key(1)
    same = augment.augment(augment.Augmentation(), shown, jnp.float32(0), key)
    np.testing.assert_allclose(same.image, shown.image, atol=1e-5)
    moved = augment.augment(augment.Augmentation(), shown, jnp.float32(1), key)
    assert np.abs(moved.image - shown.image).max() > 0.3
    np.testing.assert_allclose(moved.image, moved.correspondence, atol=1e-6)
    small = jax.image.resize(moved.image[..., :1], (3, 8, 8, 1), "linear")
    assert np.corrcoef(np.ravel(small), np.ravel(moved.segmentation))[0, 1] > 0.97


def test_a_warp_reads_where_its_map_says(rng):
    image = jnp.asarray(rng.standard_normal((9, 9, 2)), jnp.float32)
    quarter = jnp.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(augment.warp(image, quarter), np.rot90(image), atol=1e-5)
    mirror = jnp.array([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(augment.warp(image, mirror), image[:, ::-1], atol=1e-5)


# The job --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 6}, "multiple"),
        ({"precision": "half"}, "bfloat16"),
        ({"terms": {"beauty": (1.0,)}}, "config.terms: no loss 'beauty'; there are generator, "),
    ],
)
def test_a_config_that_cannot_be_is_one_line(change, message):
    config = tiny_config()
    with config.unlocked():
        config.update(change)
    with pytest.raises(UserError, match=message):
        job.build_training(config)


def test_a_discriminator_of_another_size_is_named():
    config = tiny_config()
    config.discriminator.image_size = 32
    with pytest.raises(UserError, match="image_size"):
        job.build_training(config)


def test_minibatch_statistics_need_a_whole_group():
    discriminator = Discriminator(
        DiscriminatorConfig(image_size=8, channel_base=16, channel_max=4, group_size=4)
    )
    shown = DiscriminatorInput(*(jnp.zeros((6, 8, 8, c)) for c in (3, 3, 3, 1)))
    with pytest.raises(ValueError, match="groups of 4"):
        jax.eval_shape(discriminator.init, jax.random.key(0), shown, jnp.zeros((6, 25)))
