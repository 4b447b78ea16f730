"""Reading videos frame by frame: a video file, a folder of pictures, or pictures already in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from p4d_jax.errors import UserError
from p4d_jax.imaging.reading import PHOTO_SUFFIXES, as_photo, read_photo

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".gif")
FOLDER_FPS = 25.0


@dataclasses.dataclass(frozen=True)
class Video:
    """Frames to be read once, in order.

    Attributes:
      frames: Iterator over the frames, each (H, W, 3) uint8.
      fps: Frames a second (`FOLDER_FPS` for pictures).
      length: Number of frames, or None if the file does not say.
    """

    frames: Iterable[np.ndarray]
    fps: float
    length: int | None

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.frames)


def is_video(path: str | Path) -> bool:
    """Whether `path` names a video: a folder of pictures, or a file with a video's suffix."""
    path = Path(path)
    return path.is_dir() or path.suffix.lower() in VIDEO_SUFFIXES


def open_video(source: str | Path | Iterable[np.ndarray], max_frames: int | None = None) -> Video:
    """A video file, a folder of pictures (in name order), or an iterable of images -> Video.

    max_frames: stop after so many.
    """
    if not isinstance(source, str | Path):
        frames = [as_photo(frame) for frame in source][:max_frames]
        return Video(frames, FOLDER_FPS, len(frames))
    path = Path(source)
    if path.is_dir():
        return _open_folder(path, max_frames)
    if not path.is_file():
        raise UserError(f"video: no file or folder {str(path)!r}")
    return _open_gif(path, max_frames) if path.suffix.lower() == ".gif" else _open_file(path, max_frames)


def _open_folder(path: Path, max_frames: int | None) -> Video:
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in PHOTO_SUFFIXES)[:max_frames]
    if not files:
        raise UserError(f"video: the folder {str(path)!r} has no pictures ({', '.join(PHOTO_SUFFIXES)})")
    return Video((read_photo(file) for file in files), FOLDER_FPS, len(files))


def _open_gif(path: Path, max_frames: int | None) -> Video:
    try:
        with Image.open(path) as image:
            frames = [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)][:max_frames]
            milliseconds = image.info.get("duration") or 1000 / FOLDER_FPS
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"video: {str(path)!r} cannot be read as an animation ({error})") from error
    return Video(frames, 1000 / milliseconds, len(frames))


def _open_file(path: Path, max_frames: int | None) -> Video:
    import imageio.v2 as imageio

    try:
        reader = imageio.get_reader(path, format="FFMPEG")
        metadata = reader.get_meta_data()
        length = _frame_count(metadata)
    except (OSError, ValueError, RuntimeError, IndexError, SyntaxError) as error:
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise UserError(f"video: {str(path)!r} cannot be read as a video ({reason[0]})") from error
    if max_frames is not None:
        length = max_frames if length is None else min(length, max_frames)
    return Video(_read_frames(reader, path, max_frames), float(metadata["fps"]), length)


def _frame_count(metadata: dict) -> int | None:
    count = metadata["duration"] * metadata["fps"]
    return round(count) if np.isfinite(count) and count > 0 else None


def _read_frames(reader, path: Path, max_frames: int | None) -> Iterator[np.ndarray]:
    with reader:
        index = 0
        while max_frames is None or index < max_frames:
            try:
                frame = reader.get_next_data()
            except (IndexError, StopIteration):  # how the reader says that the video is over
                break
            except (OSError, RuntimeError) as error:
                raise UserError(f"video: {str(path)!r} is damaged after frame {index} ({error})") from error
            yield np.asarray(frame)
            index += 1
        if index == 0:
            raise UserError(f"video: {str(path)!r} holds no frames")
