"""Pairs of real films: two frames of one clip, the one driving to the other (docs/concepts/training.md, 8.4).

A folder of films is a folder of photos (`data.photos`) whose NAMEs are CLIP/FRAME: all pictures in one folder
below images/ show one person before one camera. `python -m p4d_jax.data.photos FOLDER CAPTURE...` writes it
of films that the job `capture` has seen. Each pass through the data shows each clip once, whatever its
length; its mirror image counts as another clip. Necks stay bent: the reconstructor knows of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from p4d_jax.data.photos import PhotoFolder, open_bent_photos, sample_order
from p4d_jax.data.samples import HeadPair
from p4d_jax.errors import UserError
from p4d_jax.head.model import HeadModel
from p4d_jax.reconstructor.stored_pairs import dice
from p4d_jax.types import Array, FrameParams

FEWEST = 2  # frames of a clip: a source and a target


@dataclasses.dataclass(frozen=True)
class FilmPairs:
    """Pairs of films, a `stored_pairs.PairSource`; all are dynamic.

    Attributes:
      photos: the frames.
      clips: of each clip, the numbers of its samples in `photos`; flipped clips come after the others.
      order: endless, of clips.
      count: B.
      seed: of the choice of frames.
    """

    photos: PhotoFolder
    clips: tuple[np.ndarray, ...]
    order: Sequence
    count: int
    seed: int

    def summary(self) -> str:
        """How much there is, in words."""
        return f"{self.photos.summary()}, in {len({clip_of(name) for name in self.photos.names})} clips"

    def read(self, number: int, row: int) -> dict[str, np.ndarray]:
        """Source and target of one clip: pictures, the target's mask, frames."""
        clip = self.clips[self.order[number * self.count + row]]
        source, target = dice(self.seed, number, row).choice(clip, 2, replace=False).tolist()
        image, mask = self.photos.read(target)
        return {
            "source": self.photos.read(source)[0],
            "source_frame": self.photos.frames[source],
            "image": image,
            "mask": mask[..., None],
            "frame": self.photos.frames[target],
        }

    def convert(self, stored: dict[str, Array]) -> HeadPair:
        """See `PairSource`."""
        source, image = (stored[name] / jnp.float32(127.5) - 1 for name in ("source", "image"))
        source_params, params = (FrameParams.from_vector(stored[name]) for name in ("source_frame", "frame"))
        mask, scale = stored["mask"] / jnp.float32(255), jnp.ones(len(image), jnp.float32)
        return HeadPair(source, source_params, image, params, mask, scale)


def clip_of(name: str) -> str:
    """The clip in a frame's name, '' if there is none."""
    return name.rpartition("/")[0]


def open_films(
    folder: str | Path, head: HeadModel, size: int, mirror: bool, count: int, seed: int
) -> FilmPairs:
    """Opens a folder of films and checks it whole.

    Args:
      folder, head, size, mirror: see `photos.open_photos`.
      count: B.
      seed: of orders and choices.

    Raises:
      UserError: the first thing that is wrong; a clip has less than two frames.
    """
    photos = open_bent_photos(folder, head, size, mirror)
    clips: dict[str, list[int]] = {}
    for number, name in enumerate(photos.names):
        if not clip_of(name):
            raise UserError(f"{folder}: {name!r} belongs to no clip; frames of films are named CLIP/FRAME")
        clips.setdefault(clip_of(name), []).append(number)
    short = [name for name, numbers in clips.items() if len(numbers) < FEWEST]
    if short:
        raise UserError(
            f"{folder}: clip {short[0]!r} has {len(clips[short[0]])} frame, a pair needs {FEWEST};"
            f" {len(short)} of {len(clips)} clips are so: leave them out of parameters.npz"
        )
    passes = range(0, len(photos), len(photos.names))  # as they are, flipped
    found = tuple(np.asarray(numbers) + start for start in passes for numbers in clips.values())
    return FilmPairs(photos, found, sample_order(len(found), seed), count, seed)
