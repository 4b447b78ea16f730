"""Reads strangers' pickles, files of PyTorch and `.npy` files as arrays, without running what they name.

`untrusted` reads the file, in a process of its own whose memory and time are limited, and answers in JSON
where the bytes of each array lie. Here they are read from the file when they are asked for, so that no tensor
is in memory twice. Neither torch, scipy nor chumpy is imported.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import ml_dtypes
import numpy as np

from p4d_jax.convert import untrusted
from p4d_jax.errors import UserError, printable

_MEMORY = 1 << 29  # bytes of address space, or 1.5 times the file
_SECONDS = 5  # of processor time, and as many again for each GB of the file
_PATIENCE = 9  # seconds of the clock, and 60 for each GB, for a disk may be slow
_MAX_DENSE = 1 << 24  # numbers of a sparse matrix
_KINDS = {"torch": "a file of PyTorch", "pickle": "a pickle", "npy": "a .npy file"}


@dataclass(frozen=True, eq=False)
class StoredArray:
    """An array that is read on request.

    Attributes:
      file: where its bytes are.
      start, size: of them.
      dtype: of its elements.
      shape, strides: as torch's, in elements.
    """

    file: BinaryIO
    start: int
    size: int
    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self) -> np.ndarray:
        """Its values, of `shape`. Only the part of the storage that it spans is read.

        Raises:
          ValueError: the bytes are not there any more.
        """
        data = np.empty(self.size, np.uint8)
        self.file.seek(self.start)
        if self.file.readinto(data) != self.size:
            raise untrusted.Broken("the file ends too early")
        # Any byte may be there; NumPy's bool knows only 0 and 1.
        values = data != 0 if self.dtype.kind == "b" else data.view(self.dtype)
        if not values.dtype.isnative:
            values = values.astype(self.dtype.newbyteorder("="))
        if 0 in self.shape:
            return np.zeros(self.shape, values.dtype)
        strides = [stride * values.itemsize for stride in self.strides]
        # NumPy checks that shape and strides stay inside the buffer.
        return np.ndarray(self.shape, values.dtype, values, strides=strides)


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """A SciPy CSC, CSR or COO matrix, made dense on request: (rows, columns) float64."""

    layout: str
    shape: tuple[int, ...]
    arrays: Mapping[str, StoredArray]
    dtype: ClassVar = np.dtype(np.float64)

    def read(self) -> np.ndarray:
        """The dense matrix.

        Raises:
          ValueError: its arrays do not fit each other.
        """
        if len(self.shape) != 2 or min(self.shape) < 0 or math.prod(self.shape) > _MAX_DENSE:
            raise untrusted.Broken(f"a sparse matrix of shape {self.shape}")
        stored = {name: array.read() for name, array in self.arrays.items()}
        data = np.asarray(stored["data"], np.float64)
        rows, columns = self._coordinates(stored, data.size)
        if not (rows.shape == columns.shape == data.shape == (data.size,)):
            raise untrusted.Broken("a sparse matrix whose arrays differ in length")
        for index, size in ((rows, self.shape[0]), (columns, self.shape[1])):
            if index.size and (index.dtype.kind not in "iu" or index.min() < 0 or index.max() >= size):
                raise untrusted.Broken("a sparse matrix with entries outside of it")
        dense = np.zeros(self.shape)
        np.add.at(dense, (rows, columns), data)
        return dense

    def _coordinates(self, stored: Mapping[str, np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of each of the `size` entries."""
        if self.layout == "coo":
            return stored["row"], stored["col"]
        counts = np.diff(stored["indptr"].astype(np.int64))
        if (counts < 0).any() or counts.sum() != size:
            raise untrusted.Broken("a sparse matrix whose indptr does not count its data")
        major = np.repeat(np.arange(counts.size), counts)
        return (major, stored["indices"]) if self.layout == "csr" else (stored["indices"], major)


@dataclass(frozen=True, eq=False)
class NumberList:
    """Nested lists of numbers, which become an array on request."""

    numbers: Any
    dtype: ClassVar = np.dtype(np.float64)

    def read(self) -> np.ndarray:
        """The array.

        Raises:
          ValueError: its rows are of unequal length.
        """
        return np.asarray(self.numbers)


@dataclass(frozen=True, eq=False)
class BrokenArray:
    """An array whose description does not hold; reading it says why."""

    reason: str
    dtype: ClassVar = np.dtype(np.float64)

    def read(self) -> np.ndarray:
        """Never returns."""
        raise untrusted.Broken(self.reason)


class LazyState(Mapping):
    """key -> array, each read when it is asked for and kept nowhere.

    Attributes:
      tensors: key -> what reads the array, with its dtype.
    """

    def __init__(self, tensors: Mapping[str, Any], source: Any) -> None:
        self.tensors, self._source = dict(tensors), source

    def __getitem__(self, key: str) -> np.ndarray:
        with _one_line_errors(f"{self._source}: {key}", "a tensor"):
            return self.tensors[key].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


class Contents(LazyState):
    """The arrays of a file, by the keys that torch's `state_dict()` gives.

    Attributes:
      names: keys of the dict in the file, () where it holds none.
      nested: those that are dicts or modules themselves.
      asked: of a scan, (name, how often, whether we know it) of what the file names, most often first.
      calls: of a scan, the same of what it calls.
    """

    def __init__(self, source: Any, answer: Mapping[str, Any], files: tuple[BinaryIO, BinaryIO]) -> None:
        super().__init__({key: _array_of(one, files) for key, one in answer["arrays"].items()}, source)
        self.names, self.nested = tuple(answer.get("keys") or ()), frozenset(answer["nested"])
        self.asked, self.calls = answer.get("asked", []), answer.get("calls", [])

    def array(self, key: str) -> np.ndarray:
        """An array of numbers.

        Raises:
          UserError: there is something else, or it is broken.
        """
        if key not in self.tensors:
            raise UserError(f"{self._source}: holds no {key!r} where an array of numbers was expected")
        return self[key]


def read_torch(path: str | Path) -> Contents:
    """The contents of a `.pth` (zip or legacy format) or a `.pkl` of StyleGAN's kind.

    Args:
      path: the file. It must stay as it is while tensors are read.

    Raises:
      UserError: the file is missing, broken, asks for anything but data or takes too much to read.
    """
    return _read(path, "torch")


def read_pickle(path: str | Path) -> Contents:
    """The contents of a pickle of arrays, sparse matrices and chumpy arrays; see `read_torch`.

    Args:
      path: file written by Python 2 or 3, protocol 0 to 5.
    """
    return _read(path, "pickle")


def read_npy(path: str | Path) -> Contents:
    """The arrays of the dict in a `.npy` file, or '' -> the array in it; see `read_torch`."""
    return _read(path, "npy")


def scan(path: str | Path) -> Contents:
    """What a pickle or a file of PyTorch names and calls; unknown calls are listed and not refused."""
    return _read(path, "torch+scan")


def _read(path: str | Path, kind: str) -> Contents:
    try:
        source = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115  kept with the arrays
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    about = os.fstat(source.fileno())
    if not stat.S_ISREG(about.st_mode):
        source.close()
        raise UserError(f"{path}: cannot be read (no regular file)")
    side = tempfile.TemporaryFile()  # noqa: SIM115  both files live as long as the arrays that lie in them
    limits = [
        int(max(_MEMORY, 1.5 * about.st_size)),
        _SECONDS + math.ceil(_SECONDS * about.st_size / 1e9),
    ]
    command = [sys.executable, "-I", "-S", untrusted.__file__, kind, *map(str, limits)]
    patience = _PATIENCE + 60 * about.st_size / 1e9
    try:
        done = subprocess.run(command, stdin=source, stdout=side, stderr=subprocess.DEVNULL, timeout=patience)
    except subprocess.TimeoutExpired:
        raise UserError(f"{path}: refused, it takes more than {patience:.0f} s to read") from None
    if done.returncode:
        xcpu = getattr(signal, "SIGXCPU", None)
        if xcpu is not None and done.returncode == -xcpu:
            raise UserError(f"{path}: refused, it takes more than {limits[1]} s of processor time to read")
        name = signal.Signals(-done.returncode).name if done.returncode < 0 else f"code {done.returncode}"
        raise UserError(f"{path}: refused, the process that read it ended by {name}")
    return contents(path, kind, last_answer(side), (source, side))


def _open_without_waiting(path: str, flags: int) -> int:
    """Opens a file; a pipe would wait for its writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def last_answer(side: BinaryIO) -> dict:
    """The JSON at the end of what `untrusted` wrote."""
    side.seek(-8, os.SEEK_END)
    (size,) = struct.unpack("<Q", side.read(8))
    side.seek(-8 - size, os.SEEK_END)
    return json.loads(side.read(size))


def contents(path: Any, kind: str, answer: dict, files: tuple[BinaryIO, BinaryIO]) -> Contents:
    """What `untrusted` answered of a file, or an error in one line.

    Args:
      path: names the file in errors.
      kind: 'torch', 'pickle' or 'npy'.
      answer: of `untrusted.answer`.
      files: the file, and the answer's.
    """
    kind = _KINDS[kind.removesuffix("+scan")]
    with _one_line_errors(path, kind):
        if "refused" in answer:
            raise untrusted.Refused(answer["refused"])
        if "broken" in answer:
            raise untrusted.Broken(answer["broken"])
        if "failed" in answer:
            raise UserError(f"{path}: truncated or broken as {kind} ({answer['failed']})")
        return Contents(path, answer, files)


def _array_of(answer: Mapping[str, Any], files: tuple[BinaryIO, BinaryIO]) -> Any:
    if "broken" in answer:
        return BrokenArray(answer["broken"])
    if "numbers" in answer:
        return NumberList(answer["numbers"])
    if "sparse" in answer:
        arrays = {key: _array_of(one, files) for key, one in answer.items() if key not in ("sparse", "shape")}
        return SparseMatrix(answer["sparse"], tuple(answer["shape"]), arrays)
    code = answer["dtype"]
    if code != "bfloat16" and not re.fullmatch(r"[<>][biufc]\d{1,2}", code):
        raise untrusted.Refused(f"the dtype {code!r}")
    dtype = np.dtype(ml_dtypes.bfloat16) if code == "bfloat16" else np.dtype(code)
    shape, strides = tuple(answer["shape"]), tuple(answer["strides"])
    return StoredArray(files[answer["file"]], answer["start"], answer["size"], dtype, shape, strides)


@contextlib.contextmanager
def _one_line_errors(source: Any, kind: str) -> Iterator[None]:
    """Whatever goes wrong inside while data is read is one line that names its source."""
    try:
        yield
    except UserError:
        raise
    except untrusted.Refused as error:
        raise UserError(f"{source}: refused, it asks for {_short(error)}, which is not data") from None
    except untrusted.Broken as error:
        raise UserError(f"{source}: truncated or broken as {kind}: {_short(error)}") from None
    except (ValueError, TypeError, ArithmeticError, MemoryError) as error:
        raise UserError(f"{source}: truncated or broken as {kind} ({type(error).__name__})") from None


def _short(error: Exception) -> str:
    text = str(error)
    return printable(text[:300] + ("..." if len(text) > 300 else ""))
