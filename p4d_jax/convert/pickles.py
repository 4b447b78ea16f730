"""Reads FLAME's pickles as data, without running anything that they name.

A pickle is a small program: it may name any importable callable and call it. FLAME's files need only a few:
NumPy arrays, SciPy sparse matrices and chumpy arrays. Here each allowed global is mapped to a constructor of
ours, every other name is refused, and neither scipy nor chumpy is imported: their objects arrive as
`SparseMatrix` and `ChumpyArray`, plain records of their state.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from p4d_jax.errors import UserError

# Python 2 wrote strings as bytes; NumPy arrays inside such pickles decode only as latin1.
_ENCODING = "latin1"


class _Refused(pickle.UnpicklingError):
    """The stream asks for something that is not data."""


class _Record:
    """An object of a class we do not import: only what its state says, never its code."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise _Refused(f"the state of a {type(self).__name__} is not a dict")
        self.state = state


class SparseMatrix(_Record):
    """A SciPy CSC, CSR or COO matrix as read from a pickle."""

    layout = ""

    def toarray(self) -> np.ndarray:
        """The dense matrix (rows, columns), float64."""
        state = {key.lstrip("_"): value for key, value in self.state.items()}
        try:
            shape = tuple(int(n) for n in state["shape"])
            data = np.asarray(state["data"], np.float64)
            rows, columns = self._coordinates(state, data.size)
            if len(shape) != 2 or not rows.shape == columns.shape == data.shape:
                raise ValueError
            if data.size and (
                rows.min() < 0 or columns.min() < 0 or rows.max() >= shape[0] or columns.max() >= shape[1]
            ):
                raise ValueError
            dense = np.zeros(shape)
            np.add.at(dense, (rows, columns), data)
        except (KeyError, TypeError, ValueError, IndexError, MemoryError) as error:
            raise UserError(f"a sparse matrix ({self.layout}) in the pickle is broken: {error!r}") from None
        return dense

    def _coordinates(self, state: dict, size: int) -> tuple[np.ndarray, np.ndarray]:
        if self.layout == "coo":
            if "coords" in state:
                return np.asarray(state["coords"][0]), np.asarray(state["coords"][1])
            return np.asarray(state["row"]), np.asarray(state["col"])
        minor = np.asarray(state["indices"])
        counts = np.diff(np.asarray(state["indptr"]))
        if (counts < 0).any() or counts.sum() != size:
            raise ValueError("indptr does not count the data")
        major = np.repeat(np.arange(counts.size), counts)
        return (major, minor) if self.layout == "csr" else (minor, major)


class _Csc(SparseMatrix):
    layout = "csc"


class _Csr(SparseMatrix):
    layout = "csr"


class _Coo(SparseMatrix):
    layout = "coo"


class ChumpyArray(_Record):
    """A chumpy array as read from a pickle: `x` holds its values."""

    def toarray(self) -> np.ndarray:
        value = self.state.get("x")
        if value is None:
            raise UserError(
                "a chumpy array in the pickle has no values ('x'): save it as a NumPy array first"
            )
        return to_array(value)


def to_array(value: Any) -> np.ndarray:
    """NumPy array of anything that this reader returns in place of an array."""
    if isinstance(value, SparseMatrix | ChumpyArray):
        return value.toarray()
    array = np.asarray(value)
    if array.dtype == object:
        raise UserError(f"the pickle holds a {type(value).__name__} where an array of numbers was expected")
    return array


def _reconstruct_array(subtype: Any, shape: Any, dtype: Any) -> np.ndarray:
    # The stream fills shape, dtype and bytes in by __setstate__; whatever it asks for here, it gets an
    # empty array, so that a lying shape cannot allocate memory.
    return np.ndarray((0,), "b")


def _scalar(dtype: np.dtype, data: Any = b"") -> np.generic:
    dtype = np.dtype(dtype)
    if dtype.hasobject:
        raise _Refused("a NumPy scalar of objects")
    raw = data.encode(_ENCODING) if isinstance(data, str) else bytes(data)
    return np.frombuffer(raw, dtype, count=1)[0]


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: str, *_: Any) -> np.ndarray:
    # Protocol 5. The shape must account for the bytes, else NumPy raises.
    return np.frombuffer(bytes(raw), dtype).reshape(shape, order=order)


def _encode(text: str, encoding: str = _ENCODING) -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8"):
        raise _Refused(f"the text encoding {encoding!r}")
    return text.encode(encoding)


def _new_record(cls: type, *_: Any) -> Any:
    """`copy_reg._reconstructor(cls, object, None)`: an empty record of one of our classes."""
    if not (isinstance(cls, type) and issubclass(cls, _Record)):
        raise _Refused(f"an object of {cls!r}")
    return cls.__new__(cls)


def _dtype(spec: Any, *_: Any) -> np.dtype:
    # A string alone: NumPy's other spellings of a type can name classes.
    return np.dtype(spec.decode(_ENCODING) if isinstance(spec, bytes) else str(spec))


# Stands for a class that a stream may hand around as an argument but not call.
_NOT_CALLABLE = object()


def _allowed() -> dict[tuple[str, str], Any]:
    names: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("copy_reg", "_reconstructor"): _new_record,
        ("copyreg", "_reconstructor"): _new_record,
        ("__builtin__", "object"): _NOT_CALLABLE,
        ("builtins", "object"): _NOT_CALLABLE,
        ("_codecs", "encode"): _encode,
        ("numpy", "ndarray"): _NOT_CALLABLE,
        ("numpy", "dtype"): _dtype,
    }
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names[core, "_reconstruct"] = _reconstruct_array
        names[core, "scalar"] = _scalar
    for core in ("numpy.core.numeric", "numpy._core.numeric"):
        names[core, "_frombuffer"] = _from_buffer
    for layout, cls in (("csc", _Csc), ("csr", _Csr), ("coo", _Coo)):
        for module in (f"scipy.sparse.{layout}", f"scipy.sparse._{layout}"):
            names[module, f"{layout}_matrix"] = cls
            names[module, f"{layout}_array"] = cls
    for module in ("chumpy.ch", "chumpy"):
        names[module, "Ch"] = ChumpyArray
    names["chumpy.reordering", "Select"] = ChumpyArray
    return names


_ALLOWED = _allowed()


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"the name {module}.{name}, which is not data") from None

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("a persistent object")


def read_pickle(path: str | Path) -> Any:
    """The contents of a pickle of arrays, sparse matrices and chumpy arrays.

    Args:
      path: file written by Python 2 or 3, protocol 0 to 5.

    Returns:
      Builtin containers with NumPy arrays, `SparseMatrix` and `ChumpyArray`.

    Raises:
      UserError: the file is missing, broken, or names anything but data.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return read_pickle_bytes(raw, path)


def read_pickle_bytes(raw: bytes, source: Any) -> Any:
    """`read_pickle` of bytes in memory; `source` names them in errors."""
    try:
        return _RestrictedUnpickler(io.BytesIO(raw), encoding=_ENCODING).load()
    except _Refused as error:
        raise UserError(f"{source}: refused, the pickle asks for {error}") from None
    # A broken stream can end in almost any exception of the constructors above; none of them ran its code.
    except Exception as error:
        raise UserError(f"{source}: truncated or broken pickle ({type(error).__name__})") from None
