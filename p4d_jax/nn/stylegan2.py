"""StyleGAN2's layers, NHWC (Karras et al., arXiv 1912.04958; equalised learning rate, arXiv 1710.10196).

Weights are drawn from N(0, 1) and multiplied by gain / sqrt(fan in) when used. Parameters are float32;
`dtype` is that of activations. Convolution weights are (3, 3, in, out), dense ones (in, out).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from p4d_jax.types import Array

FILTER = (1.0, 3.0, 3.0, 1.0)
LEAKY_GAIN = math.sqrt(2)


def scaled_leaky_relu(x: Array) -> Array:
    """Leaky ReLU of slope 0.2 that keeps the variance of a normal input."""
    return jax.nn.leaky_relu(x, 0.2) * LEAKY_GAIN


class EqualizedDense(nn.Module):
    """A dense layer with equalised learning rate: (..., in) -> (..., features).

    Attributes:
      features: outputs.
      bias_init: initial value of the bias.
      lr_multiplier: learning rate of this layer relative to the others.
      dtype: of the activations.
    """

    features: int
    bias_init: float = 0.0
    lr_multiplier: float = 1.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        fan_in = x.shape[-1]
        normal = nn.initializers.normal(1 / self.lr_multiplier)
        weight = self.param("weight", normal, (fan_in, self.features))
        constant = nn.initializers.constant(self.bias_init / self.lr_multiplier)
        bias = self.param("bias", constant, (self.features,))
        weight = weight * (self.lr_multiplier / math.sqrt(fan_in))
        return x.astype(self.dtype) @ weight.astype(self.dtype) + (bias * self.lr_multiplier).astype(
            self.dtype
        )


def _filter_axis(x: Array, axis: int, taps: tuple[float, ...], before: int, after: int) -> Array:
    """Correlates one axis with `taps` after zero padding.

    A sum of shifted arrays: XLA fuses it on every device, where grouped convolutions are slow.
    """
    padding = [(0, 0)] * x.ndim
    padding[axis] = (before, after)
    padded = jnp.pad(x, padding)
    size = padded.shape[axis] - len(taps) + 1
    return sum(tap * jax.lax.slice_in_dim(padded, k, k + size, axis=axis) for k, tap in enumerate(taps))


def filter2d(x: Array, before: int, after: int, gain: float = 1.0) -> Array:
    """(..., H, W, C) low-passed by the outer product of (1, 3, 3, 1), after zero padding of both axes."""
    taps = tuple(math.sqrt(gain) * tap / sum(FILTER) for tap in FILTER)
    return _filter_axis(_filter_axis(x, x.ndim - 3, taps, before, after), x.ndim - 2, taps, before, after)


def _upsample_axis(x: Array, axis: int) -> Array:
    """Doubles one axis: each new sample is 3/4 of the near and 1/4 of the far neighbour, zero outside."""
    even = _filter_axis(x, axis, (0.25, 0.75), 1, 0)
    odd = _filter_axis(x, axis, (0.75, 0.25), 0, 1)
    shape = list(x.shape)
    shape[axis] *= 2
    return jnp.stack([even, odd], axis=axis + 1).reshape(shape)


def upsample2d(x: Array) -> Array:
    """(..., H, W, C) -> (..., 2H, 2W, C): zeros between the pixels, then `filter2d` with gain 4."""
    return _upsample_axis(_upsample_axis(x, x.ndim - 3), x.ndim - 2)


def downsample2d(x: Array) -> Array:
    """(..., H, W, C) -> (..., H / 2, W / 2, C): `filter2d`, then every second pixel."""
    return filter2d(x, 1, 1)[..., ::2, ::2, :]


def convolve(x: Array, weight: Array) -> Array:
    """Cross-correlation of (B, H, W, in) with (h, w, in, out), zero padded to the same size."""
    return jax.lax.conv_general_dilated(x, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


# Where the taps of a row of three, mirrored, meet the pixels of a row with zeros between them: even outputs
# see two neighbours through the outer taps, odd outputs one through the middle tap. (phase, neighbour, tap).
_PHASES = np.zeros((2, 2, 3), np.float32)
_PHASES[0, 0, 2] = _PHASES[0, 1, 0] = _PHASES[1, 1, 1] = 1


def convolve_upsampled(x: Array, weight: Array) -> Array:
    """(B, H, W, in) -> (B, 2H, 2W, out): zeros between the pixels, convolution with a 3x3 weight, `filter2d`.

    The weight is convolved, that is mirrored against `convolve`: how StyleGAN2's checkpoints hold it. A
    convolution with 2x2 taps gives the four pixels that come of one, most of whose taps would meet zeros:
    16 products where a convolution of the doubled image has 36.
    """
    batch, height, width, _ = x.shape
    phases, features = _PHASES.astype(weight.dtype), weight.shape[-1]
    taps = jnp.einsum("ajk,blm,kmio->jliabo", phases, phases, weight, precision=jax.lax.Precision.HIGHEST)
    taps = taps.reshape(2, 2, weight.shape[2], 4 * features)
    around = [(1, 1), (1, 1)]
    four = jax.lax.conv_general_dilated(x, taps, (1, 1), around, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    four = four.reshape(batch, height + 1, width + 1, 2, 2, features).transpose(0, 1, 3, 2, 4, 5)
    doubled = four.reshape(batch, 2 * height + 2, 2 * width + 2, features)[:, :-1, :-1]
    return filter2d(doubled, 1, 1, gain=4.0)


def modulated_convolution(
    x: Array,
    weight: Array,
    style: Array,
    *,
    demodulate: bool,
    convolution: Callable[[Array, Array], Array] = convolve,
) -> Array:
    """Convolves each image with the weight scaled by its own style.

    Scaling the input by the style and the output by the demodulation is the same and shares the weight.

    Args:
      x: (B, H, W, in).
      weight: (h, w, in, out).
      style: (B, in).
      demodulate: whether each output channel's weights are brought to unit norm.
      convolution: `convolve` or `convolve_upsampled`.
    """
    result = convolution(x * style[:, None, None].astype(x.dtype), weight.astype(x.dtype))
    if demodulate:
        energy = jnp.square(style) @ jnp.sum(jnp.square(weight), axis=(0, 1))
        result = result * jax.lax.rsqrt(energy + 1e-8)[:, None, None].astype(x.dtype)
    return result


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, bias, leaky ReLU: (B, H, W, in), (B, style) -> (B, H', W', features).

    Attributes:
      features: output channels.
      upsample: whether the image doubles.
      dtype: of the activations.
    """

    features: int
    upsample: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, w: Array) -> Array:
        x = x.astype(self.dtype)
        weight = self.param("weight", nn.initializers.normal(1.0), (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        style = EqualizedDense(x.shape[-1], bias_init=1.0, name="affine")(w)
        convolution = convolve_upsampled if self.upsample else convolve
        x = modulated_convolution(x, weight, style, demodulate=True, convolution=convolution)
        return scaled_leaky_relu(x + bias.astype(self.dtype))


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to `features` channels, in float32, without demodulation."""

    features: int = 3
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, w: Array) -> Array:
        x = x.astype(self.dtype)
        weight = self.param("weight", nn.initializers.normal(1.0), (1, 1, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        style = EqualizedDense(x.shape[-1], bias_init=1.0, name="affine")(w) / math.sqrt(x.shape[-1])
        rgb = modulated_convolution(x, weight, style, demodulate=False)
        return rgb.astype(jnp.float32) + bias


class SynthesisBlock(nn.Module):
    """Two synthesis layers, the first of which may double the image, and a skip connection of RGB.

    x (B, H, W, in), rgb (B, H, W, 3), styles (3, B, style), one a layer -> x (B, H', W', features) and rgb
    (B, H', W', 3).

    Attributes:
      features: output channels.
      upsample: whether the image doubles.
      image_channels: channels of the skip connection.
      dtype: of the activations.
    """

    features: int
    upsample: bool = True
    image_channels: int = 3
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, rgb: Array, ws: Array) -> tuple[Array, Array]:
        x = SynthesisLayer(self.features, self.upsample, self.dtype, name="conv0")(x, ws[0])
        x = SynthesisLayer(self.features, dtype=self.dtype, name="conv1")(x, ws[1])
        rgb = upsample2d(rgb) if self.upsample else rgb
        return x, rgb + ToRGB(self.image_channels, self.dtype, name="torgb")(x, ws[2])
