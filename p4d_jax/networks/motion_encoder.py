"""E_mot, the motion of a face apart from its identity: PD-FGC's motion encoder (CVPR 2023, arXiv 2211.14506).

A face alignment network (FAN, arXiv 1703.07332): convolutions to S/4, one hourglass over them, 68 landmark
maps, one number a pixel of S/8, a dense layer; then a small head for each of head pose, eyes, emotion and
mouth. Portrait4D's motion vector v has 548 numbers: eyes 6, emotion 30, mouth 512
(docs/concepts/conventions.md, 1.4); the camera carries the head's pose. NHWC, images in [-1, 1], 224 x 224,
aligned by `align_for_motion`.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from flax import struct

from p4d_jax.geometry.similarity import MOTION_SIZE, motion_transform
from p4d_jax.imaging.affine import warp_affine
from p4d_jax.imaging.resizing import resize_bilinear
from p4d_jax.nn.convnet import batch_norm, conv
from p4d_jax.types import Array

# PD-FGC sees its aligned crop without this many pixels on the left and on the right, and twice as many below.
CROP_MARGIN = 16


@struct.dataclass
class MotionFeatures:
    """Motion features of B faces.

    Attributes:
      headpose: (B, 6).
      eye: (B, 6).
      emotion: (B, 30).
      mouth: (B, 512).
    """

    headpose: Array
    eye: Array
    emotion: Array
    mouth: Array

    def vector(self) -> Array:
        """The motion vector v (B, 548): eyes, emotion, mouth."""
        return jnp.concatenate([self.eye, self.emotion, self.mouth], axis=-1)


class PyramidBlock(nn.Module):
    """Three 3x3 convolutions in a row, their outputs side by side, plus a shortcut: C -> `features` channels.

    Attributes:
      features: Number of output channels; the three give a half, a quarter and a quarter of them.
      dtype: Number type of the activations.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        outputs, y = [], x
        for index, share in enumerate((2, 4, 4), 1):
            y = nn.relu(batch_norm(dtype=self.dtype, name=f"bn{index}")(y))
            y = conv(self.features // share, 3, dtype=self.dtype, name=f"conv{index}")(y)
            outputs.append(y)
        if x.shape[-1] != self.features:
            x = nn.relu(batch_norm(dtype=self.dtype, name="shortcut_bn")(x))
            x = conv(self.features, 1, dtype=self.dtype, name="shortcut")(x)
        return x + jnp.concatenate(outputs, axis=-1)


class Hourglass(nn.Module):
    """`depth` times halved, then doubled again, with a block aside at every size: shape stays.

    Attributes:
      features: Number of channels.
      depth: Number of halvings; blocks are named by the level, `depth` the finest.
      dtype: Number type of the activations.
    """

    features: int
    depth: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def block(kind: str, level: int) -> PyramidBlock:
            return PyramidBlock(self.features, self.dtype, name=f"{kind}_{level}")

        asides = []
        for level in range(self.depth, 0, -1):
            asides.append(block("aside", level)(x))
            x = block("down", level)(nn.max_pool(x, (2, 2), (2, 2)))
        x = block("bottom", 1)(x)
        for level, aside in enumerate(reversed(asides), 1):
            x = aside + resize_bilinear(block("up", level)(x), aside.shape[1:3])
        return x


class MotionEncoder(nn.Module):
    """Aligned faces (B, S, S, 3), S a multiple of 8 -> `MotionFeatures`.

    Attributes:
      features: Channels of the hourglass; the stages before have a quarter and a half of them.
      depth: Number of halvings inside the hourglass.
      landmarks: Number of landmark maps.
      hidden: Width of everything after them, and of `mouth`.
      headpose, eye, emotion: Lengths of the other outputs.
      image_size: S, side of the input; it fixes the dense layer's size.
      dtype: Number type of the activations; outputs are float32.
    """

    features: int = 256
    depth: int = 4
    landmarks: int = 68
    hidden: int = 512
    headpose: int = 6
    eye: int = 6
    emotion: int = 30
    image_size: int = MOTION_SIZE
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.trunk = FaceTrunk(
            self.features, self.depth, self.landmarks, self.hidden, self.dtype, name="trunk"
        )
        self.to_mouth = MotionHead(self.hidden, 0, self.dtype)
        self.to_headpose = MotionHead(self.hidden, self.headpose, self.dtype)
        self.to_eye = MotionHead(self.hidden, self.eye, self.dtype)
        self.to_emotion = MotionHead(self.hidden, self.emotion, self.dtype)

    def __call__(self, images: Array) -> MotionFeatures:
        size = self.image_size
        if images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise ValueError(f"images: expected aligned faces (B, {size}, {size}, 3), got {images.shape}")
        x = self.trunk(images)
        heads = (self.to_headpose(x), self.to_eye(x), self.to_emotion(x), self.to_mouth(x))
        return MotionFeatures(*(output.astype(jnp.float32) for output in heads))

    def motion_vector(self, images: Array) -> Array:
        """Aligned faces (B, S, S, 3) -> motion vectors v (B, 548)."""
        return self(images).vector()


class FaceTrunk(nn.Module):
    """(B, S, S, 3) -> (B, hidden). Attributes as `MotionEncoder`'s."""

    features: int
    depth: int
    landmarks: int
    hidden: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images: Array) -> Array:
        f, dtype = self.features, self.dtype
        x = conv(f // 4, 7, 2, use_bias=True, dtype=dtype, name="stem")(images)
        x = nn.relu(batch_norm(dtype=dtype, name="stem_bn")(x))
        x = nn.max_pool(PyramidBlock(f // 2, dtype, name="block0")(x), (2, 2), (2, 2))
        x = PyramidBlock(f // 2, dtype, name="block1")(x)
        x = PyramidBlock(f, dtype, name="block2")(x)
        x = Hourglass(f, self.depth, dtype, name="hourglass")(x)
        x = PyramidBlock(f, dtype, name="top")(x)
        x = conv(f, 1, use_bias=True, dtype=dtype, name="mix")(x)
        x = nn.relu(batch_norm(dtype=dtype, name="mix_bn")(x))
        x = conv(self.landmarks, 1, use_bias=True, dtype=dtype, name="landmark_maps")(x)
        x = nn.relu(batch_norm(dtype=dtype, name="landmark_bn")(x))
        x = nn.relu(conv(1, 3, 2, use_bias=True, dtype=dtype, name="squeeze")(x))
        return nn.Dense(self.hidden, dtype=dtype, name="dense")(x.reshape(x.shape[0], -1))


class MotionHead(nn.Module):
    """(B, hidden) -> (B, hidden) features or, where `embedding` is not 0, (B, embedding)."""

    hidden: int
    embedding: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name="dense0")(x))
        x = batch_norm(dtype=self.dtype, name="bn")(x)
        x = nn.Dense(self.hidden, dtype=self.dtype, name="dense1")(x)
        if self.embedding:
            x = nn.Dense(self.embedding, dtype=self.dtype, name="embed")(nn.relu(x))
        return x


def align_for_motion(image: Array, landmarks: Array) -> Array:
    """The crop that PD-FGC expects of one image.

    Args:
      image: (H, W, 3) in [-1, 1].
      landmarks: (70, 2) in pixels of the image, y down; see `geometry.motion_transform`.

    Returns:
      (224, 224, 3) in [-1, 1], grey where the crop leaves the image.
    """
    crop = warp_affine(image, motion_transform(landmarks), MOTION_SIZE)
    inner = crop[: MOTION_SIZE - 2 * CROP_MARGIN, CROP_MARGIN : MOTION_SIZE - CROP_MARGIN]
    return jnp.clip(resize_bilinear(inner, MOTION_SIZE), -1, 1)


def portrait_motion(encoder: MotionEncoder, variables: dict, image: Array, landmarks: Array) -> Array:
    """The motion vector v (548,) of one image and its landmarks, both as `align_for_motion` wants them."""
    aligned = align_for_motion(image, landmarks)
    return encoder.apply(variables, aligned[None], method="motion_vector")[0]
