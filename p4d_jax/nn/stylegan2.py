"""StyleGAN2, NHWC: layers, generator and discriminator blocks (Karras et al., arXiv 1912.04958).

Weights are drawn from N(0, 1) and multiplied by gain / sqrt(fan in) when used (equalised learning rate, arXiv
1710.10196). Parameters are float32; `dtype` is that of activations. Convolution weights are (3, 3, in, out),
dense ones (in, out). `clamp` bounds the activations behind each nonlinearity: checkpoints that were trained
in half precision have it at 256, and keep it in float32.

Letters: B batch, R image size, W style size, L styles of a synthesis network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from p4d_jax.types import Array

FILTER = (1.0, 3.0, 3.0, 1.0)
LEAKY_GAIN = math.sqrt(2)
MAPPING_LR_MULTIPLIER = 0.01
# Noise of synthesis layers: left out, the stored image, or drawn with the rng named 'noise'.
Noise = Literal["none", "const", "random"]


def scaled_leaky_relu(x: Array) -> Array:
    """Leaky ReLU of slope 0.2 that keeps the variance of a normal input."""
    return jax.nn.leaky_relu(x, 0.2) * LEAKY_GAIN


def bound(x: Array, clamp: float | None) -> Array:
    """`x` within [-clamp, clamp]; as it is without a clamp."""
    return x if clamp is None else jnp.clip(x, -clamp, clamp)


def normalize_second_moment(x: Array) -> Array:
    """(..., C) scaled to a mean square of one over the last axis."""
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-8)


class EqualizedDense(nn.Module):
    """A dense layer with equalised learning rate: (..., in) -> (..., features).

    Several inputs are taken as if they were one along the last axis, without joining them in memory.

    Attributes:
      features: Number of outputs.
      bias_init: Initial value of the bias.
      lr_multiplier: Learning rate of this layer relative to the others.
      dtype: Number type of the activations.
    """

    features: int
    bias_init: float = 0.0
    lr_multiplier: float = 1.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, *inputs: Array) -> Array:
        widths = [x.shape[-1] for x in inputs]
        fan_in = sum(widths)
        normal = nn.initializers.normal(1 / self.lr_multiplier)
        weight = self.param("weight", normal, (fan_in, self.features))
        constant = nn.initializers.constant(self.bias_init / self.lr_multiplier)
        bias = self.param("bias", constant, (self.features,))
        weight = weight * (self.lr_multiplier / math.sqrt(fan_in))
        rows = jnp.split(weight.astype(self.dtype), np.cumsum(widths)[:-1])
        product = sum(x.astype(self.dtype) @ part for x, part in zip(inputs, rows, strict=True))
        return product + (bias * self.lr_multiplier).astype(self.dtype)


def filter_axis(x: Array, axis: int, taps: Sequence[float | Array], before: int, after: int) -> Array:
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
    return filter_axis(filter_axis(x, x.ndim - 3, taps, before, after), x.ndim - 2, taps, before, after)


def blur2d(x: Array, sigma: float) -> Array:
    """(..., H, W, C) blurred over both axes by 2^-(k / sigma)² for |k| up to 3 sigma pixels, zero outside.

    StyleGAN2's blur: its sigma is the distance at which a pixel counts half. Below 1/3 it does nothing.
    """
    reach = math.floor(3 * sigma)
    weights = [2.0 ** -((k / sigma) ** 2) for k in range(-reach, reach + 1)] if reach else [1.0]
    taps = tuple(weight / sum(weights) for weight in weights)
    return filter_axis(filter_axis(x, x.ndim - 3, taps, reach, reach), x.ndim - 2, taps, reach, reach)


def _upsample_axis(x: Array, axis: int) -> Array:
    """Doubles one axis: each new sample is 3/4 of the near and 1/4 of the far neighbour, zero outside."""
    even = filter_axis(x, axis, (0.25, 0.75), 1, 0)
    odd = filter_axis(x, axis, (0.75, 0.25), 0, 1)
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
    # Padded beforehand: the gradient of a padded convolution with 2x2 taps is 30 times slower on a CPU.
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    dimensions = ("NHWC", "HWIO", "NHWC")
    four = jax.lax.conv_general_dilated(padded, taps, (1, 1), "VALID", dimension_numbers=dimensions)
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
      demodulate: Whether each output channel's weights are brought to unit norm.
      convolution: `convolve` or `convolve_upsampled`.
    """
    result = convolution(x * style[:, None, None].astype(x.dtype), weight.astype(x.dtype))
    if demodulate:
        energy = jnp.square(style) @ jnp.sum(jnp.square(weight), axis=(0, 1))
        result = result * jax.lax.rsqrt(energy + 1e-8)[:, None, None].astype(x.dtype)
    return result


def block_channels(resolution: int, channel_base: int, channel_max: int) -> int:
    """Channels of a network at one resolution: as many as `channel_base` pays for, at most `channel_max`."""
    return min(channel_base // resolution, channel_max)


def block_resolutions(resolution: int) -> list[int]:
    """4, 8, ..., `resolution`, which must be such a power of two."""
    if resolution < 4 or resolution & (resolution - 1):
        raise ValueError(f"resolution: must be a power of two from 4 on, got {resolution}")
    return [2**k for k in range(2, resolution.bit_length())]


# Generator ------------------------------------------------------------------------------------------------


class MappingNetwork(nn.Module):
    """Latent and condition -> style: (B, Z), (B, C) -> (B, features).

    Attributes:
      features: W, of the style and of all layers between.
      layers: Number of dense layers.
    """

    features: int = 512
    layers: int = 8

    @nn.compact
    def __call__(self, latent: Array | None, condition: Array | None) -> Array:
        """Either may be None; both are brought to unit second moment, the condition after its embedding."""
        inputs = [] if latent is None else [normalize_second_moment(latent)]
        if condition is not None:
            inputs.append(normalize_second_moment(EqualizedDense(self.features, name="embed")(condition)))
        x = jnp.concatenate(inputs, axis=-1)
        for index in range(self.layers):
            layer = EqualizedDense(self.features, lr_multiplier=MAPPING_LR_MULTIPLIER, name=f"layer{index}")
            x = scaled_leaky_relu(layer(x))
        return x


def truncate_styles(ws: Array, w_avg: Array, training: Array | float, cutoff: int | None = None) -> Array:
    """Draws styles (B, L, W) towards the mean style (W,): psi 1 keeps them, psi 0 gives the mean.

    Args:
      training: the weight of the style against the mean.
      cutoff: Number of the L styles, coarse ones first, that are drawn to the mean; None for all.
    """
    # Not mean + psi * (w - mean): this form is exact at both ends.
    drawn = training * ws + (1 - training) * w_avg
    return drawn if cutoff is None else jnp.concatenate([drawn[:, :cutoff], ws[:, cutoff:]], axis=1)


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU: (B, H, W, in), (B, style) -> (B, H', W', features).

    Attributes:
      features: Number of output channels.
      upsample: Whether the image doubles.
      noisy: Whether the layer has a noise image (in the collection `buffers`) and a strength for it.
      clamp: Bound of the activations; see the module.
      dtype: Number type of the activations.
    """

    features: int
    upsample: bool = False
    noisy: bool = False
    clamp: float | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, w: Array, noise: Noise = "none") -> Array:
        x = x.astype(self.dtype)
        weight = self.param("weight", nn.initializers.normal(1.0), (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        style = EqualizedDense(x.shape[-1], bias_init=1.0, name="affine")(w)
        convolution = convolve_upsampled if self.upsample else convolve
        x = modulated_convolution(x, weight, style, demodulate=True, convolution=convolution)
        if self.noisy:
            x = x + self._noise(x.shape, noise).astype(self.dtype)
        return bound(scaled_leaky_relu(x + bias.astype(self.dtype)), self.clamp)

    def _noise(self, shape: tuple[int, ...], noise: Noise) -> Array:
        draw = lambda: jax.random.normal(self.make_rng("params"), shape[1:3])
        image = self.variable("buffers", "noise_const", draw).value[..., None]
        strength = self.param("noise_strength", nn.initializers.zeros, ())
        if noise == "random":
            image = jax.random.normal(self.make_rng("noise"), (*shape[:3], 1))
        elif noise == "none":
            return jnp.zeros(())
        elif noise != "const":
            raise ValueError(f"noise: 'none', 'const' or 'random', got {noise!r}")
        return image * strength


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to `features` channels, in float32, without demodulation."""

    features: int = 3
    clamp: float | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, w: Array) -> Array:
        x = x.astype(self.dtype)
        weight = self.param("weight", nn.initializers.normal(1.0), (1, 1, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        style = EqualizedDense(x.shape[-1], bias_init=1.0, name="affine")(w) / math.sqrt(x.shape[-1])
        rgb = modulated_convolution(x, weight, style, demodulate=False)
        return bound(rgb.astype(jnp.float32) + bias, self.clamp)


class SynthesisBlock(nn.Module):
    """Two synthesis layers, the first of which may double the image, and a skip connection of RGB.

    x (B, H, W, in), rgb (B, H, W, 3), styles (3, B, style), one a layer -> x (B, H', W', features) and rgb
    (B, H', W', 3).

    Attributes:
      features: Number of output channels.
      upsample: Whether the image doubles.
      image_channels: Channels of the skip connection.
      noisy, clamp: see `SynthesisLayer`.
      dtype: Number type of the activations.
    """

    features: int
    upsample: bool = True
    image_channels: int = 3
    noisy: bool = False
    clamp: float | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, rgb: Array, ws: Array, noise: Noise = "none") -> tuple[Array, Array]:
        common = {"noisy": self.noisy, "clamp": self.clamp, "dtype": self.dtype}
        x = SynthesisLayer(self.features, self.upsample, **common, name="conv0")(x, ws[0], noise)
        x = SynthesisLayer(self.features, **common, name="conv1")(x, ws[1], noise)
        rgb = upsample2d(rgb) if self.upsample else rgb
        return x, rgb + ToRGB(self.image_channels, self.clamp, self.dtype, name="torgb")(x, ws[2])


class FirstBlock(nn.Module):
    """A learned 4x4 image, one synthesis layer, RGB: styles (2, B, style) -> x (B, 4, 4, features) and rgb.

    Attributes: see `SynthesisBlock`.
    """

    features: int
    image_channels: int = 3
    noisy: bool = False
    clamp: float | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, ws: Array, noise: Noise = "none") -> tuple[Array, Array]:
        const = self.param("const", nn.initializers.normal(1.0), (4, 4, self.features))
        x = jnp.broadcast_to(const, (ws.shape[1], *const.shape))
        layer = SynthesisLayer(
            self.features, noisy=self.noisy, clamp=self.clamp, dtype=self.dtype, name="conv1"
        )
        x = layer(x, ws[0], noise)
        return x, ToRGB(self.image_channels, self.clamp, self.dtype, name="torgb")(x, ws[1])


class SynthesisNetwork(nn.Module):
    """Styles (B, L, W) -> image (B, R, R, image_channels), the sum of what each resolution adds.

    Attributes:
      resolution: R, a power of two.
      image_channels: Channels of the image, any number.
      channel_base, channel_max: see `block_channels`.
      clamp, dtype: see `SynthesisLayer`.
    """

    resolution: int
    image_channels: int
    channel_base: int = 32768
    channel_max: int = 512
    clamp: float | None = None
    dtype: jnp.dtype = jnp.float32

    @property
    def styles(self) -> int:
        """L: one a convolution and one for the last RGB; each RGB shares its style with the next layer."""
        return 2 * len(block_resolutions(self.resolution))

    @nn.compact
    def __call__(self, ws: Array, noise: Noise = "const") -> Array:
        if ws.ndim != 3 or ws.shape[1] != self.styles:
            raise ValueError(f"ws: expected (B, {self.styles}, W), got {ws.shape}")
        by_layer = ws.swapaxes(0, 1)
        common = {
            "image_channels": self.image_channels, "noisy": True, "clamp": self.clamp, "dtype": self.dtype
        }  # fmt: skip
        channels = lambda size: block_channels(size, self.channel_base, self.channel_max)
        x, image = FirstBlock(channels(4), **common, name="block4")(by_layer[:2], noise)
        for index, size in enumerate(block_resolutions(self.resolution)[1:]):
            block = SynthesisBlock(channels(size), **common, name=f"block{size}")
            x, image = block(x, image, by_layer[2 * index + 1 : 2 * index + 4], noise)
        return image


class Generator(nn.Module):
    """Mapping and synthesis; `w_avg` in the collection `buffers` is the mean style that truncation needs.

    Attributes:
      resolution, image_channels, channel_base, channel_max, clamp, dtype: see `SynthesisNetwork`.
      style_size: W.
      mapping_layers: Number of layers of the mapping network.
    """

    resolution: int
    image_channels: int
    style_size: int = 512
    mapping_layers: int = 8
    channel_base: int = 32768
    channel_max: int = 512
    clamp: float | None = None
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.mapping = MappingNetwork(self.style_size, self.mapping_layers)
        self.synthesis = SynthesisNetwork(
            self.resolution,
            self.image_channels,
            self.channel_base,
            self.channel_max,
            self.clamp,
            self.dtype,
        )
        self.w_avg = self.variable("buffers", "w_avg", jnp.zeros, (self.style_size,))

    def map(
        self,
        latent: Array,
        condition: Array | None,
        truncation_psi: Array | float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Array:
        """latent (B, Z), condition (B, C) or None -> styles (B, L, W); see `truncate_styles`."""
        w = self.mapping(latent, condition)
        ws = jnp.broadcast_to(w[:, None], (w.shape[0], self.synthesis.styles, w.shape[1]))
        return truncate_styles(ws, self.w_avg.value, truncation_psi, truncation_cutoff)

    def synthesize(self, ws: Array, noise: Noise = "const") -> Array:
        """Styles (B, L, W) -> (B, R, R, image_channels)."""
        return self.synthesis(ws, noise)

    def __call__(self, latent: Array, condition: Array | None, noise: Noise = "const") -> Array:
        """Image of a latent without truncation."""
        return self.synthesize(self.map(latent, condition), noise)


# Discriminator --------------------------------------------------------------------------------------------


def convolve_downsampled(x: Array, weight: Array) -> Array:
    """(B, H, W, in) -> (B, H / 2, W / 2, out): `filter2d`, then every second pixel of the convolution.

    The weight (k, k, in, out) has an odd k.
    """
    pad = 1 + weight.shape[0] // 2
    strides, layout = (2, 2), ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        filter2d(x, pad, pad), weight, strides, "VALID", dimension_numbers=layout
    )


class EqualizedConv(nn.Module):
    """Convolution, bias, leaky ReLU with equalised learning rate: (B, H, W, in) -> (B, H', W', features).

    Attributes:
      features: Number of output channels.
      kernel: Odd side of the kernel.
      convolution: `convolve` or `convolve_downsampled`.
      gain: Factor of the output, and of its clamp.
      clamp, dtype: see the module.
    """

    features: int
    kernel: int = 3
    convolution: Callable[[Array, Array], Array] = convolve
    gain: float = 1.0
    clamp: float | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        weight = self.param("weight", nn.initializers.normal(1.0), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        weight = (weight / math.sqrt(math.prod(shape[:3]))).astype(self.dtype)
        x = self.convolution(x.astype(self.dtype), weight) + bias.astype(self.dtype)
        return bound(scaled_leaky_relu(x), self.clamp) * self.gain


class DiscriminatorBlock(nn.Module):
    """Residual block that halves the image: (B, H, W, in) -> (B, H / 2, W / 2, features).

    Attributes:
      features: Number of output channels.
      clamp, dtype: see the module.
    """

    features: int
    clamp: float | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x.astype(self.dtype)
        channels, half = x.shape[-1], math.sqrt(0.5)
        skip = self.param("skip", nn.initializers.normal(1.0), (1, 1, channels, self.features))
        shortcut = convolve(downsample2d(x), (skip * (half / math.sqrt(channels))).astype(self.dtype))
        common = {"clamp": self.clamp, "dtype": self.dtype}
        x = EqualizedConv(channels, **common, name="conv0")(x)
        x = EqualizedConv(self.features, convolution=convolve_downsampled, gain=half, **common, name="conv1")(
            x
        )
        return shortcut + x


def minibatch_stddev(x: Array, group_size: int) -> Array:
    """Appends how much the images of a group differ: (B, H, W, C) -> (B, H, W, C + 1).

    The batch is dealt into B / G groups, image b to group b mod (B / G), G = min(group_size, B). A statistic
    of the batch: where the batch is split over devices, so are the groups' members.
    """
    batch, height, width, channels = x.shape
    group = min(group_size, batch)
    if batch % group:
        raise ValueError(f"x: a batch of {batch} does not divide into groups of {group}")
    grouped = x.astype(jnp.float32).reshape(group, batch // group, height, width, channels)
    variance = jnp.mean(jnp.square(grouped - grouped.mean(0)), axis=0)
    stddev = jnp.sqrt(variance + 1e-8).mean(axis=(1, 2, 3))
    column = jnp.tile(stddev, group)[:, None, None, None]
    return jnp.concatenate([x, jnp.broadcast_to(column, (*x.shape[:3], 1)).astype(x.dtype)], axis=-1)


class DiscriminatorEpilogue(nn.Module):
    """Statistics of the batch, a convolution and two dense layers, in float32: (B, 4, 4, C) -> (B, features).

    Attributes:
      features: Number of outputs.
      group_size: of `minibatch_stddev`.
      clamp: Bound of the activations; see the module.
    """

    features: int
    group_size: int = 4
    clamp: float | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        x = minibatch_stddev(x.astype(jnp.float32), self.group_size)
        x = EqualizedConv(channels, clamp=self.clamp, name="conv")(x)
        x = scaled_leaky_relu(EqualizedDense(channels, name="dense")(x.reshape(x.shape[0], -1)))
        return EqualizedDense(self.features, name="out")(x)
