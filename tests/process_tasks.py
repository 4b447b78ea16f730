"""What tests run in several processes (see `processes`): a reduction, a distance, bent necks, a training."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from p4d_jax.errors import Preempted
from p4d_jax.geometry import look_at_camera
from p4d_jax.train import journal, loop
from p4d_jax.train.config import LoopConfig
from p4d_jax.train.devices import (
    DATA_AXIS,
    build_mesh,
    first_share,
    gather_batch,
    local,
    on_devices,
    replicate,
    replicated,
    samples_at_once,
)
from p4d_jax.train.processes import agreed, check_shared, is_primary
from p4d_jax.train.state import build_optimizer, create_state


def reduce_over_the_mesh() -> dict:
    """Sums what each process brings, each row weighted by the device that it lies on."""
    mesh = build_mesh()
    share = np.full((2 * jax.local_device_count(), 3), 10.0 ** jax.process_index(), np.float32)
    share[:, 0] = np.arange(share.shape[0])
    batch = gather_batch(share, mesh)

    def weigh(rows):
        return jax.lax.psum(rows.sum(0) * (1 + jax.lax.axis_index(DATA_AXIS)), DATA_AXIS)

    try:
        local(batch)
        refused = False
    except ValueError:
        refused = True
    shares, whole = PartitionSpec(DATA_AXIS), PartitionSpec()
    total = jax.jit(jax.shard_map(weigh, mesh=mesh, in_specs=shares, out_specs=whole))(batch)
    return {
        "devices": mesh.size,
        "shape": batch.shape,
        "total": np.asarray(total).tolist(),
        "sum": float(jnp.sum(jax.jit(lambda x: x.sum(1), out_shardings=replicated(mesh))(batch))),
        "a split array has no local copy": refused,
        "first": float(first_share(batch)[1, 0]),
        "agreed": agreed(float(jax.process_index() + 7)),
    }


def bend_necks(heads: int) -> str:
    """A digest of the fields of `heads` heads with bent necks, made on all devices."""
    from p4d_jax import assets
    from p4d_jax.head.expression_field import build_canonical_frame
    from p4d_jax.head.skinning import head_vertices
    from p4d_jax.reconstructor.config import ReconstructorConfig
    from p4d_jax.reconstructor.deformation import build_field

    mesh, head, key = build_mesh(), assets.head_model("openhead"), jax.random.key(0)
    frame, config = build_canonical_frame(head, 32), ReconstructorConfig(deformation="neck")
    camera = look_at_camera(0.0, 0.0, 4.0)

    def one(shared: tuple, sample: tuple):
        head, frame, camera = shared
        shape, expression, pose, eyes = sample
        level = pose.at[:3].set(0)
        posed, straight = (head_vertices(head, shape, expression, bent, eyes) for bent in (pose, level))
        return build_field(config, frame, posed, straight, pose[:3], camera)

    keys = jax.random.split(key, 4)
    sizes = ((300, 1.0), (100, 0.2), (6, 0.2), (6, 0.1))
    samples = tuple(a * jax.random.normal(k, (heads, n)) for k, (n, a) in zip(keys, sizes, strict=True))
    shared = replicate((head, frame, camera), mesh)
    spread = jax.jit(lambda shared, batch: on_devices(mesh, one, shared, at_once=samples_at_once())(batch))
    fields = spread(shared, samples)
    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(fields))).hexdigest()


def check_a_folder(folders: list[str], patience: float) -> str:
    """The message of the check, each process with its own folder."""
    try:
        check_shared(Path(folders[jax.process_index()]), patience)
    except ValueError as error:
        return str(error)
    return ""


def open_silent_events(workdir: Path, open_events=journal.open_events):
    """Without clu's writer, which imports tensorflow for seconds."""
    return journal.NoEvents() if is_primary() else open_events(workdir)


def train_toys(runs: list[dict]) -> list[dict]:
    """One training after another, in one process."""
    return [train_toy(**run) for run in runs]


def hosts_that_differ(workdir: str) -> list[str]:
    """What is said of runs whose processes have another config, version, head and first state each."""
    number, said = jax.process_index(), []
    for change in (
        {"record": {"loop": {"steps": 8 + number}}},
        {"record": {"package": f"1.{number}"}},
        {"record": {"head_file": f"digest {number}"}},
        {"record": {f"field_{number}": 1}},
        {"first": 1.0 + number},
    ):
        try:
            train_toy(workdir, **change)
            said.append("")
        except ValueError as error:
            said.append(str(error))
    return said


def train_toy(
    workdir: str,
    kill_at: int = -1,
    steps: int = 8,
    minutes: float = 0.0,
    term_at: int = -1,
    pause: float = 0.0,
    first: float = 1.0,
    record: dict | None = None,
) -> dict:
    """Fits a vector to noise that every device draws for itself.

    All processes die before step `kill_at`; the last one gets SIGTERM before step `term_at`, of steps that
    take `pause` seconds. Vectors begin with `first`.
    """
    mesh = build_mesh()
    optimizer = build_optimizer(0.9, 0.99, 1e-8, 1.0)
    key = jax.random.key(0)
    state = create_state({"params": {"w": jnp.full(4, first)}}, optimizer, jax.random.key_data(key))
    state = replicate(state, mesh)

    def error(params, key):
        noise = jax.random.normal(jax.random.fold_in(key, jax.lax.axis_index(DATA_AXIS)), (4,))
        return jnp.sum((params["w"] - noise) ** 2)

    def on_device(params, key):
        return jax.lax.pmean(jax.value_and_grad(error)(params, key), DATA_AXIS)

    whole = PartitionSpec()
    spread = jax.shard_map(on_device, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False)

    @jax.jit
    def update(state, rate):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        loss, gradient = spread(state.params, key)
        moves, moments = optimizer.update(gradient, state.optimizer, state.params)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, moves)
        new = state.replace(step=state.step + 1, params=params, average=params, optimizer=moments)
        return new, {"loss": loss}

    done = 0

    def step(state, rate):
        nonlocal done
        if int(state.step) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if int(state.step) == term_at and jax.process_index() == jax.process_count() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(pause)
        done += 1
        return update(state, rate)

    def draw(state):
        shade = jnp.clip(local(state.average)["w"][0], 0, 1) * 255
        return np.full((8, 8, 3), int(shade), np.uint8)

    config = LoopConfig(
        steps=steps, minutes=minutes, peak_rate=0.1, warmup=2, log_every=1, grid_every=5, save_minutes=0
    )
    journal.open_events = open_silent_events
    export = lambda s, path: np.savez(path, **s.average)
    try:
        state = loop.train(config, Path(workdir), state, step, draw, export, record=record)
    except Preempted as error:
        return {"preempted": str(error), "done": done}
    return {"step": int(state.step), "done": done, "w": np.asarray(state.params["w"]).tolist()}


class MeanColours(nn.Module):
    """Instead of Inception: a dense layer of the mean colour."""

    @nn.compact
    def __call__(self, pictures):
        return nn.Dense(5)(pictures.mean((1, 2)))


def measure_distances(workdir: str) -> dict:
    """The Fréchet distance of two sets of pictures of which each process has its share, twice."""
    from p4d_jax.evaluation import fid
    from p4d_jax.evaluation.frechet import frechet_distance

    mesh, network = build_mesh(), MeanColours()
    features = fid.build_features(network, network.init(jax.random.key(0), np.zeros((1, 4, 4, 3))), mesh)
    gathered, share = 0, 8 // jax.process_count()

    def draw(seed: int, number: int):
        pictures = np.random.default_rng((seed, number)).uniform(-1, 1, (8, 4, 4, 3)).astype(np.float32)
        return gather_batch(pictures[share * jax.process_index() :][:share], mesh)

    def gather(seed: int = 0):
        nonlocal gathered
        gathered += 1
        return fid.gather_statistics(features, lambda number: draw(seed, number), 8, 20, "toys")

    distances = []
    for _ in range(2):
        data, made = fid.cached_statistics(Path(workdir) / "data.npz", {}, gather), gather(1)
        distances.append(frechet_distance(data.mean, data.covariance, made.mean, made.covariance))
    return {"distances": distances, "gathered": gathered}
