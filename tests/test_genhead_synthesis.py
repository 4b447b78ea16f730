"""Synthesis: what one sample holds, where cameras, motions and points are drawn, what views share."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_genhead import SMALL, random_variables

from p4d_jax import assets
from p4d_jax.genhead import synthesis
from p4d_jax.genhead.config import SynthesisSettings
from p4d_jax.genhead.model import HEAD, PARTS, GenHead
from p4d_jax.genhead.parts import PartMasks, build_head_parts, pose_straight_parts
from p4d_jax.genhead.view import show_frame
from p4d_jax.geometry import look_at_camera, project
from p4d_jax.head.actions import Motion
from p4d_jax.head.landmarks import project_landmarks
from p4d_jax.head.skinning import head_vertices
from p4d_jax.types import Camera, FrameParams

SETTINGS = SynthesisSettings(motions=2, views=2, resolution=8, samples=(4, 4), points=20)
GENHEAD = GenHead(SMALL)

pose = jax.jit(pose_straight_parts)
features_at = jax.jit(synthesis.head_plane_features)


@pytest.fixture(scope="module")
def head():
    return assets.head_model()


@pytest.fixture(scope="module")
def parts(head):
    return build_head_parts(head)


@pytest.fixture(scope="module")
def variables():
    return random_variables()


@pytest.fixture(scope="module")
def draw(head, parts, variables):
    """A sample of a key, on the host."""
    sources = synthesis.openheads_sources(head)

    def draw(seed: int) -> synthesis.SyntheticHead:
        sample = synthesis.synthesize(
            GENHEAD, variables, head, parts, jax.random.key(seed), SETTINGS, sources
        )
        return jax.tree.map(np.asarray, sample)

    return draw


@pytest.fixture(scope="module")
def sample(draw):
    return draw(0)


# A sample -------------------------------------------------------------------------------------------------


def test_a_sample_has_the_shapes_and_ranges_that_it_documents(sample):
    shapes = {
        "image": (2, 2, 32, 32, 3), "opacity": (2, 2, 8, 8), "depth": (2, 2, 8, 8),
        "features": (2, 2, 8, 8, 5), "correspondence": (2, 2, 32, 32, 3), "landmarks": (2, 2, 70, 2),
        "points": (2, 2, 20, 3), "plane_features": (2, 2, 20, 4), "motion": (2, 2, 109),
        "background": (8, 8, 5), "latent": (4,), "conditioning": (25,),
    }  # fmt: skip
    for name, shape in shapes.items():
        value = getattr(sample, name)
        assert value.shape == shape and value.dtype == np.float32 and np.isfinite(value).all(), name
    assert sample.params.to_vector().shape == (2, 2, 437)
    assert sample.opacity.min() >= 0 and sample.opacity.max() <= 1 and sample.opacity.std() > 0.02
    assert np.abs(sample.features).max() <= 1.002 + 1e-5 and np.abs(sample.background).max() <= 1


def test_one_identity_several_motions_and_a_camera_for_each_view(sample):
    params = sample.params
    assert (params.shape == params.shape[0, 0]).all() and params.shape.any()
    assert (sample.motion[:, :1] == sample.motion).all() and (sample.motion[0] != sample.motion[1]).any()
    np.testing.assert_array_equal(sample.motion, params.motion())
    assert (params.neck == 0).all()  # the camera carries the head's pose
    assert len(np.unique(params.camera.cam2world.reshape(4, 16), axis=0)) == 4
    rotation = Camera.from_label(jnp.asarray(sample.conditioning)).cam2world[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)


def test_latent_conditioning_and_params_make_a_view_again(head, parts, variables, sample):
    apply = lambda *args, method: GENHEAD.apply(variables, *args, method=method)
    frame = jax.tree.map(lambda x: jnp.asarray(x[1, 0]), sample.params)
    latent, conditioning = jnp.asarray(sample.latent)[None], jnp.asarray(sample.conditioning)[None]

    @jax.jit
    def identity(latent, conditioning, shape):
        ws = apply(latent, conditioning, shape[None], 0.95, 14, method="map")
        planes, background = apply(ws, method="planes")[0], apply(latent, method="background")[0]
        return synthesis.SyntheticIdentity(latent[0], shape, conditioning[0], planes, background)

    one = identity(latent, conditioning, frame.shape)
    view = show_frame(
        GENHEAD, variables, head, parts, one.planes, one.background, frame,
        resolution=SETTINGS.resolution, samples=SETTINGS.samples,
    )  # fmt: skip
    np.testing.assert_allclose(view.image_sr, sample.image[1, 0], atol=2e-3)
    np.testing.assert_allclose(view.depth, sample.depth[1, 0], atol=1e-3)
    np.testing.assert_allclose(view.opacity, sample.opacity[1, 0], atol=1e-3)
    np.testing.assert_allclose(view.correspondence, sample.correspondence[1, 0], atol=1e-4)
    np.testing.assert_allclose(view.background, sample.background, atol=1e-5)
    # The points' features are the head branch's there.
    posed = pose(head, frame.shape, frame)
    features = features_at(one.planes, head, parts, posed, sample.points[1, 0])
    np.testing.assert_allclose(features, sample.plane_features[1, 0], atol=1e-3)


def test_a_sample_depends_on_its_key_alone(draw, sample):
    again, other = draw(0), draw(1)
    for name in sample.__dataclass_fields__:
        same, changed = jax.tree.leaves(getattr(again, name)), jax.tree.leaves(getattr(other, name))
        assert all((a == b).all() for a, b in zip(same, jax.tree.leaves(getattr(sample, name)), strict=True))
        if name != "params":
            assert (changed[0] != same[0]).any(), name


# What is drawn ----------------------------------------------------------------------------------------------


def test_cameras_are_the_datas_or_fill_their_ranges_around_the_head(head):
    front = jax.tree.map(lambda x: x[None], Camera(np.eye(4, dtype=np.float32), np.eye(3, dtype=np.float32)))
    table = synthesis.StoredPortraits(jnp.zeros((1, 300)), front)
    sources = synthesis.Sources(table, synthesis.RandomMotions(head.expression_names))
    draw = jax.jit(lambda key, sources: synthesis.draw_cameras(key, 4000, sources, SETTINGS))
    poses = np.asarray(draw(jax.random.key(2), sources).cam2world, np.float64)
    around = (poses != front.cam2world).any((1, 2))
    assert abs(around.mean() - 0.5) < 0.03
    poses = poses[around]
    place, up, forward = poses[:, :3, 3], poses[:, :3, 1], -poses[:, :3, 2]
    radius = np.linalg.norm(place, axis=1)
    yaw, pitch = np.arctan2(-place[:, 0], place[:, 2]), place[:, 1] / radius * np.pi / 2
    level = np.cross(np.cross(forward, [0, 1, 0]), forward)
    roll = np.arccos(np.clip((up * level).sum(1) / np.linalg.norm(level, axis=1), -1, 1))
    for value, low, high in (
        (radius, 3.65, 4.45), (yaw, -0.78, 0.78), (pitch, -0.25, 0.65), (roll, 0, 0.25),
    ):  # fmt: skip
        assert value.min() >= low - 1e-3 and value.max() <= high + 1e-3
        assert value.min() < low + 0.02 and value.max() > high - 0.02
    # The axis passes the pivot at no more than the jitter's diagonal.
    miss = np.linalg.norm(np.cross(np.array([0, 0, 0.09]) - place, forward), axis=1)
    assert 0.02 < miss.max() <= 0.03 * 3**0.5 + 1e-4


def test_stored_motions_are_frames_of_one_clip_each_time():
    def clip(start, count):
        number = np.arange(start, start + count, dtype=np.float32)[:, None]
        spread = lambda *size: np.zeros((count, *size), np.float32) + number.reshape(count, *(1,) * len(size))
        camera = Camera(spread(4, 4), spread(3, 3))
        return FrameParams(camera, spread(300), spread(100), spread(6), spread(6))

    motions = synthesis.stored_motions([clip(0, 3), clip(100, 1), clip(200, 5)])
    assert isinstance(motions.frames, Motion)
    draw = jax.jit(lambda keys, motions: jax.vmap(lambda key: motions.draw(key, 6))(keys))
    drawn = draw(jax.random.split(jax.random.key(0), 200), motions)
    numbers = np.asarray(drawn.expression[..., 0])
    np.testing.assert_array_equal(numbers[..., None], drawn.eyes[..., :1])
    assert (numbers // 100 == numbers[:, :1] // 100).all()  # one clip a draw
    assert set(numbers.ravel().tolist()) == {0, 1, 2, 100, 200, 201, 202, 203, 204}
    share = [(numbers[:, 0] // 100 == k).mean() for k in range(3)]
    assert max(share) - min(share) < 0.2  # clips are as likely, however long


def test_points_lie_on_rays_that_see_neither_eyes_nor_mouth():
    rng = np.random.default_rng(0)
    eye, mouth = (np.float32(0.5 * (rng.random((6, 6)) < share)) for share in (0.3, 0.4))
    view = SimpleNamespace(opacity=np.zeros((6, 6)), masks=PartMasks(eye, mouth))

    @jax.jit
    def draw(key):
        camera = look_at_camera(0.3, 0.1, 4.0)
        points = synthesis.draw_ray_points(key, view, camera, 6000)
        return camera, points, project(camera, points)[0]

    camera, points, uv = jax.tree.map(np.asarray, draw(jax.random.key(0)))
    np.testing.assert_allclose(uv * 6 % 1, 0.5, atol=2e-3)  # pixel centres
    pixel = np.floor(uv * 6).astype(int)
    hits = np.zeros((6, 6), int)
    np.add.at(hits, (pixel[:, 1], pixel[:, 0]), 1)
    free = (eye == 0) & (mouth == 0)
    assert (hits[~free] == 0).all()
    assert np.abs(hits[free] / hits.sum() * free.sum() - 1).max() < 0.35
    distance = np.linalg.norm(points - camera.cam2world[:3, 3], axis=1)
    middle = camera.cam2world[:3, 2] @ camera.cam2world[:3, 3]  # depth of the world's origin
    assert distance.min() > middle - 0.651 and distance.max() < middle + 0.651
    assert distance.min() < middle - 0.63 and distance.max() > middle + 0.63


def test_plane_features_are_the_head_branchs(head, parts):
    frame = FrameParams(Camera(np.eye(4), np.eye(3)), *(jnp.zeros(n) for n in (300, 100, 6, 6)))
    posed = pose(head, frame.shape, frame)
    planes = jnp.stack([jnp.full((3, 16, 16, 4), 7.0), jnp.full((3, 16, 16, 4), 2.0)])
    assert (PARTS, HEAD) == (0, 1)
    points = jnp.asarray(np.random.default_rng(0).uniform(-0.4, 0.4, (20, 3)), jnp.float32)
    features = features_at(planes, head, parts, posed, points)
    np.testing.assert_allclose(features, 2.0, rtol=1e-6)


# Landmarks and the neck -----------------------------------------------------------------------------------


def landmarks(head, frame: FrameParams) -> np.ndarray:
    full = head_vertices(head, frame.shape, frame.expression, frame.pose, frame.eyes)
    return project_landmarks(head, full, frame.neck, frame.camera)


@pytest.fixture(scope="module")
def landmarks_of(head):
    """Landmarks of the embedded head, expressionless: camera angles and neck rotation -> (70, 2) twice.

    Once with the neck bent and the camera that makes up for it, once straight before the camera itself.
    """

    def landmarks(frame: FrameParams):
        full = head_vertices(head, frame.shape, frame.expression, frame.pose, frame.eyes)
        return project_landmarks(head, full, frame.neck, frame.camera)

    @jax.jit
    def both(yaw, pitch, roll, neck):
        camera = look_at_camera(yaw, pitch, 4.0, roll)
        pose = jnp.concatenate([neck, jnp.array([0.1, 0, 0])])
        frame = FrameParams(camera, jnp.zeros(300), jnp.zeros(100), pose, jnp.zeros(6))
        straight = frame.replace(pose=pose.at[:3].set(0))
        return landmarks(synthesis.bend_neck(head, frame)), landmarks(straight)

    return lambda *args: jax.tree.map(np.asarray, both(*args))


def test_a_bent_neck_under_its_camera_shows_what_a_straight_one_does(landmarks_of):
    bent, straight = landmarks_of(0.35, 0.2, 0.1, np.array([0.2, -0.3, 0.1], np.float32))
    # The throat turns only partly with the neck; eyes, nose and mouth do so altogether.
    np.testing.assert_allclose(bent[17:], straight[17:], atol=2e-4)
    assert np.abs(bent[:17] - straight[:17]).max() < 0.01  # the same contour, chosen by the same yaw


def test_the_contour_is_that_of_the_side_that_the_camera_sees(landmarks_of):
    left, right = (landmarks_of(yaw, 0.0, 0.0, np.zeros(3, np.float32))[1] for yaw in (0.5, -0.5))
    # A mirrored view of a symmetric head has the mirrored contour.
    np.testing.assert_allclose(left[:17, 0], 1 - right[16::-1, 0], atol=6e-3)
    np.testing.assert_allclose(left[:17, 1], right[16::-1, 1], atol=6e-3)
    assert left[30, 0] > 0.5 > right[30, 0]  # seen from -x, the nose points to the right
