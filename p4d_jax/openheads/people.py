"""Random people, and the cameras that see them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from p4d_jax.data.motion import random_motion
from p4d_jax.geometry import look_at_camera
from p4d_jax.openheads.appearance import (
    Appearance,
    random_appearance,
)
from p4d_jax.openheads.background import Surroundings, random_surroundings
from p4d_jax.openheads.config import OpenHeadsSettings
from p4d_jax.openheads.scene import DEFAULTS, OpenHeadsScene
from p4d_jax.types import CAMERA_PIVOT, SHAPE_SIZE, Array, Camera, FrameParams, take


@struct.dataclass
class Identity:
    """One person in one place: shape (300,), appearance, bust build (4,), surroundings."""

    shape: Array
    appearance: Appearance
    build: Array
    surroundings: Surroundings


# ------------------------------------------------------------------------------------- drawing at random


def random_identity(key: Array, scene: OpenHeadsScene, settings: OpenHeadsSettings) -> Identity:
    """Draws a person and a place."""
    keys = jax.random.split(key, 4)
    return Identity(
        shape=random_shape(keys[0], scene.head.shape_basis.shape[-1], settings),
        appearance=random_appearance(keys[1]),
        build=jax.random.truncated_normal(keys[2], -2.0, 2.0, (4,)),
        surroundings=random_surroundings(keys[3], settings),
    )


def random_shape(key: Array, size: int, settings: OpenHeadsSettings) -> Array:
    """Draws an identity (300,) of a head whose shape basis has `size` components."""
    shape = settings.shape_scale * jax.random.truncated_normal(key, -2.0, 2.0, (size,))
    return jnp.zeros(SHAPE_SIZE).at[:size].set(shape)


def random_cameras(key: Array, frames: int, settings: OpenHeadsSettings) -> Camera:
    """Draws `frames` cameras; they carry the head's rotation. Leading axis (frames,)."""
    keys = jax.random.split(key, 5)

    def cut_normal(key, spread):
        return spread[0] * jax.random.truncated_normal(
            key, -spread[1] / spread[0], spread[1] / spread[0], (frames,)
        )

    yaw = cut_normal(keys[0], settings.yaw)
    if settings.yaw_balance:  # from keys of its own, so that all other draws stay what they are
        chance_key, yaw_key = jax.random.split(jax.random.fold_in(keys[0], 1))
        even = jax.random.uniform(yaw_key, (frames,), minval=-settings.yaw[1], maxval=settings.yaw[1])
        yaw = jnp.where(jax.random.uniform(chance_key, (frames,)) < settings.yaw_balance, even, yaw)
    jitter = jax.random.uniform(keys[4], (frames, 3), minval=-settings.pivot, maxval=settings.pivot)
    return look_at_camera(
        yaw=yaw,
        pitch=cut_normal(keys[1], settings.pitch),
        roll=cut_normal(keys[2], settings.roll),
        radius=jax.random.uniform(keys[3], (frames,), minval=settings.radius[0], maxval=settings.radius[1]),
        pivot=jitter + jnp.array(CAMERA_PIVOT),
    )


# ---------------------------------------------------------------------------------------------- clips


def clip_identity(scene: OpenHeadsScene, key: Array, settings: OpenHeadsSettings = DEFAULTS) -> Identity:
    """The identity that `make_clip` draws from the same key."""
    return random_identity(jax.random.split(key, 4)[0], scene, settings)


def random_portrait_params(
    motion_key: Array, camera_key: Array, scene: OpenHeadsScene, shape: Array, settings: OpenHeadsSettings
) -> FrameParams:
    """A motion with a straight neck and a camera for one person of `shape` (300,)."""
    motion = random_motion(motion_key, 1, scene.head.expression_names, settings.closed_eyes)
    camera, motion = take((random_cameras(camera_key, 1, settings), motion), 0)
    return FrameParams(camera, shape, motion.expression, motion.pose.at[:3].set(0), motion.eyes)
