"""Training of Psi: losses, schedules, moving average, pairing of frames, the field to the canonical frame."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio
from synthetic_head import synthetic_head

from p4d_jax.data.samples import HeadClip
from p4d_jax.geometry import look_at_camera
from p4d_jax.head.deformation import NeckField
from p4d_jax.models.reconstructor import Reconstructor, ReconstructorConfig
from p4d_jax.render.avatar import canonical_frame
from p4d_jax.render.lifting import ExpressionField, apply_expression_field, sample_image
from p4d_jax.train import losses
from p4d_jax.train.reenact_step import StepConfig, build_samples, pair_frames, render_samples
from p4d_jax.train.state import average_decay, learning_rate
from p4d_jax.types import FrameParams


def picture(seed, side=32):
    return jnp.tanh(jax.random.normal(jax.random.key(seed), (side, side, 3)))


def test_losses_are_zero_for_the_target_and_grow_with_the_error():
    image = picture(0)
    assert float(losses.reconstruction(image, image)) == pytest.approx(0.0, abs=1e-5)
    errors = [float(losses.reconstruction(image + a * picture(1), image)) for a in (0.05, 0.2, 0.8)]
    assert errors == sorted(errors) and errors[0] > 0


def test_losses_do_not_see_outside_their_weights():
    image = picture(0)
    weights = jnp.zeros((32, 32, 1)).at[:, :16].set(1.0)
    spoiled = image.at[:, 17:].set(1.0)
    assert float(losses.l1(spoiled, image, weights)) == 0.0
    assert float(losses.psnr(spoiled, image, weights)) > 90


def test_psnr_agrees_with_scikit_image():
    a, b = np.asarray(picture(0)), np.asarray(picture(1))
    assert float(losses.psnr(a, b)) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=2), abs=1e-3)


def test_average_halves_after_its_half_life_and_follows_at_the_start():
    assert float(average_decay(1e6, 100, 100)) == pytest.approx(0.5)
    assert float(average_decay(8, 8, 1000)) < 1e-5


def test_learning_rate_warms_up_and_ends_low():
    assert learning_rate(0.0, 0, 1.0, 10) == pytest.approx(0.1)
    rates = [learning_rate(p, 1000, 1.0, 10) for p in np.linspace(0, 1, 9)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 1.0 and rates[-1] == pytest.approx(0.01)


def test_pairs_stay_in_one_clip_and_every_frame_is_source_and_target_once():
    clips, frames = 3, 2
    number = jnp.arange(clips * frames, dtype=jnp.float32).reshape(clips, frames)
    image = jnp.broadcast_to(number[..., None, None, None], (clips, frames, 2, 2, 3))
    spread = lambda x: jnp.broadcast_to(x, (clips, frames, *x.shape))  # noqa: E731
    camera = jax.tree.map(spread, look_at_camera(0.0, 0.0, 4.0))
    zeros = lambda n: jnp.zeros((clips, frames, n))  # noqa: E731
    params = FrameParams(camera, zeros(300), zeros(100), zeros(6), zeros(6))
    clip = HeadClip(image, image[..., :1], image[..., :1], image[..., :1], image[:, 0], params)
    sources, targets = pair_frames(clip)
    source, target = (np.asarray(x.image[:, 0, 0, 0]) for x in (sources, targets))
    assert sorted(source) == sorted(target) == list(range(6))
    np.testing.assert_array_equal(source // frames, target // frames)
    assert (source != target).all()
    np.testing.assert_array_equal(sources.background[:, 0, 0, 0], targets.background[:, 0, 0, 0])


def test_image_is_read_bilinearly_at_pixel_centres():
    image = picture(0, 8)
    centre = (jnp.arange(8) + 0.5) / 8
    v, u = jnp.meshgrid(centre, centre, indexing="ij")
    np.testing.assert_allclose(sample_image(image, jnp.stack([u, v], -1)), image, atol=1e-5)
    between = sample_image(image, jnp.array([[2.0 / 8, 0.5 / 8]]))
    np.testing.assert_allclose(between[0], (image[0, 1] + image[0, 2]) / 2, atol=1e-5)


def test_field_takes_the_surface_offset_at_the_surface_and_the_nearest_candidates_far_away():
    camera = look_at_camera(0.0, 0.0, 4.0)
    surface, near = jnp.array([0.01, 0.02, 0.03]), jnp.array([0.0, -0.2, 0.0])
    observed = jnp.array([[0.0, 0.0, -0.6], [0.0, 0.5, 0.0]])
    field = ExpressionField(
        camera, jnp.full((16, 16), 4.0), jnp.broadcast_to(surface, (16, 16, 3)), observed,
        jnp.stack([near, jnp.zeros(3)]),
    )  # fmt: skip
    points = jnp.array([[0.0, 0.0, 0.0], [0.0, 0.0, -0.55]])
    moved = apply_expression_field(field, points) - points
    np.testing.assert_allclose(moved[0], surface, atol=1e-3)
    np.testing.assert_allclose(moved[1], near, atol=1e-3)


@pytest.mark.parametrize("deformation", ["neck", "expression"])
def test_the_step_renders_with_either_deformation(deformation):
    """Shapes only: what the fields do to points is tested where they are."""
    model = Reconstructor(
        ReconstructorConfig(
            image_size=32, motion_size=109, lifted_size=16, superresolution_size=0, deformation=deformation
        )
    )
    config = StepConfig(resolution=16, crop=8, samples=(4, 4))
    head = synthetic_head()
    frame = canonical_frame(head, 16)
    count, frames = 2, 2
    spread = lambda x: jnp.broadcast_to(x, (count, frames, *x.shape))  # noqa: E731
    camera = jax.tree.map(spread, look_at_camera(0.0, 0.0, 4.0))
    zeros = lambda *shape: jnp.zeros((count, frames, *shape))  # noqa: E731
    clips = HeadClip(
        zeros(32, 32, 3), zeros(32, 32, 1), zeros(32, 32, 1), zeros(32, 32, 1), jnp.zeros((count, 32, 32, 3)),
        FrameParams(camera, zeros(300), zeros(100), zeros(6), zeros(6)),
    )  # fmt: skip

    def step(key):
        samples = build_samples(config, model.config, head, frame, clips, key)
        image, motion = samples.guide.image[:1], samples.motion_source[:1]
        variables = model.init(key, image, motion, motion, None)
        return samples.field, render_samples(model, config, variables, samples, key)

    field, out = jax.eval_shape(step, jax.random.key(0))
    assert isinstance(field, {"neck": NeckField, "expression": ExpressionField}[deformation])
    assert out["raw"].shape == (4, 8, 8, 3)
    assert out["image"].shape == (4, 32, 32, 3)
