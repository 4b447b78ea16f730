"""A folder with one network: its variables as an Orbax checkpoint, and what they are as JSON.

    NAME/about.json    network, config, where it comes from, what was left out
    NAME/checkpoint/   the variables, or head.npz where it is a head model

A folder is written under another name and renamed when it is complete, so there is never half of one.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from p4d_jax.errors import UserError

_ABOUT, _CHECKPOINT = "about.json", "checkpoint"
_WRITE_AT_ONCE = 1 << 26  # bytes on their way to the disk


@dataclass(frozen=True)
class ConvertedNetwork:
    """A network as it is loaded.

    Attributes:
      name: of the network, a key of a `NETWORKS` of `p4d_jax.convert`.
      config: its sizes.
      variables: Flax variables, nested, float32 NumPy arrays.
    """

    name: str
    config: dict
    variables: dict

    def __iter__(self) -> Iterator:
        return iter((self.name, self.config, self.variables))


def save_converted(folder: str | Path, about: dict, variables: dict) -> None:
    """Writes a network's folder.

    Args:
      folder: is made, or replaced where it is such a folder already.
      about: JSON-able, with `network` and `config`.
      variables: nested arrays.

    Raises:
      UserError: the folder holds something else, or cannot be written.
    """
    with new_folder(folder, about) as temporary:
        import orbax.checkpoint.experimental.v1 as ocp  # heavy: only where a folder is at hand

        options = ocp.Context()
        # Nobody changes the arrays meanwhile. Copies of them, and compressed ones (trained weights do not
        # compress), would double the memory that a network takes.
        options.memory.deepcopy_host_arrays = False
        options.memory.write_concurrent_bytes = _WRITE_AT_ONCE
        options.array.saving.use_compression = False
        with options:
            ocp.save(temporary.resolve() / _CHECKPOINT, variables)


@contextmanager
def new_folder(folder: str | Path, about: dict) -> Iterator[Path]:
    """A temporary folder, which gets `about` and the name `folder` when the block ends well.

    Raises:
      UserError: `folder` holds something else, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / _ABOUT).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"{folder}: is there already and is no converted network; give another workdir")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
    try:
        content = temporary / "new"
        content.mkdir()
        yield content
        (content / _ABOUT).write_text(json.dumps(about, indent=2) + "\n")
        _replace(folder, content, temporary / "old")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(folder: Path, content: Path, old: Path) -> None:
    """Gives `content` the name `folder`; what has it already is moved to `old`, or back if that fails."""
    there = folder.exists()
    if there:
        folder.rename(old)
    try:
        content.rename(folder)
    except OSError:
        if there:
            old.rename(folder)
        raise


def read_about(folder: str | Path) -> dict:
    """What a network's folder says of it: `network`, `config`, `sources`, `unused`.

    Raises:
      UserError: it is no such folder.
    """
    path = network_folder(Path(folder)) / _ABOUT
    try:
        about = json.loads(path.read_text())
        if (
            isinstance(about, dict)
            and isinstance(about["network"], str)
            and isinstance(about["config"], dict)
        ):
            return about
    except (OSError, ValueError, KeyError):
        pass
    raise UserError(f"{path}: missing or broken; convert the network again")


def load_converted(folder: str | Path) -> ConvertedNetwork:
    """A network that the job `convert` wrote.

    Args:
      folder: of the network, or a workdir of the job that holds just one.

    Returns:
      (name, config, variables); see `ConvertedNetwork`.

    Raises:
      UserError: it is no such folder, or broken.
    """
    folder = network_folder(Path(folder))
    about = read_about(folder)
    if not (folder / _CHECKPOINT).is_dir():
        raise UserError(f"{folder}: holds no network's checkpoint ({about['network']})")
    import orbax.checkpoint.experimental.v1 as ocp

    try:
        variables = ocp.load((folder / _CHECKPOINT).resolve())
    except Exception as error:  # Orbax and TensorStore have no common error for a damaged checkpoint
        raise UserError(f"{folder}: broken checkpoint ({type(error).__name__}); convert it again") from None
    return ConvertedNetwork(about["network"], about["config"], variables)


def network_folder(path: Path, wanted: Callable[[dict], bool] | None = None) -> Path:
    """The folder itself, or the one network in it.

    Args:
      path: of the network, or a workdir of the job that wrote it.
      wanted: tells by its about.json which of several networks in a workdir is meant.

    Raises:
      UserError: there is none, or more than one.
    """
    if (path / _ABOUT).is_file():
        return path
    inside = sorted(about.parent for about in path.glob(f"*/{_ABOUT}"))
    meant = [folder for folder in inside if wanted is None or wanted(read_about(folder))]
    if len(meant) != 1:
        names = f"{len(inside)}: {', '.join(p.name for p in inside)}" if inside else "none"
        raise UserError(
            f"{path}: no folder of a converted network, and of those in it there is {names}; name the folder"
            " of the one that is meant"
        )
    return meant[0]
