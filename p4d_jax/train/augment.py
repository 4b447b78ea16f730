"""Adaptive discriminator augmentation (ADA, Karras et al., arXiv 2006.06676): one warp for all that D sees.

Geometric only: picture, raw image, correspondence map and segmentation of a sample move by the same affine
map, so that they still fit. Drawn anew for each sample; nothing leaks to G while the probability
stays below about 0.8. The probability follows how sure D is of real pictures.
"""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from p4d_jax.geometry import exact_products
from p4d_jax.types import Array

Shown = TypeVar("Shown")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How far each operation goes; each happens with the probability of the moment.

    Attributes:
      mirror: whether pictures are mirrored.
      translation: standard deviation in shares of the picture.
      scale: standard deviation of the base-2 logarithm of isotropic scaling.
      stretch: the same of anisotropic scaling.
      rotation: largest angle, radians.
    """

    mirror: bool = True
    translation: float = 0.125
    scale: float = 0.2
    stretch: float = 0.2
    rotation: float = 3.14159265


@exact_products
def draw_warp(augmentation: Augmentation, probability: Array, key: Array) -> Array:
    """(2, 3) affine map from places in the augmented picture to places in the picture, both in [-1, 1]."""
    a, keys = augmentation, jax.random.split(key, 10)
    chance = lambda k: jax.random.uniform(keys[k]) < probability
    normal = lambda k, shape=(): jax.random.normal(keys[k], shape)
    matrix = jnp.eye(2)
    if a.mirror:
        flip = jnp.where(chance(0) & (jax.random.uniform(keys[1]) < 0.5), -1.0, 1.0)
        matrix = matrix @ jnp.diag(jnp.array([1.0, 1.0]).at[0].set(flip))
    matrix = matrix * jnp.where(chance(2), 2.0 ** (-a.scale * normal(3)), 1.0)
    stretch = jnp.where(chance(4), 2.0 ** (a.stretch * normal(5)), 1.0)
    matrix = matrix @ jnp.diag(jnp.stack([stretch, 1 / stretch]))
    angle = jnp.where(chance(6), a.rotation * jax.random.uniform(keys[7], minval=-1.0, maxval=1.0), 0.0)
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    matrix = matrix @ jnp.array([[cosine, -sine], [sine, cosine]])
    shift = jnp.where(chance(8), 2 * a.translation * normal(9, (2,)), 0.0)
    return jnp.concatenate([matrix, shift[:, None]], axis=1)


@exact_products
def warp(image: Array, matrix: Array) -> Array:
    """(S, S, C) read through an affine map (2, 3) of [-1, 1]^2, x first, mirrored beyond its edges."""
    size = image.shape[0]
    axis = (jnp.arange(size) + 0.5) / size * 2 - 1
    y, x = jnp.meshgrid(axis, axis, indexing="ij")
    at = jnp.einsum("ij,jyx->iyx", matrix, jnp.stack([x, y, jnp.ones_like(x)]))
    rows, columns = ((at[k] + 1) / 2 * size - 0.5 for k in (1, 0))
    read = lambda channel: map_coordinates(channel, [rows, columns], order=1, mode="mirror")
    return jax.vmap(read, -1, -1)(image)


def augment(augmentation: Augmentation, shown: Shown, probability: Array, key: Array) -> Shown:
    """A batch of what D sees, each sample moved by its own map.

    Args:
      shown: a pytree of images (B, H, W, C), whatever their sizes.
    """
    keys = jax.random.split(key, jax.tree.leaves(shown)[0].shape[0])
    matrices = jax.vmap(lambda key: draw_warp(augmentation, probability, key))(keys)
    return jax.tree.map(lambda images: jax.vmap(warp)(images, matrices), shown)


def adapt_probability(probability: Array, sign: Array, target: float, speed: float) -> Array:
    """The next probability: up by `speed` where the mean sign of D's real logits is above the target."""
    return jnp.clip(probability + speed * jnp.sign(sign - target), 0.0, 1.0)
