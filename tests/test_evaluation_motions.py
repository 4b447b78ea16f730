"""Held-out people, and a network that sees motion in pictures: which picture tells which frame's motion."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from synthetic_head import synthetic_head
from test_avatar import TINY

from p4d_jax.avatar.avatar import Avatar
from p4d_jax.avatar.model import AvatarModel
from p4d_jax.avatar.motion_source import EncoderMotion, ParameterMotion
from p4d_jax.errors import UserError
from p4d_jax.evaluation.evaluators import EVALUATORS
from p4d_jax.evaluation.held_out import Rays, draw_subjects, measure, pair_with_drivers, reenact
from p4d_jax.evaluation.looks import PictureNetworks
from p4d_jax.evaluation.motions import asked_motions, own_motions
from p4d_jax.evaluation.people import (
    DRIVEN,
    DRIVEN_NEUTRAL,
    FILM,
    OWN_NEUTRAL,
    TARGET,
    VIEW_YAWS,
    VIEWS,
    Person,
    neutral,
    novel_views,
)
from p4d_jax.geometry import look_at_camera
from p4d_jax.networks.motion_encoder import MotionEncoder
from p4d_jax.openheads.portraits import Portraits
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.types import FrameParams, stack, take

SIZE, FILM_FRAMES = 32, 2
ENCODER = MotionEncoder(features=8, depth=1, landmarks=4, hidden=8)
RAYS = Rays(16, (4, 4))


def portraits(rng, frames: int) -> Portraits:
    images = rng.uniform(-1, 1, (frames, SIZE, SIZE, 3)).astype(np.float32)
    mask = np.ones((frames, SIZE, SIZE, 1), np.float32)
    return Portraits(images, mask, mask, mask, images[0])


def frame(rng, shape: np.ndarray) -> FrameParams:
    camera = jax.tree.map(np.asarray, look_at_camera(0.2 * rng.normal(), 0.0, 4.0))
    draw = lambda n: (0.1 * rng.normal(size=n)).astype(np.float32)
    return FrameParams(camera, shape, draw(100), draw(6), draw(6))


@pytest.fixture(scope="module")
def people() -> tuple[Person, Person]:
    """Two people whose pictures are noise; each drives the other."""
    rng = np.random.default_rng(0)
    shapes = rng.normal(size=(2, 300)).astype(np.float32)
    frames = [[frame(rng, shape) for _ in range(2)] for shape in shapes]  # source and target
    film = [frame(rng, np.zeros(300, np.float32)) for _ in range(FILM_FRAMES)]
    made = []
    for (source, target), (_, driver) in zip(frames, frames[::-1], strict=True):
        asked = stack([target, driver, neutral(driver), *novel_views(source), *film])
        made.append(Person(source, portraits(rng, 2), asked, portraits(rng, 7), portraits(rng, FILM_FRAMES)))
    return tuple(made)


@struct.dataclass
class NotedMotion:
    """A motion source that notes what it is shown."""

    size = 3

    def of_params(self, params):
        return None

    def of_picture(self, picture, params, head):
        return jnp.stack([picture.mean(), params.shape[0], params.expression[0]])


def model_of(source) -> AvatarModel:
    """Of no network: what motions need."""
    return AvatarModel(None, {}, None, None, source)


def test_each_frame_s_motion_is_seen_in_the_picture_that_shows_it(people):
    person, driver = people
    found = np.asarray(asked_motions(model_of(NotedMotion()), person, driver))
    own, other = person.source.shape[0], driver.source.shape[0]
    target, driven = (take(person.asked, index).expression[0] for index in (TARGET, DRIVEN))
    expected = {
        TARGET: (person.clip.image[1].mean(), own, target),
        DRIVEN: (driver.clip.image[1].mean(), other, driven),
        DRIVEN_NEUTRAL: (driver.truth.image[OWN_NEUTRAL].mean(), other, 0.0),
    }
    for view in range(len(VIEW_YAWS)):
        expected[VIEWS + view] = (person.clip.image[0].mean(), own, person.source.expression[0])
    for index, image in enumerate(person.film.image):
        expected[FILM + index] = (image.mean(), own, take(person.asked, FILM + index).expression[0])
    assert sorted(expected) == list(range(len(found)))
    for index, values in expected.items():
        np.testing.assert_allclose(found[index], values, rtol=1e-5, atol=1e-6, err_msg=str(index))


def test_views_of_a_photo_have_its_own_motion(people):
    person, _ = people
    found = np.asarray(own_motions(model_of(NotedMotion()), person.clip.image[0], person.source, 4))
    assert found.shape == (4, 3) and (found == found[0]).all()


def test_parameters_tell_their_own_motion(people):
    assert asked_motions(model_of(ParameterMotion()), *people) is None
    assert own_motions(model_of(ParameterMotion()), people[0].clip.image[0], people[0].source, 2) is None


def test_the_last_person_is_driven_by_the_first():
    assert list(pair_with_drivers("abc")) == [("a", "b"), ("b", "c"), ("c", "a")]


@pytest.fixture(scope="module")
def model() -> AvatarModel:
    """A tiny network of PD-FGC's motion vectors, and a tiny PD-FGC, with noise on every parameter."""
    rng = np.random.default_rng(1)
    noise = lambda shapes: jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape, np.float32), shapes)
    shapes = jax.eval_shape(ENCODER.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    variables = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.abs(x) + 1 if path[-1].key == "var" else x, noise(shapes)
    )
    source = EncoderMotion(variables, ENCODER)
    network = Reconstructor(dataclasses.replace(TINY, motion_size=source.size))
    image, motion = jnp.zeros((1, SIZE, SIZE, 3)), jnp.zeros((1, source.size))
    shapes = jax.eval_shape(lambda key: network.init(key, image, motion, motion, None), jax.random.key(0))
    return AvatarModel.create(network, noise(shapes), synthetic_head(), source)


def test_a_network_that_sees_pictures_is_measured_on_held_out_people(people, model):
    person, driver = people
    motions = asked_motions(model, person, driver)
    made = reenact(model, person.clip.image[0], person.source, person.asked, motions, RAYS)
    images, params = person.clip.image[:1], jax.tree.map(lambda x: x[None], person.source)
    avatar = Avatar.encode(model, images, params, resolution=RAYS.resolution, samples=RAYS.samples)
    for index in (TARGET, DRIVEN, VIEWS, FILM):
        alone = avatar.render(take(person.asked, index), motion=motions[index]).image
        np.testing.assert_allclose(made[index], alone, atol=1e-4)
    assert np.abs(avatar.animate(motions[DRIVEN]) - avatar.animate(motions[TARGET])).max() > 0
    with pytest.raises(UserError, match="parameters alone"):  # there is no other source of motion
        avatar.render_many(person.asked)

    networks = PictureNetworks()
    subjects = draw_subjects(people, networks, model.head)
    rows = measure(model, subjects, [EVALUATORS["pictures"], EVALUATORS["views"]], networks, RAYS)
    assert len(rows) == 2 and all(np.isfinite(list(row.values())).all() for row in rows)
    assert {"self/psnr", "cross/psnr", "novel/drop_+30"} <= set(rows[0])
