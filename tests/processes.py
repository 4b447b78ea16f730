"""Runs a function in several processes that are one run, each with its own forced CPU devices.

    outcomes = run_processes("process_tasks:train_toy", 2, 4, workdir=str(tmp_path))

starts Python twice with four devices each; both join over loopback as a user's processes do, and call
`process_tasks.train_toy(workdir=...)`. What the function returns must be JSON. With one process nothing is
joined: the plain program, to compare with.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one process ended: exit code (negative: its signal), what the function returned, the output."""

    code: int
    result: object
    output: str


def run_processes(
    task: str, count: int, devices: int, timeout: float = 300.0, cluster=None, **arguments
) -> list[Outcome]:
    """Calls 'module:function' in `count` processes of `devices` devices; the outcomes by process number.

    As soon as one process fails the others are killed, as a cluster's launcher does. `cluster`, from a
    process's number to its further environment, is for processes that find each other without flags.
    """
    address = "" if cluster else free_address()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, __file__, task, json.dumps(arguments), name, address, str(count)]
        started = []
        for number in range(count):
            with open(folder / f"{number}.log", "w") as log:
                started.append(
                    subprocess.Popen(
                        [*command, str(number)],
                        env=environment(devices) | (cluster(number) if cluster else {}),
                        stdout=log,
                        stderr=log,
                    )
                )
        wait_for_all(started, timeout)
        return [outcome(process.returncode, folder / str(i)) for i, process in enumerate(started)]


def outcome(code: int, path: Path) -> Outcome:
    result = path.with_suffix(".json")
    returned = json.loads(result.read_text()) if result.exists() else None
    return Outcome(code, returned, path.with_suffix(".log").read_text())


def results(task: str, count: int, devices: int, **arguments) -> list:
    """What the function returned in each process; all must have ended well."""
    outcomes = run_processes(task, count, devices, **arguments)
    assert all(end.code == 0 for end in outcomes), "\n".join(end.output[-3000:] for end in outcomes)
    return [end.result for end in outcomes]


def environment(devices: int) -> dict[str, str]:
    """Of a process with so many CPU devices: the project and the tests can be imported."""
    paths = [str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "XLA_FLAGS": "",  # compiled as users compile it: rounding is the compiler's
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def wait_for_all(started: list[subprocess.Popen], timeout: float) -> None:
    give_up = time.time() + timeout
    try:
        while any(process.poll() is None for process in started):
            if any(process.poll() for process in started):
                time.sleep(0.5)  # the others may be about to end by themselves
                break
            if time.time() > give_up:
                break
            time.sleep(0.05)
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.wait()


def work(task: str, arguments: str, folder: str, address: str, count: str, number: str) -> None:
    """What each started process does."""
    from p4d_jax.main import enable_compilation_cache
    from p4d_jax.train.processes import connect_processes

    enable_compilation_cache()
    flags = (address, int(count), int(number)) if address else (None, None, None)
    connect_processes(*flags, os.environ)
    module, function = task.split(":")
    result = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    (Path(folder) / f"{number}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    work(*sys.argv[1:])
