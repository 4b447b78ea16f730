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
import platform
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from p4d_jax import assets
from p4d_jax.avatar.avatar import Avatar
from p4d_jax.avatar.model import AvatarModel
from p4d_jax.avatar.motion_source import ParameterMotion
from p4d_jax.capture.fit import shapes_left_open
from p4d_jax.data.samples import HeadPair
from p4d_jax.errors import UserError
from p4d_jax.evaluation.reenactment import build_evaluator
from p4d_jax.genhead.config import DiscriminatorConfig, SynthesisSettings
from p4d_jax.genhead.discriminator import Discriminator
from p4d_jax.genhead.parts import build_head_parts
from p4d_jax.genhead.synthesis import openheads_sources, synthesize
from p4d_jax.genhead.weights import load_genhead
from p4d_jax.head.expression_field import build_canonical_frame
from p4d_jax.head.model import HeadModel
from p4d_jax.imaging.writing import to_picture
from p4d_jax.jobs.settings import TrainReenactSettings
from p4d_jax.networks.arcface import IResNet
from p4d_jax.networks.lpips import LPIPS
from p4d_jax.networks.motion_encoder import MotionEncoder
from p4d_jax.openheads.config import OpenHeadsSettings
from p4d_jax.openheads.scene import prepare_scene
from p4d_jax.reconstructor.config import ReconstructorConfig, StepConfig, Term
from p4d_jax.reconstructor.film_pairs import FilmPairs, open_films
from p4d_jax.reconstructor.losses import TERMS, LossNetworks
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.reconstructor.multiview import PseudoViews, pseudo_view_programs
from p4d_jax.reconstructor.pairs import join_pairs, openheads_pair, pair_of_synthetic, static_pairs
from p4d_jax.reconstructor.step import (
    Constants,
    ReconstructorTraining,
    TrainingHooks,
    build_step,
    check_terms,
    motions_of_pair,
)
from p4d_jax.reconstructor.stored_pairs import (
    PairSource,
    StoredHeads,
    numbered_pairs,
    open_stored_heads,
    stored_shapes,
)
from p4d_jax.reconstructor.weights import load_reconstructor, save_reconstructor
from p4d_jax.render.rays import depth_normals
from p4d_jax.settings import from_config
from p4d_jax.train.config import LoopConfig
from p4d_jax.train.devices import build_mesh, local, on_devices, own_rows, replicate, samples_at_once, split
from p4d_jax.train.loop import train
from p4d_jax.train.network_folder import ConvertedNetwork, load_converted
from p4d_jax.train.numbered_stream import NumberedStream
from p4d_jax.train.processes import is_primary
from p4d_jax.train.state import TrainState, build_optimizer, create_state, jit_init
from p4d_jax.types import take

SHOWN = 4  # people in the pictures of the run
CONVERT = "python -m p4d_jax.main --config=configs/convert.py"


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs the job: see the module's docstring."""
    training, constants, state, loop_config = build_psi(config)
    if is_primary():
        count = sum(value.size for value in jax.tree.leaves(state.params))
        print(f"{count / 1e6:.2f} M parameters, {training.mesh.size} devices, {config.batch} pairs a step")
        print(f"motion: {config.motion}; perceptual: {config.perceptual}; data: {dict(config.data)}")
    draw_pairs = build_draw(config, training, constants.head)
    check_terms(training.config, draw_pairs.shapes, constants.loss_networks)
    state, constants = replicate((state, constants), training.mesh)
    step = build_step(
        training, constants, draw_pairs, config.batch, pseudo_views(config, training, constants)
    )
    draw = build_grid(config, training, constants, draw_pairs)
    export = build_export(config, training)
    evaluate = build_evaluation(config, training, constants)
    train(
        loop_config, workdir, state, step, draw, export,
        evaluate=evaluate, batch=config.batch, shown=("image", "psnr"),
    )  # fmt: skip


# What a config asks for -------------------------------------------------------------------------------------


def build_psi(config: ConfigDict) -> tuple[ReconstructorTraining, Constants, TrainState, LoopConfig]:
    """Networks, arrays, a new run's state and settings of a config.

    Raises:
      UserError: a field has no such value, the batch does not divide, or weights are missing.
    """
    settings = from_config(TrainReenactSettings, config)
    model, loop_config = settings.model, settings.loop
    try:
        step_config = dataclasses.replace(settings.step, terms=loss_table(settings))
    except ValueError as error:
        section = "" if str(error).startswith("terms") else "step."
        raise UserError(f"config.{section}{error}") from None
    for name, term in step_config.terms:
        if term.weight and TERMS[name].photo and not model.photo_features:
            raise UserError(f"config.terms.{name} needs config.model.photo_features; set its weight to 0")
    mesh = build_mesh()
    if config.batch % mesh.size:
        raise UserError(f"config.batch={config.batch} must be a multiple of the {mesh.size} devices")
    head = assets.head_model(config.head)
    reconstructor = Reconstructor(model)
    encoder, motion_variables = motion_encoder(config)
    discriminator, judged = critic(config, step_config)
    constants = Constants(
        head,
        build_canonical_frame(head, model.lifted_size),
        build_head_parts(head) if discriminator else None,
        loss_networks(config, step_config),
        motion_variables,
        shape_errors(config, head),
    )
    optimizer = build_optimizer(*config.adam, config.clip_norm)
    key = jax.random.key(config.seed)
    variables = initial_variables(reconstructor, key)
    if config.start:
        variables = start_from(config.start, model, variables)
    if unknown := sorted(set(step_config.trained) - set(variables["params"])):
        raise UserError(
            f"config.step.trained: the model has no part {unknown[0]!r}; there are"
            f" {', '.join(sorted(variables['params']))}"
        )
    state = create_state(variables, optimizer, jax.random.key_data(key), judged)
    training = ReconstructorTraining(reconstructor, step_config, mesh, optimizer, encoder, discriminator)
    return training, constants, state, loop_config


def shape_errors(config: ConfigDict, head: HeadModel) -> np.ndarray | None:
    """`Constants.shape_errors`: what landmarks leave open of the head's shape, times `config.fit_noise`."""
    if not config.fit_noise:
        return None
    try:
        return config.fit_noise * shapes_left_open(head)
    except ValueError as error:
        raise UserError(f"config.fit_noise={config.fit_noise}: {error}; or set it to 0") from None


def loss_table(settings: TrainReenactSettings) -> tuple[tuple[str, Term], ...]:
    """The terms of a config; all but those of the relief begin after `relief_alone` images."""
    table = dict(sorted(settings.terms.items()))
    for name, term in table.items():
        if name in TERMS and not TERMS[name].photo:
            table[name] = dataclasses.replace(term, first=max(term.first, settings.relief_alone))
    return tuple(table.items())


def start_from(start: str, model: ReconstructorConfig, variables: dict) -> dict:
    """The weights of a file as a model's variables; a file without photo features leaves those new.

    As their layers of the decoder begin at zero, such a model's field begins where the file's stands, with
    the density that the relief adds. Its refinement sees more than the file's, whose first and last layers
    do not fit and are left out.
    """
    started, loaded = load_reconstructor(assets.weights(start))
    without = dataclasses.replace(model, photo_features=0, photo_widths=started.config.photo_widths)
    if started.config not in (model, without):
        raise UserError(f"config.start={start!r} holds a model of other sizes than config.model")
    new, old = (traverse_util.flatten_dict(x) for x in (variables, loaded))
    if not started.config.photo_features:
        old = {path: value for path, value in old.items() if value.shape == new[path].shape}
    elif unlike := sorted(path for path in new if path not in old or old[path].shape != new[path].shape):
        name = "/".join(unlike[0][1:])
        raise UserError(f"config.start={start!r} was made by other code: its {name} does not fit the model")
    return traverse_util.unflatten_dict(new | old)


def nested_tuple(value):
    """Lists, also in lists, as tuples."""
    return tuple(nested_tuple(v) for v in value) if isinstance(value, list | tuple) else value


def motion_encoder(config: ConfigDict) -> tuple[MotionEncoder | None, dict | None]:
    """PD-FGC, or nothing for the parameters' own motion vectors."""
    if config.motion == "flame_motion":
        return None, None
    if config.motion != "pdfgc":
        raise UserError(f"config.motion={config.motion!r}: pdfgc or flame_motion")
    network = converted(config, "pdfgc", "motion", "--config.motion=flame_motion")
    return MotionEncoder(**network.config), network.variables


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


def loss_networks(config: ConfigDict, step: StepConfig) -> LossNetworks:
    """The networks that the loss table asks for."""
    found = LossNetworks()
    if config.perceptual == "lpips":
        network = converted(config, "lpips", "lpips_vgg", "--config.perceptual=structure")
        found = found.replace(lpips=LPIPS(), lpips_variables=network.variables)
    elif config.perceptual != "structure":
        raise UserError(f"config.perceptual={config.perceptual!r}: lpips or structure")
    if step.term("identity").weight:
        network = converted(config, "arcface", "arcface50", "--config.terms.identity=(0.0,)")
        sizes = {name: nested_tuple(value) for name, value in network.config.items()}
        found = found.replace(arcface=IResNet(**sizes), arcface_variables=network.variables)
    return found


def critic(config: ConfigDict, step: StepConfig) -> tuple[Discriminator | None, dict]:
    """GenHead's discriminator, which goes on learning, where a term is adversarial."""
    if not step.term("adversarial").weight:
        return None, {}
    network = converted(config, "discriminator", "genhead_discriminator", "--config.terms.adversarial=(0.0,)")
    return Discriminator(DiscriminatorConfig(**network.config)), network.variables["params"]


def pseudo_views(config: ConfigDict, training: ReconstructorTraining, constants: Constants) -> TrainingHooks:
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
        dataclasses.replace(training, reconstructor=reconstructor, motion_encoder=None, discriminator=None),
        config.multiview_every, config.multiview_weight, config.multiview_motion,
    )  # fmt: skip
    return pseudo_view_programs(training, views, static, variables)


def initial_variables(reconstructor: Reconstructor, key: jax.Array) -> dict:
    """Random parameters of the model's shapes."""
    c = reconstructor.config
    image = jnp.zeros((1, c.image_size, c.image_size, 3))
    motion = jnp.zeros((1, c.motion_size))
    lifted = jnp.zeros((1, c.lifted_size, c.lifted_size, 4)) if c.source_lifting else None
    return jit_init(reconstructor.init)(key, image, motion, motion, lifted)


# Data -------------------------------------------------------------------------------------------------------


class Draw:
    """Pairs of every step: number -> `HeadPair` (B,), split over the devices.

    Some sources draw on the devices, others are read from disk; one program makes a batch of all. A source's
    pairs depend on the seed, the number and their place in the batch alone.
    """

    def __init__(
        self,
        drawn: list[tuple[Callable, int]],
        read: list[PairSource],
        training: ReconstructorTraining,
        config: ConfigDict,
    ):
        """drawn: sources on the devices, ((keys, static) -> pairs, their number); read: sources on disk."""
        self.drawn, self.read = drawn, read
        self.static_share, self.key = config.static_share, jax.random.fold_in(jax.random.key(config.seed), 1)
        self.streams = [
            NumberedStream(
                numbered_pairs(source, own_rows(source.count, training.mesh)), training.mesh, config.readers
            )
            for source in read
        ]
        self.join = jax.jit(self.trace, out_shardings=split(training.mesh))

    def trace(self, number: jax.Array, stored: list[dict]) -> HeadPair:
        """The batch of a number, given what was read for it."""
        parts = []
        for place, (source, count) in enumerate(self.drawn):
            key = jax.random.fold_in(jax.random.fold_in(self.key, place), number)
            static = static_pairs(count, self.static_share)
            keys = jax.random.key_data(jax.random.split(key, count))
            parts.append(source((keys, static)))
        parts += [source.convert(found) for source, found in zip(self.read, stored, strict=True)]
        return join_pairs(parts)

    def __call__(self, number: int) -> HeadPair:
        return self.join(np.uint32(number), [stream(number) for stream in self.streams])

    @functools.cached_property
    def shapes(self) -> HeadPair:
        """Shapes of a batch: what its pairs know."""
        stored = [stored_shapes(source) for source in self.read]
        return jax.eval_shape(self.trace, jax.ShapeDtypeStruct((), jnp.uint32), stored)


def build_draw(config: ConfigDict, training: ReconstructorTraining, head: HeadModel) -> Draw:
    """The sources of a config, with as many pairs each as `config.data` says of a batch.

    Raises:
      UserError: the numbers do not fit, there is no such source, or its data cannot be used.
    """
    counts = config.data.to_dict()
    if sum(counts.values()) != config.batch or any(n % training.mesh.size for n in counts.values()):
        raise UserError(
            f"config.data={counts}: the pairs of all sources together are config.batch={config.batch}, and"
            f" each number is a multiple of the {training.mesh.size} devices"
        )
    if config.photos < 1 or (
        config.photos > 1 and any(counts.get(n) for n in ("genhead", "stored", "real_films"))
    ):
        raise UserError(
            f"config.photos={config.photos}: at least 1, and exactly 1 with sources but openheads and films"
        )
    if training.reconstructor.config.fusion_heads and config.photos == 1:
        raise UserError(
            "config.model.fusion_heads learns from several photos: set config.photos to 2 or more"
        )
    drawn = {"openheads": openheads_source, "films": films_source, "genhead": genhead_source}
    read = {"stored": stored_source, "real_films": real_films_source}
    if unknown := sorted(set(counts) - set(drawn | read)):
        raise UserError(f"config.data: no source {unknown[0]!r}; there are {', '.join(drawn | read)}")
    wanted = sorted(name for name, count in counts.items() if count)
    draw = Draw(
        [(drawn[name](config, training, head), counts[name]) for name in wanted if name in drawn],
        [read[name](config, training, head, counts[name]) for name in wanted if name in read],
        training,
        config,
    )
    if training.config.face_weight and draw.shapes.face_mask is None:
        raise UserError("config.step.face_weight: this data does not know face_mask; set it to 0")
    return draw


def openheads_settings(config: ConfigDict) -> OpenHeadsSettings:
    """How views and motions are drawn."""
    return from_config(TrainReenactSettings, config).drawn()


def openheads_source(
    config: ConfigDict, training: ReconstructorTraining, head: HeadModel, one_camera: bool = False
) -> Callable:
    """Rendered OpenHeads."""
    scene = prepare_scene(head)
    settings = openheads_settings(config)
    size = training.reconstructor.config.picture_size

    def one(scene, sample: tuple) -> HeadPair:
        key, static = sample
        return openheads_pair(
            scene, jax.random.wrap_key_data(key), static,
            resolution=size, settings=settings, one_camera=one_camera, photos=config.photos,
        )  # fmt: skip

    return on_devices(training.mesh, one, scene, at_once=samples_at_once())


def films_source(config: ConfigDict, training: ReconstructorTraining, head: HeadModel) -> Callable:
    """OpenHeads before one camera each, as real films are."""
    return openheads_source(config, training, head, one_camera=True)


def genhead_source(config: ConfigDict, training: ReconstructorTraining, head: HeadModel) -> Callable:
    """A GenHead's synthetic people: of M = 2 motions, V = 2 views each."""
    genhead, variables = load_genhead(assets.weights(config.genhead))
    size, wanted = genhead.config.image_size, training.reconstructor.config.picture_size
    if size != wanted:
        raise UserError(
            f"config.genhead={config.genhead!r} makes pictures of {size}², the model takes {wanted}²"
        )
    settings = SynthesisSettings(
        motions=2, views=2, resolution=config.genhead_resolution, samples=nested_tuple(config.genhead_samples)
    )
    sources, parts = openheads_sources(head, openheads_settings(config)), build_head_parts(head)

    def one(variables: dict, head: HeadModel, parts, sample: tuple) -> HeadPair:
        key, static = sample
        key = jax.random.wrap_key_data(key)
        return pair_of_synthetic(synthesize(genhead, variables, head, parts, key, settings, sources), static)

    return on_devices(training.mesh, one, variables, head, parts, at_once=1)


def stored_source(
    config: ConfigDict, training: ReconstructorTraining, head: HeadModel, count: int
) -> StoredHeads:
    """Samples of a GenHead that the job synthesize has stored."""
    folder, size = named_folder(config, "stored"), training.reconstructor.config.picture_size
    source = open_stored_heads(folder, config.head, size, count, config.static_share, config.seed)
    if is_primary():
        print(f"{folder}: {source.summary()}")
    return source


def real_films_source(
    config: ConfigDict, training: ReconstructorTraining, head: HeadModel, count: int
) -> FilmPairs:
    """Frames of real films."""
    folder, size = named_folder(config, "real_films"), training.reconstructor.config.picture_size
    source = open_films(folder, head, size, config.mirror, count, config.seed)
    if is_primary():
        print(f"{folder}: {source.summary()}")
    return source


def named_folder(config: ConfigDict, field: str) -> str:
    """The folder that a source on disk is read from."""
    if config.readers < 1:
        raise UserError(f"config.readers={config.readers}: expected at least 1")
    if not config[field]:
        raise UserError(
            f"config.data.{field}={config.data[field]}: name its folder, --config.{field}=FOLDER;"
            ' docs/howto/train_psi.md, "Data of a training", tells what is in it'
        )
    return config[field]


# What a run leaves ------------------------------------------------------------------------------------------


def build_grid(
    config: ConfigDict, training: ReconstructorTraining, constants: Constants, draw_pairs: Draw
) -> Callable[[TrainState], np.ndarray]:
    """The picture of a run, a column a person.

    From above: source, driving (only where it is not the target), target, result, raw image, depth, normals,
    opacity, other view.
    """
    reconstructor, head = training.reconstructor, local(constants.head)
    shown = jax.tree.map(lambda x: np.asarray(x.addressable_data(0)[:SHOWN]), draw_pairs(2**32 - 1))
    see = jax.jit(functools.partial(motions_of_pair, training, local(constants)))
    motions = [see(take(shown, i)) for i in range(len(shown.source))]
    samples = training.config.samples
    frame, source = local(constants.frame), ParameterMotion()
    model = AvatarModel(reconstructor, {}, head, frame, source)

    def draw(state: TrainState) -> np.ndarray:
        now = model.replace(variables=local({"params": state.average, "buffers": state.buffers}))
        resolution = training.config.resolution(int(state.step) * config.batch)
        columns = []
        for person in range(len(shown.source)):
            pair = jax.tree.map(lambda x, person=person: jnp.asarray(x[person]), shown)
            still, moved = motions[person]
            avatar = Avatar.encode(
                now, *jax.tree.map(lambda x: x[None], (pair.source, pair.source_params)),
                motions=still[None], resolution=resolution, samples=samples,
            )  # fmt: skip
            out = avatar.render(pair.params, motion=moved)
            other = avatar.render(pair.params, camera=pair.source_params.camera, motion=moved)
            size = pair.source.shape
            solid = out.alpha[..., None] > 0.5
            depth = jnp.where(solid, (out.depth[..., None] - 3.4) / 1.2 * 2 - 1, -1.0)
            normals = jnp.where(solid, depth_normals(pair.params.camera, out.depth), -1.0)
            small = (out.raw, depth, normals, out.alpha[..., None] * 2 - 1)
            small = [jax.image.resize(x, (*size[:2], x.shape[-1]), "nearest") for x in small]
            driving = [] if pair.driving is None else [jax.image.resize(pair.driving, size, "linear")]
            rows = [pair.source, *driving, pair.image, out.image, *small, other.image]
            columns.append(np.concatenate([to_picture(jnp.broadcast_to(x, size)) for x in rows]))
        return np.concatenate(columns, axis=1)

    return draw


def build_evaluation(
    config: ConfigDict, training: ReconstructorTraining, constants: Constants
) -> Callable | None:
    """What measures the moving average every `evaluate_every` steps, on people that are never shown.

    Raises:
      UserError: the model's motion vectors are not those of the held-out people's parameters.
    """
    if not config.evaluate_people:
        return None
    if training.motion_encoder is not None:
        raise UserError("config.evaluate_people needs --config.motion=flame_motion; set it to 0")
    if config.evaluate_people < 2:
        raise UserError("config.evaluate_people: at least 2, since one drives the other")
    return build_evaluator(
        training.reconstructor,
        local(constants.head),
        people=config.evaluate_people,
        samples=training.config.samples,
    )


def build_export(config: ConfigDict, training: ReconstructorTraining) -> Callable[[TrainState, Path], None]:
    """What writes the weights."""

    def export(state: TrainState, path: Path) -> None:
        about = {
            "command": f"python -m p4d_jax.main --config=configs/{config.name}.py",
            "start": config.start or "random weights",
            "steps": int(state.step),
            "samples": int(state.step) * config.batch,
            "hours": round(float(state.seconds) / 3600, 3),
            "machine": f"{jax.devices()[0].device_kind}, {platform.machine()}, {training.mesh.size} devices",
            "motion": config.motion,
            "perceptual": config.perceptual,
            "data": config.data.to_dict(),
        }
        variables = {"params": state.average, "buffers": state.buffers}
        save_reconstructor(path, training.reconstructor.config, variables, about)

    return export
