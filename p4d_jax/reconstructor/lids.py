"""Shut lids, in the colours of the skin around the eyes. Not in the paper.

Where a photo shows an open eye, the skin with which it shuts lies folded under the brow: a few pixels of
crease and lashes, which a shut lid would stretch to a dark patch. Nothing is learned, no gradient. Colours
are in [-1, 1].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from p4d_jax.head.lids import Lids
from p4d_jax.types import Array

BRIGHTNESS = 4  # power of the luminance by which skin counts more than brows, lashes and their shadows
# Shares of the photo's opening of an eye at which the hidden skin begins to show, and shows wholly.
SHUTS_FROM, SHUTS_TO = 0.75, 0.35


def lid_colours(lids: Lids, colours: Array, shown: Array) -> Array:
    """Colour (3) of the skin that the eyes hide, and how much of it the left and the right one hides: (V, 5).

    Args:
      colours: (V, 3) of the photo at the head's vertices. shown: (V,) in [0, 1], how well it shows them.
    """
    skin = 0.5 * colours[lids.skin] + 0.5
    weight = (shown[lids.skin] * (skin.mean(axis=-1) + 1e-3) ** BRIGHTNESS)[:, None]
    total = lids.likeness @ jnp.concatenate([weight * skin, weight, weight / weight.max()], axis=-1)
    mean = total[:, :3] / (total[:, 3:4] + 1e-12)
    # Of an eye around which the photo shows no skin nothing is known.
    known = lids.hidden[lids.lids] * (total[:, 4:] > 1e-4)
    layer = jnp.concatenate([2.0 * mean - 1.0, known], axis=-1)
    return jax.lax.stop_gradient(jnp.zeros((len(lids.hidden), 5)).at[lids.lids].set(layer))


def shut_lids(lids: Array, photo: Array, openings: Array) -> Array:
    """What of the lids (V, 5) of `lid_colours` a frame shows: (V, 4), premultiplied colour and opacity.

    photo, openings: (2,) `eye_openings` of the photo's mesh and of the frame's.
    """
    share = openings / jnp.maximum(photo, 1e-6)
    shut = jnp.clip((SHUTS_FROM - share) / (SHUTS_FROM - SHUTS_TO), 0.0, 1.0)
    opacity = lids[:, 3:] @ shut[:, None]
    return jnp.concatenate([lids[:, :3] * opacity, opacity], axis=-1)
