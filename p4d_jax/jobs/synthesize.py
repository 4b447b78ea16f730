"""The job `synthesize`: 4D training data from a GenHead, as the TFDS data set `p4d_heads`.

The workdir gets

    p4d_heads/dynamic/1.0.0/   samples of one identity in several motions, each in several views
    p4d_heads/static/1.0.0/    samples of one identity in one motion, in several views
    sheet.png                  stored samples, read back: identities in rows
    film.mp4                   one identity in a moving expression before a moving camera: picture,
                               correspondence map, depth
    synthesis.json             samples a second, bytes a sample, the config

A shard depends on the seed and its number alone and appears when it is complete: the same command, started
again, makes the missing ones. On several hosts each process makes its share; the last to end writes the data
set's metadata, and process 0 the rest.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict
from tqdm import tqdm

import p4d_jax
from p4d_jax import assets
from p4d_jax.data.motion import load_motion, motion_for_head
from p4d_jax.data.records import RecordSet, RecordSpec, read_shard, record_bytes, write_shard
from p4d_jax.errors import UserError
from p4d_jax.genhead import p4d_heads
from p4d_jax.genhead.config import SynthesisSettings
from p4d_jax.genhead.renderer import GenHeadRenderer, open_renderer
from p4d_jax.genhead.synthesis import (
    RandomMotions,
    RandomPortraits,
    Sources,
    stored_motions,
    stored_portraits,
)
from p4d_jax.genhead.view import GenHeadView
from p4d_jax.geometry import look_at_camera
from p4d_jax.head.model import HeadModel
from p4d_jax.imaging import writing as pictures
from p4d_jax.jobs._publish import published, write_json
from p4d_jax.jobs.settings import DatasetSettings, SynthesizeSettings
from p4d_jax.settings import from_config, to_config
from p4d_jax.types import CAMERA_RADIUS, Array, FrameParams, take

KINDS = ("dynamic", "static")
FILM_YAW, FILM_PITCH = 0.5, 0.2  # radians that the film's camera swings to either side


@dataclass(frozen=True)
class Order:
    """One data set to be made: its kind, settings of a sample, shards and samples in each, its records."""

    kind: str
    settings: SynthesisSettings
    shards: int
    samples: int
    spec: RecordSpec

    @property
    def lengths(self) -> list[int]:
        """Samples of each shard."""
        return [self.samples] * self.shards

    def keys(self, seed: int, shard: int) -> Array:
        """The keys (samples,) of a shard's samples."""
        key = jax.random.fold_in(jax.random.key(seed), KINDS.index(self.kind))
        return jax.random.split(jax.random.fold_in(key, shard), self.samples)


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs the job; see the file's docstring."""
    config = from_config(SynthesizeSettings, config)
    renderer, sources, film, orders = read_inputs(config, workdir)
    made = {order.kind: make_dataset(config, workdir, renderer, sources, order) for order in orders}
    if jax.process_index() == 0:
        with published(workdir) as folder:
            if rows := sheet_rows(workdir, orders, config.sheet_rows):
                pictures.save_picture(folder / "sheet.png", np.concatenate(rows))
            if film is not None:
                write_film(folder / "film.mp4", renderer, sources, film, orders[0].settings, config)
            write_json(folder / "synthesis.json", report(config, made))
    print(f"see {workdir / 'synthesis.json'}")


# What goes in -----------------------------------------------------------------------------------------------


def read_inputs(
    config: SynthesizeSettings, workdir: Path
) -> tuple[GenHeadRenderer, Sources, FrameParams | None, list[Order]]:
    """Checks and reads all that the config names: generator and sources, the film's motion, the data sets."""
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file; name a folder")
    renderer = open_renderer(config.weights, config.head)
    sources = read_sources(config, renderer.head)
    film = read_clip(config.film_motion, renderer.head, "film_motion") if config.film_frames > 0 else None
    shared = shared_settings(config, renderer)
    wanted = [kind for kind in KINDS if getattr(config, kind).shards > 0]
    orders = [build_order(renderer, sources, kind, getattr(config, kind), shared) for kind in wanted]
    if not orders:
        raise UserError("config.dynamic.shards=0 and config.static.shards=0: there is nothing to make")
    return renderer, sources, film, orders


def read_sources(config: SynthesizeSettings, head: HeadModel) -> Sources:
    """Files that the config names, or OpenHeads' distribution and motion model."""
    if not config.motions and not head.expression_names:
        raise UserError(
            f"config.motions='': the motion model moves heads with ARKit's expressions, which {head.name!r}"
            " has not; name motion .npz files of clips"
        )
    portraits, motions = RandomPortraits(head.shape_basis.shape[-1]), RandomMotions(head.expression_names)
    if config.portraits:
        portraits = stored_portraits([read_clip(n, head, "portraits") for n in config.portraits.split(",")])
    if config.motions:
        motions = stored_motions([read_clip(n, head, "motions") for n in config.motions.split(",")])
    return Sources(portraits, motions)


def read_clip(name: str, head: HeadModel, field: str) -> FrameParams:
    """The frames (T, ...) of a motion file, by path or embedded name."""
    try:
        motion = load_motion(assets.motion(name))
        if motion.head != head.name:
            raise UserError(f"{name!r} moves the head model {motion.head!r}, not {head.name!r}")
        return motion_for_head(motion, head.expression_names).params
    except ValueError as error:
        raise UserError(f"config.{field}: {error}") from error


def shared_settings(config: SynthesizeSettings, renderer: GenHeadRenderer) -> SynthesisSettings:
    """`config.settings`, its resolution 0 replaced by the one of the weights' training."""
    settings = config.settings
    if settings.resolution == 0:
        settings = replace(settings, resolution=renderer.trained_resolution)
    genhead = renderer.genhead
    largest, size = genhead.config.superresolution_size, genhead.config.image_size
    if not (1 <= settings.resolution <= largest or settings.resolution == size):
        raise UserError(
            f"config.settings.resolution={settings.resolution}: this GenHead takes up to {largest} rays a"
            f" side, or {size}"
        )
    return settings


def build_order(
    renderer: GenHeadRenderer, sources: Sources, kind: str, wanted: DatasetSettings, shared: SynthesisSettings
) -> Order:
    """The data set of a kind, with the exact form of its records."""
    for field in ("motions", "views", "samples"):
        if getattr(wanted, field) < 1:
            raise UserError(f"config.{kind}.{field}={getattr(wanted, field)}: expected at least 1")
    settings = replace(shared, motions=wanted.motions, views=wanted.views)
    keys = jax.random.split(jax.random.key(0), 1)
    sample = jax.eval_shape(lambda keys: draw(renderer, sources, keys, settings), keys)
    record = {name: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for name, leaf in sample.items()}
    return Order(kind, settings, wanted.shards, wanted.samples, record)


# The data set -----------------------------------------------------------------------------------------------


def draw(
    renderer: GenHeadRenderer, sources: Sources, keys: Array, settings: SynthesisSettings
) -> dict[str, Array]:
    """Records of one sample a key, on the device."""
    return p4d_heads.encode_sample(renderer.synthesize(keys, settings, sources))


def compile_draw(
    renderer: GenHeadRenderer, sources: Sources, settings: SynthesisSettings
) -> tuple[Callable, int]:
    """`draw` compiled for a batch of one identity on each of this process's devices, and the batch's size."""
    mesh = Mesh(np.asarray(jax.local_devices()), ("identities",))
    arrays = (renderer, sources)

    def share(arrays: tuple, keys: Array) -> dict[str, Array]:
        return draw(*arrays, keys, settings)

    # No device waits for another: what each computes does not depend on how many there are.
    split = jax.shard_map(
        share, mesh=mesh, in_specs=(P(), P("identities")), out_specs=P("identities"), check_vma=False
    )
    keys = jax.random.split(jax.random.key(0), mesh.size)
    compiled = jax.jit(split).lower(arrays, keys).compile()
    arrays = jax.device_put(arrays, jax.sharding.NamedSharding(mesh, P()))
    spread = jax.sharding.NamedSharding(mesh, P("identities"))
    return lambda keys: compiled(arrays, jax.device_put(keys, spread)), mesh.size


def make_dataset(
    config: SynthesizeSettings, workdir: Path, renderer: GenHeadRenderer, sources: Sources, order: Order
) -> dict:
    """Makes this process's missing shards, and the metadata if no shard is missing then. Returns figures."""
    made = p4d_heads.heads_set(workdir, order.kind)
    made.start(recipe(config, order))
    missing = made.missing_shards(order.lengths)
    mine = [k for k in missing if k % jax.process_count() == jax.process_index()]
    figures = {"samples_made": len(mine) * order.samples}
    if mine:
        print(f"compiling for {order.kind} samples ...", flush=True)
        started = time.perf_counter()
        make, batch = compile_draw(renderer, sources, order.settings)
        figures["seconds_compiling"] = round(time.perf_counter() - started, 1)
        started = time.perf_counter()
        with tqdm(total=len(mine) * order.samples, desc=order.kind, unit="sample") as bar:
            for shard in mine:
                records = shard_records(make, batch, order.keys(config.seed, shard), bar)
                write_shard(made.shard_path(shard, order.shards), order.spec, records)
        seconds = time.perf_counter() - started
        figures["samples_per_second"] = round(len(mine) * order.samples / seconds, 4)
        figures["views_per_second"] = round(figures["samples_per_second"] * views(order), 4)
    if not made.missing_shards(order.lengths):
        made.finish(order.spec, order.lengths)
    return figures | sizes(made, order)


def shard_records(make: Callable, batch: int, keys: Array, bar: tqdm):
    """The records of a shard, one after the other; the last batch is filled up with keys seen before."""
    count = len(keys)
    for start in range(0, count, batch):
        numbers = np.arange(start, start + batch) % count
        drawn = jax.device_get(make(keys[numbers]))
        for k in range(min(batch, count - start)):
            yield {name: value[k] for name, value in drawn.items()}
            bar.update()


def recipe(config: SynthesizeSettings, order: Order) -> dict:
    """All that decides what a shard holds."""
    weights = assets.weights(config.weights)
    return {
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else str(weights),
        "head": config.head,
        "seed": config.seed,
        "portraits": config.portraits,
        "motions": config.motions,
        "shards": order.shards,
        "samples": order.samples,
        "settings": {
            name: value
            for name, value in vars(order.settings).items()
            if name != "views_at_once"  # how, not what
        },
    }


def views(order: Order) -> int:
    """Pictures of a sample."""
    return order.settings.motions * order.settings.views


def sizes(made: RecordSet, order: Order) -> dict:
    """What is there of a data set, and how large it is."""
    missing = made.missing_shards(order.lengths)
    paths = [made.shard_path(k, order.shards) for k in range(order.shards) if k not in missing]
    samples = len(paths) * order.samples
    stored = sum(path.stat().st_size for path in paths)
    return {
        "samples": samples,
        "views_a_sample": views(order),
        "complete": not missing,
        "bytes_a_sample": record_bytes(order.spec),
        "bytes_a_sample_on_disk": round(stored / samples) if samples else None,
    }


def report(config: SynthesizeSettings, made: dict[str, dict]) -> dict:
    """What synthesis.json holds."""
    device = jax.devices()[0]
    return {
        **made,
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "processes": jax.process_count(),
        "versions": {"p4d_jax": p4d_jax.__version__, "jax": jax.__version__},
        "config": to_config(config).to_dict(),
    }


# To look at -------------------------------------------------------------------------------------------------


def sheet_rows(workdir: Path, orders: list[Order], count: int) -> list[np.ndarray]:
    """A row for each of the first stored samples of each kind: its views, depth and map of the first.

    All rows are as wide as the widest: narrower ones end in black.
    """
    rows = []
    for order in orders:
        path = p4d_heads.heads_set(workdir, order.kind).shard_path(0, order.shards)
        if path.exists():
            rows += [sheet_row(record) for record in read_shard(path, order.spec)[:count]]
    widest = max((row.shape[1] for row in rows), default=0)
    return [np.pad(row, ((0, 0), (0, widest - row.shape[1]), (0, 0))) for row in rows]


def sheet_row(record: dict[str, np.ndarray]) -> np.ndarray:
    """Depth and correspondence map of the first view of a record, then the pictures of all views."""
    shown = np.concatenate(list(record["image"]))
    size = shown.shape[1]
    depth = pictures.color_depth(record["depth"][0, 0], np.float32(record["opacity"][0, 0]))
    correspondence = pictures.to_picture(np.float32(record["correspondence"][0, 0]))
    return pictures.side_by_side([depth, correspondence, *shown], size)


def write_film(
    path: Path,
    renderer: GenHeadRenderer,
    sources: Sources,
    clip: FrameParams,
    settings: SynthesisSettings,
    config: SynthesizeSettings,
) -> None:
    """One identity in a clip's motion, seen by a camera that swings around it."""
    count = min(config.film_frames, len(clip.expression))
    angle = jnp.linspace(0, 2 * jnp.pi, count, endpoint=False)
    cameras = look_at_camera(
        FILM_YAW * jnp.sin(angle), FILM_PITCH * jnp.sin(2 * angle), CAMERA_RADIUS, pivot=settings.pivot
    )
    key = jax.random.key(config.film_seed)
    identity = renderer.draw_identity(key, sources, settings)
    with pictures.VideoWriter(path, config.film_fps) as film:
        for index in tqdm(range(count), desc="film", unit="frame"):
            camera, frame = take((cameras, clip), index)
            frame = frame.replace(camera=camera, shape=identity.shape)
            seen = renderer.show(
                identity.planes, identity.background, frame, settings.resolution, settings.samples
            )
            film.add(film_frame(seen, config.panel))


def film_frame(seen: GenHeadView, panel: int) -> np.ndarray:
    """Picture, correspondence map and depth."""
    depth = pictures.color_depth(np.asarray(seen.depth), np.asarray(seen.opacity))
    shown = (pictures.to_picture(seen.image_sr), pictures.to_picture(seen.correspondence), depth)
    return pictures.side_by_side(shown, panel)
