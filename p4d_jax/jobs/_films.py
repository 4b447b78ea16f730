"""The films that `reenact` writes while it renders: one class a film, registered by its name.

A film is made of a `Show` and is given each frame in turn. Adding one is a class here, its line in `FILMS`,
and its name in `config.films`. `reenactment.mp4`, source | driving | result, is always written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from p4d_jax.avatar.avatar import Avatar
from p4d_jax.avatar.paste import PasteBack
from p4d_jax.imaging import writing as pictures
from p4d_jax.imaging.watermark import mark
from p4d_jax.imaging.writing import H264, PRORES_4444, VP9_ALPHA, Encoding, VideoWriter
from p4d_jax.jobs._fields import named_in
from p4d_jax.reconstructor.field import Frame


@dataclass(frozen=True)
class Show:
    """What all films of a run have in common.

    Attributes:
      folder: Where they are written.
      avatar: Whose pictures they show.
      fps: Frames a second, on average.
      edges: (T + 1,) seconds at which each frame appears, and at which the last one ends.
      stills: Numbers of the frames of which single pictures are kept.
      panel: Pixels a side of a panel of reenactment.mp4.
      marks: Names of the marks that every picture gets, see `imaging.watermark`.
      sound: The film whose sound goes along, or None.
      place: Where pictures are pasted, or None where no film asks.
      others: Other people in the photo: where they lie, and their frames, T of each.
    """

    folder: Path
    avatar: Avatar
    fps: float
    edges: np.ndarray
    stills: frozenset[int]
    panel: int
    marks: tuple[str, ...] = ()
    sound: Path | None = None
    place: PasteBack | None = None
    others: tuple[tuple[PasteBack, Iterator[Frame]], ...] = ()

    def writer(self, name: str, encoding: Encoding = H264) -> VideoWriter:
        """A film with the sound, where there is any."""
        path = (self.folder / name).with_suffix(encoding.suffix)
        return VideoWriter(path, self.fps, self.edges, self.sound, encoding)

    def row(self, frame: Frame, driver: np.ndarray) -> np.ndarray:
        """(P, 3 P, 3) uint8: source | driving | result."""
        result = mark(pictures.resize(frame.picture, self.panel), self.marks)
        return pictures.side_by_side((self.avatar.photo, driver, result), self.panel)


class Film(Protocol):
    """Takes the frames of a run, one after another."""

    def add(self, index: int, frame: Frame, driver: np.ndarray, photo: np.ndarray | None) -> None:
        """One frame.

        Args:
          index: Its number.
          frame: Of the avatar.
          driver: (P, P, 3) uint8, the driver in it.
          photo: (H, W, 3) uint8, the frame of the film that is pasted into; None for the photo.
        """
        ...

    def close(self) -> None:
        """Ends the film."""
        ...


class Panels:
    """reenactment.mp4, source | driving | result, and stills of it."""

    def __init__(self, show: Show):
        self.show, self.film = show, show.writer("reenactment")

    def add(self, index: int, frame: Frame, driver: np.ndarray, photo: np.ndarray | None) -> None:
        row = self.show.row(frame, driver)
        self.film.add(row)
        if index in self.show.stills:
            pictures.save_picture(self.show.folder / f"frame_{index:04d}.png", row)

    def close(self) -> None:
        self.film.close()


class Kept:
    """Keeps the panels of some frames, by their numbers, for the report."""

    def __init__(self, show: Show, indices: list[int]):
        self.show, self.rows = show, dict.fromkeys(indices)

    def add(self, index: int, frame: Frame, driver: np.ndarray, photo: np.ndarray | None) -> None:
        if index in self.rows:
            self.rows[index] = self.show.row(frame, driver)

    def close(self) -> None:
        pass


class Pasted:
    """pasted.mp4, the photo or the film with the moving heads, at its own size, and stills of it."""

    def __init__(self, show: Show):
        self.show, self.film = show, show.writer("pasted")

    def add(self, index: int, frame: Frame, driver: np.ndarray, photo: np.ndarray | None) -> None:
        whole = self.show.place(frame, photo)
        for place, frames in self.show.others:
            whole = place(next(frames), whole)
        whole = mark(whole, self.show.marks)
        self.film.add(whole)
        if index in self.show.stills:
            pictures.save_picture(self.show.folder / f"pasted_{index:04d}.png", whole)

    def close(self) -> None:
        self.film.close()


class Transparent:
    """The person alone, before nothing: a film with alpha."""

    def __init__(self, show: Show, encoding: Encoding):
        self.show, self.film = show, show.writer("alpha", encoding)

    def add(self, index: int, frame: Frame, driver: np.ndarray, photo: np.ndarray | None) -> None:
        self.film.add(mark(frame.rgba, self.show.marks))

    def close(self) -> None:
        self.film.close()


class PictureSequence:
    """frames/00000.png and so on: the person alone, before nothing."""

    def __init__(self, show: Show):
        self.show, self.folder = show, show.folder / "frames"
        self.folder.mkdir()

    def add(self, index: int, frame: Frame, driver: np.ndarray, photo: np.ndarray | None) -> None:
        pictures.save_picture(self.folder / f"{index:05d}.png", mark(frame.rgba, self.show.marks))

    def close(self) -> None:
        pass


FILMS: dict[str, Callable[[Show], Film]] = {
    "pasted": Pasted,
    "webm": lambda show: Transparent(show, VP9_ALPHA),
    "prores": lambda show: Transparent(show, PRORES_4444),
    "png": PictureSequence,
}


def named_films(names: str) -> dict[str, Callable[[Show], Film]]:
    """The films that a config names."""
    return named_in(FILMS, names, "films", "film")
