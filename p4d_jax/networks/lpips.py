"""LPIPS, a perceptual distance of images (CVPR 2018, arXiv 1801.03924, version 0.1).

Features of a classifier after each of its stages, each pixel's feature vector scaled to length 1; squared
differences, weighted by learned non-negative numbers a channel, averaged over pixels and summed over stages.
NHWC, images in [-1, 1], RGB.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from p4d_jax.nn.convnet import conv
from p4d_jax.types import Array

# From [-1, 1] to the mean and deviation of ImageNet's colours that the classifiers were trained on.
SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
SCALE = np.array([0.458, 0.448, 0.450], np.float32)


@dataclasses.dataclass(frozen=True)
class ConvShape:
    """A convolution with bias and ReLU: output channels, kernel, stride and zero padding."""

    features: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a classifier at whose end features are read.

    Attributes:
      convs: Convolutions of the stage.
      pool: Window of the max pooling, of stride 2, before them; 0 for none.
    """

    convs: tuple[ConvShape, ...]
    pool: int = 0


def vgg16(widths: tuple[int, ...] = (64, 128, 256, 512, 512)) -> tuple[Stage, ...]:
    """VGG-16's thirteen convolutions (arXiv 1409.1556)."""
    depths = (2, 2, 3, 3, 3)
    return tuple(
        Stage((ConvShape(width),) * depth, pool=2 if index else 0)
        for index, (width, depth) in enumerate(zip(widths, depths, strict=True))
    )


def alexnet(widths: tuple[int, ...] = (64, 192, 384, 256, 256)) -> tuple[Stage, ...]:
    """AlexNet's five convolutions, without grouping (arXiv 1404.5997)."""
    a, b, c, d, e = widths
    return (
        Stage((ConvShape(a, 11, 4, 2),)),
        Stage((ConvShape(b, 5, 1, 2),), pool=3),
        Stage((ConvShape(c),), pool=3),
        Stage((ConvShape(d),)),
        Stage((ConvShape(e),)),
    )


class ConvTrunk(nn.Module):
    """Images (B, H, W, 3), normalised by SHIFT and SCALE -> features after each stage, (B, h, w, C) each.

    Attributes:
      stages: `vgg16()` or `alexnet()`.
      dtype: Number type of the activations.
    """

    stages: tuple[Stage, ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> tuple[Array, ...]:
        x, outputs, number = (images - SHIFT) / SCALE, [], 0
        for stage in self.stages:
            if stage.pool:
                if min(x.shape[1:3]) < stage.pool:
                    raise ValueError(f"images: {images.shape[1:3]} is too small for the classifier")
                x = nn.max_pool(x, (stage.pool, stage.pool), (2, 2))
            for shape in stage.convs:
                x = nn.relu(
                    conv(
                        shape.features,
                        shape.kernel,
                        shape.stride,
                        shape.padding,
                        use_bias=True,
                        dtype=self.dtype,
                        name=f"conv{number}",
                    )(x)
                )
                number += 1
            outputs.append(x)
        return tuple(outputs)


class LPIPS(nn.Module):
    """Perceptual distance of images; differentiable everywhere, equal images included.

    Attributes:
      stages: Stages of the classifier, `vgg16()` or `alexnet()`.
      dtype: Number type of the classifier's activations; distances are float32.
    """

    stages: tuple[Stage, ...] = vgg16()
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.trunk = ConvTrunk(self.stages, self.dtype)
        ones = nn.initializers.ones
        self.channel_weights = [
            self.param(f"lin{index}", ones, (stage.convs[-1].features,))
            for index, stage in enumerate(self.stages)
        ]

    def features(self, images: Array) -> tuple[Array, ...]:
        """(B, H, W, 3) -> the classifier's features after each stage, (B, h, w, C) each."""
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images: expected shape (B, H, W, 3), got {images.shape}")
        return self.trunk(images)

    def distance(self, features_a: tuple[Array, ...], features_b: tuple[Array, ...]) -> Array:
        """Distances (B,) of images known by their `features`."""
        total = 0.0
        for weights, a, b in zip(self.channel_weights, features_a, features_b, strict=True):
            squared = (_unit(a) - _unit(b)) ** 2
            total = total + jnp.mean(squared @ weights, axis=(-2, -1))
        return total

    def __call__(self, a: Array, b: Array) -> Array:
        """Distances (B,) of images (B, H, W, 3)."""
        if a.shape != b.shape:
            raise ValueError(f"a, b: expected images of one shape, got {a.shape} and {b.shape}")
        both = self.features(jnp.concatenate([a, b]))
        count = a.shape[0]
        return self.distance(tuple(x[:count] for x in both), tuple(x[count:] for x in both))


def _unit(x: Array) -> Array:
    """Feature vectors at length 1, those near 0 shorter."""
    x = x.astype(jnp.float32)
    return x / (jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-10) + 1e-10)
