"""Transformer layers over an image's tokens, as in SegFormer (arXiv 2105.15203).

Letters: B batch, N = H W tokens of an image (row-major), M tokens attended to, D channels. Tokens are
(B, N, D); images are NHWC. The cross-attention block is Portrait4D's (arXiv 2311.18729, section 4.2):
image tokens ask, motion tokens answer, and a scale (1, or 0 for a static sample) multiplies the answer.

`dtype` is that of the layers. Parameters, the tokens between blocks (a sum over many layers), the statistics
of norms and the softmax are float32.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from p4d_jax.types import Array

dense_init = nn.initializers.truncated_normal(0.02)
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def tokens_to_image(tokens: Array, height: int, width: int) -> Array:
    """(B, H*W, D) -> (B, H, W, D)."""
    return tokens.reshape(tokens.shape[0], height, width, tokens.shape[-1])


def image_to_tokens(image: Array) -> Array:
    """(B, H, W, D) -> (B, H*W, D)."""
    return image.reshape(image.shape[0], -1, image.shape[-1])


def attend(query: Array, key: Array, value: Array, heads: int) -> Array:
    """Scaled dot-product attention: query (B, N, D), key and value (B, M, D) -> (B, N, D)."""
    split = lambda x: x.reshape(x.shape[0], x.shape[1], heads, -1)
    q, k, v = split(query), split(key), split(value)
    logits = jnp.einsum("bnhd,bmhd->bhnm", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    mixed = jnp.einsum("bhnm,bmhd->bnhd", weights, v)
    return mixed.reshape(query.shape)


class OverlapPatchEmbed(nn.Module):
    """Overlapping patches to tokens: (B, H, W, C) -> (B, (H/stride) (W/stride), dim)."""

    dim: int
    patch: int = 3
    stride: int = 2
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image: Array) -> tuple[Array, tuple[int, int]]:
        pad = self.patch // 2
        x = nn.Conv(
            self.dim,
            (self.patch, self.patch),
            self.stride,
            [(pad, pad), (pad, pad)],
            kernel_init=conv_init,
            dtype=self.dtype,
            name="proj",
        )(image)
        grid = x.shape[1:3]
        return nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, name="norm")(image_to_tokens(x)), grid


class SelfAttention(nn.Module):
    """Self-attention; `reduction` > 1 shrinks keys and values by a strided convolution."""

    heads: int
    reduction: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array, grid: tuple[int, int]) -> Array:
        dim = tokens.shape[-1]
        dense = functools.partial(nn.Dense, kernel_init=dense_init, dtype=self.dtype)
        query = dense(dim, name="q")(tokens)
        context = tokens
        if self.reduction > 1:
            window = (self.reduction, self.reduction)
            context = nn.Conv(
                dim, window, window, "VALID", kernel_init=conv_init, dtype=self.dtype, name="sr"
            )(tokens_to_image(tokens, *grid))
            context = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm")(image_to_tokens(context))
        key, value = jnp.split(dense(2 * dim, name="kv")(context), 2, axis=-1)
        return dense(dim, name="proj")(attend(query, key, value, self.heads))


class CrossAttention(nn.Module):
    """Image tokens (B, N, D) attend to motion tokens (B, M, D). Starts at zero, so that a network that
    knows nothing of motion is where training begins."""

    heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array, motion_tokens: Array) -> Array:
        dim = tokens.shape[-1]
        dense = functools.partial(nn.Dense, kernel_init=dense_init, dtype=self.dtype)
        query = dense(dim, name="q")(tokens)
        key, value = jnp.split(dense(2 * dim, name="kv")(motion_tokens), 2, axis=-1)
        return dense(dim, kernel_init=nn.initializers.zeros, name="proj")(
            attend(query, key, value, self.heads)
        )


class DepthwiseConv(nn.Module):
    """3x3 convolution of each channel by itself, zero padded: (B, H, W, D) -> (B, H, W, D).

    A sum of shifted images, in float32: XLA fuses it on every device, where grouped convolutions are slow.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image: Array) -> Array:
        _, height, width, dim = image.shape
        kernel = self.param("kernel", conv_init, (3, 3, 1, dim))
        bias = self.param("bias", nn.initializers.zeros, (dim,))
        padded = jnp.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
        taps = [
            kernel[i, j, 0] * padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)
        ]
        return (sum(taps) + bias).astype(self.dtype)


class MixFFN(nn.Module):
    """Feed-forward with a 3x3 depthwise convolution, which also tells tokens where they are."""

    ratio: int = 2
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array, grid: tuple[int, int]) -> Array:
        dim = tokens.shape[-1]
        hidden = dim * self.ratio
        dense = functools.partial(nn.Dense, kernel_init=dense_init, dtype=self.dtype)
        x = tokens_to_image(dense(hidden, name="fc1")(tokens), *grid)
        x = DepthwiseConv(self.dtype, name="dwconv")(x)
        return dense(dim, name="fc2")(nn.gelu(image_to_tokens(x), approximate=False))


class SelfBlock(nn.Module):
    """Pre-norm transformer block: self-attention, Mix-FFN."""

    heads: int
    ratio: int = 2
    reduction: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array, grid: tuple[int, int]) -> Array:
        norm = lambda name: nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name=name)
        x = tokens
        x = x + SelfAttention(self.heads, self.reduction, self.dtype, name="attn")(norm("norm1")(x), grid)
        return x + MixFFN(self.ratio, self.dtype, name="mlp")(norm("norm2")(x), grid)


class CrossBlock(nn.Module):
    """Cross-attention to the motion (times `scale` (B,)), self-attention, Mix-FFN."""

    heads: int
    ratio: int = 2
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array, motion_tokens: Array, grid: tuple[int, int], scale: Array) -> Array:
        norm = lambda name: nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name=name)
        x = tokens
        answer = CrossAttention(self.heads, self.dtype, name="attn2")(norm("norm2")(x), motion_tokens)
        x = x + answer * scale[:, None, None]
        x = x + SelfAttention(self.heads, dtype=self.dtype, name="attn1")(norm("norm1")(x), grid)
        return x + MixFFN(self.ratio, self.dtype, name="mlp")(norm("norm3")(x), grid)
