"""Compiled memory of Psi's full-size training steps a device, from XLA's own analysis.

    python -m benchmarks.reenact_memory [BATCH [CONFIG [FIELD=VALUE ...]]]

Compiles the steps of configs/portrait4d.py, every term of its loss table counted and at its last stage's
number of rays, for BATCH pairs on one device (4: the paper's 32 over eight), and prints, in GB, what each
takes beside what it is given, its arguments, and their sum. Nothing is run and no data or weights are needed;
the motion vectors are given. The analysis is of the backend that compiles: a CPU's buffers are not exactly a
GPU's.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from pathlib import Path

import jax

from p4d_jax import assets
from p4d_jax.data.samples import HeadPair
from p4d_jax.genhead.config import DiscriminatorConfig
from p4d_jax.genhead.discriminator import Discriminator
from p4d_jax.genhead.parts import build_head_parts
from p4d_jax.head.expression_field import build_canonical_frame
from p4d_jax.jobs import train_reenact as job
from p4d_jax.main import load_config
from p4d_jax.networks.arcface import IResNet
from p4d_jax.networks.lpips import LPIPS
from p4d_jax.reconstructor import step as steps
from p4d_jax.reconstructor.config import ReconstructorConfig, StepConfig
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.reconstructor.training import (
    Constants,
    LossNetworks,
    ReconstructorTraining,
    initial_variables,
    psi_optimizer,
)
from p4d_jax.train.adversarial import Adversary, DiscriminatorInput, LabelledInput, input_shapes
from p4d_jax.train.config import Term
from p4d_jax.train.devices import build_mesh
from p4d_jax.train.state import build_optimizer, create_state
from p4d_jax.types import Camera, FrameParams, shaped

ROOT = Path(__file__).resolve().parent.parent
POINTS = 4000


def describe_pairs(batch: int, size: int, rays: int, model: ReconstructorConfig) -> HeadPair:
    """The shapes of a batch of GenHead's pairs."""
    params = FrameParams(
        Camera(shaped(batch, 4, 4), shaped(batch, 3, 3)),
        *(shaped(batch, n) for n in (300, 100, 6, 6)),
    )
    picture = shaped(batch, size, size, 3)
    features = shaped(batch, rays, rays, model.feature_channels)
    return HeadPair(
        picture, params, picture, params, shaped(batch, size, size, 1), shaped(batch),
        depth=shaped(batch, rays, rays, 1), features=features, background_features=features,
        points=shaped(batch, POINTS, 3), plane_features=shaped(batch, POINTS, model.plane_channels),
    )  # fmt: skip


def main() -> None:
    batch = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    config = load_config(ROOT / (sys.argv[2] if len(sys.argv) > 2 else "configs/portrait4d.py"))
    config.update_from_flattened_dict(
        {k: type(config.model[k.split(".")[-1]])(v) for k, v in (a.split("=") for a in sys.argv[3:])}
    )
    # The motion vectors are drawn by a program of their own kind; here they are the parameters'.
    config.model.motion_size = 109
    model = ReconstructorConfig.from_dict(config.model.to_dict())
    names = [name for name, value in config.terms.items() if value[0]]
    step_config = StepConfig(
        terms=tuple((name, Term(1.0)) for name in names),
        **{name: job.nested_tuple(value) for name, value in config.step.to_dict().items()},
    )
    head, reconstructor = assets.head_model(), Reconstructor(model)
    critic, lpips, arcface = Discriminator(DiscriminatorConfig()), LPIPS(), IResNet(depths=(3, 4, 14, 3))
    adversary = Adversary(critic, build_optimizer(*config.adam, config.clip_norm), step_config, 1.0)
    optimizer = psi_optimizer(step_config, *config.adam, config.clip_norm)
    training = ReconstructorTraining(reconstructor, step_config, build_mesh(1), optimizer, None, adversary)
    key, size, rays = jax.random.key(0), model.picture_size, step_config.stages[-1][1]
    face, picture = shaped(1, 112, 112, 3), shaped(1, 64, 64, 3)
    of_critic = jax.eval_shape(critic.init, key, input_shapes(size), shaped(2, 25))["params"]
    networks = LossNetworks(
        lpips,
        jax.eval_shape(lpips.init, key, picture, picture),
        arcface,
        jax.eval_shape(arcface.init, key, face),
    )
    constants = Constants(head, build_canonical_frame(head, 512), build_head_parts(head), networks)
    variables = jax.eval_shape(functools.partial(initial_variables, reconstructor), key)
    state = jax.eval_shape(
        lambda variables, of_critic: create_state(
            variables, optimizer, jax.random.key_data(key),
            discriminator=of_critic, discriminator_optimizer=adversary.optimizer,
        ),
        variables, of_critic,
    )  # fmt: skip
    pairs = describe_pairs(batch, size, rays, model)
    samples = jax.eval_shape(
        functools.partial(steps.prepare_samples, training, rays, True), constants, state, pairs
    )
    fakes = LabelledInput(
        DiscriminatorInput(
            shaped(batch, size, size, 3), shaped(batch, rays, rays, 3), shaped(batch, size, size, 3),
            shaped(batch, rays, rays, 1),
        ),
        shaped(batch, 25),
    )  # fmt: skip
    active, rate, bind = tuple(n for n in names if n != "density"), shaped(), functools.partial
    programs = {
        "psi": (
            bind(steps.reconstructor_update, training, active, False),
            (state, rate, constants, samples),
        ),
        "density": (bind(steps.density_update, training), (state, rate, samples)),
        "discriminator": (bind(steps.critic_update, training, False), (state, rate, samples, fakes)),
        "penalty": (bind(steps.critic_penalty_update, training, False), (state, rate, samples)),
    }
    for name, (program, arguments) in programs.items():
        started = time.time()
        memory = jax.jit(program, donate_argnums=0).lower(*arguments).compile().memory_analysis()
        temporaries, given_bytes = memory.temp_size_in_bytes, memory.argument_size_in_bytes
        row = {
            "step": name,
            "batch": batch,
            "rays": rays,
            "dtype": model.dtype,
            "terms": len(names),
            "temporaries": round(temporaries / 1e9, 2),
            "arguments": round(given_bytes / 1e9, 2),
            "sum": round((temporaries + given_bytes) / 1e9, 2),
            "compilation_seconds": round(time.time() - started, 1),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
