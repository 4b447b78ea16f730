"""Trains GenHead on single pictures: streamed OpenHeads, every step of new people, or photos of a folder
(docs/concepts/genhead.md).

Starts or goes on in the workdir (`train.loop`). `weights.npz` there is what `synthesize` takes as
`--config.weights=`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from p4d_jax import assets
from p4d_jax.errors import UserError
from p4d_jax.evaluation.fid import build_fid, load_inception
from p4d_jax.genhead.discriminator import Discriminator
from p4d_jax.genhead.losses import LOSSES
from p4d_jax.genhead.model import GenHead
from p4d_jax.genhead.parts import build_head_parts
from p4d_jax.genhead.renderer import GenHeadRenderer
from p4d_jax.genhead.sources import PortraitSettings, PortraitSource, open_source
from p4d_jax.genhead.step import build_genhead_step
from p4d_jax.genhead.training import GenHeadTraining, create_genhead_state
from p4d_jax.genhead.weights import save_genhead
from p4d_jax.geometry import look_at_camera
from p4d_jax.head.actions import ARKIT, compose_motion
from p4d_jax.head.model import HeadModel
from p4d_jax.jobs._fields import fields_named, user_input
from p4d_jax.jobs._record import run_record
from p4d_jax.jobs.settings import TrainGenHeadSettings
from p4d_jax.networks.inception import InceptionV3
from p4d_jax.settings import from_config
from p4d_jax.train.config import LoopConfig
from p4d_jax.train.devices import build_mesh, local, replicate
from p4d_jax.train.flops import Work, measure_rate
from p4d_jax.train.loop import train
from p4d_jax.train.report import about_run, announce, announce_networks, picture_grid
from p4d_jax.train.state import TrainState
from p4d_jax.types import CAMERA_PIVOT, CAMERA_RADIUS, EXPRESSION_SIZE, SHAPE_SIZE, FrameParams, take

SHOWN = 8  # identities in the pictures of the run
YAW = 0.44  # radians, 25 degrees: of the side views there
GRID_SEED = 1  # folded into the run's key for what the pictures show
CONVERT = (
    "pt_inception-2015-12-05-6726825d.pth of pytorch-fid's release fid_weights is converted by: python -m"
    " p4d_jax.main --config=configs/convert.py --config.source=pt_inception-2015-12-05-6726825d.pth"
    " --workdir=weights; then --config.inception=weights/inception_fid"
)
# Fields of the config that do not tell which pictures the data are
NOT_OF_THE_DATA = (
    "name", "precision", "model", "discriminator", "terms", "step", "loop", "inception", "fid_images",
)  # fmt: skip


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs the job: see the module's docstring."""
    training, loop_config = build_training(config)
    inception = read_inception(config.inception) if config.inception else None
    key = jax.random.key(config.seed)
    state = create_genhead_state(training, key)
    announce_networks(training.mesh, generator=state.params, discriminator=state.discriminator)
    announce(f"{config.batch} pictures a step")
    state = replicate(state, training.mesh)
    data = choose_data(training, config)
    evaluate = None
    if inception:
        about = {k: v for k, v in config.to_dict().items() if k not in NOT_OF_THE_DATA}
        about["image_size"] = training.genhead.config.image_size
        with user_input("fid_images"):
            evaluate = build_fid(
                training, inception, data.draw_real, data.draw_params, config.batch, config.fid_images, key,
                workdir / "data_statistics.npz", about,
            )  # fmt: skip
        loop_config = dataclasses.replace(loop_config, best="fid", best_is="lowest")
    work = Work(measure_rate(training.mesh.size, training.genhead.dtype))
    with fields_named(config, "loop"):
        train(
            loop_config, workdir, state,
            build_genhead_step(training, data.draw_real, data.draw_params, config.batch, work),
            build_grid(training, data.shapes(SHOWN), config, key),
            build_export(training, config),
            evaluate=evaluate, batch=config.batch, shown=("generator", "discriminator"), waited=data.waited,
            work=work, record=run_record(config),
        )  # fmt: skip


# What a config asks for -------------------------------------------------------------------------------------


def read_inception(folder: str) -> tuple[InceptionV3, dict]:
    """The network of FID; where it is not there, the message tells the command that makes it."""
    try:
        return load_inception(folder)
    except UserError as error:
        raise UserError(f"config.inception: {error}; {CONVERT}") from None


def build_training(config: ConfigDict) -> tuple[GenHeadTraining, LoopConfig]:
    """Networks, head, mesh and settings of a config.

    Raises:
      UserError: a field has no such value, or the batch does not divide.
    """
    settings = from_config(TrainGenHeadSettings, config)
    model, critic = settings.model, settings.discriminator
    steps = dataclasses.replace(settings.step, terms=tuple(sorted(settings.terms.items())))
    with fields_named(config):
        LOSSES.check_names(steps.terms)
    try:
        dtype = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[config.precision]
    except KeyError:
        raise UserError(f"config.precision={config.precision!r}: float32 or bfloat16") from None
    mesh = build_mesh()
    if config.batch % mesh.size or config.batch % critic.group_size:
        raise UserError(
            f"config.batch={config.batch} must be a multiple of the {mesh.size} devices and of"
            f" config.discriminator.group_size={critic.group_size}"
        )
    if critic.image_size != model.image_size:
        raise UserError(
            f"config.discriminator.image_size={critic.image_size}, but GenHead makes {model.image_size}"
        )
    head = assets.head_model(config.head)
    networks = GenHead(model, dtype), Discriminator(critic, dtype)
    return GenHeadTraining(*networks, steps, head, build_head_parts(head), mesh), settings.loop


def choose_data(training: GenHeadTraining, config: ConfigDict) -> PortraitSource:
    """The source that the config names.

    Raises:
      UserError: the folder of photos cannot be used.
    """
    settings = from_config(TrainGenHeadSettings, config)
    portraits = PortraitSettings(
        settings.batch, settings.seed, mirror=settings.mirror, readers=settings.readers,
        damaged=settings.damaged,
        openheads=settings.drawn(),
    )  # fmt: skip
    with fields_named(config):
        return open_source(settings.data, portraits, training)


# What a run leaves ------------------------------------------------------------------------------------------


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


def build_grid(
    training: GenHeadTraining, people: jax.Array, config: ConfigDict, key: jax.Array
) -> Callable[[TrainState], np.ndarray]:
    """The picture of a run: rows are identities of shapes (SHOWN, 300), columns `demonstration_frames`."""
    frames = demonstration_frames(training.head)
    keys = jax.random.split(jax.random.fold_in(key, GRID_SEED), SHOWN)
    latent = jax.vmap(lambda k: jax.random.normal(k, (training.genhead.config.latent_size,)))(keys)
    label = jnp.broadcast_to(frames.camera.to_label()[1], (SHOWN, 25))

    def draw(state: TrainState) -> np.ndarray:
        renderer = GenHeadRenderer(training.genhead, local(state.variables()), training.head, training.parts)
        resolution = training.config.resolution(int(state.step) * config.batch)
        planes, backgrounds = renderer.make_identities(latent, label, people)

        def show(person: int, column: int) -> jax.Array:
            frame = take(frames, column).replace(shape=people[person])
            return renderer.show(
                planes[person], backgrounds[person], frame, resolution, training.config.samples
            ).image_sr

        return picture_grid([[show(i, k) for k in range(len(frames.pose))] for i in range(SHOWN)])

    return draw


def build_export(training: GenHeadTraining, config: ConfigDict) -> Callable[[TrainState, Path], None]:
    """What writes the weights."""

    def export(state: TrainState, path: Path) -> None:
        about = about_run(
            state, f"python -m p4d_jax.main --config=configs/{config.name}.py", config.batch, training.mesh,
            data=config.data, resolution=training.config.resolution(int(state.step) * config.batch),
            samples=list(training.config.samples),
        )  # fmt: skip
        save_genhead(path, training.genhead.config, state.variables(), about)

    return export
