"""Pictures and videos as files: panels side by side, depth as colours, a mesh as a shaded picture, H.264.

Pictures here are (H, W, 3) uint8, row 0 on top, on the host.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from PIL import Image

from p4d_jax.types import Array

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

    def __init__(self, path: Path, fps: float):
        import imageio.v2 as imageio

        self._writer = imageio.get_writer(
            path,
            format="FFMPEG",
            fps=fps,
            codec="libx264",
            pixelformat="yuv420p",
            macro_block_size=2,
            quality=8,
            ffmpeg_log_level="error",
        )

    def add(self, picture: np.ndarray) -> None:
        with warnings.catch_warnings():
            # JAX warns of every fork, but this child runs another program, the encoder, at once.
            warnings.filterwarnings("ignore", message=".*os.fork.*", category=RuntimeWarning)
            self._writer.append_data(picture)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *_) -> None:
        self._writer.close()


def save_video(path: str | Path, pictures: Iterable[np.ndarray], fps: float = 25.0) -> None:
    """Writes pictures (H, W, 3) uint8 of one even size as an H.264 film; none is kept in memory."""
    with VideoWriter(Path(path), fps) as video:
        for picture in pictures:
            video.add(picture)


def save_picture(path: Path, picture: np.ndarray) -> None:
    """A PNG."""
    Image.fromarray(picture).save(path)
