"""What the pickles of NumPy's arrays, dtypes and scalars become; NumPy sees only what has been checked."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from p4d_jax.convert.extents import Broken, Extent
from p4d_jax.convert.machine import ENCODING, PYTHON, Budget, Name, Refused, Vocabulary


class _DType:
    """`numpy.dtype` while its pickle is being read: a kind and size, then the byte order as its state."""

    def __init__(self, code: Any, *_: Any) -> None:
        self._code = code.decode(ENCODING) if isinstance(code, bytes) else code
        self._order = "="
        # Anything else that NumPy can spell as a dtype may name classes or fields.
        if not (isinstance(code, str | bytes) and re.fullmatch(r"[?bOSU]|[biufcSUO]\d{1,9}", self._code)):
            raise Refused(f"the NumPy dtype {code[:40]!r}" if isinstance(code, str) else "a NumPy dtype")

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
