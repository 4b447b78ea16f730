"""What jobs read of the command line and of the disk before they begin."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from p4d_jax.capture.people import Person
from p4d_jax.errors import UserError

LEAST_SPACE = 50_000_000  # bytes that a job's files may well take


def parse_person(text: str) -> Person | None:
    """'' is nobody, '2' a number, '310,140' a point."""
    text = text.strip()
    if not text:
        return None
    if re.fullmatch(r"\d+", text):
        return int(text)
    if match := re.fullmatch(r"\(?([\d.]+)\s*[,x ]\s*([\d.]+)\)?", text):
        try:
            return float(match[1]), float(match[2])
        except ValueError:
            pass
    raise UserError(f"{text!r} is no person; expected a number from 1 at the left, or a point as 310,140")


def check_workdir(workdir: Path) -> None:
    """That files can be written to a workdir, before any work is done.

    Raises:
      UserError: It or what it lies in is a file, may not be written to, or is full.
    """
    there = next(path for path in (workdir, *workdir.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise UserError(f"--workdir={workdir}: {str(there)!r} is a file; name a folder")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
        free = shutil.disk_usage(there).free
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be written to ({error.strerror}); name another"
        ) from error
    if free < LEAST_SPACE:
        raise UserError(
            f"--workdir={workdir}: its disk has {free / 1e6:.0f} MB left, {LEAST_SPACE / 1e6:.0f} are needed"
        )
