"""Painted backgrounds, blurred or in focus, and how a camera develops a picture."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from p4d_jax.data.dice import Dice
from p4d_jax.geometry import exact_products
from p4d_jax.openheads.appearance import (
    sample_noise,
)
from p4d_jax.openheads.config import OpenHeadsSettings
from p4d_jax.openheads.light import (
    Light,
    random_light,
)
from p4d_jax.types import Array


@struct.dataclass
class Surroundings:
    """Light, background and camera electronics of one clip.

    Attributes:
      light: Light in the head's world.
      background_key: Random key of the picture behind.
      exposure, white_balance, contrast: Factor, (3,) factors and exponent. noise, blur: Of the sensor.
    """

    light: Light
    background_key: Array
    exposure: Array
    white_balance: Array
    contrast: Array
    noise: Array
    blur: Array


def random_surroundings(key: Array, settings: OpenHeadsSettings) -> Surroundings:
    """Draws light, background, exposure and sensor."""
    key, background_key, light_key = jax.random.split(key, 3)
    dice = Dice(key, 12)
    shift = settings.domain_shift * dice.normal((4,))
    return Surroundings(
        light=random_light(light_key),
        background_key=background_key,
        exposure=jnp.exp(0.22 * dice.normal() + 0.3 * shift[0]),
        white_balance=jnp.exp(0.05 * dice.normal((3,)) + 0.15 * shift[1:]),
        contrast=dice.uniform(0.9, 1.18),
        noise=settings.noise * dice.uniform() ** 2,
        blur=settings.blur * dice.uniform(),
    )


# ------------------------------------------------------------------------------- background and sensor


@exact_products
def paint_background(key: Array, size: int) -> Array:
    """A blurred room, wall, landscape or lights: linear colour (size, size, 3)."""
    dice = Dice(key, 112)
    axis = (jnp.arange(size) + 0.5) / size * 2.0 - 1.0
    y, x = jnp.meshgrid(-axis, axis, indexing="ij")
    base = dice.uniform(0.05, 0.85, (2, 3)) ** 2
    grey = dice.uniform() ** 0.35
    base = base + grey * (base.mean(-1, keepdims=True) - base)
    angle = dice.uniform(0.0, 6.3)
    t = jax.nn.sigmoid((x * jnp.cos(angle) + y * jnp.sin(angle)) * dice.uniform(0.3, 3.0))
    color = _lerp(base[0], base[1], t)
    plain = dice.chance(0.3)
    place = dice.uniform(0.0, 32.0, (3,))
    octaves = jnp.array([1.2, 2.7, 6.0])[:, None, None, None]
    points = jnp.stack([x, y, jnp.zeros_like(x)], -1) * octaves + place
    field = jnp.einsum("o,oyxc->yxc", jnp.array([0.6, 0.35, 0.15]), sample_noise(points))
    field = 0.85 * field[..., 3:] + 0.3 * (1.0 - 0.8 * grey) * field[..., :3]
    color = color * jnp.exp(field * dice.uniform(0.0, 0.8) * (1 - 0.8 * plain))
    boxes = dice.uniform(0.0, 1.0, (5, 8))
    for box in boxes:
        soft = 0.02 + 0.25 * box[0] ** 2
        inside = jax.nn.sigmoid((0.1 + 0.5 * box[1] - jnp.abs(x - 2.4 * box[2] + 1.2)) / soft)
        inside *= jax.nn.sigmoid((0.1 + 0.8 * box[3] - jnp.abs(y - 2.4 * box[4] + 1.2)) / soft)
        tint = 1.1 * box[5:] ** 2
        tint = tint + grey * (tint.mean() - tint)
        color = _lerp(color, tint, inside * 0.8 * (1 - plain) * (box[7] > 0.25))
    discs = dice.uniform(0.0, 1.0, (6, 7))
    bokeh = dice.chance(0.25)
    for disc in discs:
        away = jnp.hypot(x - 2.4 * disc[0] + 1.2, y - 2.4 * disc[1] + 1.2)
        glow = jax.nn.sigmoid((0.05 + 0.2 * disc[2] - away) / 0.015)
        color += 0.5 * bokeh * glow[..., None] * disc[3:6] * disc[6]
    return color


@exact_products
def paint_sharp_background(key: Array, size: int) -> Array:
    """What stands behind people in photos that are in focus all through: linear colour (size, size, 3).

    Patches with hard edges, stripes, boxes and ellipses, some as dark as hair or of a skin's colour, and fine
    grain; told apart from a person by their shape alone.
    """
    dice = Dice(key, 200)
    axis = (jnp.arange(size) + 0.5) / size * 2.0 - 1.0
    y, x = jnp.meshgrid(-axis, axis, indexing="ij")
    skin = jnp.array([0.5, 0.25, 0.15])
    tints, grey = dice.uniform(0.0, 1.0, (18, 3)) ** 2, dice.uniform() ** 0.35
    tints = tints + grey * (tints.mean(-1, keepdims=True) - tints)
    like_people = dice.uniform(0.0, 1.0, (18, 2))
    tints = jnp.where(like_people[:, :1] < 0.3, skin * (0.1 + 1.4 * like_people[:, 1:]), tints)
    place, octaves = dice.uniform(0.0, 32.0, (3,)), jnp.array([1.5, 4.0, 11.0, 30.0])[:, None, None, None]
    field = sample_noise(jnp.stack([x, y, jnp.zeros_like(x)], -1) * octaves + place)
    edge = jnp.exp(dice.uniform(0.0, 4.5, (3,)))
    color = _lerp(tints[0], tints[1], jax.nn.sigmoid(edge[0] * (field[0, ..., 0] + 0.5 * field[1, ..., 0])))
    angle, bend = dice.uniform(0.0, 3.1), dice.uniform(0.0, 0.3)
    along = x * jnp.cos(angle) + y * jnp.sin(angle) + bend * field[0, ..., 1]
    stripes = jax.nn.sigmoid(edge[1] * jnp.sin(along * jnp.exp(dice.uniform(1.0, 3.7))))
    color = _lerp(color, tints[2], stripes * dice.chance(0.4))
    shapes = dice.uniform(0.0, 1.0, (12, 6))
    for index, (shape, tint) in enumerate(zip(shapes, tints[3:15], strict=True)):
        right, up = (
            (x - 2.4 * shape[0] + 1.2) / (0.05 + 0.4 * shape[1]),
            (y - 2.4 * shape[2] + 1.2) / (0.05 + 0.8 * shape[3]),
        )
        away = jnp.hypot(right, up) if index % 2 else jnp.maximum(jnp.abs(right), jnp.abs(up))
        color = _lerp(color, tint, jax.nn.sigmoid(40.0 * shape[4] * (1.0 - away)) * (shape[5] > 0.4))
    grain = jnp.einsum("o,oyx->yx", dice.uniform(0.0, 0.6, (3,)) ** 3, field[1:, ..., 3])
    return color * jnp.exp(grain)[..., None]


def _lerp(a: Array, b: Array, share: Array) -> Array:
    return a + (b - a) * share[..., None]


def develop(color: Array, surroundings: Surroundings) -> Array:
    """Linear colour -> [0, 1] display values: exposure, white balance, a soft shoulder, the sRGB curve."""
    color = jnp.maximum(color * surroundings.exposure * surroundings.white_balance, 1e-5)
    color = jnp.where(color > 0.7, 0.7 + 0.3 * jnp.tanh((color - 0.7) / 0.3), color)
    display = jnp.where(color < 0.0031308, 12.92 * color, 1.055 * color ** (1 / 2.4) - 0.055)
    return display**surroundings.contrast


def blur_lens(image: Array, sigma: Array) -> Array:
    """3 x 3 separable Gaussian of a small sigma in pixels, edges replicated; image (S, S, C)."""
    side = jnp.exp(-0.5 / jnp.maximum(sigma, 1e-3) ** 2)
    for axis in (0, 1):
        pad = [(1, 1) if i == axis else (0, 0) for i in range(3)]
        grown = jnp.pad(image, pad, mode="edge")
        low = jax.lax.slice_in_dim(grown, 0, image.shape[axis], axis=axis)
        high = jax.lax.slice_in_dim(grown, 2, image.shape[axis] + 2, axis=axis)
        image = (image + side * (low + high)) / (1 + 2 * side)
    return image
