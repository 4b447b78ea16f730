"""Trains the reconstructor: Portrait4D, its static model, or v2, by what the config says.

Source: docs/concepts/training.md.

Starts or goes on in the workdir (`train.loop`). `weights.npz` there is what `reenact` takes as
`--config.weights=`. Networks that others trained (LPIPS, ArcFace, PD-FGC, GenHead with its discriminator) are
read from folders that the job `convert` makes, or from weights of one's own; a term or a motion that needs
one that is not given is refused before anything runs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from p4d_jax import assets
from p4d_jax.avatar.avatar import Avatar
from p4d_jax.avatar.model import AvatarModel
from p4d_jax.avatar.motion_source import EncoderMotion, ParameterMotion
from p4d_jax.capture.fit import shapes_left_open
from p4d_jax.errors import UserError
from p4d_jax.evaluation.held_out import Rays, build_evaluator
from p4d_jax.genhead.config import DiscriminatorConfig
from p4d_jax.genhead.discriminator import Discriminator
from p4d_jax.genhead.parts import build_head_parts
from p4d_jax.head.expression_field import build_canonical_frame
from p4d_jax.head.model import HeadModel
from p4d_jax.jobs._fields import fields_named, parse_names, user_input
from p4d_jax.jobs._record import run_record
from p4d_jax.jobs.settings import TrainReenactSettings
from p4d_jax.networks.arcface import IResNet
from p4d_jax.networks.lpips import LPIPS
from p4d_jax.networks.motion_encoder import MotionEncoder
from p4d_jax.reconstructor.config import StepConfig
from p4d_jax.reconstructor.losses import LOSSES, check_data, check_table
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.reconstructor.multiview import PseudoViews, pseudo_view_hooks
from p4d_jax.reconstructor.samples import motions_of_pair
from p4d_jax.reconstructor.sources import PairMixture, PairSettings, open_mixture
from p4d_jax.reconstructor.step import TrainingHooks, build_step
from p4d_jax.reconstructor.training import (
    Constants,
    LossNetworks,
    ReconstructorTraining,
    check_trained,
    grow_variables,
    initial_variables,
    psi_optimizer,
)
from p4d_jax.reconstructor.weights import load_reconstructor, save_reconstructor
from p4d_jax.render.rays import depth_normals
from p4d_jax.settings import from_config
from p4d_jax.train.adversarial import Adversary
from p4d_jax.train.config import LoopConfig
from p4d_jax.train.devices import build_mesh, local, replicate
from p4d_jax.train.flops import Work, measure_rate
from p4d_jax.train.loop import train
from p4d_jax.train.network_folder import ConvertedNetwork, load_converted
from p4d_jax.train.report import about_run, announce, announce_networks, picture_grid
from p4d_jax.train.state import TrainState, build_optimizer, create_state
from p4d_jax.types import take

SHOWN = 4  # people in the pictures of the run
GRID_NUMBER = 2**32 - 1  # of the batch that they are of
CONVERT = "python -m p4d_jax.main --config=configs/convert.py"


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs the job: see the module's docstring."""
    training, constants, state, loop_config = build_training(config)
    announce_networks(training.mesh, Psi=state.params)
    announce(f"{config.batch} pairs a step; motion: {config.motion}; perceptual: {config.perceptual}")
    draw_pairs = build_mixture(config, training, constants.head)
    with fields_named(config):
        check_data(training.config, draw_pairs.shapes, constants.loss_networks)
    state, constants = replicate((state, constants), training.mesh)
    work = Work(measure_rate(training.mesh.size))
    hooks = pseudo_views(config, training, constants, work)
    with fields_named(config, "loop"):
        train(
            loop_config, workdir, state,
            build_step(training, constants, draw_pairs, config.batch, hooks, work),
            build_grid(config, training, constants, draw_pairs),
            build_export(config, training),
            evaluate=build_evaluation(config, training, constants),
            batch=config.batch, shown=("image", "psnr"), waited=draw_pairs.waited, work=work,
            record=run_record(config),
        )  # fmt: skip


# What a config asks for -------------------------------------------------------------------------------------


def build_training(config: ConfigDict) -> tuple[ReconstructorTraining, Constants, TrainState, LoopConfig]:
    """Networks, arrays, a new run's state and settings of a config.

    Raises:
      UserError: a field has no such value, the batch does not divide, or weights are missing.
    """
    settings = from_config(TrainReenactSettings, config)
    model, steps = settings.model, read_steps(settings)
    mesh = build_mesh()
    if config.batch % mesh.size:
        raise UserError(f"config.batch={config.batch} must be a multiple of the {mesh.size} devices")
    head, reconstructor = assets.head_model(config.head), Reconstructor(model)
    encoder, motion_variables = motion_encoder(config)
    adversary, of_discriminator = build_adversary(config, steps)
    constants = Constants(
        head,
        build_canonical_frame(head, model.lifted_size),
        build_head_parts(head) if adversary else None,
        loss_networks(config, steps),
        motion_variables,
        shape_errors(config, head),
    )
    key = jax.random.key(config.seed)
    variables = initial_variables(reconstructor, key)
    with fields_named(config):
        if config.start:
            variables = grow_variables(config.start, model, variables)
    with fields_named(config, "step"):
        check_trained(steps, variables)
    optimizer = psi_optimizer(steps, *settings.adam, settings.clip_norm)
    training = ReconstructorTraining(reconstructor, steps, mesh, optimizer, encoder, adversary)
    state = create_state(
        variables, optimizer, jax.random.key_data(key), discriminator=of_discriminator,
        discriminator_optimizer=adversary and adversary.optimizer,
    )  # fmt: skip
    return training, constants, state, settings.loop


def read_steps(settings: TrainReenactSettings) -> StepConfig:
    """The steps with the loss table, of which all but the relief's terms begin after `relief_alone` images.

    Raises:
      UserError: the table and the other settings do not fit.
    """
    table = dict(sorted(settings.terms.items()))
    for name, term in table.items():
        if name in LOSSES and "photo_features" not in LOSSES[name].reads:
            table[name] = dataclasses.replace(term, first=max(term.first, settings.relief_alone))
    steps = dataclasses.replace(settings.step, terms=tuple(table.items()))
    try:
        check_table(steps, settings.model)
    except ValueError as error:
        section = "" if str(error).startswith("terms") else "step."
        raise UserError(f"config.{section}{error}") from None
    return steps


def nested_tuple(value):
    """Lists, also in lists, as tuples."""
    return tuple(nested_tuple(v) for v in value) if isinstance(value, list | tuple) else value


def shape_errors(config: ConfigDict, head: HeadModel) -> np.ndarray | None:
    """`Constants.shape_errors`: what landmarks leave open of the head's shape, times `config.fit_noise`."""
    if not config.fit_noise:
        return None
    try:
        return config.fit_noise * shapes_left_open(head)
    except ValueError as error:
        raise UserError(f"config.fit_noise={config.fit_noise}: {error}; or set it to 0") from None


# Networks that others trained -------------------------------------------------------------------------------


def motion_encoder(config: ConfigDict) -> tuple[MotionEncoder | None, dict | None]:
    """PD-FGC, or nothing for the parameters' own motion vectors."""
    if config.motion == "flame_motion":
        return None, None
    if config.motion != "pdfgc":
        raise UserError(f"config.motion={config.motion!r}: pdfgc or flame_motion")
    network = converted(config, "pdfgc", "motion", "--config.motion=flame_motion")
    return MotionEncoder(**network.config), network.variables


def loss_networks(config: ConfigDict, step: StepConfig) -> LossNetworks:
    """The networks that the loss table asks for."""
    found = LossNetworks()
    if config.perceptual == "lpips":
        network = converted(config, "lpips", "lpips_vgg", "--config.perceptual=structure")
        found = found.replace(lpips=LPIPS(), lpips_variables=network.variables)
    elif config.perceptual != "structure":
        raise UserError(f"config.perceptual={config.perceptual!r}: lpips or structure")
    if "arcface" in LOSSES.reads_of(step.weighted()):
        network = converted(config, "arcface", "arcface50", "--config.terms.identity=(0.0,)")
        sizes = {name: nested_tuple(value) for name, value in network.config.items()}
        found = found.replace(arcface=IResNet(**sizes), arcface_variables=network.variables)
    return found


def build_adversary(config: ConfigDict, step: StepConfig) -> tuple[Adversary | None, dict]:
    """GenHead's discriminator, which goes on learning, where a term is adversarial; and its parameters."""
    if "logits" not in LOSSES.reads_of(step.weighted()):
        return None, {}
    network = converted(config, "discriminator", "genhead_discriminator", "--config.terms.adversarial=(0.0,)")
    optimizer = build_optimizer(*config.adam, config.clip_norm)
    discriminator = Discriminator(DiscriminatorConfig(**network.config))
    return Adversary(discriminator, optimizer, step, step.discriminator_rate), network.variables["params"]


def converted(config: ConfigDict, field: str, name: str, instead: str) -> ConvertedNetwork:
    """The network in the folder that a field of the config names.

    Args:
      name: of the network. instead: what to say in order to do without it.

    Raises:
      UserError: it is not there, or another network is; the message tells how to make it.
    """
    path = Path(getattr(config, field)).expanduser()
    if not path.is_dir():
        raise UserError(
            f"config.{field}={str(path)!r}: no such folder; '{CONVERT} --config.source=FILE"
            f" --config.network={name} --workdir={path}' makes it (docs/howto/convert.md);"
            f" {instead} needs none"
        )
    network = load_converted(path)
    if network.name != name:
        raise UserError(f"config.{field}={str(path)!r} holds the network {network.name!r}, not {name!r}")
    return network


def pseudo_views(
    config: ConfigDict, training: ReconstructorTraining, constants: Constants, work: Work
) -> TrainingHooks:
    """What the frozen static model of v2 adds; nothing where the config names none."""
    if not config.static:
        return TrainingHooks()
    reconstructor, variables = load_reconstructor(assets.weights(config.static))
    mine, its = training.reconstructor.config, reconstructor.config
    if (its.picture_size, its.motion_size) != (mine.picture_size, mine.motion_size):
        raise UserError(
            f"config.static={config.static!r} makes pictures of {its.picture_size}² from {its.motion_size}"
            f" numbers of motion, the model of {mine.picture_size}² from {mine.motion_size}"
        )
    frame = build_canonical_frame(local(constants.head), its.lifted_size)
    static, variables = replicate((Constants(local(constants.head), frame), variables), training.mesh)
    views = PseudoViews(
        dataclasses.replace(training, reconstructor=reconstructor, motion_encoder=None, adversary=None),
        config.multiview_every, config.multiview_weight, config.multiview_motion,
    )  # fmt: skip
    return pseudo_view_hooks(training, views, static, variables, work)


# Data -------------------------------------------------------------------------------------------------------


def build_mixture(config: ConfigDict, training: ReconstructorTraining, head: HeadModel) -> PairMixture:
    """The sources of a config, with as many pairs each as `config.data` says of a batch.

    Raises:
      UserError: the numbers do not fit, there is no such source, or its data cannot be used.
    """
    counts = config.data.to_dict()
    if sum(counts.values()) != config.batch:
        raise UserError(
            f"config.data={counts}: the pairs of all sources together are config.batch={config.batch}"
        )
    if training.reconstructor.config.fusion_heads and config.photos == 1:
        raise UserError(
            "config.model.fusion_heads learns from several photos: set config.photos to 2 or more"
        )
    settings = from_config(TrainReenactSettings, config)
    pairs = PairSettings(
        training.reconstructor.config.picture_size, settings.seed, settings.head, settings.static_share,
        settings.readers, settings.photos, settings.drawn(), settings.genhead, settings.genhead_resolution,
        settings.genhead_samples, settings.stored, settings.real_films, settings.mirror, settings.damaged,
    )  # fmt: skip
    with fields_named(config):
        return open_mixture(pairs, counts, head, training.mesh)


# What a run leaves ------------------------------------------------------------------------------------------


def build_grid(
    config: ConfigDict, training: ReconstructorTraining, constants: Constants, draw_pairs: PairMixture
) -> Callable[[TrainState], np.ndarray]:
    """The picture of a run, a column a person.

    From above: source, driving (only where it is not the target), target, result, raw image, depth, normals,
    opacity, other view.
    """
    reconstructor, head = training.reconstructor, local(constants.head)
    shown = jax.tree.map(lambda x: np.asarray(x.addressable_data(0)[:SHOWN]), draw_pairs(GRID_NUMBER))
    ask = jax.jit(functools.partial(motions_of_pair, training, local(constants)))
    motions = [ask(take(shown, i)) for i in range(len(shown.source))]
    samples = training.config.samples

    model = AvatarModel(reconstructor, {}, head, local(constants.frame), ParameterMotion())

    def draw(state: TrainState) -> np.ndarray:
        now = model.replace(variables=local(state.variables()))
        resolution = training.config.resolution(int(state.step) * config.batch)
        columns = []
        for person in range(len(shown.source)):
            pair = jax.tree.map(jnp.asarray, take(shown, person))
            still, moved = motions[person]
            avatar = Avatar.encode(
                now, *jax.tree.map(lambda x: x[None], (pair.source, pair.source_params)),
                motions=still[None], resolution=resolution, samples=samples,
            )  # fmt: skip
            out = avatar.render(pair.params, motion=moved)
            other = avatar.render(pair.params, camera=pair.source_params.camera, motion=moved)
            alpha, size = out.alpha[..., None], pair.source.shape
            depth = jnp.where(alpha > 0.5, (out.depth[..., None] - 3.4) / 1.2 * 2 - 1, -1.0)
            normals = jnp.where(alpha > 0.5, depth_normals(pair.params.camera, out.depth), -1.0)
            driving = [] if pair.driving is None else [jax.image.resize(pair.driving, size, "linear")]
            made = [out.image, out.raw, depth, normals, alpha * 2 - 1, other.image]
            columns.append([pair.source, *driving, pair.image, *made])
        return picture_grid(list(zip(*columns, strict=True)))

    return draw


def build_evaluation(
    config: ConfigDict, training: ReconstructorTraining, constants: Constants
) -> Callable | None:
    """What measures the moving average every `evaluate_every` steps, on people that are never shown."""
    if not config.evaluate_people:
        return None
    if config.evaluate_people < 2:
        raise UserError("config.evaluate_people: at least 2, since one drives the other")
    source = ParameterMotion()
    if training.motion_encoder is not None:
        source = EncoderMotion(local(constants.motion_variables), training.motion_encoder)
    with user_input("evaluators"):
        return build_evaluator(
            AvatarModel.create(training.reconstructor, {}, local(constants.head), source),
            people=config.evaluate_people,
            names=parse_names(config.evaluators),
            rays=Rays(samples=training.config.samples),
        )


def build_export(config: ConfigDict, training: ReconstructorTraining) -> Callable[[TrainState, Path], None]:
    """What writes the weights."""

    def export(state: TrainState, path: Path) -> None:
        about = about_run(
            state, f"python -m p4d_jax.main --config=configs/{config.name}.py", config.batch, training.mesh,
            start=config.start or "random weights", motion=config.motion, perceptual=config.perceptual,
            data=config.data.to_dict(),
        )  # fmt: skip
        save_reconstructor(path, training.reconstructor.config, state.variables(), about)

    return export
