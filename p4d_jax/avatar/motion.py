"""`Motion`: how somebody moves, frame by frame, whatever it came as.

A motion is read from a motion file, a film, a folder of pictures or a photo, or by the name of one that
ships. It drives any avatar whose head model has the same expression basis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from p4d_jax import assets
from p4d_jax.capture.clip import capture_film
from p4d_jax.capture.photo import capture_photo
from p4d_jax.data.motion import MotionFile, load_motion, motion_for_head, save_motion
from p4d_jax.errors import UserError
from p4d_jax.head.model import HeadModel
from p4d_jax.imaging.reading import PHOTO_SUFFIXES
from p4d_jax.imaging.video import FOLDER_FPS, VIDEO_SUFFIXES, is_video
from p4d_jax.types import FrameParams, on_host, take

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Motion:
    """The parameters of a clip of T frames, on the host.

    Attributes:
      params: Leading axis T; the camera carries the head's rotation.
      fps: Frames a second.
      head: Name of the head model whose expression basis the coefficients speak of.
      names: One name for each leading expression coefficient, or empty.
      pictures: (512, 512, 3) uint8 of each frame as its camera sees it; an iterable that can be read again,
        or None for a motion that came without pictures.
      vectors: (T, M) motion vectors that a motion encoder saw in these frames, or None.
      note: What the user should know, or empty.
    """

    params: FrameParams
    fps: float
    head: str
    names: tuple[str, ...] = ()
    pictures: Iterable[np.ndarray] | None = None
    vectors: np.ndarray | None = None
    note: str = ""

    def __len__(self) -> int:
        return len(self.params.expression)

    def __getitem__(self, index: int) -> FrameParams:
        """The parameters of one frame."""
        return take(self.params, index)

    @classmethod
    def open(
        cls,
        source: str | Path,
        head: str | HeadModel = "openhead",
        *,
        max_frames: int | None = None,
        progress: Progress | None = None,
    ) -> Motion:
        """Whatever a name or path stands for: a motion that ships, a motion file, a film, a folder, a photo.

        Args:
          head: The head model that is fitted to pictures, or that a motion file has to move.
          max_frames: Reads no more frames than these.
          progress: Called with (frames done, frames in all or None) while a film is read.

        Raises:
          UserError: There is no such thing, it cannot be read, or it moves another head model.
        """
        head = find_head(head)
        path = find_motion(source)
        if path.suffix == ".npz":
            return cls.load(path).for_head(head).first(max_frames)
        if is_video(path):
            return cls.from_film(path, head, max_frames=max_frames, progress=progress)
        return cls.from_photo(path, head)

    @classmethod
    def load(cls, path: str | Path) -> Motion:
        """Reads a motion file, or one that ships by its name.

        Raises:
          UserError: There is no such file, or it is not one.
        """
        try:
            stored = load_motion(assets.motion(path))
        except ValueError as error:
            raise UserError(str(error)) from error
        vectors = None if stored.motion_vectors is None else np.asarray(stored.motion_vectors)
        return cls(on_host(stored.params), stored.fps, stored.head, stored.names, vectors=vectors)

    def save(self, path: str | Path) -> None:
        """Writes a motion file: parameters, and motion vectors where there are any, without any picture."""
        save_motion(path, self.params, self.fps, self.head, self.names, self.vectors)

    @classmethod
    def from_film(
        cls,
        film: str | Path | Iterable[np.ndarray],
        head: str | HeadModel = "openhead",
        *,
        max_frames: int | None = None,
        progress: Progress | None = None,
    ) -> Motion:
        """The motion of a film, a folder of frames, or pictures (H, W, 3) uint8; see `capture_film`."""
        head = find_head(head)
        captured = capture_film(film, head, progress, max_frames=max_frames)
        names = head.expression_names
        return cls(
            on_host(captured.params), captured.fps, head.name, names, Crops(captured), note=captured.note
        )

    @classmethod
    def from_photo(cls, photo: str | Path | np.ndarray, head: str | HeadModel = "openhead") -> Motion:
        """The face of a photo, as a clip of one frame; see `capture_photo`."""
        head = find_head(head)
        captured = capture_photo(photo, head)
        params = jax.tree.map(lambda x: x[None], on_host(captured.params))
        return cls(params, FOLDER_FPS, head.name, head.expression_names, [captured.crop], note=captured.note)

    def first(self, frames: int | None) -> Motion:
        """The first frames alone; all of them for None."""
        params = take(self.params, slice(frames))
        return replace(self, params=params, vectors=None if self.vectors is None else self.vectors[:frames])

    def for_head(self, head: HeadModel) -> Motion:
        """The same motion in the order of a head model's expression components.

        Raises:
          UserError: The motion speaks of another head model's expression basis.
        """
        if self.head != head.name:
            raise UserError(
                f"motion: it moves the head model {self.head!r}, not {head.name!r}: their expression numbers"
                f" mean different things; use the head model {self.head!r}"
            )
        try:
            stored = motion_for_head(
                MotionFile(self.params, self.fps, self.head, self.names), head.expression_names
            )
        except ValueError as error:
            raise UserError(str(error)) from error
        return replace(self, params=on_host(stored.params), names=stored.names)


@dataclass(frozen=True)
class Crops:
    """A film's pictures in its one crop, cut anew each time they are read, so that none fills memory."""

    film: object

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.film.crops)

    def __len__(self) -> int:
        return len(self.film)


def find_head(head: str | Path | HeadModel) -> HeadModel:
    """A head model by its name or file; a head model is itself."""
    return head if isinstance(head, HeadModel) else assets.head_model(str(head))


def find_motion(source: str | Path) -> Path:
    """The path of what a motion can be read from.

    Raises:
      UserError: It does not exist, or is none of that.
    """
    path = Path(source).expanduser()
    if not path.exists() and path.suffix and path.suffix != ".npz":
        raise UserError(f"no file or folder {str(source)!r}")
    if not path.exists() or path.suffix == ".npz":
        return assets.motion(source)
    if not is_video(path) and path.suffix.lower() not in PHOTO_SUFFIXES:
        known = " ".join((*VIDEO_SUFFIXES, *PHOTO_SUFFIXES, ".npz"))
        raise UserError(
            f"{str(source)!r} is neither film, photo nor motion; endings that can be read: {known}"
        )
    return path
