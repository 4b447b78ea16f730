"""Several photos as one source: copies add nothing, order does not matter, a blind photo has no say."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p4d_jax import assets
from p4d_jax.avatar.avatar import Avatar
from p4d_jax.avatar.encode import encode_photo, encode_photos
from p4d_jax.avatar.model import AvatarModel
from p4d_jax.avatar.motion_source import ParameterMotion
from p4d_jax.geometry import look_at_camera
from p4d_jax.head.expression_field import build_canonical_frame, build_expression_field
from p4d_jax.head.skinning import head_vertices
from p4d_jax.nn.photo_attention import PhotoAttention, mix_photos, trust_logits
from p4d_jax.reconstructor.config import ReconstructorConfig
from p4d_jax.reconstructor.encoders import SourceFeatures
from p4d_jax.reconstructor.field import HeadField
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.reconstructor.several_photos import (
    SourceTextures,
    look_up_nearby_of_sources,
    look_up_sources,
    trust_photo,
)
from p4d_jax.reconstructor.texture import (
    build_source_texture,
    look_up_nearby,
    look_up_source,
    mesh_depth_and_alpha,
)
from p4d_jax.types import FrameParams, stack, take

TINY = ReconstructorConfig(
    image_size=32, global_widths=(4, 4, 8, 8), global_depths=(1, 1, 1, 1), pyramid_features=8,
    pyramid_rates=(1, 2, 3), detail_features=(8, 8), motion_size=109, motion_hidden=8, motion_grid=2,
    token_dim=16, token_heads=2, blocks_de=1, blocks_re=1, canonical_features=(8, 8, 8), plane_token_dim=16,
    plane_heads=2, plane_convs_before=(8,), plane_convs_after=(8,), plane_channels=4, plane_upsample=2,
    background_widths=(4, 4, 8, 8), background_size=32, decoder_hidden=8, feature_channels=4,
    superresolution_size=0, superresolution_channels=(4,), style_dim=8, source_lifting=True, lifted_size=32,
    deformation="expression", refinement_features=(4,), refinement_scale=1,
    photo_features=4, photo_widths=(4, 4, 8, 8),
)  # fmt: skip
SIZE = 32


def random_variables(config: ReconstructorConfig) -> dict:
    """Noise on every parameter."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape, np.float32), variable_shapes(config))


def variable_shapes(config: ReconstructorConfig) -> dict:
    image, motion, lifted = jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 109)), jnp.zeros((1, 32, 32, 4))
    init = Reconstructor(config).init
    return jax.eval_shape(init, jax.random.key(0), image, motion, motion, lifted)


def photos_of(yaws) -> tuple[jax.Array, FrameParams]:
    """Pictures (K, 32, 32, 3) of noise and parameters of photos taken from these yaws."""
    each = [
        FrameParams(look_at_camera(yaw, 0.0, 4.0), jnp.zeros(300), jnp.zeros(100), jnp.zeros(6), jnp.zeros(6))
        for yaw in yaws
    ]
    images = np.random.default_rng(1).uniform(-1, 1, (len(yaws), SIZE, SIZE, 3)).astype(np.float32)
    return jnp.asarray(images), stack(each)


@pytest.fixture(scope="module")
def head():
    return assets.head_model("openhead")


@pytest.fixture(scope="module")
def person(head):
    """Model, variables, three photos, and their avatar: all that encoding costs, once."""
    frame = build_canonical_frame(head, TINY.lifted_size)
    model = AvatarModel(Reconstructor(TINY), random_variables(TINY), head, frame, ParameterMotion())
    images, params = photos_of((0.5, -0.4, 0.1))
    motions = jnp.zeros((3, TINY.motion_size))

    def encode(order: list[int]):
        return encode_photos(model, *take((images, params, motions), np.array(order)))

    return model, images, params, encode


def assert_same(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_one_photo_is_encoded_as_it_is_alone(person):
    model, images, params, encode = person
    motion = jnp.zeros(TINY.motion_size)
    alone = encode_photo(model, images[1], jax.tree.map(lambda x: x[1], params), motion)
    jax.tree.map(np.testing.assert_array_equal, encode([1]), alone)


def test_copies_of_a_photo_are_that_photo(person):
    model, images, params, encode = person
    one, copies = encode([0]), encode([0, 0, 0])
    assert_same(one.features, copies.features, rtol=1e-5, atol=1e-5)
    points = jax.random.uniform(jax.random.key(2), (64, 3), minval=-0.5, maxval=0.5)
    planes = jnp.zeros((3, 16, 16, 4))
    ask = jax.jit(lambda texture: HeadField(model.network, model.variables, planes, texture)(points[:, None]))
    assert_same(ask(one.texture), ask(copies.texture), rtol=1e-5, atol=1e-5)
    assert np.abs(ask(one.texture)[0] - ask(encode([1]).texture)[0]).max() > 1e-2
    source, motion = jax.tree.map(lambda x: x[0], params), jnp.zeros(TINY.motion_size)
    avatar = Avatar(model, copies, source, motion, images[0], images[0, ..., 0], None, 16, (4, 4))
    shown = jax.eval_shape(lambda avatar: avatar.render(source, motion=motion), avatar)
    assert shown.image.shape == (32, 32, 3)


def test_the_first_photo_lends_the_background_and_order_changes_nothing_else(person):
    encode = person[-1]
    one, other, turned = (encode(order).features for order in ([0, 1, 2], [0, 2, 1], [2, 0, 1]))
    assert_same(one, other, rtol=1e-5, atol=1e-5)
    assert_same(one.replace(background=0), turned.replace(background=0), rtol=1e-5, atol=1e-5)
    assert np.abs(one.background - turned.background).max() > 1e-3
    assert np.abs(one.tokens - encode([0, 0, 0]).features.tokens).max() > 1e-2


def test_images_and_parameters_have_to_be_as_many(person):
    model, images, params, _ = person
    with pytest.raises(ValueError, match=r"images: .*K = 3"):
        encode_photos(model, images[:2], params, jnp.zeros((3, TINY.motion_size)))


MODULE = PhotoAttention(heads=2)


@jax.jit
def mix_three_ways(values, trust):
    """By trust alone; learned, at its start, after a step, and then with the second photo wild; one photo."""
    start = mix_photos(values, trust_logits(trust)[..., None])
    variables = MODULE.init(jax.random.key(0), values, trust)
    gradient = jax.grad(lambda v: jnp.sum(MODULE.apply(v, values, trust) ** 2))(variables)
    moved = jax.tree.map(lambda v, g: v + 0.1 * g, variables, gradient)
    wild = values.at[1].multiply(10.0)
    learned = [MODULE.apply(v, x, trust) for v, x in ((variables, values), (moved, values), (moved, wild))]
    return start, *learned, MODULE.apply(moved, values[:1], trust[:1])


def test_a_learned_mixture_starts_as_trust_alone_and_leaves_a_blind_photo_out(rng):
    values = rng.standard_normal((3, 5, 8)).astype(np.float32)
    trust = rng.uniform(0.1, 1.0, (3, 5)).astype(np.float32)
    trust[1] = 0.0
    by_trust, start, moved, with_wild, alone = mix_three_ways(values, trust)
    shares = trust / trust.sum(0)
    np.testing.assert_allclose(by_trust, np.einsum("kp,kpd->pd", shares, values), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(start, by_trust, atol=1e-6)
    assert np.abs(moved - start).max() > 1e-3
    np.testing.assert_allclose(with_wild, moved, atol=1e-5)
    np.testing.assert_array_equal(alone, values[0])  # one photo is itself, whatever was learned


def test_a_model_that_learned_to_fuse_takes_several_photos():
    config = dataclasses.replace(TINY, fusion_heads=4)
    photos = SourceFeatures(*(jnp.zeros((2, *x)) for x in ((4, 16), (16, 16, 8), (16, 16, 16), (32, 32, 4))))
    trust = jnp.ones((2, 32, 32))
    apply = functools.partial(Reconstructor(config).apply, method="fuse")
    shapes = variable_shapes(config)
    assert {"fuse_tokens", "fuse_detail"} < set(shapes["params"])
    fused = jax.eval_shape(apply, shapes, photos, trust)
    assert jax.tree.map(lambda x: (1, *x.shape[1:]), photos) == jax.tree.map(lambda x: x.shape, fused)
    with pytest.raises(ValueError, match="fusion_heads"):
        dataclasses.replace(TINY, fusion_heads=5)


@pytest.fixture(scope="module")
def views(head):
    """The canonical frame, and photos of one colour each: from the left, the right, with shut eyes from the
    front, with open eyes from there."""
    frame = build_canonical_frame(head, 64)

    @jax.jit
    def see(colour, camera, expression):
        posed = head_vertices(head, jnp.zeros(300), expression, jnp.zeros(6), jnp.zeros(6))
        texture = build_source_texture(jnp.full((32, 32, 3), colour), frame, posed, jnp.zeros(3), camera)
        return SourceTextures(texture, trust_photo(frame, texture, posed))

    lids = [head.expression_names.index(f"eyeBlink{side}") for side in ("Left", "Right")]
    shut = jnp.zeros(100).at[np.array(lids)].set(1.0)
    places = ((0.7, 0 * shut), (-0.7, 0 * shut), (0.0, shut), (0.0, 0 * shut))
    return frame, [see(float(i), look_at_camera(yaw, 0.0, 4.0), face) for i, (yaw, face) in enumerate(places)]


def join(*sources: SourceTextures) -> SourceTextures:
    return stack(sources)


def test_each_side_of_the_face_trusts_the_photo_that_shows_it(views):
    frame, (left, right, _, front) = views
    x, covered = np.asarray(frame.points)[..., 0], np.asarray(frame.covered)
    margin = np.abs(x) > 0.08
    better = np.asarray(left.trust > right.trust)[covered & margin]
    side = (x > 0)[covered & margin]
    assert max((better == side).mean(), (better != side).mean()) > 0.9
    # The two views mirror each other, and so does what they are trusted for.
    mirrored = np.asarray(right.trust)[:, ::-1]
    assert np.abs(np.asarray(left.trust) - mirrored)[covered].mean() < 0.03
    assert np.asarray(front.trust)[covered].mean() > np.asarray(left.trust)[covered].mean()


def test_shut_eyes_are_not_asked_what_open_eyes_look_like(views, head):
    frame, (_, _, shut, open_eyes) = views
    ball = np.zeros(frame.vertices.shape[0], bool)
    for region in ("left_eyeball", "right_eyeball"):
        ball[np.asarray(head.regions[region])] = True
    eyes = ball[np.asarray(frame.triangles)].all(-1) & np.asarray(frame.covered)
    assert eyes.sum() > 3
    assert np.median(np.asarray(shut.trust)[eyes]) < 0.1 * np.median(np.asarray(open_eyes.trust)[eyes])


def test_points_are_looked_up_in_the_photo_that_shows_them(views, head):
    frame, (left, right, _, _) = views
    front = np.asarray(head.regions["front"])
    posed = jax.jit(head_vertices)(head, jnp.zeros(300), jnp.zeros(100), jnp.zeros(6), jnp.zeros(6))
    points, canonical = posed[front], frame.vertices[front]
    field = build_expression_field(frame, posed, jnp.zeros(3), look_at_camera(0.7, 0.0, 4.0), 64)
    one, several = jax.jit(look_up_source), jax.jit(look_up_sources)
    both = jax.device_get(several(join(left, right), field, points, canonical))
    alone = jax.device_get(one(left.textures, field, points, canonical))
    copies = several(join(left, left), field, points, canonical)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), copies, alone)
    seen = np.asarray(one(right.textures, field, points, canonical).by_mesh)[:, 3]
    hidden = alone.by_mesh[:, 3] < 0.1
    assert (both.by_mesh[hidden, 0] > 0.9)[seen[hidden] > 0.9].mean() > 0.95
    # By the point itself: the photo taken from where the camera is, where it shows the point squarely.
    assert both.by_point[alone.by_point[:, 3] > 0.9, 0].mean() < 0.1
    assert (both.by_mesh[:, 3] > 0.8).mean() > (alone.by_mesh[:, 3] > 0.8).mean() + 0.05


def test_what_no_photo_shows_is_guessed_from_the_photo_that_shows_the_nearest_place(views, head):
    frame, (left, right, _, _) = views
    points = frame.vertices[np.asarray(head.regions["front"])]

    def with_mesh(sources: SourceTextures) -> SourceTextures:
        return sources.replace(
            textures=sources.textures.with_features(mesh_depth_and_alpha(sources.textures, 64))
        )

    left, right = with_mesh(left), with_mesh(right)
    skin = jnp.ones(len(points))
    guess = jax.jit(look_up_nearby_of_sources)
    alone, other = (np.asarray(jax.jit(look_up_nearby)(x.textures, points, skin)) for x in (left, right))
    np.testing.assert_allclose(guess(join(left, left), points, skin), alone, atol=1e-5)
    both = np.asarray(guess(join(left, right), points, skin))
    assert both[:, 3].mean() > alone[:, 3].mean()
    nearer = other[:, 3] - alone[:, 3]
    assert min((nearer > 0.1).sum(), (nearer < -0.1).sum()) > 20
    assert np.all(both[nearer > 0.1, 0] > 0.5)  # the right photo has colour 1, the left 0
    assert np.all(both[nearer < -0.1, 0] < 0.5)
