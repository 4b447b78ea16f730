"""Pairs of real films: two frames of one clip, the one driving to the other (docs/concepts/training.md, 8.4).

A folder of films is a folder of photos (`data.photos`) whose NAMEs are CLIP/FRAME: all pictures in one folder
below images/ show one person before one camera. `python -m p4d_jax.data.photos FOLDER CAPTURE...` writes it
of films that the job `capture` has seen; `data.portraits` makes a record set of it, which is read as well.
Each pass through the data shows each clip once, whatever its length; its mirror image counts as another clip.
Necks stay bent: the reconstructor knows of them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from p4d_jax.data.photos import Photos, clip_of, sample_order
from p4d_jax.data.portraits import CLIPS, open_portraits
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

    photos: Photos
    clips: tuple[np.ndarray, ...]
    order: Sequence
    count: int
    seed: int

    def summary(self) -> str:
        """How much there is, in words."""
        names = self.photos.names
        clips = {clip_of(names[frames[0] % len(names)]) for frames in self.clips}
        return f"{self.photos.summary()}, in {len(clips)} clips"

    def read(self, number: int, row: int) -> dict[str, np.ndarray]:
        """Source and target of one clip: pictures, the target's mask, frames."""
        (source, (picture, _)), (target, (image, mask)) = self.two_frames(number, row)
        return {
            "source": picture,
            "source_frame": self.photos.frames[source],
            "image": image,
            "mask": mask[..., None],
            "frame": self.photos.frames[target],
        }

    def two_frames(self, number: int, row: int) -> list[tuple[int, tuple[np.ndarray, np.ndarray]]]:
        """Samples of two frames of one clip, with picture and mask.

        Where damage has left fewer of a clip, they are those of the next.

        Raises:
          UserError: More frames are damaged than may be.
        """
        first = self.order[number * self.count + row]
        for clip in range(first, first + len(self.clips)):
            frames = dice(self.seed, number, row).permutation(self.clips[clip % len(self.clips)]).tolist()
            found = ((frame, self.photos.read_if_sound(frame)) for frame in frames)
            sound = list(itertools.islice((pair for pair in found if pair[1] is not None), FEWEST))
            if len(sound) == FEWEST:
                return sound
        raise UserError("not one clip has two frames that can be read")

    def convert(self, stored: dict[str, Array]) -> HeadPair:
        """See `PairSource`."""
        source, image = (stored[name] / jnp.float32(127.5) - 1 for name in ("source", "image"))
        source_params, params = (FrameParams.from_vector(stored[name]) for name in ("source_frame", "frame"))
        mask, scale = stored["mask"] / jnp.float32(255), jnp.ones(len(image), jnp.float32)
        return HeadPair(source, source_params, image, params, mask, scale)


def open_films(
    folder: str | Path, head: HeadModel, size: int, mirror: bool, damaged: int, count: int, seed: int
) -> FilmPairs:
    """Opens a folder of films, or the record set `portrait_clips` in it, and checks it whole.

    Args:
      folder, head, size, mirror, damaged: see `photos.open_bent_photos`.
      count: B.
      seed: of orders and choices.

    Raises:
      UserError: the first thing that is wrong; a clip has less than two frames, and damage is not why.
    """
    photos = open_portraits(folder, CLIPS, head, size, mirror, damaged)
    clips: dict[str, list[int]] = {}
    for number, name in enumerate(photos.names):
        if not clip_of(name):
            raise UserError(f"{folder}: {name!r} belongs to no clip; frames of films are named CLIP/FRAME")
        clips.setdefault(clip_of(name), []).append(number)
    short = {name for name, numbers in clips.items() if len(numbers) < FEWEST}
    spoilt = short & {clip_of(name) for name in photos.unreadable}
    clips = {name: numbers for name, numbers in clips.items() if name not in spoilt}
    short = sorted(short - spoilt)
    if short:
        raise UserError(
            f"{folder}: clip {short[0]!r} has {len(clips[short[0]])} frame, a pair needs {FEWEST};"
            f" {len(short)} of {len(clips)} clips are so: leave them out of parameters.npz"
        )
    passes = range(0, len(photos), len(photos.names))  # as they are, flipped
    found = tuple(np.asarray(numbers) + start for start in passes for numbers in clips.values())
    return FilmPairs(photos, found, sample_order(len(found), seed), count, seed)
