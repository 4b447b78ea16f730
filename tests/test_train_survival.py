"""What takes a run away does not take its work: signals, damaged checkpoints, numbers that are not finite."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from process_tasks import open_silent_events
from test_train_loop import RUN, Killed, count, kept, losses, train_counting, weights

from p4d_jax.errors import Preempted, UserError
from p4d_jax.train import checkpoints, journal, loop
from p4d_jax.train.identity import WorkdirLock, check_goes_on
from p4d_jax.train.state import build_optimizer, create_state


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    monkeypatch.setattr(journal, "open_events", open_silent_events)


# Signals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_end_saves_its_step(tmp_path, monkeypatch, number):
    train_counting(tmp_path / "whole")
    log = journal.Journal.log_steps

    def log_and_ask(self, step, *arguments):
        log(self, step, *arguments)
        if step == 5:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(journal.Journal, "log_steps", log_and_ask)
    handlers = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Preempted, match="after step 6, which is saved"):
        train_counting(tmp_path / "asked", save_minutes=100.0)
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert kept(tmp_path / "asked") == [6]
    monkeypatch.setattr(journal.Journal, "log_steps", log)
    train_counting(tmp_path / "asked")
    assert losses(tmp_path / "asked") == losses(tmp_path / "whole")
    (first, second) = (
        json.loads(line) for line in (tmp_path / "asked/goodput.jsonl").read_text().splitlines()
    )
    assert first["step"] == 6 and second["step"] == 12 and first["seconds_checkpoint"] > 0


def test_the_exit_code_of_a_preempted_run_is_for_launchers(monkeypatch, capsys):
    from p4d_jax import main

    def preempted(argv):
        raise Preempted("asked to end after step 7")

    monkeypatch.setattr(main, "parse_command_line", preempted)
    assert main.main(["main.py"]) == 75
    assert capsys.readouterr().err == "p4d_jax: asked to end after step 7; the same command goes on\n"


# Checkpoints -----------------------------------------------------------------------------------------------


def largest(folder: Path) -> Path:
    return max((path for path in (folder / "state/d").iterdir()), key=lambda path: path.stat().st_size)


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "data halved": lambda folder: halve(largest(folder)),
    "data empty": lambda folder: os.truncate(largest(folder), 0),
    "data gone": lambda folder: shutil.rmtree(folder / "state/d"),
    "data flipped": lambda folder: flip(largest(folder)),
    "manifest gone": lambda folder: (folder / "state/manifest.ocdbt").unlink(),
    "manifest halved": lambda folder: halve(folder / "state/manifest.ocdbt"),
    "metadata gone": lambda folder: (folder / "state/_METADATA").unlink(),
    "metadata halved": lambda folder: halve(folder / "state/_METADATA"),
    "empty": lambda folder: [shutil.rmtree(folder), folder.mkdir()],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that was stopped after step 7 of 12, and one that was not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "open_events", open_silent_events)
        folder = tmp_path_factory.mktemp("trained")
        train_counting(folder / "whole")
        with pytest.raises(Killed):
            train_counting(folder / "stopped", kill_at=7)
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(trained, tmp_path, damage, capfd):
    workdir = tmp_path / "run"
    shutil.copytree(trained / "stopped", workdir)
    assert kept(workdir) == [6, 7]
    DAMAGES[damage](workdir / "checkpoints/7")
    train_counting(workdir)
    out, errors = capfd.readouterr()
    assert "checkpoint 7 is damaged" in out and "Traceback" not in errors
    assert [path.name for path in (workdir / "damaged_checkpoints").iterdir()] == ["7"]
    assert losses(workdir) == losses(trained / "whole") and weights(workdir / "weights.npz") == 12


def test_when_all_are_damaged_the_run_begins_anew(trained, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained / "stopped", workdir)
    for name in "67":
        DAMAGES["data gone"](workdir / "checkpoints" / name)
    train_counting(workdir)
    assert sorted(path.name for path in (workdir / "damaged_checkpoints").iterdir()) == ["6", "7"]
    assert kept(workdir) == [11, 12]


def toy_state(size: int = 3, **parts):
    optimizer = build_optimizer(0.9, 0.99, 1e-8, 1.0)
    state = create_state(
        {"params": {"w": jnp.zeros(size)}}, optimizer, jax.random.key_data(jax.random.key(0))
    )
    return state.replace(**parts)


def test_another_model_is_told_apart_from_damage(trained):
    policy = loop.preservation_policy(loop.LoopConfig())
    with checkpoints.Checkpoints(trained / "stopped", policy) as saved:
        assert int(saved.load(toy_state()).step) == 7
        with pytest.raises(UserError, match=r"another model: average/w is \(3,\) there and \(4,\) here"):
            saved.load(toy_state(4))
        more = toy_state(discriminator={"d": jnp.zeros(2)})
        with pytest.raises(UserError, match=r"discriminator/d is missing there and \(2,\) here"):
            saved.load(more)
    assert not (trained / "stopped/damaged_checkpoints").exists()


def test_a_checksum_sees_every_bit_and_no_device():
    state = toy_state(average={"w": jnp.arange(4096.0)}, discriminator={"half": jnp.ones(3, jnp.bfloat16)})
    first = int(checkpoints.inspect_state(state)[1])
    for place in (0, 17, 4095):
        changed = state.replace(average={"w": state.average["w"].at[place].add(1e-3)})
        assert int(checkpoints.inspect_state(changed)[1]) != first
    swapped = state.average["w"].at[jnp.array([1, 2])].set(state.average["w"][jnp.array([2, 1])])
    assert int(checkpoints.inspect_state(state.replace(average={"w": swapped}))[1]) != first


@pytest.mark.parametrize(
    "part", ["params", "average", "buffers", "discriminator", "discriminator_optimizer", "encoder", "augment"]
)
def test_no_part_of_a_saved_state_is_other_than_finite(tmp_path, part):
    whole = toy_state(**{part: {"x": jnp.ones(3)}})
    assert checkpoints.check_finite(whole) >= 0
    broken = toy_state(**{part: {"x": jnp.array([1.0, jnp.nan, 2.0])}})
    with pytest.raises(FloatingPointError, match=f"^{part}$"):
        checkpoints.check_finite(broken)


def train_that_breaks(workdir: Path, at: int, times: int, **settings):
    """A run whose average becomes NaN at a step, the first `times` times."""
    seen = []

    @jax.jit
    def update(state, rate, bad):
        number = state.step + 1
        average = {"w": jnp.where(bad, jnp.nan, jnp.full(3, number, jnp.float32))}
        return state.replace(step=number, params=average, average=average), {"loss": 1.0 / number}

    def step(state, rate):
        bad = int(state.step) + 1 == at and len(seen) < times
        seen.extend([int(state.step)] * bad)
        return update(state, rate, bad)

    config = loop.LoopConfig(
        steps=8, peak_rate=1.0, log_every=1, grid_every=100, save_minutes=0.0, **settings
    )
    return loop.train(
        config, workdir, toy_state(), step, lambda state: np.zeros((8, 8, 3), np.uint8),
        lambda state, path: np.savez(path, **state.average),
    )  # fmt: skip


def test_a_state_that_is_not_finite_is_never_saved(tmp_path):
    with pytest.raises(
        UserError, match="step 5: the state's average, params not finite; the last checkpoint"
    ):
        train_that_breaks(tmp_path, at=5, times=1)
    assert kept(tmp_path) == [3, 4]
    assert int(train_that_breaks(tmp_path, at=0, times=0).step) == 8


def test_a_run_may_go_back_with_other_noise(tmp_path, capsys):
    first = np.asarray(toy_state().key)
    state = train_that_breaks(tmp_path, at=5, times=2, not_finite="go_back")
    assert int(state.step) == 8 and not np.array_equal(state.key, first)
    assert "goes back to step 4 with other noise, time 2" in capsys.readouterr().out
    with pytest.raises(UserError, match="not finite"):
        train_that_breaks(tmp_path / "always", at=5, times=9, not_finite="go_back")


def train_adding(workdir: Path, broken: set[int], what: str = "state", stop_at: int = -1, **settings) -> int:
    """A run that adds up its steps' numbers, with NaN in some steps; the sum."""

    @jax.jit
    def update(state, rate, bad_state, bad_loss):
        number = state.step + 1
        total = state.params["w"] + number
        average = {"w": jnp.where(bad_state, jnp.nan, total)}
        loss = jnp.where(bad_loss, jnp.nan, 1.0 / number)
        return state.replace(step=number, params={"w": total}, average=average), {"loss": loss}

    def step(state, rate):
        number = int(state.step) + 1
        if number == stop_at:
            raise Killed
        bad = number in broken
        return update(state, rate, bad and what == "state", bad and what == "loss")

    config = loop.LoopConfig(
        steps=8, peak_rate=1.0, log_every=1, grid_every=100, save_minutes=0.0, not_finite="skip", **settings
    )
    state = loop.train(
        config, workdir, toy_state(), step, lambda state: np.zeros((8, 8, 3), np.uint8),
        lambda state, path: np.savez(path, **state.average),
    )  # fmt: skip
    assert (state.average["w"] == state.params["w"]).all()
    return int(state.params["w"][0])


@pytest.mark.parametrize("what", ["state", "loss"])
def test_a_step_that_is_not_finite_may_be_skipped(tmp_path, what, capsys):
    assert train_adding(tmp_path, {3, 5, 6}, what) == 1 + 2 + 4 + 7 + 8
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    skipped = [(x["step"], x["skipped"], x["skipped_in_a_row"]) for x in lines if "skipped" in x]
    assert skipped == [(3, 1, 1), (5, 2, 1), (6, 3, 2)]
    assert sorted(losses(tmp_path)) == [1, 2, 4, 7, 8]
    named = "loss" if what == "loss" else "the state"
    assert f"step 5: {named} not finite; it is skipped" in capsys.readouterr().out
    assert json.loads((tmp_path / "goodput.jsonl").read_text())["skipped_steps"] == 3


def test_a_run_that_skips_goes_on_as_if_it_had_not_been_stopped(tmp_path):
    whole = train_adding(tmp_path / "whole", {3, 5})
    with pytest.raises(Killed):
        train_adding(tmp_path / "killed", {3, 5}, stop_at=6)
    assert train_adding(tmp_path / "killed", {3, 5}) == whole
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_too_many_skips_in_a_row_stop_the_run(tmp_path):
    with pytest.raises(UserError, match="step 6: the state not finite, nor were the 2 before it; the last"):
        train_adding(tmp_path, {2, 4, 5, 6}, most_not_finite=2)
    assert train_adding(tmp_path, set()) == 1 + 3 + 6 + 7 + 8  # from step 5, a good state


def test_waiting_for_data_is_no_goodput(tmp_path):
    waited = []

    def step(state, rate):
        time.sleep(0.05)
        waited.append(0.05)
        return count(state, rate)

    config = loop.LoopConfig(steps=8, log_every=1, grid_every=100, save_minutes=100.0)
    loop.train(
        config, tmp_path, toy_state(), step, lambda state: np.zeros((8, 8, 3), np.uint8),
        lambda state, path: None, waited=lambda: sum(waited),
    )  # fmt: skip
    told = json.loads((tmp_path / "goodput.jsonl").read_text())
    assert told["seconds_data"] == pytest.approx(8 * 0.05, abs=1e-3)
    lost = [value for name, value in told.items() if name.startswith("seconds_")]
    rounded = (len(lost) + 1) * 5e-4 / told["seconds"]  # the log rounds each to milliseconds
    assert told["goodput"] == pytest.approx(1 - sum(lost) / told["seconds"], abs=rounded + 1e-4)


def test_a_checkpoint_comes_before_an_export_that_fails(tmp_path, monkeypatch, capsys):
    def full(state, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", lambda path, **arrays: full(arrays, path))
    train_counting(tmp_path)
    assert kept(tmp_path) == [11, 12] and not list(tmp_path.glob("*weights*"))
    assert "the weights are not written, the checkpoint is" in capsys.readouterr().out


def test_a_full_disk_is_one_line_and_the_checkpoints_before_are_whole(tmp_path, monkeypatch):
    save = checkpoints.ocp.training.Checkpointer.save_async

    def save_until_full(self, step, *arguments, **keywords):
        if step == 6:
            raise ValueError("RESOURCE_EXHAUSTED: No space left on device\nand more")
        return save(self, step, *arguments, **keywords)

    monkeypatch.setattr(checkpoints.ocp.training.Checkpointer, "save_async", save_until_full)
    with pytest.raises(UserError, match=r"cannot be written \(RESOURCE_EXHAUSTED: No space left on device\)"):
        train_counting(tmp_path)
    monkeypatch.setattr(checkpoints.ocp.training.Checkpointer, "save_async", save)
    train_counting(tmp_path)
    assert weights(tmp_path / "weights.npz") == 12


# Whose run it is -------------------------------------------------------------------------------------------

RECORD = {"seed": 0, "batch": 4, "model": {"width": 8}, "loop": {"steps": 10}, "package": "1"}


def test_a_run_goes_on_as_the_run_that_it_was(tmp_path, capsys):
    check_goes_on(tmp_path, RECORD)
    check_goes_on(tmp_path, RECORD)
    assert not capsys.readouterr().out
    check_goes_on(tmp_path, RECORD | {"loop": {"steps": 20}})
    assert capsys.readouterr().out == "goes on with another setting: loop.steps was 10 and is 20\n"
    for change, told in (
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"model": {"width": 9}}, "model.width was 8"),
    ):
        with pytest.raises(UserError, match=told):
            check_goes_on(tmp_path, RECORD | change)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_two_runs_do_not_share_a_workdir(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from p4d_jax.train.identity import WorkdirLock\n"
        "with WorkdirLock(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(UserError, match=f"process {other.pid} on .* trains there"), WorkdirLock(tmp_path):
        pass
    other.kill()  # however it ends, the workdir is free
    other.wait()
    with WorkdirLock(tmp_path):
        pass


BEFORE = """
import sys
from p4d_jax.errors import Preempted
from p4d_jax.train import journal
from process_tasks import open_silent_events
journal.open_events = open_silent_events
"""


def test_a_run_that_gets_sigterm_in_a_process_of_its_own(tmp_path):
    """With a real signal at an arbitrary moment, and the exit code."""
    code = RUN.replace("steps=12", "steps=100000").replace("save_minutes=0)", "save_minutes=30)")
    body = "".join(f"    {line}\n" for line in code.splitlines())
    code = (
        f"{BEFORE}try:\n{body}except Preempted as error:\n    print(error); sys.exit(Preempted.EXIT_CODE)\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), "-1"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    while not (tmp_path / "metrics.jsonl").exists() and run.poll() is None:
        time.sleep(0.05)
    time.sleep(0.5)
    started = time.time()
    run.send_signal(signal.SIGTERM)
    out, _ = run.communicate(timeout=60)
    assert run.returncode == 75 and time.time() - started < 30
    (saved,) = kept(tmp_path)
    assert saved >= max(losses(tmp_path)) and f"after step {saved}" in out
