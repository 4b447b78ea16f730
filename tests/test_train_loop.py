"""The loop around a step: a run that is killed goes on as if it had not been."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from p4d_jax.errors import UserError
from p4d_jax.train import loop

RUN = """
import os, signal, sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from p4d_jax.train.loop import LoopConfig, train
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


def losses(workdir: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    assert run(tmp_path / "whole", -1) == 0
    assert run(tmp_path / "killed", 7) == -signal.SIGKILL
    assert sorted(losses(tmp_path / "killed")) == list(range(1, 8))
    assert run(tmp_path / "killed", -1) == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    weights = [(tmp_path / name / "weights.npz").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    assert list((tmp_path / "whole").glob("events.out.tfevents*"))


def test_without_tensorflow_a_training_says_so_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "clu.metric_writers", None)
    with pytest.raises(UserError, match=r"pip install .*train"):
        loop.open_events(tmp_path / "run")
    assert not (tmp_path / "run").exists()
