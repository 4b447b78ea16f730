"""Alpha of a photo: how much of each pixel is the person, and which colours person and background have alone.

Colours are in [-1, 1] unless said otherwise, opacities and weights in [0, 1]; leading axes (...) are batches.
No gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from p4d_jax.imaging.resizing import resize_antialiased, resize_bilinear
from p4d_jax.types import Array

# Of the random walks: how reluctantly they cross differences of colour (squared, of colours in [0, 1]), what
# they keep of a step across any, and by how much one is drawn to the opacity that it starts from.
RELUCTANCE, LEAK, PULL = 1500.0, 1e-4, 0.03
# Of its solver: steps, and the smallest eigenvalue that they are made for; what has a smaller one stays near
# to the start. Then by how much opacities are pushed from one half.
SOLVER_STEPS, SMALLEST = 60, 0.001
SHARPNESS = 2.0
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # down and right; each edge once


def refine_alpha(image: Array, opacity: Array) -> Array:
    """An opacity (..., s, s, 1) whose edges are those of its photo (..., s, s, 3).

    A random walk on the pixels: it crosses edges of colour reluctantly, and is drawn to the given opacity,
    the more the surer that is (Grady, "Multilabel Random Walker Image Segmentation Using Prior Models", CVPR
    2005). What lies between two sure places belongs to that from which no edge parts it.
    """

    def one(image: Array, opacity: Array) -> Array:
        weights = [walk_weight(image, shift) for shift in NEIGHBOURS]
        pull = PULL * jnp.abs(2.0 * opacity - 1.0) ** 3

        def away(x: Array) -> Array:
            total = pull * x
            for weight, shift in zip(weights, NEIGHBOURS, strict=True):
                flow = weight * (x - jnp.roll(x, tuple(-step for step in shift), (0, 1)))
                total += flow - jnp.roll(flow, shift, (0, 1))
            return total

        steps = zip(weights, NEIGHBOURS, strict=True)
        degree = pull + sum(weight + jnp.roll(weight, shift, (0, 1)) for weight, shift in steps)
        walked = solve(lambda x: (pull * opacity - away(x)) / degree, opacity)
        return jnp.clip(SHARPNESS * (walked - 0.5) + 0.5, 0.0, 1.0)

    image, opacity = jax.lax.stop_gradient((image, opacity[..., 0]))
    signature = "(s,t,c),(s,t)->(s,t)"
    return jnp.vectorize(one, signature=signature)(image, opacity)[..., None]


def solve(residual: Callable[[Array], Array], start: Array) -> Array:
    """Where a residual b - A x is 0, A's eigenvalues in [SMALLEST, 2]: Chebyshev's iteration from `start`.

    Not conjugate gradients, whose answer is not linear in b and shows other rounding errors in other batches.
    Source: Golub and Van Loan, "Matrix Computations", section 11.2.8.
    """
    middle, half = (2.0 + SMALLEST) / 2, (2.0 - SMALLEST) / 2
    first = residual(start) / middle

    def step(_, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, move, ratio = carry
        x = x + move
        following = 1.0 / (2.0 * middle / half - ratio)
        move = following * ratio * move + 2.0 * following / half * residual(x)
        return x, move, following

    x, move, _ = jax.lax.fori_loop(1, SOLVER_STEPS, step, (start, first, jnp.asarray(half / middle)))
    return x + move


def walk_weight(image: Array, shift: tuple[int, int]) -> Array:
    """(s, s) of the step from each pixel of (s, s, 3) to its neighbour; 0 out of the picture."""
    down, right = shift
    length = (down**2 + right**2) ** 0.5
    difference = 0.5 * (image - jnp.roll(image, (-down, -right), (0, 1)))
    weight = (jnp.exp(-RELUCTANCE * jnp.sum(difference**2, axis=-1) / length) + LEAK) / length
    size = image.shape[0]
    row, column = jnp.arange(size)[:, None] + down, jnp.arange(size) + right
    return weight * ((row < size) & (column >= 0) & (column < size))


def split_colours(image: Array, opacity: Array) -> tuple[Array, Array]:
    """The photo (..., S, S, 3) continued with the person's colours alone, and with the background's alone.

    opacity: (..., s, s, 1). Pixels that are half the one and half the other have no weight.
    """
    fill = lambda x: jnp.clip(2.0 * resize_bilinear(x, image.shape[-2]) - 1.0, 0.0, 1.0)
    return spread_colours(image, fill(opacity)), spread_colours(image, fill(1.0 - grow(opacity)))


def spread_colours(image: Array, weight: Array) -> Array:
    """A picture (..., S, S, 3) whose pixels of little weight (..., S, S, 1) have the colours near by.

    Weights are in [0, 1]. Averages over ever larger squares fill what smaller ones leave open ("pull-push",
    Gortler et al. 1996, section 3.5).
    """
    size, mean = image.shape[-2], image
    if size > 1:
        half = size // 2
        smaller = resize_antialiased(weight, half)
        around = resize_antialiased(image * weight, half) / (smaller + 1e-6)
        mean = resize_bilinear(spread_colours(around, smaller), size)
    return image * weight + mean * (1.0 - weight)


def grow(opacity: Array) -> Array:
    """The largest of each pixel and its neighbours: (..., s, s, 1) -> (..., s, s, 1)."""
    window = (*(1,) * (opacity.ndim - 3), 3, 3, 1)
    return jax.lax.reduce_window(opacity, -jnp.inf, jax.lax.max, window, (1,) * opacity.ndim, "SAME")
