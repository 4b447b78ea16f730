"""The few dataclasses that travel between rooms.

All are pytrees (``flax.struct``): they pass through ``jit``, ``vmap`` and ``scan``. Leading batch axes are
allowed everywhere and written ``...``. Conventions: docs/concepts/conventions.md (camera looks along -z, y
up, world origin at the canonical neck joint, FLAME metres times 3).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array

SHAPE_SIZE = 300
EXPRESSION_SIZE = 100
FRAME_VECTOR_SIZE = 437
MOTION_SIZE = 109  # flame_motion: expression 100, jaw 3, eyes 6


@struct.dataclass
class Camera:
    """A pinhole camera.

    Attributes:
      cam2world: (..., 4, 4) rigid transform from camera space (x right, y up, looking along -z) to the world.
      intrinsics: (..., 3, 3) divided by the image's size: focal lengths on the diagonal, centre at 0.5.
    """

    cam2world: Array
    intrinsics: Array

    def to_label(self) -> Array:
        """The camera label c: (..., 25), cam2world row-major and then intrinsics row-major."""
        batch = self.cam2world.shape[:-2]
        return jnp.concatenate(
            [self.cam2world.reshape(*batch, 16), self.intrinsics.reshape(*batch, 9)], axis=-1
        )

    @classmethod
    def from_label(cls, label: Array) -> Camera:
        """Inverse of `to_label`: (..., 25) -> Camera."""
        if label.shape[-1] != 25:
            raise ValueError(f"label: the last axis must be 25, got shape {label.shape}")
        batch = label.shape[:-1]
        return cls(label[..., :16].reshape(*batch, 4, 4), label[..., 16:].reshape(*batch, 3, 3))


@struct.dataclass
class FrameParams:
    """Everything a parametric head says about one frame: 437 numbers (docs/concepts/conventions.md, 1.4).

    Attributes:
      camera: The camera that sees the frame; it carries the head's rotation.
      shape: (..., 300) identity coefficients alpha; a head model with fewer components ignores the rest.
      expression: (..., 100) expression coefficients beta; likewise.
      pose: (..., 6) rotations of neck (3) and jaw (3), axis-angle in radians.
      eyes: (..., 6) rotations of the left (3) and the right eye (3), axis-angle in radians.
    """

    camera: Camera
    shape: Array
    expression: Array
    pose: Array
    eyes: Array

    @property
    def neck(self) -> Array:
        return self.pose[..., :3]

    @property
    def jaw(self) -> Array:
        return self.pose[..., 3:]

    def motion(self) -> Array:
        """flame_motion (..., 109): expression, jaw, eyes."""
        return jnp.concatenate([self.expression, self.jaw, self.eyes], axis=-1)

    def to_vector(self) -> Array:
        """The public file layout (..., 437): camera 25, shape, expression, pose, eyes."""
        return jnp.concatenate(
            [self.camera.to_label(), self.shape, self.expression, self.pose, self.eyes], axis=-1
        )

    @classmethod
    def from_vector(cls, vector: Array) -> FrameParams:
        """Inverse of `to_vector`: (..., 437) -> FrameParams."""
        if vector.shape[-1] != FRAME_VECTOR_SIZE:
            raise ValueError(f"vector: the last axis must be {FRAME_VECTOR_SIZE}, got shape {vector.shape}")
        label, shape, expression, pose, eyes = jnp.split(vector, (25, 325, 425, 431), axis=-1)
        return cls(Camera.from_label(label), shape, expression, pose, eyes)


@struct.dataclass
class RenderOutput:
    """What the volume renderer returns for one view.

    Attributes:
      features: (R, R, C) feature image without background; the first three channels are RGB in [0, 1].
      depth: (R, R, 1) expected distance along the ray.
      transmittance: (R, R, 1) fraction of the background that passes, in [0, 1].
    """

    features: Array
    depth: Array
    transmittance: Array
