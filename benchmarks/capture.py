"""What capture takes: of a photo, of each frame of a film, of each picture of a webcam.

    python -m benchmarks.capture [--film=FILM] [--frames=40] [--repeats=3] [--json=FILE]

Without `--film`, the quickstart's photo moves and turns by itself in pictures of 640 x 480. The first rounds
compile and are left out. Prints milliseconds, the median of the repeats with the least and the most, also in
products of two 2048 x 2048 float32 matrices, which are measured in turn with them: `photo` is capture_photo
whole; `film` is what a frame more takes, from films of so many frames and of twice as many; `film, whole` the
time of the longer one by its frames; `live` a picture of `LiveCapture`.
"""

from __future__ import annotations

import functools
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

from benchmarks.products import build_product, in_products, timed
from p4d_jax import assets
from p4d_jax.capture import capture_film, capture_photo
from p4d_jax.capture.landmarks import Landmarker
from p4d_jax.capture.live import LiveCapture
from p4d_jax.imaging.video import open_video
from p4d_jax.imaging.writing import save_video
from p4d_jax.main import enable_compilation_cache

FILM = flags.DEFINE_string("film", None, "a film of a face, of twice as many frames or more")
FRAMES = flags.DEFINE_integer("frames", 40, "frames of the shorter film", lower_bound=2)
REPEATS = flags.DEFINE_integer("repeats", 3, "turns of all", lower_bound=1)
JSON = flags.DEFINE_string("json", None, "a file for the figures")
SIZE = (640, 480)


def moving_face(count: int) -> list[np.ndarray]:
    """Pictures of a photo that is moved, turned and enlarged a little."""
    photo = Image.fromarray(np.asarray(assets.photo("astronaut")))
    pictures = []
    for k in range(count):
        turned = photo.rotate(6 * np.sin(k / 7), Image.Resampling.BICUBIC)
        left, top = 8 * np.sin(k / 5), 4 * np.cos(k / 9)
        box = (int(left) + 10, int(top) + 4, int(left) + 490, int(top) + 364)
        pictures.append(np.asarray(turned.crop(box).resize(SIZE, Image.Resampling.BICUBIC)))
    return pictures


def main(_: list[str]) -> None:
    enable_compilation_cache()
    head, landmarker, photo = assets.head_model(), Landmarker(), assets.photo("astronaut")
    product = build_product()
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        film = FILM.value
        if film is None:
            film = str(Path(folder) / "film.mp4")
            save_video(film, moving_face(2 * FRAMES.value))
        lengths = (FRAMES.value, 2 * FRAMES.value)
        pictures = [frame.picture for frame in open_video(film, lengths[1])]
        if len(pictures) < lengths[1]:
            raise SystemExit(
                f"{film}: {len(pictures)} frames, where --frames={lengths[0]} takes {lengths[1]}"
            )
        capture = lambda count: capture_film(film, head, landmarker=landmarker, max_frames=count).params
        for turn in range(REPEATS.value + 1):
            times = {"product": timed(product)}
            times["photo"] = timed(lambda: capture_photo(photo, head, landmarker).params)
            short, long = (timed(functools.partial(capture, count)) for count in lengths)
            times["film"] = (long - short) / (lengths[1] - lengths[0])
            times["film, whole"] = long / lengths[1]
            live = LiveCapture(head, landmarker)
            live.see(pictures[0])
            times["live"] = statistics.median(timed(functools.partial(live.see, x)) for x in pictures[1:])
            for name, value in times.items() if turn else ():
                found.setdefault(name, []).append(value)
    rows = in_products(found)
    print(f"{'':12}{'median ms':>11}{'least':>9}{'most':>9}{'products':>10}")
    for name, row in rows.items():
        print(
            f"{name:12}{row['median_ms']:11.1f}{row['least_ms']:9.1f}{row['most_ms']:9.1f}"
            f"{row['products']:10.3f}"
        )
    if JSON.value:
        Path(JSON.value).write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
