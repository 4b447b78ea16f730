"""Makes 4D data with a GenHead: shards of the dataset `p4d_heads`, a contact sheet, a film of one identity.

The same command goes on where it was stopped; on several hosts each writes its own shards. `synthesis.json`
tells samples a second and bytes a sample.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import imageio.v3 as iio
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from p4d_jax import assets
from p4d_jax.data import p4d_heads
from p4d_jax.data.motion import Motion, load_motion
from p4d_jax.data.synthesis import HeadSample, SynthesisSettings, synthesize
from p4d_jax.errors import UserError
from p4d_jax.geometry import look_at_camera
from p4d_jax.jobs._pictures import FilmWriter, resize, to_picture
from p4d_jax.jobs.evaluate_genhead import Tools
from p4d_jax.models.checkpoint import load_genhead, read_about
from p4d_jax.types import FrameParams

FILM_YAW, FILM_PITCH = 0.5, 0.15  # radians that the film's camera swings
DISTANCE = 4.05  # world units
SHEET_IDENTITIES = 6
FILM_SIZE = 256  # pixels of the film's picture


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs the job: see the module's docstring."""
    settings = build_settings(config)
    head = assets.head_model(config.head)
    weights = assets.weights(config.weights)
    genhead, variables = load_genhead(weights)
    resolution = settings.resolution or read_about(weights).get("resolution", 64)
    settings = dataclasses.replace(settings, resolution=resolution)
    tools = Tools(genhead, variables, head, resolution, settings.samples, settings.truncation_psi)
    clip = load_motion(assets.motion(config.motion)).params if config.motion else None
    motions = None if clip is None else Motion(clip.expression, clip.pose, clip.eyes)
    key = jax.random.key(config.seed)

    def identity(number: int) -> HeadSample:
        """Samples (M V,) of one identity, on the host."""
        made = synthesize(
            genhead, variables, head, tools.parts, jax.random.fold_in(key, number), settings, motions
        )
        return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), made)

    workdir.mkdir(parents=True, exist_ok=True)
    first = identity(0)  # compiles
    per_shard = -(-config.identities // config.shards)
    seconds, made = write_shards(workdir, config, per_shard, identity)
    arrays = p4d_heads.encode_sample(jax.tree.map(lambda x: x[0], first))
    complete = p4d_heads.finish_dataset(workdir, config.shards, arrays, f"GenHead {config.weights}")
    if jax.process_index() == 0:
        iio.imwrite(workdir / "sheet.png", sheet([first, *(identity(k) for k in range(1, SHEET_IDENTITIES))]))
        if config.film_frames:
            write_film(workdir / "film.mp4", tools, config, key)
        report(workdir, config, arrays, seconds, made, complete)


def build_settings(config: ConfigDict) -> SynthesisSettings:
    """The settings of a config.

    Raises:
      UserError: there is no such value.
    """
    if config.shards < 1 or config.identities < 1:
        raise UserError("config.shards and config.identities must be at least 1")
    values = {k: tuple(v) if isinstance(v, list | tuple) else v for k, v in config.settings.to_dict().items()}
    try:
        return SynthesisSettings(**values)
    except TypeError as error:
        raise UserError(str(error)) from None


def write_shards(workdir: Path, config: ConfigDict, per_shard: int, identity) -> tuple[float, int]:
    """Writes this host's missing shards; seconds and samples that it took."""
    mine = range(jax.process_index(), config.shards, jax.process_count())
    started, made = time.time(), 0
    for shard in tqdm(mine, desc="shards", unit="shard"):
        path = p4d_heads.shard_path(workdir, shard, config.shards)
        if path.is_file():
            continue
        numbers = range(shard * per_shard, min((shard + 1) * per_shard, config.identities))
        samples = []
        for number in numbers:
            batch = identity(number)
            count = len(batch.image)
            samples += [
                p4d_heads.encode_sample(jax.tree.map(lambda x, k=k: x[k], batch)) for k in range(count)
            ]
        p4d_heads.write_shard(path, samples)
        made += len(samples)
    return time.time() - started, made


def report(
    workdir: Path, config: ConfigDict, arrays: dict, seconds: float, made: int, complete: bool
) -> None:
    """Writes and prints what was made."""
    files = [p4d_heads.shard_path(workdir, k, config.shards) for k in range(config.shards)]
    there = [path for path in files if path.is_file()]
    stored = sum(path.stat().st_size for path in there)
    samples = sum(json.loads(p.with_name(f".{p.name}.json").read_text())["samples"] for p in there)
    content = {
        "weights": config.weights,
        "samples": samples,
        "complete": complete,
        "samples_made_now": made,
        "samples_per_second": round(made / seconds, 3) if made else None,
        "bytes_per_sample": round(stored / max(samples, 1)),
        "bytes_per_sample_uncompressed": p4d_heads.sample_bytes(arrays),
        "device": jax.devices()[0].device_kind,
    }
    (workdir / "synthesis.json").write_text(json.dumps(content, indent=1))
    print(json.dumps(content, indent=1))


def sheet(people: list[HeadSample]) -> np.ndarray:
    """Rows: identities; columns: their first samples, then depth and correspondence map of the first."""
    rows = []
    for person in people:
        pictures = [to_picture(image) for image in person.image[:6]]
        size = len(pictures[0])
        depth, opacity = person.depth[0, ..., 0], person.opacity[0, ..., 0]
        shown = np.where(opacity > 0.5, 1 - (depth - 3.4) / 1.2, 0)
        gray = np.repeat((np.clip(shown, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=-1)
        pictures += [resize(gray, size), to_picture(person.correspondence[0])]
        rows.append(np.concatenate(pictures, axis=1))
    return np.concatenate(rows)


def write_film(path: Path, tools: Tools, config: ConfigDict, key: jax.Array) -> None:
    """One identity in the film's motion, seen by a camera that swings around it."""
    clip = load_motion(assets.motion(config.film_motion)).params
    count = min(config.film_frames, len(clip.pose))
    turn = jnp.linspace(0, 2 * jnp.pi, count)
    pivot = jnp.broadcast_to(jnp.array([0.0, 0.0, 0.09]), (count, 3))
    cameras = look_at_camera(
        FILM_YAW * jnp.sin(turn), FILM_PITCH * jnp.sin(2 * turn), jnp.full(count, DISTANCE), 0 * turn, pivot
    )
    front = look_at_camera(0.0, 0.0, DISTANCE, pivot=(0.0, 0.0, 0.09))
    shape = jnp.zeros_like(clip.shape[0])
    planes, background = tools.identity(jax.random.fold_in(key, config.film_identity), front, shape)
    with FilmWriter(path, config.film_fps) as film:
        for k in tqdm(range(count), desc="film", unit="frame"):
            camera = jax.tree.map(lambda x, k=k: x[k], cameras)
            params = FrameParams(camera, shape, clip.expression[k], clip.pose[k], clip.eyes[k])
            film.add(resize(to_picture(tools.view(planes, background, params).image_sr), FILM_SIZE))
