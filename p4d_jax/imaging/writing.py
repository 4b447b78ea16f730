"""Pictures and videos as files: panels side by side, depth as colours, films with alpha and sound.

Pictures here are (H, W, 3) uint8, or (H, W, 4) with alpha, row 0 on top, on the host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from p4d_jax.imaging.sound import RATE, read_sound
from p4d_jax.types import Array

VIDEO_TICK = Fraction(1, 90_000)  # seconds; the usual clock of films
# Near to far: yellow, teal, dark blue; lightness falls evenly, so the picture reads without colours too.
DEPTH_COLORS = ((253, 231, 37), (94, 201, 98), (33, 145, 140), (59, 82, 139), (40, 10, 70))


def to_picture(image: Array) -> np.ndarray:
    """(H, W, 3) float in [-1, 1] -> uint8."""
    return np.round(np.clip(np.asarray(image) * 0.5 + 0.5, 0.0, 1.0) * 255.0).astype(np.uint8)


def to_image(picture: np.ndarray, size: int) -> np.ndarray:
    """uint8 picture -> (size, size, 3) float32 in [-1, 1], antialiased."""
    return np.float32(resize(picture, size)) / np.float32(127.5) - np.float32(1.0)


def to_alpha(alpha: np.ndarray, size: int) -> np.ndarray:
    """Alpha (H, W) in [0, 1] as (size, size, 1), each pixel the mean of those that it covers."""
    picture = Image.fromarray(np.asarray(alpha, np.float32))
    return np.asarray(picture.resize((size, size), Image.Resampling.BOX))[..., None]


def resize(picture: np.ndarray, size: int) -> np.ndarray:
    """A square picture at another size."""
    if picture.shape[:2] == (size, size):
        return picture
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS))


def side_by_side(pictures: Iterable[np.ndarray], size: int) -> np.ndarray:
    """Square pictures in a row, each `size` pixels high."""
    return np.concatenate([resize(picture, size) for picture in pictures], axis=1)


def color_depth(depth: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Depth (R, R) as colours, spread over the range that the opaque part takes; the rest is black."""
    opaque = opacity > 0.5
    if not opaque.any():
        return np.zeros((*depth.shape, 3), np.uint8)
    near, far = np.percentile(depth[opaque], [1, 99])
    place = np.clip((depth - near) / max(far - near, 1e-6), 0, 1) * (len(DEPTH_COLORS) - 1)
    channels = np.array(DEPTH_COLORS, np.float64).T
    colors = np.stack([np.interp(place, range(len(DEPTH_COLORS)), c) for c in channels], axis=-1)
    return (colors * opaque[..., None] + 0.5).astype(np.uint8)


@dataclass(frozen=True)
class Encoding:
    """How films are written.

    Attributes:
      suffix: Of their files.
      codec: FFmpeg's encoder.
      pixel_format: Of FFmpeg; formats with alpha take pictures of four channels.
      options: Of the encoder. Packets have to come in the order of time.
      sound: FFmpeg's encoder of sound.
      multiple: Of pixels that width and height must have.
    """

    suffix: str
    codec: str
    pixel_format: str
    options: Mapping[str, str]
    sound: str
    multiple: int = 1


# Plays everywhere. Without B-frames packets lie in the order of time; each says how long its picture lasts.
H264 = Encoding(".mp4", "libx264", "yuv420p", {"crf": "10", "bf": "0"}, "aac", multiple=2)
VP9_ALPHA = Encoding(
    ".webm", "libvpx-vp9", "yuva420p", {"crf": "18", "b": "0", "auto-alt-ref": "0"}, "libopus"
)
PRORES_4444 = Encoding(".mov", "prores_ks", "yuva444p10le", {"profile": "4444"}, "pcm_s16le")


class VideoWriter:
    """A film: `add` pictures (H, W, 3), or (H, W, 4) for an encoding with alpha, of one size, then `close`.

    A size that the encoding does not take grows by repeated pixels to the right and below.
    """

    def __init__(
        self,
        path: Path,
        fps: float,
        edges: Sequence[float] | None = None,
        sound: Path | None = None,
        encoding: Encoding = H264,
    ):
        """Opens the file.

        Args:
          path: Of the file, with the encoding's ending.
          fps: Frames a second.
          edges: Seconds at which each picture appears, and at which the last one ends; None: evenly.
          sound: A film whose sound goes along, from its first picture on until the last one here ends.
          encoding: Of pictures and sound; H.264, unless told.
        """
        self._file, self._encoding = av.open(str(path), "w"), encoding
        self._stream = self._file.add_stream(encoding.codec, Fraction(fps).limit_denominator(60_000))
        self._stream.options = dict(encoding.options)
        self._fps, self._edges, self._count = fps, edges, 0
        self._lasting: dict[int, int] = {}  # ticks of the frames that are being encoded
        self._sound = None if sound is None else SoundTrack(self._file, sound, encoding.sound)

    def add(self, picture: np.ndarray) -> None:
        """Appends a picture, uint8."""
        margins = [(0, -side % self._encoding.multiple) for side in picture.shape[:2]]
        picture = np.pad(picture, (*margins, (0, 0)), mode="edge")
        height, width, channels = picture.shape
        if not self._count:
            self._stream.width, self._stream.height = width, height
            self._stream.pix_fmt = self._encoding.pixel_format
            self._stream.codec_context.time_base = VIDEO_TICK
        elif (width, height) != (self._stream.width, self._stream.height):
            size = f"{self._stream.width}x{self._stream.height}"
            raise ValueError(f"picture: {width}x{height} pixels, where the video has {size}")
        format = {3: "rgb24", 4: "rgba"}[channels]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=format)
        frame.pts, frame.time_base = self._tick(self._count), VIDEO_TICK
        self._lasting[frame.pts] = self._tick(self._count + 1) - frame.pts
        self._count += 1
        self._mux(self._stream.encode(frame))
        if self._sound is not None:
            self._sound.write_until(float(self._tick(self._count) * VIDEO_TICK))

    def close(self) -> None:
        """Writes what is left."""
        if self._count:
            self._mux(self._stream.encode(None))
            if self._sound is not None:
                self._sound.close()
        self._file.close()

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            # The encoder guesses how long a frame lasts, which the last one's packet must tell.
            packet.duration = self._lasting.pop(packet.pts)
            self._file.mux(packet)

    def _tick(self, index: int) -> int:
        seconds = index / self._fps if self._edges is None else self._edges[index]
        return round(float(seconds) / VIDEO_TICK)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *_) -> None:
        self.close()


class SoundTrack:
    """The sound of another film in one that is being written, kept level with its pictures."""

    def __init__(self, file: av.container.OutputContainer, film: Path, codec: str):
        """Adds the track to a file.

        Args:
          file: That is being written, without any packet yet.
          film: Whose sound it is; see `read_sound`.
          codec: FFmpeg's encoder of sound.
        """
        self._file, self._blocks = file, read_sound(film)
        self._stream = file.add_stream(codec, rate=RATE, layout="stereo")
        self._rest, self._done = np.zeros((2, 0), np.float32), 0

    def write_until(self, seconds: float) -> None:
        """Writes what sounds before a time, in seconds from the first picture on; there may be no more."""
        wanted = round(seconds * RATE) - self._done
        while self._rest.shape[1] < wanted and (block := next(self._blocks, None)) is not None:
            self._rest = np.concatenate([self._rest, block], axis=1)
        block, self._rest = self._rest[:, :wanted], self._rest[:, wanted:]
        if not block.shape[1]:
            return
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="stereo")
        frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), self._done
        self._done += block.shape[1]
        self._file.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Writes what the encoder still holds."""
        if self._done:
            self._file.mux(self._stream.encode(None))


def save_video(
    path: str | Path,
    pictures: Iterable[np.ndarray],
    fps: float = 25.0,
    edges: Sequence[float] | None = None,
    sound: Path | None = None,
    encoding: Encoding = H264,
) -> None:
    """Writes pictures, uint8, of one size as a film, H.264 unless told; none is kept in memory.

    edges: Seconds at which each picture appears, and at which the last one ends; None: evenly.
    sound: A film whose sound goes along, from its first picture on.
    """
    with VideoWriter(Path(path), fps, edges, sound, encoding) as video:
        for picture in pictures:
            video.add(picture)


def save_picture(path: Path, picture: np.ndarray) -> None:
    """A PNG."""
    Image.fromarray(picture).save(path)
