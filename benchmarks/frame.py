"""What a frame of an avatar costs, stage by stage, beside a matrix product in the same process.

    python -m benchmarks.frame [--photo=astronaut] [--weights=reenact_demo] [--size=N] [--repeats=20]
        [--batch=8] [--dtypes=float32,bfloat16] [--json=FILE]

Prints a table of the first call's seconds, and of milliseconds a stage (median, least, most), the median also
in products of two 2048 x 2048 float32 matrices, which are measured in turn with the stages; of several frames
in one program (`--batch`; 1: none) what each takes; the whole frame again with the layers in other number
types. Then frames a second, peak memory, the share of the product's rate at which the arithmetic of the plain
path (XLA's count) would be done in that time, and how near the picture is to that path's, which leaves
nothing out, and those of other number types to that in float32. The head turns, so that no stage sees the
same frame twice in a row.
"""

from __future__ import annotations

import dataclasses
import json
import resource
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import app, flags
from skimage.metrics import peak_signal_noise_ratio

from benchmarks.products import PRODUCT_FLOPS, build_product, in_products, timed
from p4d_jax import Avatar
from p4d_jax.avatar.avatar import _animate, _render_posed
from p4d_jax.avatar.motion_source import motion_of_frame
from p4d_jax.reconstructor.field import driven_meshes
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.types import stack, take

PHOTO = flags.DEFINE_string("photo", "astronaut", "the photo")
WEIGHTS = flags.DEFINE_string("weights", "reenact_demo", "weights of the reconstructor")
SIZE = flags.DEFINE_integer("size", None, "pixels a side; none is the network's own")
REPEATS = flags.DEFINE_integer("repeats", 20, "turns of all stages", lower_bound=3)
BATCH = flags.DEFINE_integer("batch", 8, "frames in one program; 1: none", lower_bound=1)
DTYPES = flags.DEFINE_list("dtypes", ["float32", "bfloat16"], "number types of the layers")
JSON = flags.DEFINE_string("json", None, "a file for the figures")


def with_dtype(avatar: Avatar, dtype: str) -> Avatar:
    """The avatar with the network's layers in another number type."""
    config = dataclasses.replace(avatar.model.config, dtype=dtype)
    return avatar.replace(model=avatar.model.replace(network=Reconstructor(config)))


def main(_: list[str]) -> None:
    avatar = Avatar.from_photo(PHOTO.value, weights=WEIGHTS.value, size=SIZE.value, personalise=0)
    model, shape = avatar.model, avatar.params.shape
    turn = [avatar.params.pose.at[1].add(yaw) for yaw in (-0.3, 0.0, 0.3)]
    frames = [avatar.params.replace(pose=pose) for pose in turn]
    motions = [motion_of_frame(model.motion_source, model.head, frame) for frame in frames]
    product = build_product()
    render = lambda k: avatar.render(frames[k], motion=motions[k]).image

    stages: dict[str, Callable[[int], object]] = {
        "product": lambda k: product(),
        "meshes": lambda k: driven_meshes(model.head, shape, frames[k]),
        "animate": lambda k: avatar.animate(motions[k]),
        "frame": render,
    }
    if BATCH.value > 1:
        many = [
            take(stack(values), np.resize(range(len(values)), BATCH.value)) for values in (frames, motions)
        ]
        stages[f"{BATCH.value} frames"] = lambda k: avatar.render_many(*many)
    other = {name: with_dtype(avatar, name) for name in DTYPES.value if name != avatar.model.config.dtype}
    for name, one in other.items():
        stages[name] = lambda k, one=one: one.render(frames[k], motion=motions[k]).image
    compile_seconds = {name: timed(lambda stage=stage: stage(0)) / 1e3 for name, stage in stages.items()}
    found: dict[str, list[float]] = {name: [] for name in stages}
    for turn in range(REPEATS.value):
        for name, stage in stages.items():
            found[name].append(timed(lambda stage=stage, turn=turn: stage(turn % len(frames))))

    shown = (
        model, avatar.animate(motions[0]), avatar.source.texture, avatar.source.features.background,
        driven_meshes(model.head, shape, frames[0]), frames[0],
    )  # fmt: skip
    plain = _render_posed.prepare(*shown, resolution=avatar.resolution, samples=avatar.samples, parts=1)
    reference = np.asarray(avatar.render(frames[0], motion=motions[0]).image).clip(-1, 1)
    near = lambda image: peak_signal_noise_ratio(reference, np.asarray(image).clip(-1, 1), data_range=2.0)
    animate = _animate.prepare(model, avatar.source, motions[0])
    flops = sum(program.cost_analysis()["flops"] for program in (plain, animate))
    if BATCH.value > 1:
        found[f"{BATCH.value} frames"] = [value / BATCH.value for value in found[f"{BATCH.value} frames"]]
    table = in_products(found)
    for name, row in table.items():
        row["first_call_s"] = compile_seconds[name]
    frame = table["frame"]["median_ms"]
    summary = {
        "size": avatar.size,
        "device": jax.devices()[0].device_kind,
        "frames_per_second": 1e3 / frame,
        "gflop_a_frame": flops / 1e9,
        "decibels_to_plain_path": near(plain(*shown).image),
        "decibels_to_float32": {name: near(stages[name](0)) for name in other},
        "share_of_product_rate": (flops / frame) / (PRODUCT_FLOPS / table["product"]["median_ms"]),
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    print(f"{'stage':10}{'median ms':>11}{'least':>9}{'most':>9}{'products':>10}{'first call s':>14}")
    for name, row in table.items():
        print(
            f"{name:10}{row['median_ms']:11.1f}{row['least_ms']:9.1f}{row['most_ms']:9.1f}"
            f"{row['products']:10.2f}{row['first_call_s']:14.1f}"
        )
    print(json.dumps(summary))
    if JSON.value:
        Path(JSON.value).write_text(json.dumps({"stages": table, **summary}, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
