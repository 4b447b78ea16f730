"""GenHead on a batch: random codes, their styles, one view of each. What its losses and D are given.

Views are rendered by `shard_map`, each device its own; styles are of the whole batch, so that their means and
the swap of conditions cross devices by themselves. B samples of all devices, S image size, R rays a side.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from p4d_jax.genhead.config import GenHeadStepConfig
from p4d_jax.genhead.frames import Frames
from p4d_jax.genhead.parts import HeadParts
from p4d_jax.genhead.training import GenHeadTraining
from p4d_jax.genhead.view import GenHeadView, discriminator_input, render_rasterized
from p4d_jax.head.model import HeadModel
from p4d_jax.train.adversarial import LabelledInput, fade
from p4d_jax.train.devices import on_devices
from p4d_jax.types import Array, FrameParams

STYLE_MEAN_DECAY = 0.998  # of w_avg, a step


@struct.dataclass
class Codes:
    """What G makes a batch of pictures from.

    Attributes:
      ws: (B, L, W) styles. latent: (B, Z), which is also the background's.
      keys: (B, 2) raw keys of the rays.
    """

    ws: Array
    latent: Array
    keys: Array


def swap_probability(config: GenHeadStepConfig, images: Array) -> Array:
    """Of conditioning G on another sample's camera and shape, after so many images."""
    return config.swap + (1 - config.swap) * fade(images, config.swap_images)


def draw_codes(
    training: GenHeadTraining, variables: dict, params: FrameParams, swap: Array, key: Array
) -> tuple[Codes, tuple[Array, Array]]:
    """Random codes for frames (B,), and the mean styles of `make_codes`."""
    latent_key, key = jax.random.split(key)
    latent = jax.random.normal(latent_key, (params.shape.shape[0], training.genhead.config.latent_size))
    return make_codes(training, variables, latent, params, swap, key)


def make_codes(
    training: GenHeadTraining, variables: dict, latent: Array, params: FrameParams, swap: Array, key: Array
) -> tuple[Codes, tuple[Array, Array]]:
    """Codes for frames (B,), and the means over the batch of the tri-planes' and the background's styles.

    Where the draw says so, G is conditioned on the camera and shape of the neighbour in the batch, lest
    it tell from them what the picture should look like.
    """
    count = latent.shape[0]
    keys = jax.random.split(key, 5)
    swapped = jax.random.uniform(keys[1], (count, 1)) < swap
    own = (params.camera.to_label(), params.shape)
    camera, shape = (jnp.where(swapped, jnp.roll(x, 1, axis=0), x) for x in own)
    ws = training.genhead.apply(variables, latent, camera, shape, method="map")
    mean = ws[:, 0].mean(0)
    if training.config.style_mixing:
        other = jax.random.normal(keys[2], latent.shape)
        mixed = training.genhead.apply(variables, other, camera, shape, method="map")
        cut_key, on_key = jax.random.split(keys[3])
        cut = jax.random.randint(cut_key, (), 1, ws.shape[1])
        mixing = jax.random.uniform(on_key) < training.config.style_mixing
        fine = (jnp.arange(ws.shape[1]) >= cut) & mixing
        ws = jnp.where(fine[None, :, None], mixed, ws)
    background = training.genhead.apply(variables, latent, method="background_styles").mean(0)
    return Codes(ws, latent, jax.random.split(jax.random.key_data(keys[4]), count)), (
        mean,
        background,
    )


def render_codes(training: GenHeadTraining, variables: dict, codes: Codes, frames: Frames) -> GenHeadView:
    """One view of each code, (B,): each device renders its own."""
    planes = training.genhead.apply(variables, codes.ws, method="planes")
    background = training.genhead.apply(variables, codes.latent, method="background")

    def view(variables: dict, head: HeadModel, parts: HeadParts, one: tuple) -> GenHeadView:
        planes, background, rasterized, key = one
        return render_rasterized(
            training.genhead, variables, planes, background, head, parts, rasterized,
            samples=training.config.samples, key=jax.random.wrap_key_data(key),
        )  # fmt: skip

    if training.config.rematerialize:
        view = jax.checkpoint(view)
    used = {"params": {name: variables["params"][name] for name in ("decoder", "superresolution")}}
    spread = on_devices(
        training.mesh, view, used, training.head, training.parts, at_once=training.config.views_at_once
    )
    return spread((planes, background, frames.rasterized, codes.keys))


def labelled_fakes(views: GenHeadView, frames: Frames) -> LabelledInput:
    """What D sees of views of frames."""
    return LabelledInput(discriminator_input(views), frames.label)


def random_pictures(training: GenHeadTraining, variables: dict, frames: Frames, key: Array) -> Array:
    """Pictures (B, S, S, 3) to judge G by: each of a code of its own, conditioned on its own frame.

    Args:
      key: (2,) raw.
    """
    latent_key, ray_key = jax.random.split(jax.random.wrap_key_data(key))
    count = frames.label.shape[0]
    latent = jax.random.normal(latent_key, (count, training.genhead.config.latent_size))
    ws = training.genhead.apply(variables, latent, frames.label, frames.params.shape, method="map")
    keys = jax.random.split(jax.random.key_data(ray_key), count)
    return render_codes(training, variables, Codes(ws, latent, keys), frames).image_sr


def moved_style_means(buffers: dict, means: tuple[Array, Array]) -> dict:
    """G's buffers with the mean styles, of tri-planes and background, moved towards a batch's."""
    new = dict(buffers)
    for name, mean in zip(("backbone", "background_generator"), means, strict=True):
        kept = buffers[name]["w_avg"]
        new[name] = {**buffers[name], "w_avg": mean + STYLE_MEAN_DECAY * (kept - mean)}
    return jax.lax.stop_gradient(new)
