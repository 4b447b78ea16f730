"""The scripts in launch/: a dry run prints what would be run, to be pasted; misuse is usage and code 2."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[1] / "launch"
SCRIPTS = sorted(path.name for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch"))
ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": "/home/me", "P4D_CACHE": "/cache"}


def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(LAUNCH / script), *arguments],
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def dry_run(script: str, *arguments: str, **environment: str) -> list[list[str]]:
    """The commands that a dry run prints, each as the words that a shell reads from it."""
    done = run(script, "--dry-run", *arguments, **environment)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def test_scripts_are_clean_for_shellcheck():
    beside = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [shutil.which("shellcheck", path=beside), *SCRIPTS], cwd=LAUNCH, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert SCRIPTS == ["local_multiprocess.sh", "run.sh", "slurm.sbatch", "tpu_vm.sh"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["run.sh"],
        ["local_multiprocess.sh"],
        ["local_multiprocess.sh", "--processes=none", "a.py"],
        ["local_multiprocess.sh", "--porcesses=2", "a.py"],
        ["slurm.sbatch"],
        ["slurm.sbatch", "--dry-run"],
        ["tpu_vm.sh"],
        ["tpu_vm.sh", "start"],
        ["tpu_vm.sh", "run", "--workdir=there"],
        ["tpu_vm.sh", "create", "more"],
    ],
)
def test_misuse_is_the_usage_and_code_2(arguments):
    done = run(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("usage: ")


def test_run_starts_one_process():
    (command,) = dry_run("run.sh", "configs/a.py", "--config.x=two words")
    assert command == [
        *("env", "JAX_COMPILATION_CACHE_DIR=/cache", "python", "-m", "p4d_jax.main"),
        *("--config=configs/a.py", "--config.x=two words"),
    ]


def test_local_processes_differ_in_their_number_only():
    *commands, last = dry_run(
        "local_multiprocess.sh", "--processes=3", "--devices=2", "--port=99", "configs/a.py", "--workdir=a b"
    )
    assert last == ["wait"]
    assert [command[-2:] for command in commands] == [[f"--process={k}", "&"] for k in range(3)]
    assert len({tuple(command[:-2]) for command in commands}) == 1
    assert {"JAX_PLATFORMS=cpu", "JAX_NUM_CPU_DEVICES=2"} <= set(commands[0])
    assert commands[0][-5:-2] == ["--workdir=a b", "--coordinator=127.0.0.1:99", "--processes=3"]


def fake_python(folder: Path, script: str) -> str:
    """A PATH on which `python` is a shell script."""
    (folder / "python").write_text(f"#!/usr/bin/env bash\n{script}\n")
    (folder / "python").chmod(0o755)
    return f"{folder}:{ENVIRONMENT['PATH']}"


def test_local_processes_run_and_number_their_lines(tmp_path):
    path = fake_python(tmp_path, 'echo "${@: -1}"')
    done = run("local_multiprocess.sh", "--processes=2", "configs/a.py", PATH=path)
    assert done.returncode == 0
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("[")) == [
        "[0] --process=0",
        "[1] --process=1",
    ]


def test_a_local_process_that_fails_ends_the_others(tmp_path):
    path = fake_python(tmp_path, '[[ ${@: -1} == --process=1 ]] && exit 3; sleep 50; echo "never"')
    done = run("local_multiprocess.sh", "--processes=2", "configs/a.py", PATH=path)
    assert done.returncode == 3
    assert "never" not in done.stdout


def test_slurm_runs_one_task_a_node():
    (command,) = dry_run("slurm.sbatch", "configs/a.py", "--workdir=w", SLURM_CPUS_PER_TASK="12")
    assert command == [
        *("srun", "--kill-on-bad-exit=1", "--label", "--ntasks-per-node=1", "--cpus-per-task=12"),
        *("env", "JAX_COMPILATION_CACHE_DIR=/cache", "python", "-m", "p4d_jax.main"),
        *("--config=configs/a.py", "--workdir=w"),
    ]


def test_slurm_must_be_submitted_from_the_project(tmp_path):
    done = run("slurm.sbatch", "--dry-run", "configs/a.py", SLURM_SUBMIT_DIR=str(tmp_path))
    assert done.returncode == 2 and "submit from the project's folder" in done.stderr


TPU = ["gcloud", "compute", "tpus", "tpu-vm"]


def test_tpu_slice_is_created_and_deleted_as_the_environment_says():
    chosen = {"P4D_TPU": "big", "P4D_ZONE": "z", "P4D_ACCELERATOR": "v4-32", "P4D_RUNTIME": "r"}
    (command,) = dry_run("tpu_vm.sh", "create", **chosen, P4D_PROJECT="p", P4D_SPOT="1")
    options = ["--zone=z", "--project=p", "--accelerator-type=v4-32", "--version=r", "--spot"]
    assert command == [*TPU, "create", "big", *options]
    (command,) = dry_run("tpu_vm.sh", "delete", **chosen)
    assert command == [*TPU, "delete", "big", "--zone=z", "--quiet"]


def test_tpu_hosts_get_the_share_and_the_code():
    mount, archive, copy, install = dry_run("tpu_vm.sh", "setup", P4D_NFS="10.0.0.2:/share")
    on_all = [*TPU, "ssh", "p4d", "--zone=us-central1-a", "--worker=all"]
    assert mount[:-1] == on_all and "mount -t nfs 10.0.0.2:/share /mnt/p4d" in mount[-1]
    assert archive[:2] == ["git", "archive"] and archive[-2].endswith(copy[5])
    assert copy[:5] == [*TPU, "scp"] and copy[-1] == "--worker=all"
    assert install[:-1] == on_all and ".[train,tpu]" in install[-1]
    for command in (mount, install):
        line = command[-1].removeprefix("--command=")
        assert subprocess.run(["bash", "-n", "-c", line]).returncode == 0
    assert len(dry_run("tpu_vm.sh", "setup")) == 3  # nothing to mount


def test_tpu_run_goes_on_after_its_shell_and_keeps_its_arguments(tmp_path):
    (command,) = dry_run("tpu_vm.sh", "run", "configs/a.py", "--workdir=/mnt/p4d/a b")
    assert command[:-1] == [*TPU, "ssh", "p4d", "--zone=us-central1-a", "--worker=all"]
    # What a host would do, with a python that waits and then shows its arguments.
    line = command[-1].removeprefix("--command=")
    (tmp_path / "p4d_jax/.venv/bin").mkdir(parents=True)
    fake_python(tmp_path / "p4d_jax/.venv/bin", "sleep 1; printf '%s\\n' \"$@\" > seen.tmp; mv seen.tmp seen")
    subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True, capture_output=True, timeout=20)
    seen = tmp_path / "p4d_jax/seen"
    subprocess.run(["bash", "-c", f"until [[ -f {seen} ]]; do sleep 0.1; done"], timeout=20, check=True)
    assert seen.read_text().split("\n")[2:4] == ["--config=configs/a.py", "--workdir=/mnt/p4d/a b"]


def test_tpu_logs_are_fetched_from_every_host():
    make, fetch = dry_run("tpu_vm.sh", "logs", "there")
    assert make == ["mkdir", "-p", "there"]
    assert fetch[-2:] == ["--command=cat p4d_jax/run.log", "--output-directory=there"]


# Instead of Python: tells its process, and takes a second to save its step when it is asked to end.
ENDS_WHEN_ASKED = """#!/bin/bash
echo $$ >> {folder}/started
trap 'echo asked >> {folder}/asked; sleep 1; echo saved; exit 75' TERM
if [[ "${{!#}}" == --process=1 && -n "$FAILS" ]]; then sleep 1; exit 3; fi
for ((k = 0; k < 600; k++)); do sleep 0.1; done
"""


def start_local(tmp_path, **environment) -> subprocess.Popen:
    """The launcher with two such processes, which run."""
    stand_in = tmp_path / "python"
    stand_in.write_text(ENDS_WHEN_ASKED.format(folder=tmp_path))
    stand_in.chmod(0o755)
    # What a shell starts in the background ignores Ctrl-C, and so would the launcher that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    paths = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.Popen(
        [str(LAUNCH / "local_multiprocess.sh"), "configs/quickstart.py"],
        env={**os.environ, "PATH": paths, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    give_up = time.time() + 20
    while not (tmp_path / "started").exists() or len((tmp_path / "started").read_text().split()) < 2:
        assert time.time() < give_up and run.poll() is None
        time.sleep(0.05)
    return run


def nothing_runs(tmp_path) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in (tmp_path / "started").read_text().split())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_children_of_a_stopped_launcher_save_and_end(tmp_path, number):
    run = start_local(tmp_path, FAILS="")
    run.send_signal(number)
    out, _ = run.communicate(timeout=30)
    assert run.returncode == 130 and nothing_runs(tmp_path)
    assert sorted(line for line in out.splitlines() if "saved" in line) == ["[0] saved", "[1] saved"]


def test_the_process_that_fails_is_named_and_the_others_end(tmp_path):
    run = start_local(tmp_path, FAILS="1")
    out, errors = run.communicate(timeout=30)
    assert run.returncode == 3 and nothing_runs(tmp_path) and "[0] saved" in out
    told = errors.splitlines()[0]
    assert told == "local_multiprocess.sh: process 1 ended with code 3; the others are asked to end"
