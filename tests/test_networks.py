"""The networks of losses and evaluation, against torch."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_networks

from p4d_jax import geometry
from p4d_jax.convert import perception
from p4d_jax.convert.mapping import convert_state, shapes_of
from p4d_jax.errors import UserError
from p4d_jax.evaluation.scores import MEASURES
from p4d_jax.networks import arcface, inception, lpips, motion_encoder

ALEX_WIDTHS = (8, 12, 16, 12, 8)


def _imported(module, state, rules, *inputs):
    return convert_state(state, rules, shapes_of(module.init, *inputs), "test").variables


def _pair(rng, batch, size):
    """An image (B, size, size, 3) for us and the same for torch."""
    image = np.tanh(rng.standard_normal((batch, size, size, 3))).astype(np.float32)
    return image, torch.tensor(image).permute(0, 3, 1, 2)


def _close(found, expected, tolerance):
    expected = np.asarray(expected)
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=tolerance * np.abs(expected).max())


# Motion ----------------------------------------------------------------------------------------------------

LANDMARKS = np.random.default_rng(3).uniform(60, 140, (70, 2)).astype(np.float32)
LANDMARKS[36:48] = np.repeat([[70.0, 80.0], [110.0, 85.0]], 6, axis=0)
LANDMARKS[60:68] = [88.0, 130.0]
LANDMARKS[68:] = [[70.0, 80.0], [110.0, 85.0]]


def _ramp(size):
    """An image whose colours are its pixels' x, y and a constant, over `size`."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    return np.stack([x / size, y / size, np.full_like(x, 0.5)], axis=-1)


def test_motion_crop_is_cut_and_enlarged():
    crop = np.asarray(jax.jit(motion_encoder.align_for_motion)(_ramp(200), LANDMARKS), np.float64)
    matrix = np.asarray(geometry.motion_transform(jnp.asarray(LANDMARKS)), np.float64)
    # 192 columns from 16 on and 192 rows from 0 on are spread over 224 pixels.
    place = (np.arange(224) + 0.5) * 192 / 224 - 0.5
    target = np.stack(np.meshgrid(place + 16, place), axis=-1)
    source = (target - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    inside = ((source > 1) & (source < 198)).all(-1)[1:-1, 1:-1]
    assert inside.mean() > 0.5
    np.testing.assert_allclose(
        crop[1:-1, 1:-1][inside],
        np.c_[source[1:-1, 1:-1][inside] / 200, np.full(inside.sum(), 0.5)],
        atol=1e-4,
    )


def _small_motion(rng, image_size):
    """A narrow encoder with weights about those of a trained one, variances positive."""
    encoder = motion_encoder.MotionEncoder(features=8, depth=2, landmarks=5, hidden=12, image_size=image_size)
    shapes = shapes_of(encoder.init, jnp.zeros((1, image_size, image_size, 3)))

    def weights(path, leaf):
        kind = path[-1].key
        scale = np.prod(leaf.shape[:-1]) ** -0.5 if kind == "kernel" else 0.1
        offset = 1.0 if kind in ("scale", "var") else 0.0
        return (rng.standard_normal(leaf.shape) * scale + offset).astype(np.float32)

    return encoder, jax.tree_util.tree_map_with_path(weights, shapes)


def test_motion_vector_is_eye_emotion_mouth_and_goes_with_the_face(rng):
    encoder, variables = _small_motion(rng, 224)
    image = rng.uniform(-1, 1, (200, 200, 3)).astype(np.float32)
    read = jax.jit(lambda image, points: motion_encoder.portrait_motion(encoder, variables, image, points))
    vector = read(image, LANDMARKS)
    align = jax.jit(motion_encoder.align_for_motion)
    aligned = align(image, LANDMARKS)
    found = jax.jit(encoder.apply)(variables, aligned[None])
    assert vector.shape == (6 + 30 + 12,) and found.headpose.shape == (1, 6)
    _close(vector, np.concatenate([found.eye, found.emotion, found.mouth], axis=-1)[0], 1e-4)
    # A face elsewhere in a larger picture: the crop is the same where both pictures have it.
    moved = np.zeros_like(image)
    moved[:, 7:] = image[:, :-7]
    shifted = align(moved, LANDMARKS + np.float32([7, 0]))
    inside = np.s_[60:160, 60:160]
    _close(shifted[inside], aligned[inside], 1e-3)


def test_motion_encoder_in_bfloat16(rng):
    encoder, variables = _small_motion(rng, 32)
    images = rng.uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
    rough = encoder.clone(dtype=jnp.bfloat16)
    exact, rounded = jax.jit(
        lambda: [m.apply(variables, images, method="motion_vector") for m in (encoder, rough)]
    )()
    assert rounded.dtype == jnp.float32
    _close(rounded, exact, 0.1)


def test_motion_encoder_wants_aligned_faces():
    with pytest.raises(ValueError, match=r"images: expected aligned faces \(B, 224, 224, 3\)"):
        jax.eval_shape(motion_encoder.MotionEncoder().init, jax.random.key(0), jnp.zeros((1, 112, 112, 3)))


# Identity --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_iresnet():
    """A network of unequal depths, its weights, images and what torch says of them."""
    depths, widths = (1, 2, 3, 1), (4, 8, 8, 12)
    network = arcface.IResNet(depths, widths, embedding=16, image_size=32)
    images, torch_images = _pair(np.random.default_rng(0), 2, 32)
    source = torch_networks.Source()
    expected = torch_networks.iresnet(source, torch_images, depths, widths, 16)
    return network, _imported(network, source.state, perception.IRESNET, images), images, expected


def test_iresnet_agrees_with_torch(small_iresnet):
    network, variables, images, expected = small_iresnet
    _close(jax.jit(network.apply)(variables, images), expected, 1e-5)


def test_iresnet_in_bfloat16(small_iresnet):
    network, variables, images, expected = small_iresnet
    rounded = jax.jit(network.clone(dtype=jnp.bfloat16).apply)(variables, images)
    assert rounded.dtype == jnp.float32
    _close(rounded, expected, 0.1)


@pytest.mark.parametrize(("name", "depths"), [("arcface18", (2, 2, 2, 2)), ("arcface50", (3, 4, 14, 3))])
def test_iresnets_of_full_size_take_every_key(name, depths):
    source = torch_networks.Source()
    with torch.device("meta"):
        shapes = {}
        source.tensor = lambda key, shape, *_: shapes.setdefault(key, torch.empty(*shape))
        torch_networks.iresnet(source, torch.empty(1, 3, 112, 112), depths, (64, 128, 256, 512), 512)
    network = perception.NETWORKS[name]
    state = {key: np.broadcast_to(np.float32(0), value.shape) for key, value in shapes.items()}
    converted = convert_state(source.state | state, network.rules, network.init_shapes(), name)
    assert set(converted.unused) == set(source.state)


def test_identity_crop_shows_the_face_upright():
    crop = np.asarray(jax.jit(arcface.align_for_identity)(_ramp(200), LANDMARKS))
    matrix = np.asarray(geometry.arcface_transform(jnp.asarray(LANDMARKS)))
    x, y = np.round(matrix[:, :2] @ LANDMARKS[30] + matrix[:, 2]).astype(int)
    expected = np.linalg.solve(matrix[:, :2], np.array([x, y]) - matrix[:, 2]) / 200
    assert crop.shape == (112, 112, 3)
    np.testing.assert_allclose(crop[y, x, :2], expected, atol=1e-4)


def test_portraits_are_embedded_one_by_one_or_many_at_once():
    network, variables = arcface.IResNet(), perception.NETWORKS["arcface18"].init_shapes()
    image, points = jnp.zeros((200, 160, 3)), jnp.asarray(LANDMARKS)

    def embed_both(variables, images, points):
        one = arcface.portrait_identity(network, variables, images[0], points[0])
        many = jax.vmap(arcface.portrait_identity, (None, None, 0, 0))(network, variables, images, points)
        return one, many

    one, many = jax.eval_shape(embed_both, variables, jnp.stack([image] * 2), jnp.stack([points] * 2))
    assert one.shape == (512,) and many.shape == (2, 512)


def test_cosine_similarity(rng):
    a = rng.standard_normal((3, 8)).astype(np.float32)
    np.testing.assert_allclose(arcface.cosine_similarity(a, 2 * a), 1, atol=1e-6)
    np.testing.assert_allclose(arcface.cosine_similarity(a, -a), -1, atol=1e-6)
    gradient = jax.grad(lambda a: arcface.cosine_similarity(a, a[::-1]).sum())(jnp.zeros((2, 8)))
    assert np.isfinite(gradient).all()


# LPIPS -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_lpips():
    """LPIPS of a narrow AlexNet, its weights, two pairs of images and what torch says of them."""
    network = lpips.LPIPS(lpips.alexnet(ALEX_WIDTHS))
    generator = np.random.default_rng(0)
    (a, torch_a), (b, torch_b) = _pair(generator, 2, 70), _pair(generator, 2, 70)
    source = torch_networks.Source()
    expected = torch_networks.lpips(source, torch_a, torch_b, torch_networks.alexnet, ALEX_WIDTHS)
    variables = _imported(network, source.state, perception.LPIPS_ALEX, a, b)
    return network, variables, a, b, expected


def test_lpips_of_alexnet_agrees_with_torch(small_lpips):
    network, variables, a, b, expected = small_lpips
    _close(jax.jit(network.apply)(variables, a, b), expected, 1e-5)


def test_lpips_is_a_distance_of_features(small_lpips):
    network, variables, a, b, expected = small_lpips
    apply = jax.jit(network.apply)
    np.testing.assert_allclose(apply(variables, a, a), 0, atol=1e-12)
    _close(apply(variables, b, a), expected, 1e-5)
    features = jax.jit(lambda x: network.apply(variables, x, method="features"))
    assert [x.shape[-1] for x in features(a)] == list(ALEX_WIDTHS)
    distance = jax.jit(lambda x, y: network.apply(variables, x, y, method="distance"))
    _close(distance(features(a), features(b)), expected, 1e-5)


def test_lpips_as_a_loss(small_lpips):
    network, variables, a, b, expected = small_lpips

    def loss(x, y):
        return network.apply(variables, x[None], y[None])[0]

    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(loss)))(a, b)
    _close(values, expected, 1e-5)
    steepness = np.sqrt(np.sum(np.square(gradients), axis=(1, 2, 3)))
    step = 0.01 * gradients / steepness[:, None, None, None]
    apply = jax.jit(network.apply)
    slope = (apply(variables, a + step, b) - apply(variables, a - step, b)) / 0.02
    np.testing.assert_allclose(slope, steepness, rtol=0.02)
    # A perfect picture: no slope, and no NaN.
    _, flat = jax.jit(jax.vmap(jax.value_and_grad(loss)))(a, a)
    np.testing.assert_allclose(flat, 0, atol=1e-6)


def test_lpips_in_bfloat16(small_lpips):
    network, variables, a, b, expected = small_lpips
    rounded = jax.jit(network.clone(dtype=jnp.bfloat16).apply)(variables, a, b)
    assert rounded.dtype == jnp.float32
    _close(rounded, expected, 0.05)


def test_lpips_wants_images_of_one_shape(small_lpips):
    network, variables, a, b, _ = small_lpips
    with pytest.raises(ValueError, match="images of one shape"):
        network.apply(variables, a, b[:1])
    with pytest.raises(ValueError, match=r"images: \(24, 24\) is too small"):
        network.apply(variables, a[:, :24, :24], b[:, :24, :24])


# Inception -------------------------------------------------------------------------------------------------


def test_inception_agrees_with_torch(rng):
    network = inception.InceptionV3(divisor=16, image_size=75)
    images, torch_images = _pair(rng, 8, 60)
    source = torch_networks.Source()
    expected = torch_networks.Inception(source, 16)(torch_images, 75)
    variables = _imported(network, source.state, perception.INCEPTION, images)
    found = jax.jit(network.apply)(variables, images)
    assert found.shape == (8, 128)
    _close(found, expected, 1e-5)
    # And so do the distances of two sets of these images.
    for name in ("fid", "kid"):
        distance = MEASURES[name].of_sets
        theirs = distance(expected[:4].numpy(), expected[4:].numpy())
        assert distance(found[:4], found[4:]) == pytest.approx(theirs, rel=1e-3)


# Import ----------------------------------------------------------------------------------------------------


def test_networks_are_described():
    for name, network in perception.NETWORKS.items():
        json.dumps(network.config)
        for mark in network.marks:
            assert any(re.fullmatch(rule.pattern, mark) for rule in network.rules), (name, mark)
    sizes = {
        name: sum(leaf.size for leaf in jax.tree.leaves(network.init_shapes()["params"]))
        for name, network in perception.NETWORKS.items()
    }
    # As torchvision, insightface and the published files count them.
    assert sizes["vgg16"] == 14_714_688 and sizes["alexnet"] == 2_469_696
    assert sizes["lpips_vgg"] == sizes["vgg16"] + 1472 and sizes["lpips_alex"] == sizes["alexnet"] + 1152
    assert sizes["inception_fid"] == 21_785_568


def test_lpips_needs_both_files(rng):
    source = torch_networks.Source()
    torch_networks.alexnet(source, _pair(rng, 1, 70)[1], ALEX_WIDTHS)
    network = lpips.LPIPS(lpips.alexnet(ALEX_WIDTHS))
    image = jnp.zeros((1, 70, 70, 3))
    with pytest.raises(UserError, match="nothing for 'params/lin0'"):
        _imported(network, source.state, perception.LPIPS_ALEX, image, image)
    trunk = lpips.ConvTrunk(lpips.alexnet(ALEX_WIDTHS))
    state = source.state | {"classifier.1.weight": np.zeros((2, 2), np.float32)}
    assert len(_imported(trunk, state, perception.NETWORKS["alexnet"].rules, image)["params"]) == 5


def test_the_classifiers_inception_is_refused():
    state = {"AuxLogits.conv0.conv.weight": np.zeros((128, 768, 1, 1), np.float32)}
    network = perception.NETWORKS["inception_fid"]
    with pytest.raises(UserError, match=r"a key 'AuxLogits.conv0.conv.weight' that this network does not"):
        convert_state(state, network.rules, network.init_shapes(), "inception_fid")
