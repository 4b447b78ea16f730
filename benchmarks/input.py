"""How fast is each source of data that is read from disk, and does a training step hide it?

    python -m benchmarks.input [--size=512] [--batch=8] [--seconds=8] [--steps=0.1,0.5,2]

Writes photos (a portrait, moved and relit, so that it compresses as photos do), the same as JPEG, as
`portrait_images`, as films and as `portrait_clips`, and samples of `p4d_heads` of 2 x 2 views, and reads each
as a training does, `train.numbered_stream`, with one and with two threads. Prints images a second (a pair of
films is two, of `p4d_heads` three), bytes an image on disk, and, with two threads, which share of the
time is waiting for data, of steps that take so many seconds on devices of their own and leave the CPU alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from p4d_jax import assets
from p4d_jax.data.photos import Photo, numbered_photos, write_photos
from p4d_jax.data.portraits import CLIPS, IMAGES, open_portraits, write_portraits
from p4d_jax.data.records import write_shard
from p4d_jax.genhead import p4d_heads
from p4d_jax.genhead.synthesis import SyntheticHead
from p4d_jax.geometry import look_at_camera
from p4d_jax.reconstructor.film_pairs import open_films
from p4d_jax.reconstructor.stored_pairs import numbered_pairs, open_stored_heads
from p4d_jax.train.devices import build_mesh
from p4d_jax.train.numbered_stream import NumberedStream
from p4d_jax.types import FrameParams

PHOTOS, FRAMES, HEADS = 32, 8, 8  # pictures in all, frames of a clip, samples


@dataclasses.dataclass(frozen=True)
class Source:
    """A source to be measured: its folder, images of a batch's row, and (rows) -> the numbered batches."""

    folder: Path
    images: int
    numbered: Callable


def portraits(size: int) -> list[Photo]:
    """Pictures of the astronaut, each moved and relit in its own way, named as frames of clips."""
    dice, photo = np.random.default_rng(0), Image.fromarray(assets.photo("astronaut"))
    camera = look_at_camera(0.0, 0.0, 4.0)
    zeros = {"shape": 300, "expression": 100, "pose": 6, "eyes": 6}
    frame = FrameParams(camera, **{name: np.zeros(count, np.float32) for name, count in zeros.items()})
    found = []
    for number in range(PHOTOS):
        left, top = dice.uniform(0, 40, 2)
        box = (left, top, left + 470, top + 470)
        picture = np.asarray(photo.resize((size, size), Image.Resampling.BICUBIC, box), np.float32)
        lit = np.clip(picture * dice.uniform(0.7, 1.2) + dice.normal(0, 2, picture.shape), 0, 255)
        mask = np.hypot(*(np.mgrid[:size, :size] - dice.uniform(0.4, 0.6) * size)) < 0.35 * size
        name = f"{number // FRAMES}/{number % FRAMES}"
        pixels = lit.astype(np.uint8), 255 * mask.astype(np.uint8)
        found.append(Photo(name, *pixels, np.asarray(frame.to_vector())))
    return found


def write_heads(folder: Path, size: int) -> None:
    """Samples of smooth pictures and of features that do not compress, of the sizes of a real GenHead."""
    dice, rays, photos = np.random.default_rng(1), 64, portraits(size)[:4]
    of_view = {
        "opacity": (rays, rays), "depth": (rays, rays), "features": (rays, rays, 32),
        "correspondence": (size, size, 3), "landmarks": (70, 2), "points": (4000, 3),
        "plane_features": (4000, 32), "motion": (109,), "params": (437,),
    }  # fmt: skip
    once = {"background": (rays, rays, 32), "latent": (512,), "conditioning": (25,)}
    shapes = {name: (2, 2, *shape) for name, shape in of_view.items()} | once
    values = {name: dice.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    ramp = np.stack(np.meshgrid(*[np.linspace(-1, 1, size)] * 2), -1)
    values["correspondence"][:] = np.concatenate([ramp, ramp[..., :1] ** 2], -1)
    image = np.stack([photo.image for photo in photos]).reshape(2, 2, size, size, 3) / np.float32(127.5) - 1
    values |= {"image": image, "params": FrameParams.from_vector(values["params"])}
    record = jax.tree.map(np.asarray, p4d_heads.encode_sample(SyntheticHead(**values)))
    made, spec = p4d_heads.heads_set(folder, "dynamic"), p4d_heads.record_spec(SyntheticHead(**values))
    made.start({"head": "openhead"})
    write_shard(made.shard_path(0, 1), spec, [record] * HEADS)
    made.finish(spec, [HEADS])


def write_sources(folder: Path, size: int, batch: int) -> dict[str, Source]:
    """All sources, written below a folder."""
    head = assets.head_model()
    png, jpeg, records, heads = (folder / name for name in ("png", "jpeg", "records", "heads"))
    photos = portraits(size)
    for place in (png, jpeg):
        write_photos(place, photos, head.name, head.expression_names)
    for path in sorted((jpeg / "images").rglob("*.png")):
        Image.open(path).save(path.with_suffix(".jpg"), quality=92)
        path.unlink()
    for name in (IMAGES, CLIPS):
        write_portraits(records, name, png, head, size)
    write_heads(heads, size)

    def of_photos(place: Path) -> Callable:
        found = open_portraits(place, IMAGES, head, size)
        return lambda rows: numbered_photos(found, batch, 0, rows)

    def of_films(place: Path) -> Callable:
        found = open_films(place, head, size, True, 0, batch, 0)
        return lambda rows: numbered_pairs(found, rows)

    stored = open_stored_heads(heads, "openhead", size, batch, 0.0, 0)
    return {
        "photos, PNG": Source(png, 1, of_photos(png)),
        "photos, JPEG": Source(jpeg, 1, of_photos(jpeg)),
        "portrait_images": Source(records / IMAGES, 1, of_photos(records)),
        "real_films, PNG": Source(png, 2, of_films(png)),
        "real_films, portrait_clips": Source(records / CLIPS, 2, of_films(records)),
        "stored, p4d_heads": Source(heads, 3, lambda rows: numbered_pairs(stored, rows)),
    }


def bytes_an_image(source: Source) -> int:
    """Of a source's folder on disk."""
    size = sum(path.stat().st_size for path in source.folder.rglob("*") if path.is_file())
    return size // (4 * HEADS if source.images == 3 else PHOTOS)


def images_a_second(source: Source, batch: int, readers: int, seconds: float) -> float:
    """Of a training that does nothing else."""
    stream = NumberedStream(source.numbered(np.arange(batch)), build_mesh(1), readers)
    jax.block_until_ready(stream(0))
    started, number = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        number += 1
        jax.block_until_ready(stream(number))
    return number * batch * source.images / (time.perf_counter() - started)


def share_waited(source: Source, batch: int, readers: int, step: float) -> float:
    """Share of the time of steps of so many seconds that is waiting for the next batch."""
    stream = NumberedStream(source.numbered(np.arange(batch)), build_mesh(1), readers)
    steps = max(5, round(4 / step))
    for number in range(steps + 2):
        if number == 2:
            before, started = stream.waited, time.perf_counter()
        jax.block_until_ready(stream(number))
        time.sleep(step)
    return (stream.waited - before) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--steps", default="0.1,0.5,2")
    asked = parser.parse_args()
    steps = [float(step) for step in asked.steps.split(",")]
    told = "".join(f"  waits of {step:g} s steps" for step in steps)
    with tempfile.TemporaryDirectory() as name:
        sources = write_sources(Path(name), asked.size, asked.batch)
        print(f"{'source':28}  kB an image  images/s, 1 thread  2 threads{told}")
        for title, source in sources.items():
            one, two = (images_a_second(source, asked.batch, readers, asked.seconds) for readers in (1, 2))
            waits = [share_waited(source, asked.batch, 2, step) for step in steps]
            shares = "".join(f"{100 * share:18.0f} %" for share in waits)
            print(f"{title:28}{bytes_an_image(source) / 1e3:12.0f}{one:19.1f}{two:11.1f}{shares}", flush=True)


if __name__ == "__main__":
    main()
