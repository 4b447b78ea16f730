"""The rendered picture mixed with the photo seen at its surface (not in the paper)."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax.numpy as jnp

from p4d_jax.nn.layers import conv3, leaky
from p4d_jax.types import Array

PART_CHANNELS = 4  # `head.expression_field.part_labels`
# Colours that a new refinement paints them in: eyes white at the rim and dark in the middle, teeth white, the
# mouth's inside dark.
PAINT = (0.8, -1.6, 0.5, -0.8)


def paint_of_parts(key: Array, shape: tuple[int, int], dtype=jnp.float32) -> Array:
    """Initial weights (PART_CHANNELS, 3) of the paint."""
    del key
    return jnp.broadcast_to(jnp.asarray(PAINT, dtype)[:, None], shape)


class Paint(nn.Module):
    """A colour of each part, mixed by labels (..., PART_CHANNELS): (..., 3)."""

    @nn.compact
    def __call__(self, parts: Array) -> Array:
        kernel = self.param("kernel", paint_of_parts, (PART_CHANNELS, 3))
        # Written out: a CPU is slow at products of so few columns.
        mixed = sum(parts[..., k : k + 1] * kernel[k] for k in range(PART_CHANNELS))
        return mixed + self.param("bias", nn.initializers.zeros, (3,))


class GuidedRefinement(nn.Module):
    """The rendered picture, and the photo seen at the rendered surface, mixed pixel by pixel.

    A 3D-anchored stand-in for detail that a small super-resolution would have to invent: each pixel is a
    convex mixture of the rendered colour; the three of `look_up_source`; the background, which stands still,
    at the same pixel of the photo; where the photo's depth is known, the colour of what it shows nearby; and
    paint for eyes, teeth and the mouth's inside, since what lids or lips hide in the photo is seen nowhere
    in it. And a correction.
    """

    features: tuple[int, ...]

    @nn.compact
    def __call__(
        self, image: Array, guide: Array, opacity: Array, parts: Array, nearby: Array | None = None
    ) -> Array:
        """image (B, S, S, 3) in [-1, 1], guide (B, S, S, 15), opacity (B, S, S, 1) -> (B, S, S, 3).

        The guide is `look_up_source` (12) and the photo's background at the same pixel (3). parts:
        (B, S, S, 4) `head.expression_field.part_labels` of the surface. nearby: (B, S, S, 4) of
        `look_up_nearby`, for a model with photo features.
        """
        more = [] if nearby is None else [nearby]
        x = jnp.concatenate([image, guide, 2.0 * opacity - 1.0, *more, parts], axis=-1)
        for index, features in enumerate(self.features):
            x = leaky(conv3(features, name=f"conv{index}")(x))
        by_mesh, by_point, by_other_side, behind = jnp.split(guide, (4, 8, 12), axis=-1)
        opacity = opacity[..., 0]
        colours = [image, by_mesh[..., :3], by_point[..., :3], by_other_side[..., :3], behind]
        shown = [
            jnp.ones_like(opacity),
            nn.relu(by_mesh[..., 3]),
            opacity * by_point[..., 3],
            opacity * by_other_side[..., 3],
            1.0 - opacity,
        ]
        if nearby is not None:
            colours.append(nearby[..., :3])
            shown.append(opacity)
        # The same for all people: how light or dark they are is left to the shares and the correction.
        colours.append(Paint(name="paint")(parts))
        shown.append(parts[..., 0] + parts[..., 2] + parts[..., 3])
        count = len(shown)
        x = conv3(count + 3, name="mix", init=nn.initializers.normal(0.01))(x)
        # A softmax times what is shown, made to sum to one; written out, since a CPU is slow at sums over few
        # channels.
        logits = [x[..., k] for k in range(count)]
        largest = functools.reduce(jnp.maximum, logits)
        powers = [jnp.exp(one - largest) for one in logits]
        shares = [power * weight for power, weight in zip(powers, shown, strict=True)]
        total = sum(shares) + 1e-6 * sum(powers)
        mixed = sum((one / total)[..., None] * colour for one, colour in zip(shares, colours, strict=True))
        return mixed + x[..., count:]
