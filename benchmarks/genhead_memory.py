"""Compiled memory of GenHead's full-size training steps a device, from XLA's own analysis.

    python -m benchmarks.genhead_memory [BATCH [precision]]

Compiles the steps of configs/genhead_ffhq512.py for BATCH pictures on one device (4: the paper's 32 over
eight) and prints, in GB, what each takes beside what it is given, its arguments, and their sum.
Nothing is run and no data are needed. The analysis is of the backend that compiles: a CPU's buffers are not
exactly a GPU's.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from p4d_jax.data.samples import Portrait
from p4d_jax.genhead import step as steps
from p4d_jax.genhead.training import create_genhead_state
from p4d_jax.jobs import train_genhead as job
from p4d_jax.main import load_config
from p4d_jax.types import Camera, FrameParams

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    batch = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    config = load_config(ROOT / "configs" / "genhead_ffhq512.py")
    config.batch, config.precision = batch, sys.argv[2] if len(sys.argv) > 2 else "float32"
    training, _ = job.build_training(config)
    size, resolution = training.genhead.config.image_size, training.config.resolution(0)
    active = training.config.active(0)
    shape = lambda *sizes: jax.ShapeDtypeStruct((batch, *sizes), jnp.float32)
    params = FrameParams(Camera(shape(4, 4), shape(3, 3)), shape(300), shape(100), shape(6), shape(6))
    portrait = Portrait(shape(size, size, 3), shape(size, size, 1), params)
    state = jax.eval_shape(functools.partial(create_genhead_state, training), jax.random.key(0))
    rate = jax.ShapeDtypeStruct((), jnp.float32)
    bind = lambda f, *names: functools.partial(f, training, *names)
    head, parts = training.head, training.parts
    frames = jax.eval_shape(bind(steps.rasterize_frames, resolution), head, parts, params)
    reals = jax.eval_shape(bind(steps.rasterize_reals), head, parts, portrait)
    fakes = jax.eval_shape(bind(steps.fresh_fakes), state, frames)
    programs = {
        "generator": (bind(steps.generator_update, active, False), (state, rate, frames)),
        "discriminator": (bind(steps.critic_update, False), (state, rate, reals, fakes)),
        "penalty": (bind(steps.critic_penalty_update, resolution, False), (state, rate, reals)),
        "density": (bind(steps.density_update), (state, rate, params)),
    }
    for name, (program, arguments) in programs.items():
        started = time.time()
        compiled = jax.jit(program, donate_argnums=0).lower(*arguments).compile()
        memory = compiled.memory_analysis()
        gigabytes = lambda count: round(count / 1e9, 2)
        temporaries, constants = memory.temp_size_in_bytes, memory.argument_size_in_bytes
        row = {
            "step": name,
            "batch": batch,
            "precision": config.precision,
            "temporaries": gigabytes(temporaries),
            "arguments": gigabytes(constants),
            "sum": gigabytes(temporaries + constants),
            "compilation_seconds": round(time.time() - started, 1),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
