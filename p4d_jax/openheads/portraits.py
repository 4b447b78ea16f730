"""OpenHeads: endless synthetic portraits of a parametric head, rendered on the device.

An identity is a shape, an appearance (`openheads.appearance`), a haircut (`openheads.hair`), a bust
(`openheads.bust`) and its surroundings: light (`openheads.light`), background and sensor. `make_clip` draws
all of them from one key; `render_scene` shows one identity from any camera in any expression: the truth for
novel views. All take the scene of a head model, which `openheads.scene.prepare_scene` makes once. Shading is
deferred: light and geometry a vertex, colour and noise a pixel. Domain randomisation follows Wood et al.,
"Fake It Till You Make It" (ICCV 2021). Colours are linear until the sensor.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import struct

from p4d_jax.data.motion import random_motion
from p4d_jax.data.samples import HeadClip, Portrait
from p4d_jax.head.actions import Motion
from p4d_jax.imaging.resizing import average_blocks
from p4d_jax.openheads.background import blur_lens, develop, paint_background, paint_sharp_background
from p4d_jax.openheads.config import OpenHeadsSettings
from p4d_jax.openheads.people import Identity, random_cameras, random_identity, random_portrait_params
from p4d_jax.openheads.scene import DEFAULTS, OpenHeadsScene
from p4d_jax.openheads.shading import build_surface, shade
from p4d_jax.types import SHAPE_SIZE, Array, FrameParams, take


@struct.dataclass
class Portraits:
    """Renderings of an identity, leading axis frames; fields as in `HeadClip`."""

    image: Array
    mask: Array
    face_mask: Array
    depth: Array
    background: Array


def _render_frame(scene, identity, motion, camera, noise_key, background, resolution, settings):
    """One portrait: image, mask, face mask, depth of (S, S, C)."""
    factor = settings.supersample
    surface = build_surface(scene, identity, motion)
    color, mask, face, depth = shade(scene, identity, surface, camera, resolution * factor)
    surroundings = identity.surroundings
    mask, face = mask[..., None].astype(jnp.float32), face[..., None].astype(jnp.float32)
    # Composited in display values, as a lens blurs, so that the background is the same picture everywhere.
    front = average_blocks(develop(color, surroundings) * mask, factor)
    depth = average_blocks(depth[..., None], factor) / jnp.maximum(average_blocks(mask, factor), 1e-6)
    present = average_blocks(mask, factor)
    depth = jnp.where(present > 0, depth, 0.0)
    stacked = blur_lens(
        jnp.concatenate([front, present, average_blocks(face, factor)], -1), surroundings.blur
    )
    front, soft, face = stacked[..., :3], stacked[..., 3:4], stacked[..., 4:]
    image = front + (1.0 - soft) * background
    image += surroundings.noise * jax.random.normal(noise_key, image.shape)
    return jnp.clip(image, 0.0, 1.0) * 2.0 - 1.0, soft, face, depth


def _render(
    scene, identity, params: FrameParams, key, resolution: int, settings: OpenHeadsSettings
) -> Portraits:
    surroundings = identity.surroundings
    background = paint_background(surroundings.background_key, resolution)
    if settings.sharp_backgrounds:
        key_of_chance, key_of_sharp = jax.random.split(jax.random.fold_in(surroundings.background_key, 1))
        is_sharp = jax.random.bernoulli(key_of_chance, settings.sharp_backgrounds)
        background = jnp.where(is_sharp, paint_sharp_background(key_of_sharp, resolution), background)
    background = jnp.clip(develop(background, surroundings), 0.0, 1.0)
    frames = params.expression.shape[0]

    def one(frame):
        motion, camera, noise_key = frame
        return _render_frame(scene, identity, motion, camera, noise_key, background, resolution, settings)

    motion = Motion(params.expression, params.pose, params.eyes)
    frames = (motion, params.camera, jax.random.split(key, frames))
    image, mask, face, depth = jax.lax.map(one, frames) if _on_cpu() else jax.vmap(one)(frames)
    return Portraits(image, mask, face, depth, background * 2.0 - 1.0)


def _on_cpu() -> bool:
    """One frame after another keeps a CPU's caches warm; accelerators want them side by side."""
    return jax.default_backend() == "cpu"


@functools.partial(jax.jit, static_argnames=("resolution", "settings"))
def render_scene(
    scene: OpenHeadsScene,
    identity: Identity,
    params: FrameParams,
    key: Array,
    resolution: int = 128,
    settings: OpenHeadsSettings = DEFAULTS,
) -> Portraits:
    """Shows one identity in any frames: the truth for novel views and other expressions.

    Args:
      scene: Scene of the head model, from `prepare_scene`.
      identity: Result of `random_identity` or `clip_identity`; its shape is used, not `params.shape`.
      params: Parameters of the frames, with a leading axis (F,).
      key: Random key of the sensor's noise.
      resolution: Pixels a side.
      settings: Supersampling, and the sensor.
    """
    return _render(scene, identity, params, key, resolution, settings)


def make_clip(
    scene: OpenHeadsScene,
    key: Array,
    frames: int,
    resolution: int = 128,
    settings: OpenHeadsSettings = DEFAULTS,
) -> HeadClip:
    """A clip of one random identity, all from one key: see `make_clips`."""
    clips = make_clips(scene, key[None], frames, resolution, settings)
    return take(clips, 0)


@functools.partial(jax.jit, static_argnames=("frames", "resolution", "settings"))
def make_clips(
    scene: OpenHeadsScene,
    keys: Array,
    frames: int,
    resolution: int = 128,
    settings: OpenHeadsSettings = DEFAULTS,
) -> HeadClip:
    """One clip a key: `HeadClip` with leading axis (N,), the same as N calls of `make_clip`.

    Args:
      scene: Scene of a head whose expression basis names ARKit's actions (the embedded 'openhead').
      keys: (N,) typed or (N, 2) raw random keys.
      frames: Number of frames of a clip.
      resolution: Pixels a side.
      settings: Ranges of what is drawn.
    """
    if frames < 1 or resolution < 8:
        raise ValueError(f"frames, resolution: got {frames}, {resolution}; expected at least 1 and 8")

    def one(key: Array) -> HeadClip:
        keys = jax.random.split(key, 4)
        identity = random_identity(keys[0], scene, settings)
        motion = random_motion(keys[1], frames, scene.head.expression_names, settings.closed_eyes)
        camera = random_cameras(keys[2], frames, settings)
        shape = jnp.broadcast_to(identity.shape, (frames, SHAPE_SIZE))
        params = FrameParams(camera, shape, motion.expression, motion.pose, motion.eyes)
        shown = _render(scene, identity, params, keys[3], resolution, settings)
        return HeadClip(shown.image, shown.mask, shown.face_mask, shown.depth, shown.background, params)

    return jax.lax.map(one, keys) if _on_cpu() else jax.vmap(one)(keys)


@functools.partial(jax.jit, static_argnames=("resolution", "settings"))
def portraits_in_scene(
    scene: OpenHeadsScene, keys: Array, resolution: int, settings: OpenHeadsSettings
) -> Portrait:
    """One picture of one person for each key; necks are straight and cameras carry the heads' rotations."""

    def one(key: Array) -> Portrait:
        keys = jax.random.split(key, 4)
        identity = random_identity(keys[0], scene, settings)
        params = random_portrait_params(keys[1], keys[2], scene, identity.shape, settings)
        shown = _render(
            scene, identity, jax.tree.map(lambda x: x[None], params), keys[3], resolution, settings
        )
        return Portrait(shown.image[0], shown.mask[0], params)

    return jax.lax.map(one, keys) if _on_cpu() else jax.vmap(one)(keys)
