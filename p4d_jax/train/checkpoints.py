"""The checkpoints of a run: each is finite when it is saved and checked when it is loaded.

A checkpoint carries a checksum of all bits of its state. One that cannot be read, or whose state has another
checksum, is moved to `damaged_checkpoints/` of the workdir, and the one before it is loaded; one of another
model is not damaged, and the shapes that differ are named.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import orbax.checkpoint.experimental.v1 as ocp
from absl import logging

from p4d_jax.errors import UserError, printable
from p4d_jax.train.processes import all_agree, is_primary, meet
from p4d_jax.train.state import TrainState
from p4d_jax.types import Array

CHECKPOINTS, DAMAGED = "checkpoints", "damaged_checkpoints"


@jax.jit
def inspect_state(state: TrainState) -> tuple[dict[str, Array], Array]:
    """Whether the numbers of each part of a state are finite, and a checksum of all its bits, in one program.

    Returns:
      part -> () bool, and () uint32, which does not depend on the devices.
    """
    parts = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    whole = {
        name: jnp.all(jnp.array([jnp.isfinite(x).all() for x in jax.tree.leaves(part)] or [True]))
        for name, part in parts.items()
    }
    checksum = jnp.uint32(0)
    for leaf in jax.tree.leaves(state):
        bits = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * leaf.dtype.itemsize}"))
        bits = bits.reshape(-1).astype(jnp.uint32)
        places = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
        checksum = checksum * jnp.uint32(1_000_003) + jnp.sum(bits * places, dtype=jnp.uint32)
    return whole, checksum


def check_finite(state: TrainState) -> int:
    """The checksum of a state whose numbers are all finite.

    Raises:
      FloatingPointError: those of some parts are not; it names them.
    """
    whole, checksum = inspect_state(state)
    broken = [name for name, finite in whole.items() if not bool(finite)]
    if broken:
        raise FloatingPointError(", ".join(broken))
    return int(checksum)


class Checkpoints:
    """Saves and loads a run's states; a context manager, at whose end everything is on the disk.

    Args:
      workdir: of the run.
      policy: Orbax's, which tells what is kept.
    """

    def __init__(self, workdir: Path, policy) -> None:
        self._folder, self._aside = workdir.resolve() / CHECKPOINTS, workdir.resolve() / DAMAGED
        self._policy = policy
        self._saved = self._open()

    def _open(self) -> ocp.training.Checkpointer:
        return ocp.training.Checkpointer(self._folder, preservation_policy=self._policy)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            with _one_line_saving(self._folder):
                self._saved.close()
        else:  # the error that is on its way says more than that of a save behind it
            with contextlib.suppress(Exception):
                self._saved.close()

    @property
    def metrics(self) -> list[dict | None]:
        """The scores that are stored with each checkpoint."""
        return [checkpoint.metrics for checkpoint in self._saved.checkpoints]

    def save(self, number: int, state: TrainState, checksum: int, scores: dict | None) -> None:
        """Begins to save a state; waits for the one before.

        Args:
          number: steps that it has done.
          checksum: of `check_finite`.
          scores: of its evaluation.

        Raises:
          UserError: this one, or the one before, cannot be written.
        """
        with _one_line_saving(self._folder):
            about = {"checksum": checksum}
            self._saved.save_async(number, state, metrics=scores, force=True, custom_metadata=about)

    def load(self, state: TrainState) -> TrainState:
        """The newest state that is whole, or `state` where there is none.

        Raises:
          UserError: it is of another model.
        """
        with _one_line_saving(self._folder):
            self._saved.wait()
        while (newest := self._saved.latest) is not None:
            step = newest.step
            found, problem = self._try(step, state)
            if all_agree(not problem):
                return found
            logging.warning(
                "checkpoint %d is damaged (%s)", step, problem or "another process cannot read it"
            )
            self._set_aside(step)
        return state

    def _try(self, step: int, state: TrainState) -> tuple[TrainState | None, str]:
        """The state of a checkpoint, or what is wrong with it."""
        try:
            about = self._saved.metadata(step)
            stored = _shapes(about.metadata)
            if not stored:
                return None, "it holds no arrays"
        except Exception as error:  # Orbax and TensorStore have no common error for damaged files
            return None, _first_line(error)
        _check_model(self._folder / str(step), stored, _shapes(state))
        with _silent_coroutines():
            try:
                found = self._saved.load(step, state)
            except Exception as error:
                return None, _first_line(error)
        expected = (about.custom_metadata or {}).get("checksum")
        if expected is not None and int(inspect_state(found)[1]) != expected:
            return None, "its bits are not those that were saved"
        return found, ""

    def _set_aside(self, step: int) -> None:
        """Moves a damaged checkpoint out of the way; all processes must call."""
        self._saved.close()
        meet(f"checkpoint {step} is closed")
        if is_primary():
            self._aside.mkdir(exist_ok=True)
            places = (self._aside / f"{step}{ending}" for ending in ("", *(f"_{k}" for k in range(1, 1000))))
            place = next(path for path in places if not path.exists())
            (self._folder / str(step)).rename(place)
            print(f"checkpoint {step} is damaged: it is now {place}; the one before is taken", flush=True)
        meet(f"checkpoint {step} is set aside")
        self._saved = self._open()


def _shapes(tree) -> dict[str, tuple[int, ...]]:
    """Path -> shape of each array of a state, or of what Orbax tells of one."""
    name = lambda key: str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key))))
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(map(name, path)): tuple(leaf.shape) for path, leaf in leaves}


def _check_model(where: Path, stored: dict[str, tuple], expected: dict[str, tuple]) -> None:
    told = [
        f"{path} is {stored.get(path, 'missing')} there and {expected.get(path, 'missing')} here"
        for path in sorted(stored.keys() | expected.keys())
        if stored.get(path) != expected.get(path)
    ]
    if told:
        more = f", and {len(told) - 3} more differ" if len(told) > 3 else ""
        raise UserError(
            f"{where} is of another model: {'; '.join(told[:3])}{more}; give the config that it was trained"
            " with, or another workdir"
        )


def _first_line(error: Exception) -> str:
    return printable((str(error).strip() or type(error).__name__).split("\n")[0])[:200]


@contextlib.contextmanager
def _silent_coroutines() -> Iterator[None]:
    """Orbax leaves the reads that it began beside one that failed, and Python would print each of them."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        gc.collect()
        sys.unraisablehook = hook


@contextlib.contextmanager
def _one_line_saving(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of the file system, by way of TensorStore
        raise UserError(
            f"{folder}: a checkpoint cannot be written ({_first_line(error)}); those before it are whole"
        ) from None
