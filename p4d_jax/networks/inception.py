"""Inception-v3 as the Fréchet inception distance uses it: images -> 2048 features.

The network of arXiv 1512.00567 with the weights of TensorFlow's `inception-2015-12-05` (Heusel et al. 2017,
arXiv 1706.08500), which differ from a classifier's usual ones in three things: average pooling does not count
the padding, the last block pools by maximum, and images are resized to 299 x 299 bilinearly without a
low-pass filter. Blocks and branches have the names of the weights' port to PyTorch. NHWC, images in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from p4d_jax.imaging.resizing import resize_bilinear
from p4d_jax.nn.convnet import batch_norm, conv
from p4d_jax.types import Array

# A convolution of a branch: name, output channels, kernel (rows, columns), stride; padded where that is 1.
ConvRow = tuple[str, int, tuple[int, int], int]


class ConvUnit(nn.Module):
    """Convolution, batch normalisation, ReLU.

    Attributes:
      features, kernel, stride: Channels, size and stride of the convolution.
      padded: Whether zeros keep the size at stride 1.
      dtype: Number type of the activations.
    """

    features: int
    kernel: tuple[int, int]
    stride: int = 1
    padded: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        padding = None if self.padded else 0
        x = conv(self.features, self.kernel, self.stride, padding, dtype=self.dtype, name="conv")(x)
        return nn.relu(batch_norm(1e-3, self.dtype, name="bn")(x))


class InceptionBlock(nn.Module):
    """Branches side by side: (B, h, w, C) -> (B, h', w', sum of the branches').

    Attributes:
      branches: Rows of convolutions. Rows that begin alike share the convolutions of one name.
      pool: Pooling of the last branch.
      pool_features: Channels of the 1x1 convolution behind it; 0 for none.
      divisor: Number by which all channel counts are divided.
      dtype: Number type of the activations.
    """

    branches: tuple[tuple[ConvRow, ...], ...]
    pool: Callable[[Array], Array]
    pool_features: int
    divisor: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        done = {(): x}
        for branch in self.branches:
            for length, (name, features, kernel, stride) in enumerate(branch):
                if branch[: length + 1] not in done:
                    unit = ConvUnit(
                        features // self.divisor, kernel, stride, stride == 1, self.dtype, name=name
                    )
                    done[branch[: length + 1]] = unit(done[branch[:length]])
        pooled = self.pool(x)
        if self.pool_features:
            features = self.pool_features // self.divisor
            pooled = ConvUnit(features, (1, 1), dtype=self.dtype, name="branch_pool")(pooled)
        return jnp.concatenate([*(done[branch] for branch in self.branches), pooled], axis=-1)


def _mean_pool(x: Array) -> Array:
    return nn.avg_pool(x, (3, 3), padding=[(1, 1), (1, 1)], count_include_pad=False)


def _max_pool(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), padding=[(1, 1), (1, 1)])


def _halving_pool(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), (2, 2))


def _branch(prefix: str, *rows: tuple[str, int, int, int, int]) -> tuple[ConvRow, ...]:
    """Rows (suffix, channels, kernel rows, kernel columns, stride) of one branch."""
    return tuple((prefix + suffix, n, (h, w), stride) for suffix, n, h, w, stride in rows)


_DOUBLE_3X3 = (("_1", 64, 1, 1, 1), ("_2", 96, 3, 3, 1))

BLOCK_5 = (
    _branch("branch1x1", ("", 64, 1, 1, 1)),
    _branch("branch5x5", ("_1", 48, 1, 1, 1), ("_2", 64, 5, 5, 1)),
    _branch("branch3x3dbl", *_DOUBLE_3X3, ("_3", 96, 3, 3, 1)),
)
BLOCK_6A = (
    _branch("branch3x3", ("", 384, 3, 3, 2)),
    _branch("branch3x3dbl", *_DOUBLE_3X3, ("_3", 96, 3, 3, 2)),
)
BLOCK_7A = (
    _branch("branch3x3", ("_1", 192, 1, 1, 1), ("_2", 320, 3, 3, 2)),
    _branch(
        "branch7x7x3", ("_1", 192, 1, 1, 1), ("_2", 192, 1, 7, 1), ("_3", 192, 7, 1, 1), ("_4", 192, 3, 3, 2)
    ),
)
BLOCK_7 = (
    _branch("branch1x1", ("", 320, 1, 1, 1)),
    _branch("branch3x3", ("_1", 384, 1, 1, 1), ("_2a", 384, 1, 3, 1)),
    _branch("branch3x3", ("_1", 384, 1, 1, 1), ("_2b", 384, 3, 1, 1)),
    _branch("branch3x3dbl", ("_1", 448, 1, 1, 1), ("_2", 384, 3, 3, 1), ("_3a", 384, 1, 3, 1)),
    _branch("branch3x3dbl", ("_1", 448, 1, 1, 1), ("_2", 384, 3, 3, 1), ("_3b", 384, 3, 1, 1)),
)


def block_6(width: int) -> tuple[tuple[ConvRow, ...], ...]:
    """Branches of the blocks with 7x7 convolutions taken apart, `width` channels inside."""
    return (
        _branch("branch1x1", ("", 192, 1, 1, 1)),
        _branch("branch7x7", ("_1", width, 1, 1, 1), ("_2", width, 1, 7, 1), ("_3", 192, 7, 1, 1)),
        _branch(
            "branch7x7dbl",
            ("_1", width, 1, 1, 1),
            ("_2", width, 7, 1, 1),
            ("_3", width, 1, 7, 1),
            ("_4", width, 7, 1, 1),
            ("_5", 192, 1, 7, 1),
        ),
    )


# Name, branches, pooling, channels behind the pooling.
BLOCKS = (
    ("Mixed_5b", BLOCK_5, _mean_pool, 32),
    ("Mixed_5c", BLOCK_5, _mean_pool, 64),
    ("Mixed_5d", BLOCK_5, _mean_pool, 64),
    ("Mixed_6a", BLOCK_6A, _halving_pool, 0),
    ("Mixed_6b", block_6(128), _mean_pool, 192),
    ("Mixed_6c", block_6(160), _mean_pool, 192),
    ("Mixed_6d", block_6(160), _mean_pool, 192),
    ("Mixed_6e", block_6(192), _mean_pool, 192),
    ("Mixed_7a", BLOCK_7A, _halving_pool, 0),
    ("Mixed_7b", BLOCK_7, _mean_pool, 192),
    ("Mixed_7c", BLOCK_7, _max_pool, 192),
)


class InceptionV3(nn.Module):
    """Images (B, H, W, 3) in [-1, 1] of any size -> features (B, 2048 / divisor), float32.

    Attributes:
      divisor: Number by which all channel counts are divided; 1 is the released network.
      image_size: Side to which images are resized, at least 75.
      dtype: Number type of the activations.
    """

    divisor: int = 1
    image_size: int = 299
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> Array:
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images: expected shape (B, H, W, 3), got {images.shape}")
        if self.image_size < 75:
            raise ValueError(f"image_size: the network needs at least 75, got {self.image_size}")

        def unit(name: str, features: int, kernel: int, stride: int = 1, padded: bool = False) -> ConvUnit:
            return ConvUnit(features // self.divisor, (kernel, kernel), stride, padded, self.dtype, name=name)

        x = resize_bilinear(images, self.image_size)
        x = unit("Conv2d_1a_3x3", 32, 3, 2)(x)
        x = unit("Conv2d_2a_3x3", 32, 3)(x)
        x = _halving_pool(unit("Conv2d_2b_3x3", 64, 3, padded=True)(x))
        x = unit("Conv2d_3b_1x1", 80, 1)(x)
        x = _halving_pool(unit("Conv2d_4a_3x3", 192, 3)(x))
        for name, branches, pool, pool_features in BLOCKS:
            x = InceptionBlock(branches, pool, pool_features, self.divisor, self.dtype, name=name)(x)
        return x.astype(jnp.float32).mean((1, 2))
