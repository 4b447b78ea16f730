"""Trains GenHead on single pictures: streamed OpenHeads, every step of new people, or photos of a folder
(docs/concepts/genhead.md).

Starts or goes on in the workdir (`train.loop`). `weights.npz` there is what `synthesize` takes as
`--config.weights=`.
"""

from __future__ import annotations

import dataclasses
import functools
import platform
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from p4d_jax import assets
from p4d_jax.data.photos import open_photos
from p4d_jax.errors import UserError
from p4d_jax.evaluation.fid import build_fid, load_inception
from p4d_jax.genhead.discriminator import Discriminator
from p4d_jax.genhead.model import GenHead
from p4d_jax.genhead.parts import build_head_parts
from p4d_jax.genhead.photo_stream import photo_draws
from p4d_jax.genhead.renderer import GenHeadRenderer
from p4d_jax.genhead.step import (
    GenHeadState,
    GenHeadTraining,
    build_genhead_step,
    create_genhead_state,
    stage_resolution,
)
from p4d_jax.genhead.weights import save_genhead
from p4d_jax.geometry import look_at_camera
from p4d_jax.head.actions import ARKIT, compose_motion
from p4d_jax.head.model import HeadModel
from p4d_jax.imaging.writing import to_picture
from p4d_jax.jobs.settings import TrainGenHeadSettings
from p4d_jax.openheads.config import OpenHeadsSettings
from p4d_jax.openheads.people import random_identity, random_portrait_params
from p4d_jax.openheads.portraits import portraits_in_scene
from p4d_jax.openheads.scene import OpenHeadsScene, prepare_scene
from p4d_jax.settings import from_config
from p4d_jax.train.config import LoopConfig
from p4d_jax.train.devices import build_mesh, local, replicate, replicated, split
from p4d_jax.train.loop import train
from p4d_jax.train.processes import is_primary
from p4d_jax.types import (
    CAMERA_PIVOT,
    CAMERA_RADIUS,
    EXPRESSION_SIZE,
    SHAPE_SIZE,
    FrameParams,
    VectorParts,
    take,
)

SHOWN = 8  # identities in the pictures of the run
YAW = 0.44  # radians, 25 degrees: of the side views there
NOT_OF_THE_DATA = ("name", "precision", "model", "discriminator", "step", "loop", "inception", "fid_images")
GRID_SEED = 1  # folded into the run's key for what the pictures show


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs the job: see the module's docstring."""
    training, loop_config = build_gan(config)
    inception = load_inception(config.inception) if config.inception else None
    key = jax.random.key(config.seed)
    state = create_genhead_state(training, key)
    for name in ("generator", "discriminator"):
        count = sum(value.size for value in jax.tree.leaves(getattr(state, name)))
        if is_primary():
            print(f"{name}: {count / 1e6:.2f} M parameters")
    if is_primary():
        print(f"{training.mesh.size} devices, {config.batch} pictures a step")
    state = replicate(state, training.mesh)
    draw_real, draw_params, people = choose_data(training, config, key)
    step = build_genhead_step(training, draw_real, draw_params, config.batch)
    evaluate = None
    if inception:
        data = {k: v for k, v in config.to_dict().items() if k not in NOT_OF_THE_DATA}
        data["image_size"] = training.genhead.config.image_size
        evaluate = build_fid(
            training, inception, draw_real, draw_params, config.batch, config.fid_images, key,
            workdir / "data_statistics.npz", data,
        )  # fmt: skip
        loop_config = dataclasses.replace(loop_config, best="fid", best_is="lowest")
    draw = build_grid(training, people, config, key)

    def export(state: GenHeadState, path: Path) -> None:
        about = {
            "command": f"python -m p4d_jax.main --config=configs/{config.name}.py",
            "data": config.data,
            "steps": int(state.step),
            "images": int(state.step) * config.batch,
            "hours": round(float(state.seconds) / 3600, 3),
            "machine": f"{jax.devices()[0].device_kind}, {platform.machine()}, {training.mesh.size} devices",
            "resolution": stage_resolution(training.config, int(state.step) * config.batch),
            "samples": list(training.config.samples),
        }
        save_genhead(
            path, training.genhead.config, {"params": state.average, "buffers": state.buffers}, about
        )

    train(
        loop_config, workdir, state, step, draw, export,
        evaluate=evaluate, batch=config.batch, shown=("generator", "discriminator"),
    )  # fmt: skip


def build_gan(config: ConfigDict) -> tuple[GenHeadTraining, LoopConfig]:
    """Networks, head, mesh and settings of a config.

    Raises:
      UserError: a field has no such value, or the batch does not divide.
    """
    settings = from_config(TrainGenHeadSettings, config)
    model, judge, step, loop = settings.model, settings.discriminator, settings.step, settings.loop
    try:
        dtype = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[config.precision]
    except KeyError:
        raise UserError(f"config.precision={config.precision!r}: float32 or bfloat16") from None
    mesh = build_mesh()
    if config.batch % mesh.size or config.batch % judge.group_size:
        raise UserError(
            f"config.batch={config.batch} must be a multiple of the {mesh.size} devices and of"
            f" config.discriminator.group_size={judge.group_size}"
        )
    if judge.image_size != model.image_size:
        raise UserError(
            f"config.discriminator.image_size={judge.image_size}, but GenHead makes {model.image_size}"
        )
    head = assets.head_model(config.head)
    networks = GenHead(model, dtype), Discriminator(judge, dtype)
    return GenHeadTraining(*networks, step, head, build_head_parts(head), mesh), loop


def choose_data(training: GenHeadTraining, config: ConfigDict, key: jax.Array):
    """`draw_real`, `draw_params` and shapes (SHOWN, 300) for the grid, of the data that the config names.

    Raises:
      UserError: the folder of photos cannot be used.
    """
    size = training.genhead.config.image_size
    if config.data != "openheads":
        if config.readers < 1:
            raise UserError(f"config.readers={config.readers}: expected at least 1")
        photos = open_photos(config.data, training.head, size, config.mirror)
        if is_primary():
            print(f"{config.data}: {photos.summary()}")
        draws = photo_draws(photos, training.mesh, config.batch, config.seed, config.readers)
        return *draws, jnp.resize(photos.frames[:SHOWN, VectorParts.SHAPE], (SHOWN, SHAPE_SIZE))
    scene = prepare_scene(training.head)
    settings = from_config(TrainGenHeadSettings, config).drawn()
    draws = openheads_draws(training, scene, size, config.batch, key, settings)
    keys = grid_keys(key)
    return *draws, jax.vmap(lambda k: random_identity(k, scene, OpenHeadsSettings()).shape)(keys)


def grid_keys(key: jax.Array) -> jax.Array:
    """(SHOWN,) keys of the identities in the pictures of a run."""
    return jax.random.split(jax.random.fold_in(key, GRID_SEED), SHOWN)


def openheads_draws(
    training: GenHeadTraining,
    scene: OpenHeadsScene,
    size: int,
    batch: int,
    key: jax.Array,
    settings: OpenHeadsSettings,
):
    """`draw_real` and `draw_params` of `build_genhead_step`: new OpenHeads for every number."""
    shares = split(training.mesh)
    spec, whole = shares.spec, replicated(training.mesh).spec

    def spread(f):
        on_device = jax.shard_map(
            f, mesh=training.mesh, in_specs=(whole, spec), out_specs=spec, check_vma=False
        )
        return jax.jit(
            lambda scene, key: on_device(scene, jax.random.split(jax.random.wrap_key_data(key), batch))
        )

    def real(scene, keys):
        return portraits_in_scene(scene, keys, size, settings)

    def frame(scene, key) -> FrameParams:
        keys = jax.random.split(key, 3)
        identity = random_identity(keys[0], scene, settings)
        return random_portrait_params(keys[1], keys[2], scene, identity.shape, settings)

    scene = replicate(scene, training.mesh)
    reals, frames = spread(real), spread(lambda scene, keys: jax.vmap(lambda k: frame(scene, k))(keys))
    key_real, key_frames = jax.random.split(key)

    def numbered(draw, key: jax.Array, number: int):
        data = np.asarray(jax.random.key_data(jax.random.fold_in(key, number)))
        return draw(scene, data)  # on the host: of all processes the same

    return functools.partial(numbered, reals, key_real), functools.partial(numbered, frames, key_frames)


def demonstration_frames(head: HeadModel) -> FrameParams:
    """Frames (K,) that show what a head can do: both sides and the front, mouth and eyes open and shut."""
    yaws = jnp.array([-YAW, 0.0, YAW, 0.0, 0.0, 0.0, YAW])
    actions = np.zeros((len(yaws), len(ARKIT)), np.float32)
    for row, names in (
        (3, {"jawOpen": 0.8}),
        (4, {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}),
        (5, {"mouthSmileLeft": 0.9, "mouthSmileRight": 0.9, "jawOpen": 0.2}),
        (6, {"jawOpen": 0.6}),
    ):
        for name, value in names.items():
            actions[row, ARKIT.index(name)] = value
    zeros = jnp.zeros(len(yaws))
    if set(ARKIT) <= set(head.expression_names):
        motion = compose_motion(
            jnp.asarray(actions), jnp.zeros((len(yaws), 2)), jnp.zeros((len(yaws), 3)), head.expression_names
        )
        expression, pose, eyes = motion.expression, motion.pose, motion.eyes
    else:  # a head without names: the jaw joint alone
        expression, eyes = jnp.zeros((len(yaws), EXPRESSION_SIZE)), jnp.zeros((len(yaws), 6))
        pose = jnp.zeros((len(yaws), 6)).at[:, 3].set(0.36 * actions[:, ARKIT.index("jawOpen")])
    pivot = jnp.broadcast_to(jnp.array(CAMERA_PIVOT), (len(yaws), 3))
    camera = look_at_camera(yaws, zeros, zeros + CAMERA_RADIUS, zeros, pivot)
    return FrameParams(camera, jnp.zeros((len(yaws), SHAPE_SIZE)), expression, pose, eyes)


def build_grid(training: GenHeadTraining, people: jax.Array, config: ConfigDict, key: jax.Array):
    """The picture of a run: rows are identities of shapes (SHOWN, 300), columns `demonstration_frames`."""
    frames = demonstration_frames(training.head)
    latent = jax.vmap(lambda k: jax.random.normal(k, (training.genhead.config.latent_size,)))(grid_keys(key))
    label = jnp.broadcast_to(frames.camera.to_label()[1], (SHOWN, 25))

    def draw(state: GenHeadState) -> np.ndarray:
        variables = local({"params": state.average, "buffers": state.buffers})
        studio = GenHeadRenderer(training.genhead, variables, training.head, training.parts)
        resolution = stage_resolution(training.config, int(state.step) * config.batch)
        planes, backgrounds = studio.make_identities(latent, label, people)
        rows = []
        for person in range(SHOWN):
            row = []
            for column in range(len(frames.pose)):
                frame = take(frames, column)
                frame = frame.replace(shape=people[person])
                view = studio.show(
                    planes[person], backgrounds[person], frame, resolution, training.config.samples
                )
                row.append(to_picture(view.image_sr))
            rows.append(np.concatenate(row, axis=1))
        return np.concatenate(rows)

    return draw
