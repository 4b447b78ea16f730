"""Training of Psi: losses, schedules, moving average, pairs, the field to the canonical frame, the steps."""

import dataclasses
import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from psi_case import ROOT, tiny_config
from skimage.metrics import peak_signal_noise_ratio

from p4d_jax import assets
from p4d_jax.errors import UserError
from p4d_jax.genhead.config import DiscriminatorConfig
from p4d_jax.genhead.discriminator import Discriminator
from p4d_jax.genhead.parts import build_head_parts
from p4d_jax.geometry import look_at_camera
from p4d_jax.head.expression_field import ExpressionField, apply_expression_field
from p4d_jax.head.landmarks import project_landmarks
from p4d_jax.head.skinning import posed_vertices
from p4d_jax.imaging.sampling import sample_image
from p4d_jax.jobs import train_reenact as job
from p4d_jax.main import load_config
from p4d_jax.networks.arcface import IResNet
from p4d_jax.networks.lpips import LPIPS, vgg16
from p4d_jax.networks.motion_encoder import MotionEncoder
from p4d_jax.nn.field_decoder import SHOWN_DENSITY
from p4d_jax.reconstructor import multiview
from p4d_jax.reconstructor import step as steps
from p4d_jax.reconstructor import training as reconstructor_training
from p4d_jax.reconstructor.config import StepConfig
from p4d_jax.reconstructor.forward import render_samples
from p4d_jax.reconstructor.losses import LOSSES, check_data, check_table
from p4d_jax.reconstructor.model import PLACE_CHANNELS, Reconstructor
from p4d_jax.reconstructor.pairs import static_pairs
from p4d_jax.reconstructor.samples import build_samples, perturb_shape
from p4d_jax.reconstructor.training import LossNetworks, initial_variables, of_motion, psi_optimizer
from p4d_jax.reconstructor.weights import save_reconstructor
from p4d_jax.render.raster import Raster
from p4d_jax.render.rays import pixel_centres
from p4d_jax.train import losses
from p4d_jax.train.adversarial import Adversary, input_shapes
from p4d_jax.train.config import Term
from p4d_jax.train.network_folder import save_converted
from p4d_jax.train.state import (
    average_decay,
    build_optimizer,
    create_state,
    descend,
    learning_rate,
    stream_keys,
)
from p4d_jax.types import FrameParams, shaped


def picture(seed, side=32):
    return np.tanh(np.random.default_rng(seed).standard_normal((side, side, 3), np.float32))


def test_losses_are_zero_for_the_target_and_grow_with_the_error():
    image, reconstruction = picture(0), jax.jit(losses.reconstruction)
    assert float(reconstruction(image, image)) == pytest.approx(0.0, abs=1e-5)
    errors = [float(reconstruction(image + np.float32(a) * picture(1), image)) for a in (0.05, 0.2, 0.8)]
    assert errors == sorted(errors) and errors[0] > 0


def test_losses_do_not_see_outside_their_weights():
    image = picture(0)
    weights, spoiled = np.zeros((32, 32, 1), np.float32), image.copy()
    weights[:, :16], spoiled[:, 17:] = 1.0, 1.0
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


def test_image_is_read_bilinearly_at_pixel_centres():
    image, read = picture(0, 8), jax.jit(sample_image)
    centre = (np.arange(8, dtype=np.float32) + 0.5) / 8
    v, u = np.meshgrid(centre, centre, indexing="ij")
    np.testing.assert_allclose(read(image, np.stack([u, v], -1)), image, atol=1e-5)
    between = read(image, np.float32([[2.0 / 8, 0.5 / 8]]))
    np.testing.assert_allclose(between[0], (image[0, 1] + image[0, 2]) / 2, atol=1e-5)


def test_field_takes_the_surface_motion_at_the_surface_and_the_nearest_candidates_far_away():
    camera = look_at_camera(0.0, 0.0, 4.0)
    surface, near = jnp.array([0.01, 0.02, 0.03]), jnp.array([0.0, -0.2, 0.0])
    observed = jnp.array([[0.0, 0.0, -0.6], [0.0, 0.5, 0.0]])
    raster = Raster(*jnp.full((5, 16, 16), 4.0))
    field = ExpressionField(
        camera, raster, jnp.broadcast_to(jnp.append(surface, 0.0), (16, 16, 4)), observed,
        jnp.pad(jnp.stack([near, jnp.zeros(3)]), ((0, 0), (0, 1))), jnp.eye(3), jnp.zeros((16, 16, 4)),
    )  # fmt: skip
    points = jnp.array([[0.0, 0.0, 0.0], [0.0, 0.0, -0.55]])
    moved = jax.jit(apply_expression_field)(field, points[:, None])[:, 0] - points
    np.testing.assert_allclose(moved[0], surface, atol=1e-3)
    np.testing.assert_allclose(moved[1], near, atol=1e-3)


# The step --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def training():
    """The smallest training: Psi, arrays, state, one batch of pairs and its samples."""
    config = tiny_config()
    psi, constants, state, _ = job.build_training(config)
    draw = job.build_mixture(config, psi, constants.head)
    pairs = draw(0)
    build = jax.jit(functools.partial(build_samples, psi, 16, False))
    return (
        psi,
        constants,
        state,
        draw,
        pairs,
        build(constants, pairs, stream_keys(state, "crops", config.batch)),
    )


def test_half_of_the_pairs_are_static_and_show_one_motion(training):
    pairs = training[4]
    np.testing.assert_array_equal(pairs.scale, [1, 0, 1, 0])
    moved = np.abs(pairs.source_params.motion() - pairs.params.motion()).max(1)
    np.testing.assert_array_equal(moved == 0, pairs.scale == 0)
    turned = np.abs(pairs.source_params.camera.cam2world - pairs.params.camera.cam2world).max((1, 2))
    assert (turned > 0.01).all()
    np.testing.assert_array_equal(pairs.source_params.shape, pairs.params.shape)


@pytest.mark.parametrize(("count", "share"), [(8, 0.5), (7, 0.5), (6, 1.0), (5, 0.0)])
def test_static_pairs_are_evenly_spread(count, share):
    static = np.asarray(static_pairs(count, share))
    assert static.sum() == int(count * share)
    for first in range(0, count, 2):
        assert abs(static[first : first + 2].sum() - share * len(static[first : first + 2])) <= 1


def test_pairs_depend_on_seed_and_number_alone(training):
    draw, pairs = training[3], training[4]
    np.testing.assert_array_equal(draw(0).image, pairs.image)
    assert not np.array_equal(draw(1).image, pairs.image)


def test_a_static_sample_does_not_see_the_driving_motion(training):
    """At scale 0 two driving motions give one picture to the bit; at scale 1 they do not."""
    psi, _, state, _, _, samples = training
    # Cross-attention starts at zero: wake it up.
    params = jax.tree.map(lambda x: x + 0.05, state.params)
    show = jax.jit(
        lambda motion: (
            render_samples(
                psi,
                {"params": params, "buffers": state.buffers},
                samples.replace(motion_driving=motion),
                None,
            ).image
        )
    )
    one, other = show(samples.motion_driving), show(samples.motion_driving + 0.5)
    same = [np.array_equal(a, b) for a, b in zip(one, other, strict=True)]
    np.testing.assert_array_equal(same, samples.scale == 0)


def test_every_loss_has_the_gradient_of_finite_differences_in_float64():
    """In a process of its own: it makes all of the package compute in float64."""
    script = str(ROOT / "tests" / "psi_gradients.py")
    result = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    errors = json.loads(result.stdout.splitlines()[-1])
    assert set(errors) == set(LOSSES) - {"upscaled"}
    for name, (difference, slope) in errors.items():
        assert abs(slope) > 1e-12, name
        assert abs(difference - slope) <= 1e-5 * abs(slope), (name, difference, slope)


def test_a_misfit_is_one_error_of_the_shape_for_all_pictures_of_a_person(training):
    pair = jax.tree.map(lambda x: x[0], training[4])
    errors = jax.random.normal(jax.random.key(0), (300, 7))
    off = perturb_shape(pair, errors, jax.random.key(1))
    error = off.params.shape - pair.params.shape
    assert np.abs(error).max() > 0.1
    np.testing.assert_allclose(off.source_params.shape - pair.source_params.shape, error, atol=1e-5)
    back = off.replace(params=pair.params, source_params=pair.source_params)
    jax.tree.map(np.testing.assert_array_equal, back, pair)
    jax.tree.map(np.testing.assert_array_equal, off.params.replace(shape=pair.params.shape), pair.params)


def test_pixels_of_the_face_count_more_and_those_around_eyes_and_mouth_most(training):
    psi, constants, _, _, pairs, samples = training
    face, most = psi.config.face_weight, psi.config.face_weight + psi.config.feature_weight
    assert 0 < face < most
    weights = np.asarray(samples.targets.weights)[..., 0]

    @jax.jit
    def landmarks_of(head, params):
        mesh = posed_vertices(head, params.shape, params)
        return project_landmarks(head, mesh, params.neck, params.camera)

    pairs = jax.device_get(pairs)
    assert weights.min() == 1 and weights.max() <= 1 + most
    for index in range(len(weights)):
        pair = jax.tree.map(lambda x, index=index: x[index], pairs)
        points = np.asarray(landmarks_of(constants.head, pair.params))
        middles = np.stack([points[first:last].mean(0) for first, last in ((36, 42), (42, 48), (48, 68))])
        assert np.all(image_at(weights[index], middles) > 1 + 0.5 * most)
        far = np.linalg.norm(pixel_centres(32)[:, None] - middles, axis=-1).min(1) > 0.25
        assert weights[index].ravel()[far].max() < 1 + face + 0.1
        np.testing.assert_array_equal(weights[index].ravel()[np.asarray(pair.mask).ravel() == 0], 1)


def image_at(image, places):
    """Values of image (S, S) in the pixels of places (N, 2) in [0, 1]."""
    column, row = np.floor(places * len(image)).astype(int).T
    return image[row, column]


def test_terms_count_in_their_span():
    term = Term(1.0, 400.0, 1000.0)
    assert [term.active(n) for n in (0, 399, 400, 999, 1000)] == [False, False, True, True, False]
    config = StepConfig(terms=(("image", Term(1.0)), ("depth", Term(1.0, 0, 10)), ("raw", Term(0.0))))
    assert config.active(5) == ("image", "depth") and config.active(10) == ("image",)


def test_the_papers_table_is_the_papers():
    config = load_config(ROOT / "configs" / "portrait4d.py")
    table = {name: Term(*value) for name, value in config.terms.items()}
    assert table["triplane"] == Term(0.1, 0, 400_000) and table["identity"].first == 400_000
    assert table["adversarial"] == Term(0.01, 1_000_000) and table["opacity"].weight == 0.3
    assert {"features", "depth"} <= {name for name, term in table.items() if term.last == 400_000}
    assert config.static_share == 0.5 and config.adam == (0.9, 0.999, 1e-5)


def step_along_ones(psi, state, **settings):
    """How far Adam's first step moves every parameter along a gradient of ones, by path."""
    optimizer = psi_optimizer(dataclasses.replace(psi.config, **settings), 0.9, 0.999, 1e-5, 0.0)
    ones = jax.tree.map(jnp.ones_like, state.params)

    @jax.jit
    def move(params):
        moved, _ = descend(optimizer, jnp.float32(0.1), ones, params, optimizer.init(params))
        return jax.tree.map(lambda a, b: jnp.abs(a - b).max(), moved, params)

    return jax.tree_util.tree_leaves_with_path(jax.device_get(move(state.params)))


def test_motion_layers_have_their_own_rate(training):
    psi, _, state, *_ = training
    pairs = zip(step_along_ones(psi, state), step_along_ones(psi, state, motion_rate=2.5), strict=True)
    for (path, plain), (_, faster) in pairs:
        assert faster / plain == pytest.approx(2.5 if of_motion(path) else 1.0, rel=1e-3)
    assert of_motion(tuple(jax.tree_util.DictKey(k) for k in ("reenactor", "block0", "attn2", "q", "kernel")))


def test_only_the_parts_that_learn_move(training):
    """As far as if all learned; the others not by a bit. Nor do they count in a gradient that is clipped."""
    psi, _, state, *_ = training
    pairs = zip(step_along_ones(psi, state), step_along_ones(psi, state, trained=("decoder",)), strict=True)
    for (path, every), (_, part) in pairs:
        assert part == (every if path[0].key == "decoder" else 0.0) and every > 0.0
    params = {"decoder": {"w": jnp.array([3.0, 4.0])}, "other": {"w": jnp.full(100, 1e6)}}
    optimizer = psi_optimizer(StepConfig(trained=("decoder",)), 0.0, 0.0, 1e6, 5.0)  # epsilon: no Adam
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(1e6 * updates["decoder"]["w"], [3.0, 4.0], rtol=1e-3)
    np.testing.assert_array_equal(updates["other"]["w"], 0.0)


# Networks that others trained ------------------------------------------------------------------------------


def all_terms():
    """The paper's table, all of it from the first picture on."""
    of_photo = lambda loss: "photo_features" in loss.reads
    return tuple((n, Term(0.5)) for n, loss in LOSSES.items() if n != "upscaled" and not of_photo(loss))


@pytest.mark.parametrize(("rays", "views_at_once"), [(16, 1), (20, 0)])
def test_every_part_of_the_papers_training_fits_together(training, rays, views_at_once):
    """Shapes only: motions seen in pictures, LPIPS, ArcFace, D, GenHead's pairs, v2; rematerialised one view
    at a time or all at once; also where R does not divide the picture's side, as 80 does not divide 512."""
    psi, constants, _, _, pairs, _ = training
    encoder = MotionEncoder(features=8, depth=1, landmarks=2, hidden=8)
    lpips, arcface = LPIPS(vgg16((2,) * 5)), IResNet(depths=(1,) * 4, widths=(2,) * 4, embedding=8)
    critic = Discriminator(DiscriminatorConfig(32, 64, 4, 1, 2))
    model = dataclasses.replace(psi.reconstructor.config, motion_size=8 + 6 + 30, superresolution_size=16)
    table = dataclasses.replace(
        psi.config, terms=all_terms(), rematerialize=views_at_once == 1, views_at_once=views_at_once
    )
    adversary = Adversary(critic, build_optimizer(0.9, 0.999, 1e-5), table, 1.0)
    psi = dataclasses.replace(
        psi, reconstructor=Reconstructor(model), config=table, motion_encoder=encoder, adversary=adversary
    )
    channels = model.feature_channels
    pairs = pairs.replace(
        features=jnp.zeros((4, 16, 16, channels)), background_features=jnp.zeros((4, 16, 16, channels)),
        points=jnp.zeros((4, 5, 3)), plane_features=jnp.zeros((4, 5, model.plane_channels)),
        driving=pairs.image, driving_params=pairs.params,
    )  # fmt: skip
    check_table(table, model)
    check_data(table, pairs, LossNetworks(arcface=arcface))

    def whole(key):
        picture, face = jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 112, 112, 3))
        loss_networks = LossNetworks(
            lpips, lpips.init(key, picture, picture), arcface, arcface.init(key, face)
        )
        seen = encoder.init(key, jnp.zeros((1, 224, 224, 3)))
        arrays = constants.replace(
            loss_networks=loss_networks, motion_variables=seen, parts=build_head_parts(constants.head)
        )
        variables = initial_variables(psi.reconstructor, key)
        state = create_state(
            variables, psi.optimizer, jax.random.key_data(key),
            discriminator=critic.lazy_init(key, input_shapes(32), shaped(2, 25))["params"],
            discriminator_optimizer=adversary.optimizer,
        )  # fmt: skip
        views = multiview.PseudoViews(dataclasses.replace(psi, motion_encoder=None))
        turned = multiview.pseudo_driving(views, rays, state, constants, variables, pairs)
        samples = steps.prepare_samples(psi, rays, True, arrays, state, turned)
        rate, active = jnp.float32(1e-3), psi.config.active(0)
        new, parts, fakes = steps.reconstructor_update(psi, active, False, state, rate, arrays, samples)
        new, density = steps.density_update(psi, new, rate, samples)
        new, of_d = steps.critic_update(psi, False, new, rate, samples, fakes)
        new, of_r1 = steps.critic_penalty_update(psi, False, new, rate, samples)
        new, side = multiview.multiview_update(
            psi, views, rays, new, rate, arrays, constants, variables, pairs
        )
        return state, new, parts | density | of_d | of_r1 | side, samples.targets

    before, after, metrics, targets = jax.eval_shape(whole, jax.random.key(0))
    assert jax.tree.map(lambda x: x.shape, before) == jax.tree.map(lambda x: x.shape, after)
    assert {name for name, _ in all_terms()} | {"multiview", "discriminator"} <= set(metrics)
    assert targets.image.shape == (4, 32, 32, 3) and targets.raw.shape == (4, rays, rays, 3)


def test_networks_are_read_from_converted_folders(tmp_path):
    """Under their names; another network's folder is refused."""
    encoder = MotionEncoder(features=8, depth=1, landmarks=2, hidden=8)
    arcface, size = (
        IResNet(depths=(1,) * 4, widths=(2,) * 4, embedding=8),
        DiscriminatorConfig(16, 64, 4, 1, 2),
    )
    sizes = {"depths": [1] * 4, "widths": [2] * 4, "embedding": 8, "image_size": 112}
    ones = lambda shapes: jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)
    key = jax.random.key(0)
    for name, config, shapes in (
        ("motion", {"features": 8, "depth": 1, "landmarks": 2, "hidden": 8},
         jax.eval_shape(encoder.init, key, jnp.zeros((1, 224, 224, 3)))),
        ("arcface50", sizes, jax.eval_shape(arcface.init, key, jnp.zeros((1, 112, 112, 3)))),
        ("genhead_discriminator", size.to_dict(),
         jax.eval_shape(Discriminator(size).init, key, input_shapes(16), shaped(2, 25))),
    ):  # fmt: skip
        save_converted(tmp_path / name, {"network": name, "config": config}, ones(shapes))
    config = tiny_config()
    config.update(
        motion="pdfgc", pdfgc=str(tmp_path / "motion"), arcface=str(tmp_path / "arcface50"),
        discriminator=str(tmp_path / "genhead_discriminator"),
    )  # fmt: skip
    config.terms.update(identity=(1.0,), adversarial=(0.01,))
    psi, constants, state, _ = job.build_training(config)
    assert psi.motion_encoder.hidden == 8 and constants.loss_networks.arcface.embedding == 8
    assert psi.adversary.network.config == size and constants.motion_variables["params"]
    assert jax.tree.leaves(state.discriminator)
    config.arcface = config.pdfgc
    with pytest.raises(UserError, match="'motion', not 'arcface50'"):
        job.build_training(config)


# What cannot be --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"motion": "pdfgc"}, "configs/convert.py"),
        ({"perceptual": "lpips"}, "config.perceptual=structure"),
        ({"perceptual": "psnr"}, "lpips or structure"),
        ({"terms": {"identity": (1.0,)}}, "config.arcface"),
        ({"terms": {"adversarial": (1.0,)}}, "config.discriminator"),
        ({"terms": {"beauty": (1.0,)}}, "config.terms: no loss 'beauty'; there are image, "),
        ({"terms": {"photo_depth": (1.0,)}}, "config.terms.photo_depth needs model.photo_features"),
        ({"step": {"trained": ("refinement",)}}, "config.step.trained: the model has no part 'refinement'"),
    ],
)
def test_a_training_that_cannot_be_is_refused_with_what_to_do(change, message):
    config = tiny_config()
    with config.unlocked():
        config.update(change)
    with pytest.raises(UserError, match=message):
        job.build_training(config)


def test_photo_features_begin_where_weights_without_them_stand(tmp_path, monkeypatch):
    config = tiny_config()
    config.model.update(deformation="expression")
    psi, _, state, _ = job.build_training(config)
    reconstructor = psi.reconstructor
    variables = {"params": state.params, "buffers": state.buffers}
    save_reconstructor(tmp_path / "without.npz", reconstructor.config, variables, {})
    config.start = str(tmp_path / "without.npz")
    config.model.update(photo_features=3, photo_widths=(4, 4, 4, 4))
    psi, _, state, _ = job.build_training(config)
    grown = psi.reconstructor
    old, new = variables["params"]["decoder"], state.params["decoder"]
    at, shown = jnp.ones((3, 5, 4)), jnp.ones((5, 3 + PLACE_CHANNELS)).at[:, -1].set(0.0)

    def decode(model: Reconstructor, decoder: dict, *x: jax.Array):
        return model.apply({"params": {"decoder": decoder}, "buffers": state.buffers}, *x, method="decode")

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-3),  # stored as float16
        decode(reconstructor, old, at), decode(grown, new, at, shown),
    )  # fmt: skip
    solid = decode(grown, new, at, shown.at[:, -1].set(1.0))[0] - decode(grown, new, at, shown)[0]
    np.testing.assert_allclose(solid, SHOWN_DENSITY, rtol=1e-4)  # where the relief has the person
    with pytest.raises(ValueError, match="shown: this model has 3 features"):
        decode(grown, new, at)
    other = {"params": state.params | {"decoder": {}}, "buffers": state.buffers}
    save_reconstructor(tmp_path / "other.npz", grown.config, other, {})
    config.start = str(tmp_path / "other.npz")
    with pytest.raises(UserError, match=r"lacks 'params/decoder/"):
        job.build_training(config)
    with monkeypatch.context() as patched:  # of files that ship, and converted ones, shapes are not compared
        patched.setattr(reconstructor_training, "load_reconstructor", lambda path: (grown, other))
        with pytest.raises(UserError, match=r"decoder/.* does not fit the model"):
            job.build_training(config)
    config.start = str(tmp_path / "without.npz")
    config.model.token_dim = 16
    with pytest.raises(UserError, match="other sizes"):
        job.build_training(config)


def test_a_term_of_which_the_data_know_nothing_is_refused(training):
    pairs = training[4]
    table = StepConfig(terms=(("triplane", Term(0.1)),))
    with pytest.raises(UserError, match="triplane: this data does not know points"):
        check_data(table, pairs, LossNetworks())
    with pytest.raises(UserError, match="identity needs the network ArcFace"):
        check_data(StepConfig(terms=(("identity", Term(1.0)),)), pairs, LossNetworks())
    with pytest.raises(ValueError, match="whole views"):
        check_table(StepConfig(terms=(("identity", Term(1.0)),), crop=8), training[0].reconstructor.config)


# Pseudo views ----------------------------------------------------------------------------------------------


def test_the_box_of_the_static_model_is_smaller_for_shut_eyes():
    head = assets.head_model()
    names, zeros, camera = head.expression_names, jnp.zeros(100), look_at_camera(0.0, 0.0, 4.0)
    shut = zeros.at[jnp.array([names.index("eyeBlinkLeft"), names.index("eyeBlinkRight")])].set(1.0)
    scale = jax.jit(
        lambda expression: multiview.box_scale(
            head, jnp.zeros(300), FrameParams(camera, jnp.zeros(300), expression, jnp.zeros(6), jnp.zeros(6))
        )
    )  # fmt: skip
    assert 0.97 <= float(scale(shut)) < float(scale(zeros)) - 0.004 and float(scale(zeros)) <= 1.0


def test_pseudo_views_turn_the_head_and_move_psi_towards_them(training):
    """The static model's view is the target's motion from another side; a step makes Psi more like it."""
    psi, constants, state, _, pairs, _ = training
    views = multiview.PseudoViews(psi, every=1)
    other = jax.tree.map(lambda x: x + 0.02, {"params": state.params, "buffers": state.buffers})
    step = jax.jit(functools.partial(multiview.multiview_update, psi, views, 16))
    losses_seen = []
    for _ in range(3):
        state, metrics = step(state, jnp.float32(2e-3), constants, constants, other, pairs)
        losses_seen.append(float(metrics["multiview"]))
    assert losses_seen[-1] < losses_seen[0]
