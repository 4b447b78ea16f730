"""Reads pickles and `.npy` files of NumPy, SciPy and chumpy arrays as data, without running what they name.

`machine` does the reading; here is what NumPy's own objects become. Neither scipy nor chumpy is imported:
their objects arrive as records, which `to_array` makes arrays of.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from p4d_jax.convert.extents import Broken, Extent, SeekableExtent, Stream, memory_extent, open_extent
from p4d_jax.convert.machine import ENCODING, PYTHON, Budget, Machine, Name, Record, Refused, Vocabulary
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


class _DType:
    """`numpy.dtype` while its pickle is being read: a kind and size, then the byte order as its state."""

    def __init__(self, code: Any, *_: Any) -> None:
        self._code = code.decode(ENCODING) if isinstance(code, bytes) else str(code)
        self._order = "="
        # Anything else that NumPy can spell as a dtype may name classes or fields.
        if not re.fullmatch(r"[?bOSU]|[biufcSUO]\d{1,9}", self._code):
            raise Refused(f"the NumPy dtype {self._code[:40]!r}")

    def set_state(self, state: Any) -> None:
        _, order, subtype, names, fields, *_ = state
        order = order.decode(ENCODING) if isinstance(order, bytes) else order
        if (subtype, names, fields) != (None, None, None) or order not in ("<", ">", "|", "="):
            raise Refused("a structured NumPy dtype")
        self._order = order

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self._code).newbyteorder(self._order)


def _dtype_of(value: Any) -> np.dtype:
    if not isinstance(value, _DType):
        raise Broken(f"a {type(value).__name__} for a dtype")
    return value.dtype


def _raw(data: Any, budget: Budget) -> bytes:
    # The same bytes may be copied into array after array.
    budget.spend(len(data) >> 8)
    if isinstance(data, str):
        return data.encode(ENCODING)
    return data.read() if isinstance(data, Extent) else bytes(memoryview(data))


def _shape_of(shape: Any) -> tuple[int, ...]:
    shape = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
    if len(shape) > 32 or not all(type(n) is int and n >= 0 for n in shape):
        raise Broken("a shape that is none")
    return shape


def _new_array(subtype: Any, shape: Any, dtype: Any) -> np.ndarray:
    # Shape, dtype and bytes come as the state; whatever is asked for here, a lying shape allocates nothing.
    return np.ndarray((0,), "b")


def _set_array_state(array: np.ndarray, state: Any, budget: Budget) -> None:
    _, shape, dtype, is_fortran, data = state
    shape, dtype = _shape_of(shape), _dtype_of(dtype)
    count = math.prod(shape)
    if dtype.hasobject:
        if not isinstance(data, list) or len(data) != count:
            raise Broken(f"{count} objects are not there")
    elif count * dtype.itemsize != len(data):
        raise Broken(f"an array of shape {shape} and {dtype} in {len(data)} bytes")
    else:
        data = _raw(data, budget)
    # NumPy fills the very array that the pickle may refer to elsewhere; all that it is given is checked.
    array.__setstate__((1, shape, dtype, bool(is_fortran), data))


def _scalar(dtype: Any, data: Any, budget: Budget) -> np.generic:
    dtype = _dtype_of(dtype)
    if dtype.hasobject:
        raise Refused("a NumPy scalar of objects")
    return np.frombuffer(_raw(data, budget), dtype, count=1)[0]


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, budget: Budget) -> np.ndarray:
    # Protocol 5. The shape must account for the bytes, else NumPy raises.
    dtype = _dtype_of(dtype)
    if dtype.hasobject:
        raise Refused("a NumPy buffer of objects")
    return np.frombuffer(_raw(data, budget), dtype).reshape(
        _shape_of(shape), order="F" if order == "F" else "C"
    )


def numpy_vocabulary(budget: Budget) -> Vocabulary:
    """What pickles of NumPy's arrays, dtypes and scalars may do, on top of Python's own."""
    calls: dict[Name, Callable[..., Any]] = {Name("numpy", "dtype"): _DType}
    for core in ("numpy.core", "numpy._core"):
        calls[Name(f"{core}.multiarray", "_reconstruct")] = _new_array
        calls[Name(f"{core}.multiarray", "scalar")] = functools.partial(_scalar, budget=budget)
        calls[Name(f"{core}.numeric", "_frombuffer")] = functools.partial(_from_buffer, budget=budget)
    states = {
        np.ndarray: functools.partial(_set_array_state, budget=budget),
        _DType: _DType.set_state,
    }
    return PYTHON | Vocabulary(calls, states)


def read_pickle(path: str | Path) -> Any:
    """The contents of a pickle of arrays, sparse matrices and chumpy arrays.

    Args:
      path: file written by Python 2 or 3, protocol 0 to 5.

    Returns:
      Builtin containers with NumPy arrays and, for objects of any other class, a `machine.Record`; long byte
      strings as `Extent`.

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
        stream = io.BufferedReader(SeekableExtent(extent))
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
    return Machine(Stream(extent), numpy_vocabulary(budget), budget).load()


@contextlib.contextmanager
def one_line_errors(source: Any, kind: str = "a pickle") -> Iterator[None]:
    """Whatever goes wrong inside while data is read is one line that names its source."""
    try:
        yield
    except UserError:
        raise
    except Refused as error:
        raise UserError(f"{source}: refused, it asks for {error}, which is not data") from None
    except Broken as error:
        raise UserError(f"{source}: truncated or broken as {kind}: {error}") from None
    # A broken stream can fail in as many ways as there are instructions; none of them ran its code.
    except Exception as error:
        raise UserError(f"{source}: truncated or broken as {kind} ({type(error).__name__})") from None
