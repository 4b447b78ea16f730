"""A job's files appear in its workdir together, or not at all, and are those of one run."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from p4d_jax.errors import UserError

LEAST_SPACE = 50_000_000  # bytes that a job's files may well take


def write_json(path: Path, content: dict) -> None:
    """Indented JSON with a last line break."""
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_report(folder: Path, content: dict) -> None:
    """report.json, with the names of all `files` of the run."""
    files = sorted({path.name for path in folder.iterdir()} | {"report.json"})
    write_json(folder / "report.json", content | {"files": files})


@contextmanager
def added_to_report(workdir: Path, content: Callable[[], dict]) -> Iterator[None]:
    """Adds fields to the report.json that the block writes into a workdir; where it writes none, to none.

    content: gives the fields, at the block's end.
    """
    path = workdir / "report.json"
    before = path.stat() if path.is_file() else None
    yield
    if not path.is_file() or (before is not None and os.path.samestat(before, path.stat())):
        return  # that of an earlier run of another job
    temporary = path.with_name(".report.json")
    write_json(temporary, json.loads(path.read_text()) | content())
    temporary.replace(path)


def published_files(workdir: Path) -> list[str]:
    """Names of the files and folders in a workdir that an earlier run says it has published there."""
    try:
        files = json.loads((workdir / "report.json").read_text()).get("files", [])
    except (OSError, ValueError, AttributeError):
        return []
    return [name for name in files if isinstance(name, str) and Path(name).name == name]


def remove(path: Path) -> None:
    """Removes a file, or a folder with all that is in it; nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def published(workdir: Path) -> Iterator[Path]:
    """A folder to write into; its files appear in `workdir` together, once the block has ended well.

    What an earlier run published there, which its report.json lists as `files`, goes; all else in `workdir`
    stays. Whatever else ends the block leaves `workdir` as it was.

    Raises:
      UserError: The files cannot be written, as the disk is full.
    """
    new = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
    workdir.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=workdir))
    try:
        yield staging
        for name in published_files(workdir):
            remove(workdir / name)
        for file in sorted(staging.iterdir()):
            remove(workdir / file.name)
            file.replace(workdir / file.name)
        new = []
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise UserError(f"--workdir={workdir} cannot be written to ({error.strerror})") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        for folder in new:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()


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
