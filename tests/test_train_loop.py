"""The loop around a step: a run that is killed goes on as if it had not been, and remembers what was best."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from process_tasks import open_silent_events

from p4d_jax.errors import UserError
from p4d_jax.train import journal, loop
from p4d_jax.train.flops import Work
from p4d_jax.train.state import build_optimizer, create_state

RUN = """
import os, signal, sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from p4d_jax.train.config import LoopConfig
from p4d_jax.train.loop import (train)
from p4d_jax.train.state import build_optimizer, create_state

workdir, kill_at = Path(sys.argv[1]), int(sys.argv[2])
optimizer = build_optimizer(0.9, 0.99, 1e-8, 1.0)
state = create_state({"params": {"w": jnp.ones(4)}}, optimizer, jax.random.key_data(jax.random.key(0)))

@jax.jit
def update(state, rate):
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    error = lambda params: jnp.sum((params["w"] - jax.random.normal(key, (4,))) ** 2)
    loss, gradient = jax.value_and_grad(error)(state.params)
    moves, moments = optimizer.update(gradient, state.optimizer, state.params)
    params = jax.tree.map(lambda p, u: p - rate * u, state.params, moves)
    new = state.replace(step=state.step + 1, params=params, average=params, optimizer=moments)
    return new, {"loss": loss}

def step(state, rate):
    if int(state.step) == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return update(state, rate)

config = LoopConfig(steps=12, minutes=0, peak_rate=0.1, warmup=2, log_every=1, grid_every=100, save_minutes=0)
train(config, workdir, state, step, lambda state: np.zeros((8, 8, 3), np.uint8),
      lambda state, path: np.savez(path, **state.average))
"""


def run(workdir: Path, kill_at: int) -> int:
    command = [sys.executable, "-c", RUN, str(workdir), str(kill_at)]
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}
    )
    assert result.returncode in (0, -signal.SIGKILL), result.stderr
    return result.returncode


def log_lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses(workdir: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in log_lines(workdir) if "loss" in line}


def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    assert run(tmp_path / "whole", -1) == 0
    assert run(tmp_path / "killed", 7) == -signal.SIGKILL
    assert sorted(losses(tmp_path / "killed")) == list(range(1, 8))
    assert run(tmp_path / "killed", -1) == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    weights = [(tmp_path / name / "weights.npz").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    assert list((tmp_path / "whole").glob("events.out.tfevents*"))


def test_without_tensorflow_a_training_says_so_in_one_line_and_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "clu.metric_writers", None)
    train_counting(tmp_path)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "TensorBoard" in line]
    assert "'clu.metric_writers' is not installed" in line and "metrics.jsonl has the same numbers" in line
    assert sorted(losses(tmp_path)) == list(range(1, 13)) and not list(tmp_path.glob("events*"))


# In this process, with a step that counts -----------------------------------------------------------------

SCORES = {2: 5.0, 4: 3.0, 6: 4.0, 8: 3.5, 10: 2.0, 12: 6.0}  # by step, of an evaluation every two
COUNTING = {
    "steps": 12, "minutes": 0.0, "peak_rate": 1.0, "warmup": 0, "log_every": 1, "grid_every": 100,
    "save_minutes": 0.0, "keep": 2,
}  # fmt: skip


@jax.jit
def count(state, rate):
    number = state.step + 1
    average = {"w": jnp.full(3, number, jnp.float32)}
    return state.replace(step=number, params=average, average=average), {"loss": 1.0 / number}


class Killed(Exception):
    """Instead of a signal."""


@pytest.fixture
def silent(monkeypatch):
    monkeypatch.setattr(journal, "open_events", open_silent_events)


def train_counting(
    workdir: Path, kill_at: int = -1, scores: dict = SCORES, work: Work | None = None, **settings
) -> list[int]:
    """A run whose weights are its step's number, each of 2 GFLOP; returns the steps that were evaluated."""
    optimizer, evaluated = build_optimizer(0.9, 0.99, 1e-8, 1.0), []
    key = jax.random.key_data(jax.random.key(0))
    state = create_state({"params": {"w": jnp.zeros(3)}}, optimizer, key)

    def step(state, rate):
        if int(state.step) == kill_at:
            raise Killed
        if work:
            work.done += 2e9
        return count(state, rate)

    def evaluate(state):
        evaluated.append(int(state.step))
        return {"error": scores[int(state.step)], "other": 1.0}

    loop.train(
        loop.LoopConfig(**COUNTING | settings), workdir, state, step,
        lambda state: np.zeros((8, 8, 3), np.uint8), lambda state, path: np.savez(path, **state.average),
        evaluate=evaluate if "evaluate_every" in settings else None, batch=4, work=work,
    )  # fmt: skip
    return evaluated


def kept(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def weights(path: Path) -> float:
    with np.load(path) as stored:
        return float(stored["w"][0])


BEST = {"evaluate_every": 2, "best": "error", "keep": 1}


def test_the_best_checkpoint_is_kept_beside_the_latest(tmp_path, silent):
    assert train_counting(tmp_path, **BEST) == [2, 4, 6, 8, 10, 12]
    assert kept(tmp_path) == [10, 12]
    assert weights(tmp_path / "best_weights.npz") == 10 and weights(tmp_path / "weights.npz") == 12
    scores = {line["step"]: line["error"] for line in log_lines(tmp_path) if "error" in line}
    assert scores == SCORES
    assert train_counting(tmp_path, **BEST) == []  # it is done


def test_the_best_may_be_the_highest(tmp_path, silent):
    train_counting(tmp_path, **BEST, best_is="highest", steps=10)
    assert kept(tmp_path) == [2, 10] and weights(tmp_path / "best_weights.npz") == 2


def test_a_run_that_goes_on_remembers_what_was_best(tmp_path, silent):
    with pytest.raises(Killed):
        train_counting(tmp_path, kill_at=7, **BEST)
    assert kept(tmp_path) == [4, 7]
    worse = SCORES | {10: 3.2}
    assert train_counting(tmp_path, scores=worse, **BEST) == [8, 10, 12]
    assert kept(tmp_path) == [4, 12] and weights(tmp_path / "best_weights.npz") == 4


def test_an_improvement_is_saved_though_no_checkpoint_is_due(tmp_path, silent):
    with pytest.raises(Killed):
        train_counting(tmp_path, kill_at=7, **BEST, save_minutes=1000.0)
    assert kept(tmp_path) == [4]
    assert train_counting(tmp_path, **BEST, save_minutes=1000.0) == [6, 8, 10, 12]


def test_the_end_is_evaluated_in_any_case(tmp_path, silent):
    assert train_counting(tmp_path, scores={5: 1.0}, steps=5, evaluate_every=0) == [5]
    assert not (tmp_path / "best_weights.npz").exists()


def test_the_log_tells_speed_and_time_left(tmp_path, silent, capsys):
    work = Work(rate=1e12)
    train_counting(tmp_path, steps=6, work=work)
    lines = log_lines(tmp_path)
    left = [line["eta_minutes"] for line in lines]
    assert np.isfinite(left).all() and left[-1] == 0
    for line in lines:
        assert line["images_per_second"] == pytest.approx(4 * line["steps_per_second"], rel=0.01)
        assert line["gflop_an_image"] == 0.5
        assert line["flops_utilisation"] == pytest.approx(2e-3 * line["steps_per_second"], rel=0.01, abs=1e-4)
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert all("% of the FLOP rate" in line for line in shown)
    assert len(shown) == 6 and "100.0 %   0 s left" in shown[-1] and shown[-1].endswith("loss 0.167")
    assert journal.minutes_left(0.25, 0.5, 60.0) == pytest.approx(2.0)
    minutes = (0.5, 59, 65, 1439, 52 * 60)
    assert [journal.duration(m) for m in minutes] == [
        "30 s",
        "59 min",
        "1 h 05 min",
        "23 h 59 min",
        "2 d 4 h",
    ]


@pytest.mark.parametrize("window", [(2, 3), (4, 1000)])
def test_a_profile_is_written_where_it_is_asked_for(tmp_path, silent, window):
    train_counting(tmp_path, steps=6, profile=window)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"best": "error"}, "best='error': this run has no evaluation"),
        ({"best": "fid", "evaluate_every": 2}, "best='fid': the evaluation gives error, other"),
        ({"scores": {2: np.nan}, "evaluate_every": 2}, "step 2: error not finite"),
    ],
)
def test_an_evaluation_that_cannot_be_is_said(tmp_path, silent, settings, message):
    with pytest.raises(UserError, match=message):
        train_counting(tmp_path, **settings)


@pytest.mark.parametrize("settings", [{"best_is": "good"}, {"profile": (3,)}, {"profile": (-1, 2)}])
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(ValueError, match=f"^{next(iter(settings))}="):
        loop.LoopConfig(**COUNTING | settings)
