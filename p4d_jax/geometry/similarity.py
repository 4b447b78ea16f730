"""Similarities of the plane between landmarks and crops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from p4d_jax.geometry.precision import exact_products
from p4d_jax.types import Array

if TYPE_CHECKING:
    from jaxtyping import Float

# Where ArcFace's training crops (112 x 112) hold the left-in-image eye, the other eye, the tip of the nose
# and the corners of the mouth; pixels, y down. Source: insightface, face_align.
ARCFACE_TEMPLATE = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
# Where PD-FGC's crops (224 x 224) hold the two eyes and the mouth; pixels, y down.
MOTION_TEMPLATE = ((87.0, 59.0), (137.0, 59.0), (112.0, 120.0))
ARCFACE_SIZE = 112
MOTION_SIZE = 224


@exact_products
def fit_similarity(source: Float[Array, "points 2"], target: Float[Array, "points 2"]) -> Float[Array, "2 3"]:
    """The scale, rotation and shift that bring `source` (N, 2) nearest to `target` (N, 2): (2, 3).

    Least squares without reflection (Umeyama 1991): in the plane it is linear in (scale cos, scale sin).
    """
    if source.shape != target.shape or source.ndim != 2 or source.shape[-1] != 2:
        raise ValueError(f"source, target: both must be (N, 2), got {source.shape} and {target.shape}")
    source_mean, target_mean = source.mean(0), target.mean(0)
    s, t = source - source_mean, target - target_mean
    spread = jnp.maximum(jnp.sum(s**2), 1e-12)
    a = jnp.sum(s * t) / spread
    b = jnp.sum(s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]) / spread
    linear = jnp.stack([jnp.stack([a, -b]), jnp.stack([b, a])])
    return jnp.concatenate([linear, (target_mean - linear @ source_mean)[:, None]], axis=1)


@exact_products
def invert_affine(matrix: Float[Array, "2 3"]) -> Float[Array, "2 3"]:
    """The inverse (2, 3) of an affine map (2, 3) of the plane."""
    a, b, c, d = matrix[0, 0], matrix[0, 1], matrix[1, 0], matrix[1, 1]
    linear = jnp.stack([jnp.stack([d, -b]), jnp.stack([-c, a])]) / (a * d - b * c)
    return jnp.concatenate([linear, -linear @ matrix[:, 2:]], axis=1)


def arcface_transform(landmarks: Array) -> Array:
    """(2, 3) from pixels (x, y), y down, to ArcFace's 112 x 112 crop, of 70 landmarks (70, 2) in pixels.

    Landmarks: 68 in iBUG order and the centres of the two eyes, the picture's left one first.
    """
    points = _landmarks70(landmarks)[jnp.array([68, 69, 30, 48, 54])]
    return fit_similarity(points, jnp.array(ARCFACE_TEMPLATE))


def motion_transform(landmarks: Array) -> Array:
    """(2, 3) from pixels (x, y), y down, to PD-FGC's 224 x 224 crop, of 70 landmarks (70, 2) in pixels."""
    landmarks = _landmarks70(landmarks)
    centres = [landmarks[36:42].mean(0), landmarks[42:48].mean(0), landmarks[60:68].mean(0)]
    return fit_similarity(jnp.stack(centres), jnp.array(MOTION_TEMPLATE))


def _landmarks70(landmarks: Array) -> Array:
    if landmarks.shape != (70, 2):
        raise ValueError(f"landmarks: expected shape (70, 2), got {landmarks.shape}")
    return landmarks
