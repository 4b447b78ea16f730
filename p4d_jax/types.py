"""The few dataclasses that travel between rooms.

All are pytrees (``flax.struct``): they pass through ``jit``, ``vmap`` and ``scan``. Leading batch axes are
allowed everywhere and written ``...``. Conventions: docs/concepts/conventions.md (camera looks along -z, y
up, world origin at the canonical neck joint, FLAME metres times 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

Array = jax.Array
Tree = TypeVar("Tree")  # a pytree, such as the dataclasses below

SHAPE_SIZE = 300
EXPRESSION_SIZE = 100
FRAME_VECTOR_SIZE = 437
MOTION_SIZE = 109  # flame_motion: expression 100, jaw 3, eyes 6

BOX_WARP = 1.3  # side of the tri-planes' box about the world's origin, world units
FOV_DEGREES = 12.0  # of every camera here, edge to edge
CAMERA_RADIUS = 4.05  # usual distance of a camera from the world's origin: the middle of 3.65 to 4.45
CAMERA_PIVOT = (0.0, 0.0, 0.09)  # usual point that a camera looks at, behind the nose


def shaped(*sizes: int) -> jax.ShapeDtypeStruct:
    """An array of float32 that is not there yet: its shape stands for it in `lazy_init` and `lower`."""
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


class VectorParts:
    """Where the parts of a frame lie in the 437 numbers of `FrameParams.to_vector`."""

    CAM2WORLD: Final = slice(0, 16)  # row-major
    INTRINSICS: Final = slice(16, 25)  # row-major
    CAMERA: Final = slice(0, 25)
    SHAPE: Final = slice(25, 325)
    EXPRESSION: Final = slice(325, 425)
    POSE: Final = slice(425, 431)
    NECK: Final = slice(425, 428)
    EYES: Final = slice(431, 437)


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
        parts = (self.expression, self.jaw, self.eyes)
        return _numpy_of(parts).concatenate(parts, axis=-1)

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
        parts = VectorParts
        label, *rest = (
            vector[..., part]
            for part in (parts.CAMERA, parts.SHAPE, parts.EXPRESSION, parts.POSE, parts.EYES)
        )
        return cls(Camera.from_label(label), *rest)


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


# Frames are pytrees with leading axes; these five move between one and many.


def take(tree: Tree, index: Any) -> Tree:
    """Every leaf at `index` of its first axis: one frame (an integer), or some (a slice, an array)."""
    return jax.tree.map(lambda x: x[index], tree)


def stack(trees: Sequence[Tree]) -> Tree:
    """Many on a new first axis. Leaves of NumPy stay on the host."""
    return jax.tree.map(lambda *x: _numpy_of(x).stack(x), *trees)


def concatenate(trees: Sequence[Tree]) -> Tree:
    """Many joined along their first axis. Leaves of NumPy stay on the host."""
    return jax.tree.map(lambda *x: _numpy_of(x).concatenate(x), *trees)


def in_blocks(f: Callable[[Tree], Tree], tree: Tree, rows: int = 64) -> Tree:
    """`f` of a tree (T, ...), a block of its rows at a time: (T, ...) on the host.

    The last row is repeated to fill the last block: whatever T is, `f` compiles one program.
    """
    tree = on_host(tree)
    count = len(jax.tree.leaves(tree)[0])
    filled = jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[-1:], -count % rows, axis=0)]), tree)
    blocks = [on_host(f(take(filled, slice(first, first + rows)))) for first in range(0, count, rows)]
    return take(concatenate(blocks), slice(count))


def on_host(tree: Tree) -> Tree:
    """Every leaf as an array of NumPy: slicing it then costs no device transfer."""
    return jax.tree.map(np.asarray, tree)


def _numpy_of(leaves: Sequence[Any]) -> Any:
    """numpy where all leaves are its arrays, else jax.numpy."""
    return np if all(isinstance(leaf, np.ndarray | np.generic) for leaf in leaves) else jnp
