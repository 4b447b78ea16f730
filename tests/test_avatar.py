"""An avatar that D_neck moves: the neck's rotation reaches the picture, and nothing else is moved."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from synthetic_head import synthetic_head

from p4d_jax.avatar.avatar import Avatar
from p4d_jax.avatar.model import AvatarModel
from p4d_jax.errors import UserError
from p4d_jax.geometry import look_at_camera
from p4d_jax.reconstructor.config import ReconstructorConfig
from p4d_jax.reconstructor.deformation import build_field
from p4d_jax.reconstructor.field import HeadField, driven_meshes
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.types import FrameParams

TINY = ReconstructorConfig(
    image_size=32, global_widths=(4, 4, 8, 8), global_depths=(1, 1, 1, 1), pyramid_features=8,
    pyramid_rates=(1, 2, 3), detail_features=(8, 8), motion_size=12, motion_hidden=8, motion_grid=2,
    token_dim=16, token_heads=2, blocks_de=1, blocks_re=1, canonical_features=(8, 8, 8), plane_token_dim=16,
    plane_heads=2, plane_convs_before=(8,), plane_convs_after=(8,), plane_channels=4,
    background_widths=(4, 4, 8, 8), background_size=32, decoder_hidden=8, feature_channels=4,
    superresolution_size=0, superresolution_channels=(4,), style_dim=8, lifted_size=16, deformation="neck",
)  # fmt: skip
MOTION = jnp.linspace(-1, 1, 12)


def frame_params(turn: float) -> FrameParams:
    pose = jnp.zeros(6).at[1].set(turn)
    return FrameParams(look_at_camera(0.0, 0.0, 4.0), jnp.zeros(300), jnp.zeros(100), pose, jnp.zeros(6))


@struct.dataclass
class FixedMotion:
    """A motion source that makes the same vector of every frame."""

    size = 12

    def of_params(self, params):
        return MOTION


@pytest.fixture(scope="module")
def avatar():
    """An avatar of a picture of noise, by a network with noise on every parameter."""
    head, network = synthetic_head(), Reconstructor(TINY)
    image, motion = jnp.zeros((1, 32, 32, 3)), MOTION[None]
    shapes = jax.eval_shape(lambda key: network.init(key, image, motion, motion, None), jax.random.key(0))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape, np.float32), shapes)
    picture = jnp.asarray(rng.uniform(-1, 1, (1, 32, 32, 3)), jnp.float32)
    model = AvatarModel.create(network, variables, head, FixedMotion())
    params = jax.tree.map(lambda x: x[None], frame_params(0))
    return Avatar.encode(model, picture, params, resolution=16, samples=(8, 8))


def render(avatar, turn: float):
    return avatar.render(frame_params(turn))


def test_turning_the_neck_changes_the_picture_and_a_little_turn_changes_it_little(avatar):
    straight, little, much = (render(avatar, turn) for turn in (0.0, 0.01, 0.4))
    assert straight.image.shape == (32, 32, 3)
    change = [float(jnp.abs(x.raw - straight.raw).mean()) for x in (little, much)]
    assert 0 < change[0] < 0.2 * change[1]


def test_the_turned_head_shows_at_its_surface_what_the_straight_head_shows_there(avatar):
    model = avatar.model
    params = frame_params(0.3)
    posed, straight = driven_meshes(model.head, params.shape, params)
    # Smooth planes: what is read tells where it was read.
    y, x = jnp.meshgrid(*(jnp.linspace(-1, 1, 16),) * 2, indexing="ij")
    planes = 3 * jnp.broadcast_to(jnp.stack([x, y, x + y, x - y], -1), (3, 16, 16, 4))

    @jax.jit
    def features(points, observed):
        deformation = build_field(TINY, model.frame, observed, straight, params.neck, params.camera)
        field = HeadField(model.network, model.variables, planes, avatar.source.texture, deformation)
        return field(points[:, None])[1]

    wanted = features(straight, straight)
    moved, unmoved = features(posed, posed), features(posed, straight)
    error = [float(jnp.abs(x - wanted).mean()) for x in (moved, unmoved)]
    assert error[0] < 0.35 * error[1]


def test_a_network_of_another_motion_vector_says_what_it_needs(avatar):
    model = avatar.model
    with pytest.raises(UserError, match=r"motion_source: this network takes .* 12 numbers.* 109"):
        AvatarModel.create(model.network, model.variables, model.head)
    with pytest.raises(ValueError, match="dtype"):
        dataclasses.replace(TINY, dtype="float16")


def test_bfloat16_computes_the_same_planes_from_the_same_float32_parameters(avatar):
    model, variables = avatar.model.network, avatar.model.variables
    half = Reconstructor(dataclasses.replace(TINY, dtype="bfloat16"))
    rng = np.random.default_rng(1)
    image = jnp.asarray(rng.uniform(-1, 1, (1, 32, 32, 3)), jnp.float32)

    @jax.jit
    def both(variables, image):
        one = jnp.ones(1)
        results = []
        for network in (model, half):
            encoded = network.apply(variables, image, MOTION[None], None, one, method="encode")
            results.append(network.apply(variables, encoded, -MOTION[None], one, method="animate"))
        return results

    exact, rounded = both(variables, image)
    assert rounded.dtype == jnp.float32
    error = np.sqrt(jnp.mean((exact - rounded) ** 2) / jnp.mean(exact**2))
    assert 1e-5 < error < 0.03
    shapes = jax.eval_shape(
        lambda key: half.init(key, image, MOTION[None], MOTION[None], None), jax.random.key(0)
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
