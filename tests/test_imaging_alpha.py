"""Person against background: the random walk against a dense float64 solution, and on a photo."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p4d_jax.imaging import alpha
from p4d_jax.imaging.alpha import refine_alpha

SIZE = 24
settle = jax.jit(refine_alpha)


def solve_densely(image: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """The walk's probabilities (s, s) by its definition: pixel by pixel, all neighbours, float64."""
    size = len(image)
    colours = (image.astype(np.float64) + 1) / 2
    system, wanted = np.zeros((size**2, size**2)), np.zeros(size**2)
    for row in range(size):
        for column in range(size):
            here = row * size + column
            pull = alpha.PULL * abs(2 * float(opacity[row, column]) - 1) ** 3
            system[here, here] += pull
            wanted[here] = pull * opacity[row, column]
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    other = (row + down, column + right)
                    if (down, right) == (0, 0) or not all(0 <= place < size for place in other):
                        continue
                    length = np.hypot(down, right)
                    step = np.sum((colours[row, column] - colours[other]) ** 2) / length
                    weight = (np.exp(-alpha.RELUCTANCE * step) + alpha.LEAK) / length
                    system[here, here] += weight
                    system[here, other[0] * size + other[1]] -= weight
    return np.linalg.solve(system, wanted).reshape(size, size)


@pytest.fixture
def photo(rng):
    """A dark disc before a light background, both a little noisy, and an opacity that is unsure around it."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    distance = np.hypot(rows - 11.0, columns - 12.0)
    true = distance < 7
    image = np.where(true[..., None], -0.5, 0.4) + rng.normal(0, 0.01, (SIZE, SIZE, 3))
    opacity = np.clip(0.5 + (5.0 - distance) / 6, 0, 1)  # too small by two pixels, and soft
    return image.astype(np.float32), opacity.astype(np.float32)[..., None], true


def test_the_solver_finds_the_walk(photo):
    image, opacity, _ = photo
    walked = solve_densely(image, opacity[..., 0])
    expected = np.clip(alpha.SHARPNESS * (walked - 0.5) + 0.5, 0, 1)
    np.testing.assert_allclose(settle(image, opacity)[..., 0], expected, atol=0.02)


def test_an_unsure_edge_goes_to_the_edge_of_colour(photo):
    image, opacity, true = photo
    before = np.abs(opacity[..., 0] - true).mean()
    after = np.abs(np.asarray(settle(image, opacity))[..., 0] - true).mean()
    assert before > 0.1 and after < 0.02


def test_sure_opacities_stay(photo):
    image, _, true = photo
    opacity = true.astype(np.float32)[..., None]
    np.testing.assert_allclose(settle(image, opacity), opacity, atol=0.02)
    for flat in (0.0, 1.0):
        np.testing.assert_allclose(settle(image, np.full_like(opacity, flat)), flat, atol=1e-3)


def test_where_nothing_is_sure_nothing_breaks(photo):
    image, opacity, _ = photo
    np.testing.assert_allclose(settle(image, np.full_like(opacity, 0.5)), 0.5, atol=1e-3)


def test_batches_are_settled_one_by_one_and_without_gradient(photo):
    image, opacity, _ = photo
    images, opacities = jnp.stack([image, image[::-1]]), jnp.stack([opacity, opacity])
    together = settle(images, opacities)
    for i in range(2):
        np.testing.assert_allclose(together[i], settle(images[i], opacities[i]), atol=1e-3)
    slope = jax.grad(lambda x: refine_alpha(images, x).sum())(opacities)
    assert np.all(np.asarray(slope) == 0)
