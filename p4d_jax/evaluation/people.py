"""People that training never saw, with the true pictures of all that a reconstructor is asked to show.

Each person is the source of one picture and the driver of the person before. What is asked for, `asked`, and
the true renderings beside it, `truth`, are frames on one axis, so that one compiled program makes them:

    asked   TARGET          the person's own second frame: self-reenactment
            DRIVEN          the driver's expression, gaze, neck and camera
            DRIVEN_NEUTRAL  the same camera and neck, a neutral face
            VIEWS ..        the source's own face from yaw -30, 0 and +30 degrees
            FILM ..         a smooth motion
    truth   OWN_NEUTRAL     the person's neutral face, seen as the TARGET is, in that one's place
            DRIVEN, DRIVEN_NEUTRAL, VIEWS ..: the same
            UNCHANGED       the source's own expression with the driver's camera and neck
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax import assets
from p4d_jax.data.motion import load_motion, motion_for_head, random_motion
from p4d_jax.geometry import look_at_camera
from p4d_jax.head.model import HeadModel
from p4d_jax.openheads.people import Identity, random_cameras, random_identity
from p4d_jax.openheads.portraits import Portraits, render_scene
from p4d_jax.openheads.scene import OpenHeadsScene, prepare_scene
from p4d_jax.openheads.sets import PeopleSet, people_set
from p4d_jax.types import (
    CAMERA_PIVOT,
    CAMERA_RADIUS,
    Array,
    Camera,
    FrameParams,
    concatenate,
    on_host,
    stack,
    take,
)

HELD_OUT = 1_000_003  # folded into the key: training folds in its step, which stays below
TARGET, DRIVEN, DRIVEN_NEUTRAL, VIEWS, FILM = 0, 1, 2, 3, 6
OWN_NEUTRAL, UNCHANGED = 0, 6
FILM_SUPERSAMPLE = 2  # strands of hair flicker without
VIEW_YAWS = (-30, 0, 30)  # degrees
MOTION = "motion_talk"  # of which films show parts


@dataclass(frozen=True)
class Person:
    """One person: F = 6 + film frames are asked for. Arrays of NumPy.

    Attributes:
      source: parameters of the source frame.
      clip: source and target, leading axis 2, with the sensor's noise.
      asked: parameters (F, ...) of the frames to make.
      truth: pictures (7, ...), see the file's docstring; without the sensor's noise.
      film: true pictures (T, ...) of the film, without noise and with smooth edges; None for no film.
    """

    source: FrameParams
    clip: Portraits
    asked: FrameParams
    truth: Portraits
    film: Portraits | None


def person_keys(seed: int, count: int) -> list[Array]:
    """Keys of `count` people; the first n do not depend on `count`."""
    root = jax.random.fold_in(jax.random.key(seed), HELD_OUT)
    return [jax.random.fold_in(root, index) for index in range(count)]


def draw_people(
    head: HeadModel, size: int, set_name: str, seed: int, count: int, motion: FrameParams, frames: int
) -> Iterator[Person]:
    """People one after another; person i is driven by person i + 1, the last by the first.

    Args:
      head: the head model. size: pixels a side.
      set_name: one of `openheads.sets.SETS`.
      seed, count: who, and how many.
      motion: (T, ...) of which each person's film shows the next part.
      frames: of a film; 0 for none.
    """
    scene, people = prepare_scene(head), people_set(set_name)
    keys = person_keys(seed, count)
    for index, key in enumerate(keys):
        driver = on_host(draw_person(scene, keys[(index + 1) % count], people)[1])
        identity, params = draw_person(scene, key, people)
        film = film_part(motion, index, frames)
        yield render_person(scene, key, people, identity, on_host(params), take(driver, 1), film, size)


def film_motion(head: HeadModel, name: str = MOTION) -> FrameParams:
    """(T, ...) an embedded motion, for this head, on the host."""
    return on_host(motion_for_head(load_motion(assets.motion(name)), head.expression_names).params)


def film_part(motion: FrameParams, index: int, frames: int) -> FrameParams:
    """`frames` frames of a motion (T, ...) for person `index`: the next part each, from the start again."""
    start = (index * frames) % max(motion.expression.shape[0] - frames + 1, 1)
    return take(motion, slice(start, start + frames))


@functools.partial(jax.jit, static_argnames="people")
def draw_person(scene: OpenHeadsScene, key: Array, people: PeopleSet) -> tuple[Identity, FrameParams]:
    """A person and the parameters of two frames, as `make_clip` draws them from the key."""
    keys = jax.random.split(key, 4)
    identity = random_identity(keys[0], scene, people.settings)
    motion = random_motion(keys[1], 2, scene.head.expression_names)
    camera = random_cameras(keys[2], 2, people.settings)
    shape = jnp.broadcast_to(identity.shape, (2, *identity.shape.shape))
    params = FrameParams(camera, shape, motion.expression, motion.pose, motion.eyes)
    return people.change(jax.random.fold_in(key, 1), identity), params


def render_person(
    scene: OpenHeadsScene,
    key: Array,
    people: PeopleSet,
    identity: Identity,
    params: FrameParams,
    driver: FrameParams,
    film: FrameParams,
    size: int,
) -> Person:
    """All true pictures of one person. driver: one frame. film: (T, ...)."""
    settings, noise_key = people.settings, jax.random.split(key, 4)[3]
    source, target = take(params, 0), take(params, 1)
    frames = [driver, neutral(driver), *novel_views(source)]
    unchanged = source.replace(camera=driver.camera, pose=with_neck(source.pose, driver.neck))
    surroundings = identity.surroundings
    still = identity.replace(surroundings=surroundings.replace(noise=jnp.zeros_like(surroundings.noise)))
    asked_of_truth = stack([neutral(target), *frames, unchanged])
    smooth = dataclasses.replace(settings, supersample=FILM_SUPERSAMPLE)
    has_film = film.expression.shape[0] > 0
    return Person(
        source=source,
        clip=on_host(render_scene(scene, identity, params, noise_key, size, settings)),
        asked=concatenate([stack([target, *frames]), film]),
        truth=on_host(render_scene(scene, still, asked_of_truth, noise_key, size, settings)),
        film=on_host(render_scene(scene, still, film, noise_key, size, smooth)) if has_film else None,
    )


# Frames ----------------------------------------------------------------------------------------------------


def with_neck(pose: np.ndarray, neck: np.ndarray) -> np.ndarray:
    """A pose (6,) with another neck (3,)."""
    return np.concatenate([neck, pose[3:]])


def neutral(frame: FrameParams) -> FrameParams:
    """The same head pose and camera, nothing moving in the face."""
    return frame.replace(
        expression=np.zeros_like(frame.expression),
        pose=with_neck(np.zeros_like(frame.pose), frame.neck),
        eyes=np.zeros_like(frame.eyes),
    )


@jax.jit
def _view_cameras() -> Camera:
    return look_at_camera(jnp.deg2rad(jnp.array(VIEW_YAWS)), 0.0, CAMERA_RADIUS, 0.0, CAMERA_PIVOT)


def novel_views(frame: FrameParams) -> list[FrameParams]:
    """The frame's face on a straight neck, from each of `VIEW_YAWS`."""
    straight = frame.replace(pose=with_neck(frame.pose, np.zeros_like(frame.neck)))
    cameras = on_host(_view_cameras())
    return [straight.replace(camera=take(cameras, i)) for i in range(len(VIEW_YAWS))]
