"""Photos of a folder (`data.photos`) as the numbered batches that a training step asks for.

Batches are global arrays, split over the mesh: every process reads the rows that lie on its own devices. B
pictures of all processes.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from p4d_jax.data.photos import PhotoFolder, numbered_photos, numbered_samples
from p4d_jax.data.samples import Portrait
from p4d_jax.train.devices import gather_batch, own_rows, split
from p4d_jax.train.numbered_stream import NumberedStream
from p4d_jax.types import FrameParams


def photo_draws(
    photos: PhotoFolder, mesh: Mesh, batch: int, seed: int, readers: int
) -> tuple[PhotoStream, Callable[[int], FrameParams]]:
    """`draw_real` and `draw_params` of `genhead.step.build_genhead_step`.

    Frames to generate are those of the same photos in another order; no picture is read for them.

    Args:
      batch: B, a multiple of the mesh's devices.
      seed: of both orders.
      readers: see `NumberedStream`.
    """
    rows = own_rows(batch, mesh)
    numbered = numbered_samples(len(photos), batch, 2 * seed + 1)
    convert = jax.jit(FrameParams.from_vector, out_shardings=split(mesh))

    def draw_params(number: int) -> FrameParams:
        return convert(gather_batch(photos.frames[numbered[number][rows]], mesh))

    return PhotoStream(photos, mesh, batch, 2 * seed, readers), draw_params


class PhotoStream:
    """number -> `Portrait` (B,), split over the mesh; quick where numbers follow one another.

    Pictures lie on the devices as bytes until they are asked for.
    """

    def __init__(self, photos: PhotoFolder, mesh: Mesh, batch: int, seed: int, readers: int):
        """readers: see `NumberedStream`."""
        numbered = numbered_photos(photos, batch, seed, own_rows(batch, mesh))
        self._stream = NumberedStream(numbered, mesh, readers)
        self._convert = jax.jit(as_portrait, out_shardings=split(mesh))

    def __call__(self, number: int) -> Portrait:
        return self._convert(self._stream(number))


def as_portrait(stored: dict[str, jax.Array]) -> Portrait:
    """Bytes of `numbered_photos` as a `Portrait` (B,) in [-1, 1] and [0, 1]."""
    image, mask = stored["image"] / np.float32(127.5) - 1, stored["mask"] / np.float32(255)
    return Portrait(image, mask, FrameParams.from_vector(stored["frames"]))
