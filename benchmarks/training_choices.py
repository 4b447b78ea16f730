"""What one choice of Psi's training brings: the same short training with and without it, over seeds.

    python -m benchmarks.training_choices FOLDER pseudo_views|static_half|balanced [--seeds=3] [--steps=100]
        [--people=12] [FLAGS of p4d_jax.main]

pseudo_views: v2 on films of one camera, with and without the views of a frozen static model (the shipped
weights), from random weights; --config.start=reenact_demo goes on from the shipped ones. static_half: half of
the pairs static with silent cross-attention, or none, from random weights. balanced: a share of evenly drawn
yaws and of shut eyes, or none, from the shipped weights. Batches are of four.

Each run's weights are measured as the job `evaluate` does (docs/howto/evaluate.md), on people that training
never saw, `held_out` and `other`. Runs that are there are not made again. Prints each run, then of each
measure the mean and standard deviation over seeds, without and with, and the gain of each seed.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from p4d_jax import assets
from p4d_jax.avatar.model import AvatarModel
from p4d_jax.evaluation.held_out import Rays, build_evaluator
from p4d_jax.main import enable_compilation_cache
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.reconstructor.weights import load_reconstructor

COMMON = {
    "batch": 4, "evaluate_people": 0, "relief_alone": 0.0, "step.average_half_life": 100.0,
    "loop.minutes": 0.0, "loop.best": "", "loop.grid_every": 100_000,
    "sharp_backgrounds": 0.0, "fit_noise": 0.0, "step.feature_weight": 0.0,
}  # fmt: skip
SHIPPED = {"start": "reenact_demo", "loop.peak_rate": 1e-3}
# Config, fields of both, without, with
CHOICES = {
    "pseudo_views": (
        "reenact_v2_demo",
        {"start": "", "data.films": 4},
        {"static": "", "multiview_every": 0},
        {"static": "reenact_demo", "multiview_every": 2},
    ),
    "static_half": ("reenact_demo", {"data.openheads": 4}, {"static_share": 0.0}, {"static_share": 0.5}),
    "balanced": (
        "reenact_demo",
        {**SHIPPED, "data.openheads": 4},
        {"yaw_balance": 0.0, "closed_eyes": 0.0},
        {"yaw_balance": 0.4, "closed_eyes": 0.2},
    ),
}
SETS = ("held_out", "other")
MEASURES = (
    "self/psnr", "self/psnr_face", "self/eyes_aligned", "self/mouth_aligned", "cross/expression_ratio",
    "novel/psnr_-30", "novel/psnr_+0", "novel/psnr_+30",
)  # fmt: skip


def train_once(workdir: Path, config: str, fields: dict, more: list[str]) -> Path:
    """The weights of a run, which is made if they are not there."""
    weights = workdir / "weights.npz"
    if not weights.is_file():
        command = [sys.executable, "-m", "p4d_jax.main", f"--config=configs/{config}.py"]
        flags = [f"--config.{name}={value}" for name, value in fields.items()]
        subprocess.run([*command, *flags, f"--workdir={workdir}", *more], check=True, stdout=sys.stderr)
    return weights


@functools.cache
def evaluator(network: Reconstructor, set_name: str, people: int) -> Callable:
    """Measures weights of one network on one set."""
    model = AvatarModel.create(network, {}, assets.head_model())
    return build_evaluator(model, people=people, set_name=set_name, rays=Rays(samples=(8, 8)))


def measure(weights: Path, people: int) -> dict[str, float]:
    """The measures of all sets, named SET/PART/MEASURE."""
    reconstructor, variables = load_reconstructor(weights)
    state = SimpleNamespace(average=variables["params"], buffers=variables.get("buffers", {}))
    found = {name: evaluator(reconstructor, name, people)(state) for name in SETS}
    return {f"{name}/{key}": found[name][key] for name in SETS for key in MEASURES if key in found[name]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("choice", choices=CHOICES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--people", type=int, default=12)
    options, more = parser.parse_known_args()
    enable_compilation_cache()
    config, both, *variants = CHOICES[options.choice]
    rows = {"without": [], "with": []}
    for seed in range(options.seeds):
        for name, fields in zip(rows, variants, strict=True):
            run = options.folder / f"{options.choice}_{name}_{seed}"
            fields = COMMON | both | fields | {"seed": seed, "loop.steps": options.steps}
            rows[name].append(measure(train_once(run, config, fields, more), options.people))
            print(
                json.dumps({"run": run.name, **{k: round(v, 4) for k, v in rows[name][-1].items()}}),
                flush=True,
            )
    for key in rows["with"][0]:
        values = {name: np.array([row[key] for row in found]) for name, found in rows.items()}
        spread = {name: [round(float(f(x)), 4) for f in (np.mean, np.std)] for name, x in values.items()}
        gain = [round(float(g), 4) for g in values["with"] - values["without"]]
        print(json.dumps({"measure": key, **spread, "gain": gain}))


if __name__ == "__main__":
    main()
