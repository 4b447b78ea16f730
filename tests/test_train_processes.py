"""Several processes are one run: two on this machine, over loopback, with four devices each."""

import json
import os
import signal
from pathlib import Path

import pytest
from processes import free_address, results, run_processes

from p4d_jax.errors import UserError
from p4d_jax.train import processes
from p4d_jax.train.processes import connect_processes, find_cluster, wait_for_coordinator


def losses(workdir: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


def slurm_environment(number: int) -> dict[str, str]:
    """What SLURM tells task `number` of two, on one node."""
    return {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(number),
        "SLURM_LOCALID": str(number),
    }


def test_a_reduction_spans_the_devices_of_all_processes_that_slurm_started():
    first, second = results("process_tasks:reduce_over_the_mesh", 2, 4, cluster=slurm_environment)
    assert first == second
    assert first["devices"] == 8 and first["shape"] == [16, 3]
    # Device d holds rows 2d and 2d + 1; columns 1 and 2 tell which process brought them.
    rows = [[i % 8, 10.0 ** (i // 8), 10.0 ** (i // 8)] for i in range(16)]
    expected = [sum((1 + i // 2) * rows[i][c] for i in range(16)) for c in range(3)]
    assert first["total"] == expected
    assert first["sum"] == sum(map(sum, rows))
    assert first["first"] == 1.0 and first["agreed"] == 7.0
    assert first["a split array has no local copy"]


def test_rounding_decides_ties_of_d_neck_alike_on_one_device_and_on_eight():
    """A batch of eight on one device is the batches of one on eight, to the bit."""
    one, eight = (results("process_tasks:bend_necks", 1, devices, heads=8) for devices in (1, 8))
    assert one == eight


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
    # One process wrote the log: every line is there once.
    assert len((whole / "metrics.jsonl").read_text().splitlines()) == 8
    assert len(list(whole.glob("grid_*.png"))) == 2

    # One process with eight devices: only the order of sums over devices may differ; and it goes on from what
    # two processes saved.
    runs = [{"workdir": str(tmp_path / "alone")}, {"workdir": str(whole), "steps": 9}]
    ((alone, fewer),) = results("process_tasks:train_toys", 1, 8, runs=runs)
    assert alone["w"] == pytest.approx(expected[0]["w"], rel=1e-5)
    assert (fewer["step"], fewer["done"]) == (9, 1)


def test_sigterm_to_one_process_ends_both_after_the_same_step(tmp_path):
    arguments = {"workdir": str(tmp_path), "steps": 10**5, "term_at": 5, "pause": 0.02}
    first, second = results("process_tasks:train_toy", 2, 1, **arguments)
    assert first == second and first["done"] < 10**4
    assert f"asked to end after step {first['done']}, which is saved" in first["preempted"]
    saved = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert saved == first["done"] == max(losses(tmp_path))


def test_hosts_that_differ_are_told_by_all_and_nothing_hangs(tmp_path):
    told = results("process_tasks:hosts_that_differ", 2, 1, workdir=str(tmp_path))
    for said in told:
        for message, field in zip(
            said, ("loop.steps", "package", "head_file", "", "the first state"), strict=True
        ):
            expected = f"{field} is not the same on all hosts: process 1" if field else "different fields"
            assert expected in message and "\n" not in message
    assert not list((tmp_path / "checkpoints").iterdir()) and not (tmp_path / "run.json").exists()


def test_a_time_limit_ends_both_processes_at_the_same_step(tmp_path):
    run = {"workdir": str(tmp_path), "steps": 10**6, "minutes": 0.02}
    first, second = results("process_tasks:train_toy", 2, 1, **run)
    assert first == second and first["step"] < 10**5


def test_a_folder_that_one_process_cannot_see_is_said_by_all(tmp_path):
    folders = [str(tmp_path / name) for name in ("here", "there")]
    messages = results("process_tasks:check_a_folder", 2, 1, folders=folders, patience=0.0)
    for message, folder in zip(messages, folders, strict=True):
        assert message.startswith(f"workdir={folder}: ") and "process 1 cannot see" in message
    assert not list(tmp_path.glob("*/.*"))


@pytest.fixture
def initialized(monkeypatch) -> list:
    """Records the calls of jax.distributed.initialize instead of doing them."""
    calls = []
    monkeypatch.setattr(processes.jax.distributed, "initialize", lambda *flags, **_: calls.append(flags))
    monkeypatch.setattr(processes.jax.config, "update", lambda *setting: calls.append(setting))
    monkeypatch.setattr(processes, "has_tpu", lambda environment: False)
    monkeypatch.setattr(processes, "wait_for_coordinator", lambda coordinator: None)
    return calls


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("h:1", None, None), "processes and process are missing"),
        (("h:1", 2, None), "process is missing"),
        ((None, 2, 0), "coordinator is missing"),
        ((None, None, 0), "coordinator and processes are missing"),
        (("h:1", 0, 0), "processes=0: expected at least 1"),
        (("h:1", 2, 2), "process=2: with processes=2 it is one of 0 to 1"),
        (("h:1", 2, -1), "process=-1"),
        ((None, 1, 1), "process=1"),
        (("h", 2, 0), "coordinator=h: expected HOST:PORT"),
        (("http://h:1", 2, 0), "expected HOST:PORT"),
        (("h:70000", 2, 0), "expected HOST:PORT"),
    ],
)
def test_flags_that_do_not_fit_together_are_one_line(flags, said, initialized):
    with pytest.raises(UserError, match=said) as caught:
        connect_processes(*flags, {})
    assert "\n" not in str(caught.value) and not initialized


def test_nothing_is_set_up_for_one_plain_process(initialized):
    connect_processes(None, None, None, {})
    connect_processes(None, 1, None, slurm_environment(1))
    connect_processes("h:1", 1, 0, {})
    connect_processes(None, None, None, slurm_environment(0) | {"SLURM_NTASKS": "1"})
    assert not initialized


def test_flags_and_cluster_set_jax_up(initialized):
    gloo = ("jax_cpu_collectives_implementation", "gloo")
    in_order = ("jax_cpu_enable_async_dispatch", False)
    connect_processes("[::1]:8476", 2, 1, slurm_environment(0))
    assert initialized == [gloo, in_order, ("[::1]:8476", 2, 1)]
    initialized.clear()
    connect_processes(None, None, None, slurm_environment(0) | {"JAX_CPU_COLLECTIVES_IMPLEMENTATION": "mpi"})
    assert initialized == [in_order, (None, None, None)]
    initialized.clear()
    # One task a node: it takes all GPUs there.
    connect_processes(None, None, None, slurm_environment(0) | {"SLURM_STEP_NUM_NODES": "2"})
    assert initialized == [gloo, in_order, (None, None, None), ("jax_cuda_visible_devices", "all")]


def test_a_coordinator_that_does_not_listen_is_said():
    address = free_address()
    with pytest.raises(UserError, match=f"coordinator={address}: nothing listens there"):
        wait_for_coordinator(address, patience=0.0)


def test_clusters_are_known_by_their_environment(monkeypatch):
    monkeypatch.setattr(processes, "has_tpu", lambda environment: "TPU" in environment)
    installed = {"kubernetes": object()}
    monkeypatch.setattr(processes.importlib.util, "find_spec", installed.get)
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert find_cluster({}) is None
    assert find_cluster(pod) is None  # a pod that is no part of an indexed job
    assert find_cluster(pod | {"JOB_COMPLETION_INDEX": "1"}) == "Kubernetes"
    assert find_cluster(pod | {"JOB_COMPLETION_INDEX": "1", "TPU": ""}) == "TPU"
    assert find_cluster(slurm_environment(1)) == "SLURM"
    installed.clear()
    with pytest.raises(UserError, match=r"pip install .*k8s"):
        find_cluster(pod | {"JOB_COMPLETION_INDEX": "1"})
