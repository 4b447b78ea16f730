"""Reads pickles and `.npy` files of arrays as data, without running what they name: a head model's files.

`machine` does the reading. Neither scipy, chumpy nor torch is imported: their objects arrive as records and
tensors, which `to_array` makes arrays of.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from p4d_jax.convert.extents import Broken, Extent, SeekableExtent, Stream, memory_extent, open_extent
from p4d_jax.convert.machine import Budget, Machine, Name, Record, one_line_errors
from p4d_jax.convert.torch_files import Tensor, torch_vocabulary
from p4d_jax.errors import UserError


def to_array(value: Any) -> np.ndarray:
    """NumPy array of anything that this reader returns in place of an array.

    Raises:
      UserError: it is none, or broken.
    """
    if isinstance(value, Record) and value.cls in _SPARSE:
        return _sparse_to_array(value)
    if isinstance(value, Record) and value.cls in _CHUMPY:
        value = value.state.get("x") if isinstance(value.state, dict) else None
        if value is None:
            raise UserError(
                "a chumpy array in the pickle has no values ('x'): save it as a NumPy array first"
            )
        if isinstance(value, Record) and value.cls in _CHUMPY:
            raise UserError("a chumpy array in the pickle is computed from others: save it as a NumPy array")
        return to_array(value)
    if isinstance(value, Tensor):
        with one_line_errors("a tensor in the pickle"):
            return value.read()
    if _count_numbers(value) <= _MAX_NUMBERS:
        with contextlib.suppress(ValueError):  # rows of unequal length
            array = np.asarray(value)
            if array.dtype != object:
                return array
    kind = value.cls if isinstance(value, Record) else type(value).__name__
    raise UserError(f"the pickle holds a {kind} where an array of numbers was expected")


def _count_numbers(value: Any, depth: int = 4) -> float:
    """Of nested lists; many, where they are too deep or (the same lists over and over) too many."""
    if not isinstance(value, list | tuple):
        return 1
    if depth == 0 or len(value) > _MAX_NUMBERS:
        return math.inf
    total = 0
    for member in value:
        total += _count_numbers(member, depth - 1)
        if total > _MAX_NUMBERS:
            break
    return total


_SPARSE = {
    Name(module, f"{layout}_{kind}"): layout
    for layout in ("csc", "csr", "coo")
    for module in (f"scipy.sparse.{layout}", f"scipy.sparse._{layout}")
    for kind in ("matrix", "array")
}
_CHUMPY = (Name("chumpy.ch", "Ch"), Name("chumpy", "Ch"), Name("chumpy.reordering", "Select"))
_MAX_UNPACKED = 1 << 26  # bytes of an .npz file and of an array in it
_MAX_NUMBERS = 1 << 24  # of an array that is not stored as one


def _sparse_to_array(matrix: Record) -> np.ndarray:
    """The dense matrix (rows, columns), float64, of a SciPy CSC, CSR or COO matrix."""
    layout = _SPARSE[matrix.cls]
    try:
        state = {key.lstrip("_"): value for key, value in matrix.state.items()}
        shape = tuple(int(n) for n in state["shape"])
        data = np.asarray(state["data"], np.float64)
        rows, columns = _coordinates(layout, state, data.size)
        if len(shape) != 2 or not rows.shape == columns.shape == data.shape:
            raise ValueError
        if min(shape) < 0 or math.prod(shape) > _MAX_NUMBERS:
            raise ValueError(f"shape {shape}")
        if data.size and (
            rows.min() < 0 or columns.min() < 0 or rows.max() >= shape[0] or columns.max() >= shape[1]
        ):
            raise ValueError
        dense = np.zeros(shape)
        np.add.at(dense, (rows, columns), data)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, MemoryError) as error:
        raise UserError(f"a sparse matrix ({layout}) in the pickle is broken: {error!r}") from None
    return dense


def _coordinates(layout: str, state: dict, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each of the `size` entries."""
    if layout == "coo":
        if "coords" in state:
            return np.asarray(state["coords"][0]), np.asarray(state["coords"][1])
        return np.asarray(state["row"]), np.asarray(state["col"])
    minor = np.asarray(state["indices"])
    counts = np.diff(np.asarray(state["indptr"]))
    if (counts < 0).any() or counts.sum() != size:
        raise ValueError("indptr does not count the data")
    major = np.repeat(np.arange(counts.size), counts)
    return (major, minor) if layout == "csr" else (minor, major)


def read_pickle(path: str | Path) -> Any:
    """The contents of a pickle of arrays, sparse matrices and chumpy arrays.

    Args:
      path: file written by Python 2 or 3, protocol 0 to 5.

    Returns:
      Builtin containers with NumPy arrays, `Tensor` and, for objects of other classes, `machine.Record`; long
      byte strings as `Extent`.

    Raises:
      UserError: the file is missing, broken, or asks for anything but data.
    """
    extent = open_extent(path)
    with one_line_errors(path):
        return _load(extent)


def read_pickle_bytes(raw: bytes, source: Any) -> Any:
    """`read_pickle` of bytes in memory; `source` names them in errors."""
    with one_line_errors(source):
        return _load(memory_extent(raw))


def read_npy(path: str | Path) -> Any:
    """The array of a `.npy` file; the object itself where it is an array of a single object.

    Raises:
      UserError: the file is missing, broken, or asks for anything but data.
    """
    extent = open_extent(path)
    with one_line_errors(path, "a .npy file"):
        return _load_npy(extent)


def read_npz(path: str | Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Some arrays of an `.npz` file, compressed or not.

    Raises:
      UserError: the file is missing, broken, lacks one of them, or is (or one of them is) larger than 64 MB.
    """
    extent = open_extent(path)
    with one_line_errors(path, "an .npz file"):
        if len(extent) > _MAX_UNPACKED:
            raise Broken(f"more than {_MAX_UNPACKED} bytes")
        archive = zipfile.ZipFile(SeekableExtent(extent, _MAX_UNPACKED))
        missing = [name for name in names if f"{name}.npy" not in archive.namelist()]
        if missing:
            raise UserError(f"{path}: lacks the array {missing[0]!r}")
        arrays = {}
        for name in names:
            with archive.open(f"{name}.npy") as entry:
                # What the archive says of its size is not believed.
                data = entry.read(_MAX_UNPACKED + 1)
            if len(data) > _MAX_UNPACKED:
                raise Broken(f"more than {_MAX_UNPACKED} bytes in {name!r}")
            arrays[name] = to_array(_load_npy(memory_extent(data)))
        return arrays


def _load_npy(extent: Extent) -> Any:
    stream = SeekableExtent(extent)
    version = np.lib.format.read_magic(stream)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, is_fortran, dtype = read_header(stream)
    data = extent.part(stream.tell(), len(extent) - stream.tell())
    if dtype.hasobject:
        value = _load(data)
        return value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    if math.prod(shape) * dtype.itemsize != len(data):
        raise Broken(f"an array of shape {shape} and {dtype} in {len(data)} bytes")
    return data.read_array().view(dtype).reshape(shape, order="F" if is_fortran else "C")


def _load(extent: Extent) -> Any:
    budget = Budget()
    return Machine(Stream(extent), torch_vocabulary(budget), budget).load()
