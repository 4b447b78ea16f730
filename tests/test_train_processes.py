"""Several processes are one run: two on this machine, over loopback, with four devices each."""

import json
import signal
from pathlib import Path

import pytest
from processes import results, run_processes


def losses(workdir: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


def test_a_reduction_spans_the_devices_of_all_processes():
    first, second = results("process_tasks:reduce_over_the_mesh", 2, 4)
    assert first == second
    assert first["devices"] == 8 and first["shape"] == [16, 3]
    # Device d holds rows 2d and 2d + 1; columns 1 and 2 tell which process brought them.
    rows = [[i % 8, 10.0 ** (i // 8), 10.0 ** (i // 8)] for i in range(16)]
    expected = [sum((1 + i // 2) * rows[i][c] for i in range(16)) for c in range(3)]
    assert first["total"] == expected
    assert first["sum"] == sum(map(sum, rows))
    assert first["agreed"] == 7.0


def test_a_run_on_two_processes_is_killed_and_goes_on_bit_for_bit(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = results("process_tasks:train_toy", 2, 4, workdir=str(whole))
    ends = run_processes("process_tasks:train_toy", 2, 4, workdir=str(killed), kill_at=5)
    assert {end.code for end in ends} == {-signal.SIGKILL}
    assert sorted(losses(killed)) == list(range(1, 6))
    again = results("process_tasks:train_toy", 2, 4, workdir=str(killed))
    assert [run["done"] for run in expected] == [8, 8] and again[0]["done"] == again[1]["done"] < 8
    assert again[0]["w"] == again[1]["w"] == expected[0]["w"]
    assert losses(killed) == losses(whole)
    assert (killed / "weights.npz").read_bytes() == (whole / "weights.npz").read_bytes()
    # One process wrote the log and the events: every line is there once.
    assert len((whole / "metrics.jsonl").read_text().splitlines()) == 8
    assert len(list(whole.glob("events.out.tfevents*"))) == 1

    # One process with eight devices: only the order of sums over devices may differ; and it goes on from what
    # two processes saved.
    runs = [{"workdir": str(tmp_path / "alone")}, {"workdir": str(whole), "steps": 9}]
    ((alone, fewer),) = results("process_tasks:train_toys", 1, 8, runs=runs)
    assert alone["w"] == pytest.approx(expected[0]["w"], rel=1e-5)
    assert (fewer["step"], fewer["done"]) == (9, 1)
