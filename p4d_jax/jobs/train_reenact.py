"""Trains the reconstructor on streamed OpenHeads: every step draws new people on the device.

Starts or goes on in the workdir (`train.loop`). `weights.npz` there is what `reenact` takes as
`--config.weights=`.
"""

from __future__ import annotations

import platform
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from p4d_jax import assets
from p4d_jax.data.openheads import OpenHeadsSettings, clips_on_stage, prepare_stage
from p4d_jax.data.samples import HeadClip
from p4d_jax.errors import UserError
from p4d_jax.jobs.evaluate import to_uint8
from p4d_jax.models.checkpoint import save_reconstructor
from p4d_jax.models.reconstructor import Reconstructor, ReconstructorConfig
from p4d_jax.render.avatar import canonical_frame, encode_source, render_frame
from p4d_jax.train.devices import DATA_AXIS, build_mesh, first_share, local, replicate
from p4d_jax.train.loop import LoopConfig, train
from p4d_jax.train.processes import is_primary
from p4d_jax.train.reenact_step import StepConfig, build_step
from p4d_jax.train.state import TrainState, build_optimizer, create_state

SHOWN = 4  # people in the pictures of the run


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs the job: see the module's docstring."""
    if config.cpu_devices:
        # One XLA operation often runs on one core: several devices keep all cores busy.
        jax.config.update("jax_num_cpu_devices", config.cpu_devices)
    try:
        model = ReconstructorConfig.from_dict(config.model.to_dict())
        step_config = StepConfig(**{k: as_tuple(v) for k, v in config.step.to_dict().items()})
        loop_config = LoopConfig(**config.loop.to_dict())
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from None
    head, mesh = assets.head_model(config.head), build_mesh()
    reconstructor, frame = Reconstructor(model), canonical_frame(head, model.lifted_size)
    stage, settings = prepare_stage(head), OpenHeadsSettings()

    def draw_clips(stage, keys) -> HeadClip:
        return clips_on_stage(stage, keys, config.frames, model.picture_size, settings)

    whole, shares = PartitionSpec(), PartitionSpec(DATA_AXIS)
    spread = jax.jit(
        jax.shard_map(draw_clips, mesh=mesh, in_specs=(whole, shares), out_specs=shares, check_vma=False)
    )

    def make_clips(stage, key) -> HeadClip:
        """Every device draws its own share of the people."""
        return spread(stage, jax.random.split(key, config.clips * mesh.size))

    optimizer = build_optimizer(0.9, 0.99, 1e-8, config.clip_norm)
    key = jax.random.key(config.seed)
    state = create_state(initial_variables(reconstructor, key), optimizer, jax.random.key_data(key))
    count = sum(value.size for value in jax.tree.leaves(state.params))
    batch = mesh.size * config.clips * config.frames
    if is_primary():
        print(f"{count / 1e6:.2f} M parameters, {mesh.size} devices, {batch} samples a step")
    state, stage, frame = replicate((state, stage, frame), mesh)
    step = build_step(reconstructor, step_config, optimizer, mesh, make_clips, stage, frame)
    shown = first_share(make_clips(stage, jax.random.fold_in(key, -1 % 2**31)))

    def draw(state: TrainState) -> np.ndarray:
        """Rows: source, target, result, raw colours, depth, for the first people."""
        variables = local({"params": state.average, "buffers": state.buffers})
        columns = []
        for person in range(min(SHOWN, config.clips)):
            params = jax.tree.map(lambda x, person=person: x[person], shown.params)
            first, second = (jax.tree.map(lambda x, i=i: x[i], params) for i in (0, 1))
            source, target = shown.image[person, 0], shown.image[person, 1]
            avatar = encode_source(reconstructor, variables, source, first, head)
            out = render_frame(
                reconstructor, variables, avatar, head, first, second,
                resolution=step_config.resolution, samples=step_config.samples,
            )  # fmt: skip
            size = source.shape
            depth = jnp.where(out.opacity > 0.5, (out.depth - 3.4) / 1.2 * 2 - 1, -1.0)[..., None]
            raw, depth = (jax.image.resize(x, (*size[:2], x.shape[-1]), "nearest") for x in (out.raw, depth))
            rows = [source, target, out.image, raw, jnp.broadcast_to(depth, size)]
            columns.append(np.concatenate([to_uint8(x) for x in rows]))
        return np.concatenate(columns, axis=1)

    def export(state: TrainState, path: Path) -> None:
        about = {
            "command": f"python -m p4d_jax.main --config=configs/{config.name}.py",
            "steps": int(state.step),
            "samples": int(state.step) * mesh.size * config.clips * config.frames,
            "hours": round(float(state.seconds) / 3600, 3),
            "machine": f"{jax.devices()[0].device_kind}, {platform.machine()}, {mesh.size} devices",
        }
        save_reconstructor(path, model, {"params": state.average, "buffers": state.buffers}, about)

    train(loop_config, workdir, state, step, draw, export, batch=batch)


def as_tuple(value):
    return tuple(value) if isinstance(value, list | tuple) else value


def initial_variables(reconstructor: Reconstructor, key: jax.Array) -> dict:
    """Random parameters of the model's shapes."""
    c = reconstructor.config
    image = jnp.zeros((1, c.image_size, c.image_size, 3))
    motion = jnp.zeros((1, c.motion_size))
    lifted = jnp.zeros((1, c.lifted_size, c.lifted_size, 4)) if c.source_lifting else None
    return jax.jit(reconstructor.init)(key, image, motion, motion, lifted)
