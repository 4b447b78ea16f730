"""Ends a small training by signals at random moments, goes on, and compares losses with an undisturbed run.

    python -m benchmarks.preemption [POINTS]

POINTS (20) moments each for SIGTERM and SIGKILL, for one process and for two that are one run. The training
fits a vector to noise that depends on the step alone, and saves about every second. For each of the four a
line: moments, the most steps that one signal lost, the longest time from the signal to the last exit, exit
codes, and whether all losses are equal to the bit to those of a run that was never stopped. Exit code 1 if
not, or if SIGTERM lost more than one step or took more than 30 s.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS_BETWEEN = 25  # of a training, a moment
PAUSE = 0.02  # seconds of a step


def train_one(workdir: str, steps: str, address: str, count: str, number: str) -> None:
    """One process of the training."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from p4d_jax.errors import Preempted
    from p4d_jax.train import journal
    from p4d_jax.train.config import LoopConfig
    from p4d_jax.train.devices import build_mesh, replicate
    from p4d_jax.train.loop import train
    from p4d_jax.train.processes import connect_processes, is_primary
    from p4d_jax.train.state import build_optimizer, create_state, stream_key

    connect_processes(
        *((address, int(count), int(number)) if int(count) > 1 else (None, None, None)), os.environ
    )
    optimizer = build_optimizer(0.9, 0.99, 1e-8, 1.0)
    state = create_state({"params": {"w": jnp.ones(64)}}, optimizer, jax.random.key_data(jax.random.key(0)))

    @jax.jit
    def update(state, rate):
        noise = jax.random.normal(stream_key(state, "noise"), (64,))
        loss, gradient = jax.value_and_grad(lambda p: jnp.sum((p["w"] - noise) ** 2))(state.params)
        moves, moments = optimizer.update(gradient, state.optimizer, state.params)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, moves)
        return state.replace(step=state.step + 1, params=params, average=params, optimizer=moments), {
            "loss": loss
        }

    def step(state, rate):
        time.sleep(PAUSE)
        return update(state, rate)

    journal.open_events = lambda workdir: journal.NoEvents() if is_primary() else None
    config = LoopConfig(
        steps=int(steps), peak_rate=0.01, final_share=1.0, log_every=1, grid_every=10**9, save_minutes=0.01
    )
    try:
        train(
            config, Path(workdir), replicate(state, build_mesh()), step,
            lambda state: np.zeros((8, 8, 3), np.uint8), lambda state, path: np.savez(path, **state.average),
        )  # fmt: skip
    except Preempted:
        sys.exit(Preempted.EXIT_CODE)


def start(workdir: Path, steps: int, count: int) -> list[subprocess.Popen]:
    """All processes of the training."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "benchmarks.preemption", "train", str(workdir), str(steps), address]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    with open(workdir / "output.log", "a") as log:
        return [
            subprocess.Popen([*command, str(count), str(k)], env=environment, stdout=log, stderr=log)
            for k in range(count)
        ]


def losses(workdir: Path) -> list[tuple[int, float]]:
    """Of every step as it was logged; those that were done again are there twice."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line["step"], line["loss"]) for line in map(json.loads, lines) if "loss" in line]


def last_step(workdir: Path) -> int:
    return max((step for step, _ in losses(workdir)), default=0)


def strike(workdir: Path, steps: int, count: int, number: int, dice: random.Random) -> tuple[int, float, set]:
    """Starts the training and sends a signal at a random moment of it.

    Returns:
      The last step that was logged, seconds from the signal to the end, exit codes.
    """
    before, running = last_step(workdir), start(workdir, steps, count)
    while last_step(workdir) == before and all(process.poll() is None for process in running):
        time.sleep(0.02)
    time.sleep(dice.uniform(0, 2 * STEPS_BETWEEN * PAUSE))
    started = time.time()
    struck = running if number == signal.SIGKILL else [dice.choice(running)]
    for process in struck:
        process.send_signal(number)
    for process in running:
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
    return last_step(workdir), time.time() - started, {process.wait() for process in running}


def measure(folder: Path, count: int, number: int, points: int, whole: dict[int, float], steps: int) -> bool:
    """Prints a line; whether all is as it should be."""
    workdir = folder / f"{count}_{number}"
    workdir.mkdir()
    dice, lost, longest, codes = random.Random(count * 100 + number), 0, 0.0, set()
    for _ in range(points):
        reached, seconds, ended = strike(workdir, steps, count, number, dice)
        saved = max((int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()), default=0)
        lost, longest, codes = max(lost, reached - saved), max(longest, seconds), codes | ended
    for process in start(workdir, steps, count):
        codes |= {process.wait()} - {0}
    found = losses(workdir)
    equal = dict(found) == whole and all(whole[step] == loss for step, loss in found)
    print(
        f"{count} process{'es' if count > 1 else ''} {signal.Signals(number).name}: {points} moments,"
        f" at most {lost} steps lost, {longest:.1f} s to the end, exit codes {sorted(codes)},"
        f" losses {'equal to the bit' if equal else 'DIFFER'}",
        flush=True,
    )
    return equal and (number == signal.SIGKILL or (lost <= 1 and longest < 30))


def main() -> int:
    if sys.argv[1:2] == ["train"]:
        train_one(*sys.argv[2:])
        return 0
    points = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    good, steps = True, points * 4 * STEPS_BETWEEN
    with tempfile.TemporaryDirectory() as name:
        for count in (1, 2):
            whole = Path(name) / f"{count}_whole"
            whole.mkdir()
            for process in start(whole, steps, count):
                process.wait()
            expected = dict(losses(whole))
            for number in (signal.SIGTERM, signal.SIGKILL):
                good &= measure(Path(name), count, number, points, expected, steps)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
