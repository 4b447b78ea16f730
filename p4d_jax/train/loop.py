"""The loop around a pure step: resume, step, log, draw, evaluate, save.

A run lives in its workdir: TensorBoard events and `metrics.jsonl` (a line each `log_every` steps),
`grid_<step>.png`, `checkpoints/` (Orbax), `weights.npz` (the moving average, ready to use), of a run that is
evaluated `best_weights.npz`, `run.json` (its config) and `goodput.jsonl` (where each command's time went).
The same command goes on where a killed run stopped: the random key of a step depends only on the run's key
and the step's number, and the best score so far is stored with its checkpoint. A run that is asked to end
(SIGTERM, SIGINT) saves the step that it is at.

With several processes (`train.processes`) all go through the same loop in step: checkpoints are written by
all of them into the one workdir, everything else by the primary one, whose clock is the run's.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
from absl import logging

from p4d_jax.errors import Preempted, UserError
from p4d_jax.train.checkpoints import CHECKPOINTS, Checkpoints, check_finite, inspect_state
from p4d_jax.train.config import LoopConfig
from p4d_jax.train.devices import filled_like, local
from p4d_jax.train.flops import Work
from p4d_jax.train.identity import WorkdirLock, check_goes_on, check_same_everywhere, temporary_beside
from p4d_jax.train.journal import Journal, ProfileWindow
from p4d_jax.train.preemption import Notice
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
    waited: Callable[[], float] = lambda: 0.0,
    work: Work | None = None,
    record: Mapping[str, Any] | None = None,
) -> TrainState:
    """Trains from `state`, or from the workdir's last checkpoint, to the end.

    Args:
      step: (state, learning rate) -> (state, metrics); donates the state.
      draw: a picture (H, W, 3) uint8 of what the moving average does; called by every process.
      export: writes the moving average's weights to a file; called by the primary process alone, with its own
        copy of the state. What it cannot write is a warning.
      evaluate: scores of the moving average, called by every process; the primary's scores count.
      batch: pictures a step, for the log.
      shown: metrics that the terminal shows; () are all.
      waited: seconds that steps have waited for data so far.
      work: what the steps' programs count their arithmetic in, for the log.
      record: what makes the run what it is, nested (`train.identity`): config, package's version, head.

    Raises:
      UserError: a loss, score or part of the state is not finite; the last checkpoint is left as it is. Or
        the processes do not share the workdir or their record, another run has the workdir, it holds a run of
        another record or model, or `best` is no score.
      Preempted: it was asked to end, and has saved its state.
    """
    if config.best and evaluate is None:
        raise UserError(f"best={config.best!r}: this run has no evaluation; set it to ''")
    record = dict(record or {})
    check_shared(workdir)
    with (
        WorkdirLock(workdir),
        Journal(workdir, batch, shown, work) as journal,
        Notice() as notice,
        Checkpoints(workdir, preservation_policy(config)) as saved,
        ProfileWindow(workdir / "profile", *config.profile) as profile,
    ):
        with journal.spending("restart"):
            check_same_everywhere(record | {"the first state": int(inspect_state(state)[1])})
            check_goes_on(workdir, record)
            state = saved.load(state)
        if int(state.step):
            logging.info("going on from step %d of %s", int(state.step), workdir)
        best = max(map(config.merit, saved.metrics), default=-math.inf)
        before, started, number = float(state.seconds), time.time(), int(state.step)
        # To agree on the time, all hosts wait for the step: with one process each step, else at log lines.
        tick = 1 if jax.process_count() == 1 else config.log_every
        seconds, last_save, asked, returned = before, before, False, 0
        if config.not_finite == "skip":
            step = skip_not_finite(step, state, config.most_not_finite, journal.log_skip)
        journal.start(number, progress(config, number, seconds))

        while (done := progress(config, number, seconds)) < 1.0 and not asked:
            profile.before_step(state)
            rate = learning_rate(done, number, config.peak_rate, config.warmup, config.final_share)
            with journal.counting_step(waited):
                state, metrics = step(state, jnp.float32(rate))
            number += 1
            if number % tick == 0:
                seconds = before + agreed(time.time() - started)
            done = progress(config, number, seconds)
            asked = notice.came(number)

            try:
                if number % config.log_every == 0:
                    journal.log_steps(number, done, seconds, rate, finite(metrics, number))
                if done == 1.0 or (number % config.grid_every == 0 and not asked):
                    with journal.spending("pictures"):
                        journal.show(number, draw(state))

                scores, improved = {}, False
                if evaluate and (done == 1.0 or (is_due(config.evaluate_every, number) and not asked)):
                    with journal.spending("evaluation"):
                        scores = score(config, evaluate, state, number)
                    journal.log_scores(number, seconds, scores)
                    improved = bool(config.best) and config.merit(scores) >= best
                    best = max(best, config.merit(scores))

                if done == 1.0 or improved or asked or seconds - last_save > 60 * config.save_minutes:
                    finite(metrics, number)
                    state, last_save = state.replace(seconds=filled_like(state.seconds, seconds)), seconds
                    jax.block_until_ready(state)
                    with journal.spending("checkpoint"):
                        saved.save(number, state, check_state(state, number), scores or None)
                        write_weights(state, workdir, export, improved)
            except NotFinite as error:
                goes_back = config.not_finite == "go_back" and returned < config.most_not_finite
                if not goes_back or not saved.metrics:
                    raise UserError(
                        f"{error}; the last checkpoint in {workdir / CHECKPOINTS} is good: start again with a"
                        " lower peak_rate"
                    ) from None
                returned += 1
                state = with_other_noise(saved.load(state), returned)
                journal.log_return(number, int(state.step), seconds, returned, str(error))
                number = int(state.step)
        journal.log_goodput(number)
    if asked and done < 1.0:
        raise Preempted(f"asked to end after step {number}, which is saved in {workdir}")
    return state


class NotFinite(Exception):
    """A number of a run is not finite."""


def is_due(every: int, number: int) -> bool:
    """Whether what is done every so many steps (0: never) is to be done now."""
    return bool(every) and number % every == 0


def check_state(state: TrainState, number: int) -> int:
    """The checksum of a state whose numbers are all finite.

    Raises:
      NotFinite: they are not.
    """
    try:
        return check_finite(state)
    except FloatingPointError as error:
        raise NotFinite(f"step {number}: the state's {error} not finite") from None


def with_other_noise(state: TrainState, number: int) -> TrainState:
    """The same state with another random key, so that what comes is not what came."""
    other = jax.jit(
        lambda key: jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(key), number))
    )
    return state.replace(key=other(state.key))


def preservation_policy(config: LoopConfig):
    """Orbax's policy: the latest checkpoints, and the best one."""
    policies = ocp.training.preservation_policies
    latest = policies.LatestN(config.keep)
    if not config.best:
        return latest
    best = policies.BestN(get_metric_fn=config.merit, n=1, keep_checkpoints_without_metrics=False)
    return policies.AnyPreservationPolicy([latest, best])


def score(config: LoopConfig, evaluate: Callable, state: TrainState, number: int) -> dict[str, float]:
    """The scores of an evaluation, the same on all processes."""
    scores = {name: agreed(float(value)) for name, value in evaluate(state).items()}
    if config.best and config.best not in scores:
        raise UserError(f"best={config.best!r}: the evaluation gives {', '.join(scores)}")
    return finite(scores, number)


def finite(metrics: dict, number: int) -> dict[str, float]:
    """The metrics as numbers.

    Raises:
      NotFinite: one is not.
    """
    if broken := not_finite(metrics):
        raise NotFinite(f"step {number}: {', '.join(broken)} not finite")
    return {name: float(f"{float(value):.9g}") for name, value in metrics.items()}


def not_finite(metrics: dict) -> list[str]:
    """Names of the metrics that are not finite."""
    return [name for name, value in metrics.items() if not np.isfinite(float(value))]


def skip_not_finite(step: Callable, state: TrainState, most: int, log: Callable) -> Callable:
    """A step that keeps the state as it was, but for its number, where not all would be finite after it.

    So the next step sees another batch. The report of a skipped step is empty.

    Args:
      step: of `train`. state: any, for its shardings.
      most: steps in a row that may be skipped.
      log: (number of the step, how many in a row it makes, names of what is not finite).

    Raises:
      UserError: one more would be.
    """

    def keep(before: TrainState, after: TrainState, metrics: dict) -> tuple[TrainState, jax.Array]:
        is_finite = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves((after, metrics))]).all()
        before = before.replace(step=after.step)
        return jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), after, before), is_finite

    shardings = jax.tree.map(lambda x: x.sharding, state)
    keep_finite = jax.jit(keep, donate_argnums=1, out_shardings=(shardings, None))
    in_a_row = 0

    def guarded(state: TrainState, rate: jax.Array) -> tuple[TrainState, dict]:
        nonlocal in_a_row
        before = jax.tree.map(jnp.copy, state)  # the step takes the state's place
        after, metrics = step(state, rate)
        state, is_finite = keep_finite(before, after, metrics)
        if is_finite:
            in_a_row = 0
            return state, metrics
        in_a_row += 1
        broken = not_finite(metrics) or ["the state"]
        if in_a_row > most:
            raise UserError(
                f"step {int(state.step)}: {', '.join(broken)} not finite, nor were the {most} before it; the"
                " last checkpoint is good: start again with a lower peak_rate"
            )
        log(int(state.step), in_a_row, broken)
        return state, {}

    return guarded


def write_weights(state: TrainState, workdir: Path, export: Callable, improved: bool) -> None:
    """Writes `weights.npz`, and if they are the best so far `best_weights.npz`, by the primary process.

    The run is in its checkpoints: what cannot be written here is a warning.
    """
    if not is_primary():
        return
    temporary, copy = (temporary_beside(workdir / name) for name in ("weights.npz", "best_weights.npz"))
    try:
        export(local(state), temporary)
        if improved:
            shutil.copyfile(temporary, copy)
            copy.replace(workdir / "best_weights.npz")
        temporary.replace(workdir / "weights.npz")
    except (OSError, ValueError) as error:
        said = str(error).replace(str(temporary), "weights.npz")
        print(f"the weights are not written, the checkpoint is: {said}", flush=True)
    finally:
        for path in (temporary, copy):
            path.unlink(missing_ok=True)
