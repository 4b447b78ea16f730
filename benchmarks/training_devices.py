"""Does a training not depend on how many devices and processes share it, and does a killed run go on?

    python -m benchmarks.training_devices FOLDER genhead|psi|psi_in_float64

Runs twenty steps of the smallest GenHead (tests/genhead_case.py) or Psi (tests/psi_case.py, of 8 pairs) on
one device, on eight forced devices, and on two processes of four; then kills one process, and two, with
SIGKILL in the middle and starts them again.
Prints, against the run on one device, the largest relative difference of each logged loss over the steps (of
logits, which cross zero, the largest absolute one), and whether the killed runs' losses and weights are those
of the uninterrupted ones to the bit. Psi starts from random weights without zeros. In float64, which tells
rounding from what a share of the work does, it starts as a new Psi, and nothing is killed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START_NOISE = 0.05  # standard deviation of what is added to every parameter of a new Psi
# The paper's optimizer: the demo's tiny epsilon makes whole steps of gradients that are rounding alone.
PSI_FLAGS = (
    "--config.batch=8", "--config.data.openheads=8", "--config.adam=(0.9, 0.999, 1e-5)",
    "--config.loop.peak_rate=1e-4",
)  # fmt: skip
NOT_COMPARED = (
    "step", "seconds", "steps_per_second", "images_per_second", "gflop_an_image", "flops_utilisation",
    "eta_minutes",
)  # fmt: skip


def save_start(path: Path) -> None:
    """Random weights of Psi without zeros.

    A new Psi has layers of zeros. Of those the density hardly varies: its regulariser is a difference of
    equal numbers, of which only rounding is left.
    """
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import jax
    from psi_case import tiny_config

    from p4d_jax.jobs.train_reenact import build_training
    from p4d_jax.reconstructor.weights import save_reconstructor

    training, _, state, _ = build_training(tiny_config(8))
    leaves, structure = jax.tree.flatten(state.params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [x + START_NOISE * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    variables = {"params": jax.tree.unflatten(structure, moved), "buffers": state.buffers}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_reconstructor(path, training.reconstructor.config, variables, {})


def start(workdir: Path, devices: int, flags: tuple[str, ...] = ()) -> subprocess.Popen:
    """One process of a run."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }
    what, _, in_float64 = sys.argv[2].partition("_")
    config = f"--config={ROOT / 'tests' / f'{what}_case.py'}"
    if what == "psi":
        begin = () if in_float64 else (f"--config.start={workdir.parent / 'start.npz'}",)
        flags = (*PSI_FLAGS, *begin, *flags)
    program = "benchmarks.in_float64" if in_float64 else "p4d_jax.main"
    command = [sys.executable, "-m", program, config, f"--workdir={workdir}", *flags]
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir.with_suffix(f".{len(flags) and flags[-1][-1]}.log"), "a") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def start_two(workdir: Path) -> list[subprocess.Popen]:
    """Two processes of four devices."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    flags = (f"--coordinator=localhost:{port}", "--processes=2")
    return [start(workdir, 4, (*flags, f"--process={k}")) for k in range(2)]


def finish(workdir: Path, processes: list[subprocess.Popen]) -> None:
    """Waits for a run's end."""
    codes = [process.wait() for process in processes]
    if any(codes):
        sys.exit(f"{workdir}: exit codes {codes}; see {workdir.with_suffix('.*.log')}")


def kill_in_the_middle(workdir: Path, processes: list[subprocess.Popen], step: int) -> None:
    """SIGKILL to all once a step is logged."""
    while len(losses(workdir)) < step and all(process.poll() is None for process in processes):
        time.sleep(0.02)
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.wait()


def losses(workdir: Path) -> dict[int, dict[str, float]]:
    """By step; of a step that was done twice, the last."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {line["step"]: line for line in map(json.loads, lines)}


def compare(one: dict, other: dict) -> dict[str, float]:
    """The largest difference of each loss over the steps."""
    worst: dict[str, float] = {}
    for step, values in one.items():
        for name, value in values.items():
            if name not in NOT_COMPARED:
                scale = 1.0 if name.endswith("logit") else max(abs(value), 1e-12)
                worst[name] = max(worst.get(name, 0.0), abs(other[step][name] - value) / scale)
    return worst


def same(one: Path, other: Path) -> bool:
    """Whether two runs' losses and weights are the same to the bit."""
    values = [
        {s: {k: v for k, v in row.items() if k not in NOT_COMPARED} for s, row in losses(run).items()}
        for run in (one, other)
    ]
    return (
        values[0] == values[1] and (one / "weights.npz").stat().st_size > 0 and weights(one) == weights(other)
    )


def weights(workdir: Path) -> dict[str, bytes]:
    """Every array of the exported weights."""
    import numpy as np

    with np.load(workdir / "weights.npz") as stored:
        return {name: stored[name].tobytes() for name in stored.files if name != "about"}


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    one, eight, two = (folder / name for name in ("one", "eight", "two"))
    if sys.argv[2] == "psi":
        save_start(folder / "start.npz")
    finish(one, [start(one, 1)])
    finish(eight, [start(eight, 8)])
    finish(two, start_two(two))
    for name, run in (("eight devices", eight), ("two processes of four", two)):
        worst = compare(losses(one), losses(run))
        found = ", ".join(f"{key} {value:.1e}" for key, value in sorted(worst.items(), key=lambda x: -x[1]))
        print(f"{name}: {len(losses(run))} steps, largest differences: {found}", flush=True)
    if "float64" in sys.argv[2]:
        return
    for name, run, begin in (
        ("one process", one, lambda path: [start(path, 1)]),
        ("two processes", two, start_two),
    ):
        killed, step = folder / f"{run.name}_killed", random.randint(4, 16)
        kill_in_the_middle(killed, begin(killed), step)
        stopped = max(losses(killed))
        finish(killed, begin(killed))
        print(
            f"{name} killed at step {stopped} and started again: same to the bit: {same(run, killed)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
