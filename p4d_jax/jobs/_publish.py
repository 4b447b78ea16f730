"""A job's files appear in its workdir together, or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_json(path: Path, content: dict) -> None:
    """Indented JSON with a last line break."""
    path.write_text(json.dumps(content, indent=2) + "\n")


@contextmanager
def published(workdir: Path) -> Iterator[Path]:
    """A folder to write into; its files appear in `workdir` together, once the block has ended well.

    Whatever else ends the block leaves `workdir` as it was.
    """
    new = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
    workdir.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=workdir))
    try:
        yield staging
        for file in sorted(staging.iterdir()):
            file.replace(workdir / file.name)
        new = []
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        for folder in new:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()
