"""Losses that need no outside weights, on one image each: `vmap` for batches.

Source: docs/concepts/training.md, 8.1.

Images (H, W, C) in [-1, 1], weights (H, W, 1) >= 0. Where the paper has LPIPS (VGG weights) there is
`structure`, a named substitute: gradients over scales, which keep edges sharp, and SSIM of blocks.
"""

from __future__ import annotations

import jax.numpy as jnp

from p4d_jax.render.rays import pixel_centres
from p4d_jax.types import Array

# Of the 68 landmarks: first and last + 1 of an eye or the mouth, and its corners; a Gaussian in widths of it.
FEATURES = ((36, 42, 36, 39, 0.5), (42, 48, 42, 45, 0.5), (48, 68, 48, 54, 0.3))


def weighted_mean(values: Array, weights: Array | None) -> Array:
    """Mean of values (H, W, C) under weights (H, W, 1); plain mean for None."""
    if weights is None:
        return values.mean()
    return (values * weights).sum() / (weights.sum() * values.shape[-1] + 1e-6)


def around_features(landmarks: Array, size: int) -> Array:
    """(size, size, 1) in [0, 1]: how near pixels are to eyes and mouth of `project_landmarks` (70, 2)."""
    pixels, nearness = pixel_centres(size), 0.0
    for first, last, left, right, reach in FEATURES:
        width = jnp.linalg.norm(landmarks[right] - landmarks[left])
        away = jnp.sum((pixels - landmarks[first:last].mean(0)) ** 2, axis=-1)
        nearness = jnp.maximum(nearness, jnp.exp(-0.5 * away / (reach * width + 1e-6) ** 2))
    return nearness.reshape(size, size, 1)


def l1(image: Array, target: Array, weights: Array | None = None) -> Array:
    """Mean absolute difference."""
    return weighted_mean(jnp.abs(image - target), weights)


def halve(image: Array) -> Array:
    """2x2 mean: (H, W, C) -> (H/2, W/2, C); odd rows and columns at the end are dropped."""
    height, width, channels = image.shape
    image = image[: height // 2 * 2, : width // 2 * 2]
    return image.reshape(height // 2, 2, width // 2, 2, channels).mean((1, 3))


def gradient_difference(image: Array, target: Array, weights: Array) -> Array:
    """L1 between horizontal and between vertical differences of neighbours."""
    error = image - target
    across = weighted_mean(jnp.abs(error[:, 1:] - error[:, :-1]), weights[:, 1:])
    return across + weighted_mean(jnp.abs(error[1:] - error[:-1]), weights[1:])


def block_ssim(image: Array, target: Array, weights: Array, block: int = 8) -> Array:
    """Structural similarity over non-overlapping blocks (constants of Wang et al. 2004 for range 2).

    A picture smaller than a block is one block.
    """
    block = min(block, *image.shape[:2])
    height, width = (n // block * block for n in image.shape[:2])

    def blocks(x: Array) -> Array:
        x = x[:height, :width].reshape(height // block, block, width // block, block, -1)
        return x.transpose(0, 2, 1, 3, 4).reshape(height // block, width // block, block * block, -1)

    a, b = blocks(image), blocks(target)
    mean_a, mean_b = a.mean(2), b.mean(2)
    var_a, var_b = a.var(2), b.var(2)
    covariance = ((a - mean_a[:, :, None]) * (b - mean_b[:, :, None])).mean(2)
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return weighted_mean(similarity, blocks(weights).mean(2))


def structure(image: Array, target: Array, weights: Array | None = None, scales: int = 3) -> Array:
    """The substitute for LPIPS: gradient difference over `scales`, 0.2 (1 - block SSIM) of the first two."""
    weights = jnp.ones((*image.shape[:2], 1)) if weights is None else weights
    total = 0.0
    for scale in range(scales):
        total += gradient_difference(image, target, weights)
        if scale < 2:
            total += 0.2 * (1.0 - block_ssim(image, target, weights))
        image, target, weights = halve(image), halve(target), halve(weights)
    return total


def reconstruction(image: Array, target: Array, weights: Array | None = None) -> Array:
    """L_re of one image: L1 + structure."""
    return l1(image, target, weights) + structure(image, target, weights)


def depth_error(depth: Array, target: Array, mask: Array) -> Array:
    """L_depth: L1 of (H, W, 1) depths where the target's mask is nearly full."""
    inside = (mask > 0.95).astype(jnp.float32)
    return (jnp.abs(depth - target) * inside).sum() / (inside.sum() + 1.0)


def psnr(image: Array, target: Array, mask: Array | None = None) -> Array:
    """Peak signal-to-noise ratio in dB for images of range 2, inside a mask (H, W, 1)."""
    error = weighted_mean((image - target) ** 2, mask)
    return 10.0 * jnp.log10(4.0 / jnp.maximum(error, 1e-10))


def density_difference(densities: Array, perturbed: Array) -> Array:
    """() mean absolute difference of raw densities at points and at points near by."""
    return jnp.abs(densities - perturbed).mean()
