"""How much of what a picture of an avatar shows its photo does not show, and is guessed therefore."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax.avatar.avatar import Avatar
from p4d_jax.avatar.textured_head import inner_mouth, visibility
from p4d_jax.head.model import HeadModel
from p4d_jax.head.skinning import posed_vertices
from p4d_jax.render.raster import rasterize
from p4d_jax.train.devices import once_jit
from p4d_jax.types import Array, FrameParams, in_blocks

SHOWN = 0.2  # of `visibility`, from which the photo shows a triangle
PIXELS = 128  # a side, of the frames in which the share is counted


def guessed_shares(avatar: Avatar, frames: FrameParams) -> np.ndarray:
    """(T,) in [0, 1]: of the head's pixels that each frame shows, the share that the first photo does not.

    By the head model alone: hair that hides a face, or a hand, is not known to it.

    Args:
      frames: Parameters (T, ...) of this person, as `Avatar.retarget` returns them.
    """
    head, params = avatar.model.head, avatar.params
    shown = _shown(head, params, inner_mouth(head))
    return in_blocks(functools.partial(_shares, head, params.shape, shown), frames, rows=16)


@once_jit
def _shown(head: HeadModel, params: FrameParams, inner: Array) -> Array:
    """(F,) in [0, 1] how surely the photo shows each triangle."""
    posed = posed_vertices(head, params.shape, params)
    return jnp.clip(visibility(head, posed, params.camera, inner) / SHOWN, 0.0, 1.0)


@jax.jit
def _shares(head: HeadModel, shape: Array, shown: Array, frames: FrameParams) -> Array:
    def one(frame: FrameParams) -> Array:
        raster = rasterize(posed_vertices(head, shape, frame), head.faces, frame.camera, PIXELS)
        there = raster.face_index >= 0
        lacks = jnp.where(there, 1.0 - shown[raster.face_index], 0.0)
        return jnp.sum(lacks) / jnp.maximum(jnp.sum(there), 1)

    return jax.lax.map(one, frames)
