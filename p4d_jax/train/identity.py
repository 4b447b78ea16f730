"""What a run is: its config, the package's version, its head and its first state, the same on all hosts.

A run's workdir keeps the record in `run.json`. Who goes on with another seed, batch or model is refused by
the name of the field; what only says how long or how often something happens may change, and is told.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from p4d_jax.errors import UserError
from p4d_jax.train.processes import is_primary

RECORD, LOCK = "run.json", ".lock"
# Fields (and what lies below them) with which a run would be another one.
FIXED = ("seed", "batch", "model", "discriminator", "head", "head_file", "precision")


def flattened(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields by their dotted names, as JSON has them."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.loads(json.dumps(value, default=str))
    return flat


def check_same_everywhere(record: Mapping[str, Any]) -> None:
    """Compares a record between the processes; all must call.

    Raises:
      UserError: on all of them, the first field that differs, and where.
    """
    if jax.process_count() == 1:
        return
    flat = flattened(record)
    digest = lambda value: np.uint32(zlib.crc32(json.dumps(value, sort_keys=True).encode()))
    everywhere = multihost_utils.process_allgather(digest(sorted(flat)))
    if (everywhere != everywhere[0]).any():
        raise UserError(
            "the hosts of this run have configs with different fields; start all with one version"
        )
    values = multihost_utils.process_allgather(np.array([digest(flat[name]) for name in sorted(flat)]))
    other, field = np.nonzero(values != values[0])
    if field.size:
        name = sorted(flat)[field[0]]
        raise UserError(
            f"{name} is not the same on all hosts: process {other[0]} differs from process 0 (here it is"
            f" {str(flat[name])[:100]}); start all with the same command, package and files"
        )


def check_goes_on(workdir: Path, record: Mapping[str, Any]) -> None:
    """Compares a run with the one that the workdir holds, and keeps its record there; all may call.

    Raises:
      UserError: a field of `FIXED` differs.
    """
    path, new = workdir / RECORD, flattened(record)
    try:
        old = json.loads(path.read_text())
        changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    except (OSError, ValueError, AttributeError):
        changed, old = [], {}
    told = lambda name: f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
    for name in changed:
        if any(name == field or name.startswith(f"{field}.") for field in FIXED):
            raise UserError(
                f"{workdir} holds a run whose {told(name)}: that would be another run; give its value, or"
                " another workdir"
            )
    if not is_primary():
        return
    for name in changed:
        print(f"goes on with another setting: {told(name)}", flush=True)
    temporary = temporary_beside(path)
    temporary.write_text(json.dumps(new, indent=1) + "\n")
    temporary.replace(path)


def temporary_beside(path: Path) -> Path:
    """A hidden name with the same ending in the same folder, which no other process has."""
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")


class WorkdirLock:
    """Keeps other runs out of a workdir, by the primary process; ends with the process, however it ends.

    Raises:
      UserError: another run has it; the message names its process and host.
    """

    def __init__(self, workdir: Path) -> None:
        self._path, self._file = workdir / LOCK, None

    def __enter__(self) -> WorkdirLock:
        if not is_primary():
            return self
        try:
            import fcntl
        except ImportError:  # not a POSIX system: nothing to lock with
            return self
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self._path, "a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            owner = self._file.read().strip() or "another process"
            self._file.close()
            self._file = None
            raise UserError(
                f"{self._path.parent}: {owner} trains there; end it, or give another workdir"
            ) from None
        except OSError:  # a file system without locks
            return self
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()
        return self

    def __exit__(self, *_) -> None:
        if self._file is not None:
            self._file.close()
