"""The Fréchet inception distance of a GenHead in training (arXiv 1706.08500).

Features are those of the network in `networks.inception`; pictures are rounded to 8 bits first, as files
would hold them. Generated pictures are the moving average's, without truncation, conditioned on frames
drawn from the distribution of the data. The same codes and frames are shown each time, so that two
distances of a run differ by its weights alone.

Devices share the pictures. Every process gets all features and computes the same statistics: nothing has to
be sent, and nobody waits for the primary one.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from tqdm import tqdm

from p4d_jax.data.samples import Portrait
from p4d_jax.errors import UserError
from p4d_jax.evaluation.frechet import FeatureStatistics, frechet_distance
from p4d_jax.genhead.forward import random_pictures
from p4d_jax.genhead.frames import rasterize_frames
from p4d_jax.genhead.training import GenHeadTraining
from p4d_jax.networks.inception import InceptionV3
from p4d_jax.npz import open_npz
from p4d_jax.train.devices import DATA_AXIS, local, replicate, replicated, split
from p4d_jax.train.network_folder import load_converted
from p4d_jax.train.processes import agreed, is_primary
from p4d_jax.train.state import TrainState
from p4d_jax.types import Array, FrameParams

FIRST_NUMBER = 2**30  # of the batches drawn here; training draws those of its steps, which stay below
ROWS_AT_ONCE = 1024  # feature vectors gathered before they enter the covariance


def load_inception(folder: str) -> tuple[InceptionV3, dict]:
    """The network and its variables, as the job `convert` wrote them.

    Raises:
      UserError: The folder holds no such network.
    """
    network, config, variables = load_converted(Path(folder).expanduser())
    if network != "inception_fid":
        raise UserError(f"{folder!r} holds {network!r}, not 'inception_fid'")
    return InceptionV3(**config), variables


def build_fid(
    training: GenHeadTraining,
    inception: tuple[InceptionV3, dict],
    draw_real: Callable[[int], Portrait],
    draw_params: Callable[[int], FrameParams],
    batch: int,
    count: int,
    key: Array,
    cache: Path,
    about: dict,
) -> Callable[[TrainState], dict[str, float]]:
    """state -> {"fid": distance}, for `train.loop`; all processes call.

    Args:
      inception: from `load_inception`.
      draw_real, draw_params, batch: as `build_genhead_step` takes them.
      count: pictures on each side.
      key: typed; of the codes.
      cache: an .npz where the data's statistics are kept.
      about: all that decides which pictures the data's are; other statistics than these are not taken.

    Raises:
      UserError: there are too few pictures.
    """
    if count < 2:
        raise UserError(f"count={count}: a covariance needs at least 2 pictures")
    features = build_features(*inception, training.mesh)
    gather = functools.partial(gather_statistics, features, batch=batch, count=count)
    about = about | {"pictures": count, "inception": digest(inception[1])}
    make = build_generation(training, draw_params, batch, key)

    def gather_reals() -> FeatureStatistics:
        return gather(lambda number: draw_real(FIRST_NUMBER + number).image, name="data")

    def evaluate(state: TrainState) -> dict[str, float]:
        reals = cached_statistics(cache, about, gather_reals)
        fakes = gather(functools.partial(make, state), name="generated")
        distance = frechet_distance(fakes.mean, fakes.covariance, reals.mean, reals.covariance)
        return {"fid": distance}

    return evaluate


def build_generation(
    training: GenHeadTraining, draw_params: Callable[[int], FrameParams], batch: int, key: Array
) -> Callable[[TrainState, int], Array]:
    """(state, number) -> pictures (B, S, S, 3) of its moving average, split over the mesh."""
    shares = split(training.mesh)

    @functools.cache
    def seeing(resolution: int):
        return jax.jit(functools.partial(rasterize_frames, training, resolution), out_shardings=shares)

    key = jax.random.fold_in(key, FIRST_NUMBER)
    make = jax.jit(functools.partial(random_pictures, training), out_shardings=shares)

    def generate(state: TrainState, number: int) -> Array:
        resolution = training.config.resolution(int(state.step) * batch)
        frames = seeing(resolution)(training.head, training.parts, draw_params(FIRST_NUMBER + number))
        variables = {"params": state.average, "buffers": state.buffers}
        raw = np.asarray(jax.random.key_data(jax.random.fold_in(key, number)))  # of all processes the same
        return make(variables, frames, raw)

    return generate


def build_features(inception: InceptionV3, variables: dict, mesh: Mesh) -> Callable[[Array], np.ndarray]:
    """Pictures (B, H, W, 3) in [-1, 1], split over the mesh -> features (B, D), in every process."""
    whole, shares = PartitionSpec(), PartitionSpec(DATA_AXIS)

    def on_device(variables: dict, pictures: Array) -> Array:
        return inception.apply(variables, to_8_bits(pictures))

    spread = jax.shard_map(on_device, mesh=mesh, in_specs=(whole, shares), out_specs=shares, check_vma=False)
    compiled, variables = jax.jit(spread, out_shardings=replicated(mesh)), replicate(variables, mesh)
    return lambda pictures: np.asarray(local(compiled(variables, pictures)))


def to_8_bits(pictures: Array) -> Array:
    """[-1, 1], or a little beyond, -> the nearest of 256 values in [-1, 1]."""
    return jnp.round(jnp.clip(pictures * 127.5 + 127.5, 0, 255)) / 127.5 - 1


def gather_statistics(
    features: Callable[[Array], np.ndarray], draw: Callable[[int], Array], batch: int, count: int, name: str
) -> FeatureStatistics:
    """Of the first `count` pictures of `draw`'s batches 0, 1, ..."""
    parts, rows = [], []
    numbers = range(-(-count // batch))
    for number in tqdm(numbers, f"FID, {name}", unit="batch", leave=False, disable=not is_primary()):
        rows.append(features(draw(number))[: count - number * batch])
        if sum(map(len, rows)) >= ROWS_AT_ONCE or number == numbers[-1]:
            parts.append(FeatureStatistics.of(np.concatenate(rows)))
            rows = []
    return functools.reduce(FeatureStatistics.merge, parts)


def cached_statistics(path: Path, about: dict, gather: Callable[[], FeatureStatistics]) -> FeatureStatistics:
    """What the file at `path` holds, or, where that is missing or of something else, what is gathered now."""
    text = json.dumps(about, sort_keys=True, default=str)
    known = False
    if is_primary() and path.is_file():
        with contextlib.suppress(UserError), open_npz(path) as stored:  # a damaged one is gathered anew
            known = stored.text("about") == text
    if agreed(float(known)):
        with open_npz(path, "statistics of features") as stored:
            return FeatureStatistics(int(stored.read("count")), stored.read("mean"), stored.read("scatter"))
    statistics = gather()
    if is_primary():
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, about=np.array(text), **vars(statistics))
        temporary.replace(path)
    return statistics


def digest(variables: dict) -> str:
    """Of all weights, in the order of their names."""
    found = hashlib.sha256()
    for _, value in sorted(flax.traverse_util.flatten_dict(variables, sep="/").items()):
        found.update(np.ascontiguousarray(value).tobytes())
    return found.hexdigest()
