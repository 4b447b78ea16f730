"""Reading videos frame by frame: a video file, an animation, a folder of pictures, or pictures in memory.

Every frame comes once, with the time at which it is shown: phones record at a rate that varies, and an
animation gives each picture its own delay. What a player would show is what comes out, as 8-bit sRGB with
square pixels: the rotation that a phone notes is applied, high dynamic range (PQ, HLG) is mapped to the range
of a screen, and alpha stays as a fourth channel, as in `reading`.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import av
import numpy as np

from p4d_jax.errors import UserError
from p4d_jax.imaging.reading import PHOTO_SUFFIXES, as_photo, open_image, read_photo, show_behind
from p4d_jax.imaging.tone import TRANSFERS, map_tones

FILM_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".wmv", ".asf", ".flv", ".ogv"),
    *(".mpg", ".mpeg", ".m2v", ".vob", ".ts", ".mts", ".m2ts"),
)
ANIMATION_SUFFIXES = (".gif", ".webp", ".png", ".apng", ".avif")  # which may as well hold one picture
FOLDER_FPS = 25.0
NO_DELAY = 0.1  # seconds that a picture without a delay of its own is shown, as browsers do
Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class VideoFrame:
    """One picture of a video.

    Attributes:
      picture: (H, W, 3) uint8, or (H, W, 4) with alpha.
      time: Seconds from the first frame at which it appears.
      duration: Seconds for which it is shown, as the file says; the next frame's time is surer.
    """

    picture: np.ndarray
    time: float
    duration: float


@dataclasses.dataclass(frozen=True)
class Video:
    """Frames to be read once, in order.

    Attributes:
      frames: Iterator over the frames.
      length: Number of frames, or None if the file does not say.
      duration: Seconds that the whole takes, or None if the file does not say.
    """

    frames: Iterable[VideoFrame]
    length: int | None
    duration: float | None = None

    def __iter__(self) -> Iterator[VideoFrame]:
        return iter(self.frames)


def is_video(path: str | Path) -> bool:
    """Whether `path` names a video: a folder of pictures, a film by its suffix, or an animation."""
    path = Path(path)
    return path.is_dir() or path.suffix.lower() in FILM_SUFFIXES or _is_animation(path)


def open_video(source: str | Path | Iterable[np.ndarray], max_frames: int | None = None) -> Video:
    """A video file, a folder of pictures (in natural order of names), or an iterable of images -> Video.

    max_frames: stop after so many.

    Raises:
      UserError: there is no such file, or it is none that can be read.
    """
    if not isinstance(source, str | Path):
        pictures = [as_photo(picture) for picture in source][:max_frames]
        return Video(_evenly(pictures), len(pictures))
    path = Path(source).expanduser()
    if path.is_dir():
        files = folder_pictures(path)[:max_frames]
        return Video(_evenly(map(read_photo, files)), len(files))
    if not path.is_file():
        raise UserError(f"video: no file or folder {str(path)!r}")
    if path.suffix.lower() in ANIMATION_SUFFIXES:
        return _open_animation(path, max_frames)
    return _open_film(path, max_frames)


def sample_video(
    source: str | Path | Iterable[np.ndarray], count: int, max_frames: int | None = None
) -> Iterator[np.ndarray]:
    """Up to `count` pictures spread over a video, of a film those that can be reached at once (key frames).

    max_frames: of the video's beginning alone.
    """
    video = open_video(source, max_frames)
    if isinstance(source, str | Path) and Path(source).suffix.lower() in FILM_SUFFIXES:
        whole = open_video(source).length
        yield from _sample_film(Path(source).expanduser(), count, video.length / whole if whole else 1.0)
        return
    wanted = set(np.linspace(0, video.length - 1, min(count, video.length)).round().astype(int).tolist())
    for index, frame in enumerate(video):
        if index in wanted:
            yield frame.picture


def read_ahead(items: Iterable[Item], count: int = 2) -> Iterator[Item]:
    """The same items in order, of which a thread makes the next `count` while one is in use."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as reader:
        ready = deque(reader.submit(next, iterator, end) for _ in range(count))
        while (item := ready.popleft().result()) is not end:
            ready.append(reader.submit(next, iterator, end))
            yield item


def frame_edges(frames: list[tuple[float, float]]) -> np.ndarray:
    """(T + 1,) seconds: frame i is shown from edge i to edge i + 1.

    frames: (time, duration) of each; the last one alone needs its duration.
    """
    times = [time for time, _ in frames]
    return np.array([*times, times[-1] + frames[-1][1]])


def folder_pictures(folder: Path) -> list[Path]:
    """The pictures in a folder, frame2 before frame10; hidden files (._a.png) are not looked at.

    Raises:
      UserError: there are none.
    """
    files = [file for file in folder.iterdir() if file.suffix.lower() in PHOTO_SUFFIXES]
    files = [file for file in files if not file.name.startswith(".")]
    if not files:
        raise UserError(f"video: the folder {str(folder)!r} has no pictures ({', '.join(PHOTO_SUFFIXES)})")
    return sorted(files, key=_natural_order)


def _natural_order(file: Path) -> list:
    parts = re.split(r"(\d+)", file.name)
    return [(int(part), part) if part.isdecimal() else (-1, part.lower()) for part in parts]


def _evenly(pictures: Iterable[np.ndarray]) -> Iterator[VideoFrame]:
    for index, picture in enumerate(pictures):
        yield VideoFrame(picture, index / FOLDER_FPS, 1 / FOLDER_FPS)


# Animations -------------------------------------------------------------------------------------------------


def _is_animation(path: Path) -> bool:
    if path.suffix.lower() not in ANIMATION_SUFFIXES or not path.is_file():
        return False
    try:
        with open_image(path) as image:
            return getattr(image, "n_frames", 1) > 1
    except (OSError, SyntaxError, ValueError, EOFError):
        return path.suffix.lower() == ".gif"  # damaged: whoever reads it says so


def _open_animation(path: Path, max_frames: int | None) -> Video:
    try:
        with open_image(path) as image:
            length = min(getattr(image, "n_frames", 1), max_frames or np.inf)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UserError(f"video: {str(path)!r} cannot be read as an animation ({error})") from error
    return Video(_read_animation(path, length), length)


def _read_animation(path: Path, length: int) -> Iterator[VideoFrame]:
    time = 0.0
    with open_image(path) as image:
        for index in range(length):
            try:
                image.seek(index)
                picture = show_behind(np.asarray(image.convert("RGBA")))
            except (OSError, SyntaxError, ValueError, EOFError) as error:
                raise UserError(f"video: {str(path)!r} is damaged after frame {index} ({error})") from error
            duration = image.info.get("duration", 0) / 1000 or NO_DELAY
            yield VideoFrame(picture, time, duration)
            time += duration


# Films ------------------------------------------------------------------------------------------------------


def _open_film(path: Path, max_frames: int | None) -> Video:
    with _film(path) as (_, stream):
        rate = float(stream.average_rate or 0)
        duration = _seconds(stream)
        length = stream.frames or (round(duration * rate) if duration and rate else None)
    if max_frames is not None:
        length = min(length or max_frames, max_frames)
    return Video(_read_film(path, max_frames), length, duration)


class _film:
    """A film's container and its first stream of moving pictures, closed in the end."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self):
        try:
            self.container = av.open(str(self.path), metadata_errors="ignore")
        except (av.FFmpegError, OSError, ValueError) as error:
            raise UserError(
                f"video: {str(self.path)!r} cannot be read as a video ({_reason(error)})"
            ) from error
        cover = av.stream.Disposition.attached_pic
        moving = [one for one in self.container.streams.video if not one.disposition & cover]
        if not moving or moving[0].codec_context is None:
            kinds = {one.type for one in self.container.streams} or {"nothing"}
            self.container.close()
            what = "of an unknown codec" if moving else f"not there, but {' and '.join(sorted(kinds))}"
            raise UserError(f"video: {str(self.path)!r} cannot be read as a video (its pictures are {what})")
        moving[0].thread_type = "AUTO"
        return self.container, moving[0]

    def __exit__(self, *_):
        self.container.close()


def _seconds(stream) -> float | None:
    """How long a film is, as its header says."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if match := re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", "")):  # Matroska's
        hours, minutes, seconds = map(float, match.groups())
        return 3600 * hours + 60 * minutes + seconds
    return stream.container.duration / av.time_base if stream.container.duration else None


def _read_film(path: Path, max_frames: int | None) -> Iterator[VideoFrame]:
    with _film(path) as (_, stream):
        usual = float(1 / (stream.average_rate or FOLDER_FPS))
        first, time, duration = None, 0.0, 0.0
        for frame in itertools.islice(_decode(stream), max_frames):
            if first is None:
                first = frame.pts or 0
            else:
                following = time + duration  # for a file without time stamps, or with wrong ones
                stamp = None if frame.pts is None else float((frame.pts - first) * stream.time_base)
                time = following if stamp is None or stamp <= time else stamp
            duration = float((frame.duration or 0) * stream.time_base) or usual
            yield VideoFrame(_to_picture(frame, stream), time, duration)
        if first is None:
            raise UserError(f"video: {str(path)!r} holds no frames that can be decoded")


def _decode(stream) -> Iterator[av.VideoFrame]:
    """The frames that can be decoded; a damaged or truncated film ends where it does."""
    decoder = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1":  # FFmpeg's own decoders leave the alpha of WebM out
        decoder = av.CodecContext.create({"vp8": "libvpx", "vp9": "libvpx-vp9"}[decoder.name], "r")
    packets = stream.container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            yield from decoder.decode(packet)
        except (av.error.EOFError, StopIteration):
            return
        except av.FFmpegError:
            continue


def _to_picture(frame: av.VideoFrame, stream) -> np.ndarray:
    """(H, W, 3 or 4) uint8 of a decoded frame, upright, with square pixels."""
    aspect = float(stream.sample_aspect_ratio or 1)
    width, height = round(frame.width * max(aspect, 1)), round(frame.height / min(aspect, 1))
    has_alpha = any(component.is_alpha for component in frame.format.components)
    picture = frame.reformat(width, height, "rgba" if has_alpha else "rgb24").to_ndarray()
    if frame.color_trc in TRANSFERS and not has_alpha:
        picture = map_tones(picture, frame.color_trc)
    picture = _turn(picture, _display_matrix(frame))
    return show_behind(picture) if has_alpha else picture


def _display_matrix(frame: av.VideoFrame) -> np.ndarray:
    """(2, 2) of -1, 0 and 1: how a stored picture's right and down appear, as ISO 14496-12's matrix says."""
    for data in frame.side_data:
        if data.type == av.sidedata.sidedata.Type.DISPLAYMATRIX:
            matrix = np.frombuffer(bytes(data), np.int32).reshape(3, 3)[:2, :2] / 65536
            return np.round(matrix / max(np.abs(matrix).max(), 1e-6)).astype(int)
    return np.eye(2, dtype=int)


def _turn(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A picture turned and mirrored as `_display_matrix` says."""
    if not matrix[0, 0]:
        picture, matrix = picture.swapaxes(0, 1), matrix[::-1]
    return np.ascontiguousarray(picture[:: matrix[1, 1] or 1, :: matrix[0, 0] or 1])


def _sample_film(path: Path, count: int, within: float) -> Iterator[np.ndarray]:
    with _film(path) as (container, stream):
        duration = _seconds(stream) or 0.0
        start = float((stream.start_time or 0) * stream.time_base)
        for share in within * (np.arange(count) + 0.5) / count:
            try:
                container.seek(int((start + share * duration) / stream.time_base), stream=stream)
                frame = next(container.decode(stream), None)
            except av.FFmpegError:  # cannot be searched: what is read in order will have to tell
                return
            if frame is not None:
                yield _to_picture(frame, stream)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or (str(error).strip().splitlines() or [type(error).__name__])[-1]
