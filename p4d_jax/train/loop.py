"""The loop around a pure step: resume, step, log, draw, save.

A run lives in its workdir: TensorBoard events and `metrics.jsonl` (a line each `log_every` steps),
`grid_<step>.png`, `checkpoints/` (Orbax) and `weights.npz` (the moving average, ready to use). The same
command goes on where a killed run stopped: the random key of a step depends only on the run's key and the
step's number.

With several processes (`train.processes`) all go through the same loop in step: checkpoints are written by
all of them into the one workdir, everything else by the primary one, whose clock is the run's.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as iio
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
from absl import logging

from p4d_jax.errors import UserError
from p4d_jax.train.devices import filled_like
from p4d_jax.train.processes import agreed, check_shared, is_primary
from p4d_jax.train.state import TrainState, learning_rate


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long, and how often what happens.

    Attributes:
      steps: the run ends after so many steps,
      minutes: or after so many minutes of training, whichever comes first; 0 is no limit.
      peak_rate, warmup: of the learning rate: linear warm-up over steps, then a cosine to the end,
      final_share: where it is this share of the peak; 1 is a constant rate.
      log_every, grid_every: steps between log lines and between pictures.
      save_minutes: minutes between checkpoints.
      keep: how many checkpoints are kept.
    """

    steps: int
    minutes: float
    peak_rate: float
    warmup: int
    log_every: int
    grid_every: int
    save_minutes: float
    keep: int = 2
    final_share: float = 0.01


def progress(config: LoopConfig, step: int, seconds: float) -> float:
    """How much of the run is done, 0 to 1: by steps or by time, whichever is further."""
    by_time = seconds / (60 * config.minutes) if config.minutes else 0.0
    return min(1.0, max(step / config.steps, by_time))


def train(
    config: LoopConfig,
    workdir: Path,
    state: TrainState,
    step: Callable[[TrainState, jax.Array], tuple[TrainState, dict]],
    draw: Callable[[TrainState], np.ndarray],
    export: Callable[[TrainState, Path], None],
) -> TrainState:
    """Trains from `state`, or from the workdir's last checkpoint, to the end.

    Args:
      step: (state, learning rate) -> (state, metrics); donates the state.
      draw: a picture (H, W, 3) uint8 of what the moving average does; called by every process.
      export: writes the moving average's weights to a file; called by the primary process alone, and so must
        not compute across processes: reading replicated arrays is safe.

    Raises:
      UserError: a loss is not finite; the last checkpoint is left as it is. Or the processes do not share the
        workdir.
    """
    events = open_events(workdir)
    check_shared(workdir)
    policy = ocp.training.preservation_policies.LatestN(config.keep)
    with ocp.training.Checkpointer(workdir.resolve() / "checkpoints", preservation_policy=policy) as saved:
        if saved.latest is not None:
            state = saved.load_pytree(saved.latest, state)
            logging.info("going on from step %d of %s", int(state.step), workdir)
        before, started, number = float(state.seconds), time.time(), int(state.step)
        # To agree on the time, all hosts wait for the step: with one process each step, else at log lines.
        tick = 1 if jax.process_count() == 1 else config.log_every
        seconds, last_save, logged = before, before, (number, time.time())
        while (done := progress(config, number, seconds)) < 1.0:
            rate = learning_rate(done, number, config.peak_rate, config.warmup, config.final_share)
            state, metrics = step(state, jnp.float32(rate))
            number += 1
            if number % tick == 0:
                seconds = before + agreed(time.time() - started)
            if number % config.log_every == 0:
                _log(workdir, events, number, rate, metrics, logged, seconds)
                logged = (number, time.time())
            if number % config.grid_every == 0:
                _show(workdir, events, number, draw(state))
            if seconds - last_save > 60 * config.save_minutes:
                state, last_save = _save(saved, state, number, seconds, workdir, export), seconds
        if saved.latest is None or saved.latest.step != number:
            state = _save(saved, state, number, seconds, workdir, export)
    _show(workdir, events, number, draw(state))
    if events:
        events.close()
    return state


def open_events(workdir: Path):
    """clu's writer of TensorBoard events in the workdir, which is made; None where another process writes.

    Raises:
      UserError: tensorflow or TensorBoard, which clu writes with, are not installed.
    """
    if not is_primary():
        return None
    try:
        from clu.metric_writers import SummaryWriter
    except ImportError as error:
        raise UserError(
            f"training writes TensorBoard events with clu and tensorflow, and {error.name!r} is not"
            ' installed: pip install ".[train]"'
        ) from None
    workdir.mkdir(parents=True, exist_ok=True)
    return SummaryWriter(str(workdir))


def _show(workdir: Path, events, number: int, picture: np.ndarray) -> None:
    if not is_primary():
        return
    iio.imwrite(workdir / f"grid_{number:06d}.png", picture)
    events.write_images(number, {"grid": picture[None]})
    events.flush()


def _log(
    workdir: Path, events, number: int, rate: float, metrics: dict, logged: tuple, seconds: float
) -> None:
    values = {name: float(f"{float(value):.9g}") for name, value in metrics.items()}
    speed = (number - logged[0]) / max(time.time() - logged[1], 1e-6)
    line = {"step": number, "seconds": round(seconds, 1), "rate": rate, "steps_per_second": round(speed, 4)}
    if is_primary():
        with open(workdir / "metrics.jsonl", "a") as log:
            log.write(json.dumps({**line, **values}) + "\n")
        events.write_scalars(number, {**values, "rate": rate, "steps_per_second": speed})
        print(json.dumps({**line, **values}), flush=True)
    broken = [name for name, value in values.items() if not np.isfinite(value)]
    if broken:
        raise UserError(
            f"step {number}: {', '.join(broken)} not finite; the last checkpoint in {workdir / 'checkpoints'}"
            " is good: start again with a lower --config.peak_rate"
        )


def _save(saved, state: TrainState, number: int, seconds: float, workdir: Path, export) -> TrainState:
    state = state.replace(seconds=filled_like(state.seconds, seconds))
    saved.save_pytree(number, state)
    if is_primary():
        temporary = workdir / "weights.tmp.npz"
        export(state, temporary)
        temporary.replace(workdir / "weights.npz")
    return state
