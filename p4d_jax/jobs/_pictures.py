"""Pictures and films as files: panels side by side, depth as colours, a mesh as a shaded picture, H.264.

Pictures here are (H, W, 3) uint8, row 0 on top, on the host.
"""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from p4d_jax.geometry import exact_products
from p4d_jax.head.model import HeadModel
from p4d_jax.render.avatar import posed_vertices
from p4d_jax.render.raster import interpolate, rasterize
from p4d_jax.types import Array, FrameParams

# Near to far: yellow, teal, dark blue; lightness falls evenly, so the picture reads without colours too.
DEPTH_COLORS = ((253, 231, 37), (94, 201, 98), (33, 145, 140), (59, 82, 139), (40, 10, 70))
CLAY = (0.72, 0.70, 0.68)
PAINT = {
    "lips": (0.72, 0.48, 0.46),
    "left_eyeball": (0.97, 0.97, 0.97),
    "right_eyeball": (0.97, 0.97, 0.97),
    "teeth": (0.95, 0.93, 0.88),
    "tongue": (0.75, 0.42, 0.42),
}


def to_picture(image: Array) -> np.ndarray:
    """(H, W, 3) float in [-1, 1] -> uint8."""
    return np.round(np.clip(np.asarray(image) * 0.5 + 0.5, 0.0, 1.0) * 255.0).astype(np.uint8)


def to_image(picture: np.ndarray, size: int) -> Array:
    """uint8 picture -> (size, size, 3) float32 in [-1, 1], antialiased."""
    return jnp.asarray(np.float32(resize(picture, size)) / 127.5 - 1.0)


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


def vertex_paint(head: HeadModel) -> np.ndarray:
    """(V, 3) clay, with lips, eyeballs, teeth and tongue told apart, irises by where the eyes look."""
    vertices = np.asarray(head.template)
    paint = np.tile(np.float32(CLAY), (len(vertices), 1))
    for name, color in PAINT.items():
        if name in head.regions:
            paint[np.asarray(head.regions[name])] = color
    for name in ("left_eyeball", "right_eyeball"):
        ball = np.asarray(head.regions[name])
        middle = (vertices[ball].max(0) + vertices[ball].min(0)) / 2
        radius = (vertices[ball, 2].max() - vertices[ball, 2].min()) / 2
        off_axis = np.linalg.norm(vertices[ball, :2] - middle[:2], axis=-1) / radius
        paint[ball[(off_axis < 0.36) & (vertices[ball, 2] > middle[2])]] = (0.25, 0.22, 0.20)
    return paint


@functools.partial(jax.jit, static_argnames="resolution")
@exact_products
def shade_head(head: HeadModel, paint: Array, frame: FrameParams, resolution: int) -> Array:
    """The mesh of one frame's parameters, lit from the camera and above: (R, R, 3) in [-1, 1]."""
    posed = posed_vertices(head, frame.shape, frame)
    corners = posed[head.faces]
    face_normals = jnp.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = jnp.zeros_like(posed).at[head.faces.reshape(-1)].add(jnp.repeat(face_normals, 3, axis=0))
    normals = normals / jnp.maximum(jnp.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
    towards = frame.camera.cam2world[:3, :3] @ jnp.array([0.3, 0.5, 0.8]) / jnp.sqrt(0.98)
    light = 0.35 + 0.65 * jnp.clip(normals @ towards, 0.0, 1.0)
    raster = rasterize(posed, head.faces, frame.camera, resolution, False)
    colors = interpolate(raster, paint * light[:, None])
    return jnp.where(raster.mask[..., None], 2.0 * colors - 1.0, -0.75)


class FilmWriter:
    """An H.264 film that plays everywhere (yuv420p): `add` pictures of one even size, then `close`."""

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

    def __enter__(self) -> FilmWriter:
        return self

    def __exit__(self, *_) -> None:
        self._writer.close()


def save_picture(path: Path, picture: np.ndarray) -> None:
    """A PNG."""
    Image.fromarray(picture).save(path)


def write_json(path: Path, content: dict) -> None:
    """Indented JSON with a last line break."""
    path.write_text(json.dumps(content, indent=2) + "\n")


@contextmanager
def published(workdir: Path) -> Iterator[Path]:
    """A folder to write into; its files appear in `workdir` together, once the block has ended well.

    Whatever else ends the block leaves `workdir` as it was.
    """
    new = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
    workdir.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=workdir))
    try:
        yield staging
        for file in sorted(staging.iterdir()):
            file.replace(workdir / file.name)
        new = []
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        for folder in new:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()
