"""Pictures and videos as files: panels side by side, depth as colours, a mesh as a shaded picture, H.264.

Pictures here are (H, W, 3) uint8, row 0 on top, on the host.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import jax.numpy as jnp
import numpy as np
from PIL import Image

from p4d_jax.types import Array

VIDEO_TICK = Fraction(1, 90_000)  # seconds; the usual clock of films
# Near to far: yellow, teal, dark blue; lightness falls evenly, so the picture reads without colours too.
DEPTH_COLORS = ((253, 231, 37), (94, 201, 98), (33, 145, 140), (59, 82, 139), (40, 10, 70))


def to_picture(image: Array) -> np.ndarray:
    """(H, W, 3) float in [-1, 1] -> uint8."""
    return np.round(np.clip(np.asarray(image) * 0.5 + 0.5, 0.0, 1.0) * 255.0).astype(np.uint8)


def to_image(picture: np.ndarray, size: int) -> Array:
    """uint8 picture -> (size, size, 3) float32 in [-1, 1], antialiased."""
    return jnp.asarray(np.float32(resize(picture, size)) / 127.5 - 1.0)


def to_alpha(alpha: np.ndarray, size: int) -> Array:
    """Alpha (H, W) in [0, 1] as (size, size, 1), each pixel the mean of those that it covers."""
    picture = Image.fromarray(np.asarray(alpha, np.float32))
    return jnp.asarray(picture.resize((size, size), Image.Resampling.BOX))[..., None]


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


class VideoWriter:
    """An H.264 video that plays everywhere (yuv420p): `add` pictures of one even size, then `close`."""

    def __init__(self, path: Path, fps: float, edges: Sequence[float] | None = None):
        """Opens the file.

        Args:
          path: Of the file, .mp4.
          fps: Frames a second.
          edges: Seconds at which each picture appears, and at which the last one ends; None: evenly.
        """
        self._file = av.open(str(path), "w")
        self._stream = self._file.add_stream("libx264", Fraction(fps).limit_denominator(60_000))
        # Without B-frames, packets lie in the order of time, and each says how long its picture is shown.
        self._stream.options = {"crf": "10", "bf": "0"}
        self._fps, self._edges, self._count = fps, edges, 0
        self._lasting: dict[int, int] = {}  # ticks of the frames that are being encoded

    def add(self, picture: np.ndarray) -> None:
        """Appends a picture (H, W, 3) uint8."""
        height, width = picture.shape[:2]
        if not self._count:
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
            self._stream.codec_context.time_base = VIDEO_TICK
        elif (width, height) != (self._stream.width, self._stream.height):
            size = f"{self._stream.width}x{self._stream.height}"
            raise ValueError(f"picture: {width}x{height} pixels, where the video has {size}")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = self._tick(self._count), VIDEO_TICK
        self._lasting[frame.pts] = self._tick(self._count + 1) - frame.pts
        self._count += 1
        self._mux(self._stream.encode(frame))

    def close(self) -> None:
        """Writes what is left."""
        if self._count:
            self._mux(self._stream.encode(None))
        self._file.close()

    def _mux(self, packets: list[av.Packet]) -> None:
        for (
            packet
        ) in packets:  # the encoder guesses how long a frame lasts, which the last one's packet must tell
            packet.duration = self._lasting.pop(packet.pts)
            self._file.mux(packet)

    def _tick(self, index: int) -> int:
        seconds = index / self._fps if self._edges is None else self._edges[index]
        return round(float(seconds) / VIDEO_TICK)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def save_video(
    path: str | Path,
    pictures: Iterable[np.ndarray],
    fps: float = 25.0,
    edges: Sequence[float] | None = None,
) -> None:
    """Writes pictures (H, W, 3) uint8 of one even size as an H.264 film; none is kept in memory.

    edges: Seconds at which each picture appears, and at which the last one ends; None: evenly.
    """
    with VideoWriter(Path(path), fps, edges) as video:
        for picture in pictures:
            video.add(picture)


def save_picture(path: Path, picture: np.ndarray) -> None:
    """A PNG."""
    Image.fromarray(picture).save(path)
