"""The loop around a pure step: resume, step, log, draw, evaluate, save.

A run lives in its workdir: TensorBoard events and `metrics.jsonl` (a line each `log_every` steps),
`grid_<step>.png`, `checkpoints/` (Orbax), `weights.npz` (the moving average, ready to use), and of a run that
is evaluated `best_weights.npz`. The same command goes on where a killed run stopped: the random key of a step
depends only on the run's key and the step's number, and the best score so far is stored with its checkpoint.

With several processes (`train.processes`) all go through the same loop in step: checkpoints are written by
all of them into the one workdir, everything else by the primary one, whose clock is the run's.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
from absl import logging

from p4d_jax.errors import UserError
from p4d_jax.train.config import LoopConfig
from p4d_jax.train.devices import filled_like, local
from p4d_jax.train.journal import Journal, ProfileWindow
from p4d_jax.train.processes import agreed, check_shared, is_primary
from p4d_jax.train.state import TrainState, learning_rate


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
    *,
    evaluate: Callable[[TrainState], dict[str, float]] | None = None,
    batch: int = 0,
    shown: tuple[str, ...] = (),
) -> TrainState:
    """Trains from `state`, or from the workdir's last checkpoint, to the end.

    Args:
      step: (state, learning rate) -> (state, metrics); donates the state.
      draw: a picture (H, W, 3) uint8 of what the moving average does; called by every process.
      export: writes the moving average's weights to a file; called by the primary process alone, with its own
        copy of the state.
      evaluate: scores of the moving average, called by every process; the primary's scores count.
      batch: pictures a step, for the log.
      shown: metrics that the terminal shows; () are all.

    Raises:
      UserError: a loss or score is not finite; the last checkpoint is left as it is. Or the processes do not
        share the workdir, or `best` is no score.
    """
    if config.best and evaluate is None:
        raise UserError(f"best={config.best!r}: this run has no evaluation; set it to ''")
    journal = Journal(workdir, batch, shown)
    check_shared(workdir)
    with (
        ocp.training.Checkpointer(
            workdir.resolve() / "checkpoints", preservation_policy=preservation_policy(config)
        ) as saved,
        ProfileWindow(workdir / "profile", *config.profile) as profile,
    ):
        if saved.latest is not None:
            state = saved.load(saved.latest, state)
            logging.info("going on from step %d of %s", int(state.step), workdir)
        best = max((config.merit(checkpoint.metrics) for checkpoint in saved.checkpoints), default=-math.inf)
        before, started, number = float(state.seconds), time.time(), int(state.step)
        # To agree on the time, all hosts wait for the step: with one process each step, else at log lines.
        tick = 1 if jax.process_count() == 1 else config.log_every
        seconds, last_save = before, before
        journal.start(number, progress(config, number, seconds))

        while (done := progress(config, number, seconds)) < 1.0:
            profile.before_step(state)
            rate = learning_rate(done, number, config.peak_rate, config.warmup, config.final_share)
            state, metrics = step(state, jnp.float32(rate))
            number += 1
            if number % tick == 0:
                seconds = before + agreed(time.time() - started)
            done = progress(config, number, seconds)

            if number % config.log_every == 0:
                journal.log_steps(number, done, seconds, rate, finite(metrics, number, workdir))
            if done == 1.0 or number % config.grid_every == 0:
                journal.show(number, draw(state))

            scores, improved = {}, False
            if evaluate and (done == 1.0 or (config.evaluate_every and number % config.evaluate_every == 0)):
                scores = score(config, evaluate, state, number, workdir)
                journal.log_scores(number, seconds, scores)
                improved = bool(config.best) and config.merit(scores) >= best
                best = max(best, config.merit(scores))

            if done == 1.0 or improved or seconds - last_save > 60 * config.save_minutes:
                finite(metrics, number, workdir)
                state, last_save = state.replace(seconds=filled_like(state.seconds, seconds)), seconds
                write_weights(state, workdir, export, improved)
                saved.save_async(
                    number, state, metrics=scores or None, force=True
                )  # waits for the one before
    journal.close()
    return state


def preservation_policy(config: LoopConfig):
    """Orbax's policy: the latest checkpoints, and the best one."""
    policies = ocp.training.preservation_policies
    latest = policies.LatestN(config.keep)
    if not config.best:
        return latest
    best = policies.BestN(get_metric_fn=config.merit, n=1, keep_checkpoints_without_metrics=False)
    return policies.AnyPreservationPolicy([latest, best])


def score(config: LoopConfig, evaluate: Callable, state: TrainState, number: int, workdir: Path) -> dict:
    """The scores of an evaluation, the same on all processes."""
    scores = {name: agreed(float(value)) for name, value in evaluate(state).items()}
    if config.best and config.best not in scores:
        raise UserError(f"best={config.best!r}: the evaluation gives {', '.join(scores)}")
    return finite(scores, number, workdir)


def finite(metrics: dict, number: int, workdir: Path) -> dict[str, float]:
    """The metrics as numbers.

    Raises:
      UserError: one is not finite.
    """
    values = {name: float(f"{float(value):.9g}") for name, value in metrics.items()}
    broken = [name for name, value in values.items() if not np.isfinite(value)]
    if broken:
        raise UserError(
            f"step {number}: {', '.join(broken)} not finite; the last checkpoint in {workdir / 'checkpoints'}"
            " is good: start again with a lower peak_rate"
        )
    return values


def write_weights(state: TrainState, workdir: Path, export: Callable, improved: bool) -> None:
    """Writes `weights.npz`, and if they are the best so far `best_weights.npz`, by the primary process."""
    if not is_primary():
        return
    temporary = workdir / "weights.tmp.npz"
    export(local(state), temporary)
    if improved:
        copy = workdir / "best_weights.tmp.npz"
        shutil.copyfile(temporary, copy)
        copy.replace(workdir / "best_weights.npz")
    temporary.replace(workdir / "weights.npz")
