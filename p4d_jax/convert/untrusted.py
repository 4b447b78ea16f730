"""Says what is in a stranger's file: run as a process of its own, with the standard library and nothing else.

    python -I -S untrusted.py KIND BYTES SECONDS < FILE > ANSWER

A pickle is a program for a stack machine: it names importable things, calls them and hands them a state. Here
Python's own unpickler reads it, but a named thing is a `Name`, two strings, which cannot be called. Calls go
to a fixed table of constructors of ours, an object of any other class becomes a `Record` of what its pickle
says of it, and a call of any other name is refused. Nothing is imported or looked up by name. What a file can
do beyond that (memory, time, recursion) the process' own limits end.

KIND is 'torch' (`torch.save` as zip or in its legacy format, StyleGAN's `.pkl`), 'pickle' or 'npy' (arrays of
a head model), with '+scan' behind it where unknown calls are to be listed instead of refused. The answer says
of every array where its bytes lie, in FILE or in the answer itself, which is: bytes that a pickle holds in
another form, JSON, and the JSON's length in 8 bytes. The unpickler is the one written in Python, for its
instructions can be replaced: byte strings stay in the file, so that a tensor is never in memory.
"""

from __future__ import annotations

import ast
import errno
import io
import json
import math
import os
import pickle
import re
import struct
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

_SHORT = 256  # byte strings from this size on are left in the file
_MAX_KEYS = 100_000
_MAX_VISITS = 300_000  # members of dicts and modules; the same one may be found over and over
_MAX_KEY = 1000  # characters
_MAX_DEPTH = 100  # of modules in modules
_MAX_EXPANDED = 1 << 24  # elements of a tensor that repeats its storage
_MAX_NUMBERS = 1 << 20  # of a list of numbers
_MAGIC = 0x1950A86A20F9469CFC6C  # of torch's legacy format
_LEGACY_START = b"\x8a\n" + _MAGIC.to_bytes(10, "little")
ENCODING = "latin1"  # Python 2 wrote strings as bytes; NumPy arrays inside such pickles decode only as this

# Of torch's dtypes NumPy's spelling, and bytes.
_DTYPES = {
    "float32": ("f4", 4), "float64": ("f8", 8), "float16": ("f2", 2), "bfloat16": ("bfloat16", 2),
    "complex64": ("c8", 8), "complex128": ("c16", 16), "int8": ("i1", 1), "int16": ("i2", 2),
    "int32": ("i4", 4), "int64": ("i8", 8), "uint8": ("u1", 1), "uint16": ("u2", 2), "uint32": ("u4", 4),
    "uint64": ("u8", 8), "bool": ("b1", 1),
}  # fmt: skip
_STORAGES = {
    "Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16",
    "ComplexFloat": "complex64", "ComplexDouble": "complex128", "Char": "int8", "Short": "int16",
    "Int": "int32", "Long": "int64", "Byte": "uint8", "Bool": "bool", "Untyped": "uint8",
}  # fmt: skip


class Refused(ValueError):
    """The file asks for something that is not data."""


class Broken(ValueError):
    """The bytes are not what their format says: truncated, damaged or lying."""


# Bytes -----------------------------------------------------------------------------------------------------


class Window(io.RawIOBase):
    """A stretch of a file as a file of its own."""

    def __init__(self, extent: Extent) -> None:
        self._extent, self._position = extent, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = (0, self._position, self._extent.size)[whence] + offset
        if self._position < 0:
            raise Broken("before the start")
        return self._position

    def readinto(self, view: Any) -> int:
        size = max(0, min(len(view), self._extent.size - self._position))
        self._extent.file.seek(self._extent.start + self._position)
        count = self._extent.file.readinto(memoryview(view)[:size])
        self._position += count
        return count


@dataclass(frozen=True, eq=False)
class Extent:
    """`size` bytes of a file from `start`; `which` is 0 for the file that is read and 1 for the answer."""

    file: Any
    which: int
    start: int
    size: int

    def part(self, offset: int, size: int) -> Extent:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise Broken(f"{size} bytes at {offset} are asked of {self.size}")
        return Extent(self.file, self.which, self.start + offset, size)

    def open(self) -> io.BufferedReader:
        return io.BufferedReader(Window(self), 1 << 14)

    def read(self) -> bytes:
        return self.open().read()


@dataclass
class Files:
    """The file that is read, and the answer that takes what it does not hold as it is."""

    source: Extent
    answer: Any

    def place(self, data: Any) -> Extent:
        """Where bytes lie; those that are in memory alone are written to the answer."""
        if isinstance(data, Extent):
            return data
        data = _encode(data) if isinstance(data, str) else bytes(data)
        start = self.answer.seek(0, io.SEEK_END)
        try:
            done = self.answer.write(data) == len(data)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            done = False
        if not done:
            raise Refused("more bytes than the file has")
        return Extent(self.answer, 1, start, len(data))


# Objects ---------------------------------------------------------------------------------------------------


class Name(NamedTuple):
    """An importable thing that a pickle names; it is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, repr=False)
class Record:
    """An object of a class that we do not import: what its pickle says of it.

    Attributes:
      cls: its class.
      arguments: of its class's `__new__`.
      state: usually the dict of its attributes.
      items, elements: of a subclass of dict or list.
    """

    cls: Name
    arguments: tuple = ()
    state: Any = None
    items: dict = field(default_factory=dict)
    elements: list = field(default_factory=list)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        self.elements.append(value)

    def extend(self, values: list) -> None:
        self.elements.extend(values)

    def set_state(self, state: Any) -> None:
        """Attributes by dict or, of a class with `__slots__`, a pair of dicts; or anything."""
        if isinstance(state, tuple) and len(state) == 2 and all(isinstance(s, dict | None) for s in state):
            state = {**(state[0] or {}), **(state[1] or {})}
        self.state = state


@dataclass(eq=False, repr=False)
class DType:
    """`numpy.dtype`: a kind and size, then the byte order as its state."""

    code: str
    order: str = "<"

    def __init__(self, code: Any, *_: Any) -> None:
        code = code.decode(ENCODING) if isinstance(code, bytes) else code
        # Anything else that NumPy can spell as a dtype may name classes or fields.
        if not (isinstance(code, str) and re.fullmatch(r"[?bOSU]|[biufcSUO]\d{1,9}", code)):
            raise Refused(f"the NumPy dtype {code[:40]!r}" if isinstance(code, str) else "a NumPy dtype")
        self.code = {"?": "b1", "b": "i1", "O8": "O", "O4": "O"}.get(code, code)

    def set_state(self, state: Any) -> None:
        _, order, subtype, names, fields, *_ = state
        order = order.decode(ENCODING) if isinstance(order, bytes) else order
        if (subtype, names, fields) != (None, None, None) or order not in ("<", ">", "|", "="):
            raise Refused("a structured NumPy dtype")
        self.order = ">" if order == ">" else "<"

    @property
    def size(self) -> int:
        return int(self.code[1:] or 0) * (4 if self.code[0] == "U" else 1)


@dataclass(eq=False, repr=False)
class Storage:
    """The memory that tensors are views of.

    Attributes:
      dtype: a key of `_DTYPES`.
      count: of its elements.
      data: its bytes; of the legacy format they are found only after the pickle.
      order: '>' where the bytes are big-endian.
    """

    dtype: str
    count: int
    data: Extent | None = None
    order: str = "<"

    @property
    def size(self) -> int:
        return self.count * _DTYPES[self.dtype][1]


@dataclass(eq=False, repr=False)
class Array:
    """A tensor of torch or an array of NumPy.

    Attributes:
      dtype: NumPy's spelling with its byte order, or 'bfloat16'.
      itemsize: bytes of an element.
      shape, strides: as torch's, in elements.
      offset: of the first element, in elements.
      data: a storage, or the bytes themselves.
      objects: of an array of objects.
    """

    dtype: str = ""
    itemsize: int = 0
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    offset: int = 0
    data: Any = None
    objects: list | None = None

    def set_state(self, state: Any) -> None:
        """The state of a NumPy array; the attributes of a tensor are nothing that we need."""
        if isinstance(self.data, Storage):
            return
        _, shape, dtype, is_fortran, data = state
        self.fill(shape, dtype, "F" if is_fortran else "C", data)

    def fill(self, shape: Any, dtype: Any, order: str, data: Any) -> None:
        """Shape, dtype and bytes of a NumPy array."""
        if not isinstance(dtype, DType):
            raise Broken(f"a {type(dtype).__name__} for a dtype")
        self.shape = shape_of(shape)
        count = math.prod(self.shape)
        if dtype.code == "O":
            if not isinstance(data, list) or len(data) != count:
                raise Broken(f"{count} objects are not there")
            self.objects = data
            return
        size = data.size if isinstance(data, Extent) else len(data)
        if not isinstance(data, Extent | bytes | str) or count * dtype.size != size:
            raise Broken(f"an array of shape {self.shape} and {dtype.code} in {size} bytes")
        self.dtype, self.itemsize, self.data = dtype.order + dtype.code, dtype.size, data
        self.strides = contiguous(self.shape, order)


def shape_of(shape: Any) -> tuple[int, ...]:
    shape = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
    if len(shape) > 32 or not all(type(n) is int and 0 <= n < 1 << 62 for n in shape):
        raise Broken("a shape that is none")
    return shape


def contiguous(shape: tuple[int, ...], order: str) -> tuple[int, ...]:
    """Strides in elements."""
    backwards = shape if order == "F" else shape[::-1]
    strides = tuple(math.prod(backwards[:axis]) for axis in range(len(shape)))
    return strides if order == "F" else strides[::-1]


def _new_object(cls: Any, *arguments: Any) -> Any:
    """NEWOBJ: what `cls.__new__(cls, *arguments)` stands for here."""
    if not isinstance(cls, Name):
        raise Refused(f"an object of class {type(cls).__name__}")
    return {} if cls in _PLAIN_DICTS else Record(cls, arguments)


def _reconstructor(cls: Any, base: Any, state: Any) -> Any:
    """`copyreg._reconstructor`: protocols 0 and 1 make objects by it."""
    made = _new_object(cls)
    if isinstance(state, dict):
        (made if isinstance(made, dict) else made.items).update(state)
    elif isinstance(state, list) and isinstance(made, Record):
        made.elements.extend(state)
    elif state is not None and isinstance(made, Record):
        made.arguments = (state,)
    return made


def _encode(text: str, encoding: str = ENCODING) -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8"):
        raise Refused(f"the text encoding {str(encoding)[:40]!r}")
    return text.encode(encoding)


def _bytes(data: Any = b"", encoding: str = ENCODING) -> Any:
    if not isinstance(data, str | bytes | Extent):
        raise Refused(f"bytes of a {type(data).__name__}")
    return _encode(data, encoding) if isinstance(data, str) else data


def _members(value: Any = ()) -> Any:
    if not isinstance(value, list | tuple | dict | set | frozenset):
        raise Broken(f"members of a {type(value).__name__}")
    return value


def _scalar(dtype: Any, data: Any) -> Array:
    made = Array()
    made.fill((), dtype, "C", data)
    return made


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    if isinstance(dtype, DType) and dtype.code == "O":
        raise Refused("a NumPy buffer of objects")
    made = Array()
    made.fill(shape, dtype, "F" if order == "F" else "C", data)
    return made


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise Broken("a size, offset or stride that is no whole number from 0 on")
    return value


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Array:
    """`torch._utils._rebuild_tensor`; what a tensor claims is checked before it is believed."""
    if not isinstance(storage, Storage):
        raise Broken(f"a tensor over a {type(storage).__name__}")
    return _checked_tensor(storage, storage.dtype, offset, shape, stride)


def _tensor_v3(
    storage: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> Array:
    """Tensors of the newer dtypes: the storage is bytes, the dtype an argument."""
    if not isinstance(storage, Storage):
        raise Broken(f"a tensor over a {type(storage).__name__}")
    if not (isinstance(dtype, Name) and dtype.module == "torch" and dtype.name in _DTYPES):
        raise Refused(f"a tensor of {dtype if isinstance(dtype, Name) else type(dtype).__name__}")
    return _checked_tensor(storage, dtype.name, offset, shape, stride)


def _checked_tensor(storage: Storage, dtype: str, offset: Any, shape: Any, stride: Any) -> Array:
    if not (isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride) <= 32):
        raise Broken("a tensor whose shape and stride do not fit each other")
    shape, stride, offset = tuple(map(_whole, shape)), tuple(map(_whole, stride)), _whole(offset)
    code, size = _DTYPES[dtype]
    available = storage.size // size
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    if 0 not in shape and last >= available:
        raise Broken(f"a tensor of shape {shape} and stride {stride} at {offset} in {available} elements")
    if math.prod(shape) > max(available, _MAX_EXPANDED):
        raise Broken(f"a tensor of shape {shape} over only {available} elements")
    order = "" if code == "bfloat16" else storage.order
    return Array(order + code, size, shape, stride, offset, storage)


def _parameter(tensor: Any, *_: Any) -> Array:
    if not isinstance(tensor, Array):
        raise Broken(f"a parameter of a {type(tensor).__name__}")
    return tensor


def _from_type(function: Any, kind: Any, arguments: Any, state: Any = None) -> Array:
    """`torch._tensor._rebuild_from_type_v2`: a tensor with attributes."""
    if not (isinstance(function, Name) and function in _TENSORS and isinstance(arguments, tuple)):
        raise Refused(f"a call of {function if isinstance(function, Name) else type(function).__name__}")
    return _TENSORS[function](*arguments)


def _device(kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str) or not isinstance(index, int | None):
        raise Broken("a device that is none")
    return kind if index is None else f"{kind}:{index}"


def _persistent_network(meta: Any) -> Record:
    """StyleGAN's persistent object: its state; the source code beside it stays what it is, a text."""
    if not isinstance(meta, dict) or not isinstance(meta.get("class_name"), str):
        raise Broken("a persistent object without the name of its class")
    return Record(Name("torch_utils.persistence", meta["class_name"]), (), meta.get("state"))


def _table() -> dict[Name, Callable[..., Any]]:
    """Everything that a pickle may call: name -> our constructor."""
    made: dict[Name, Callable[..., Any]] = {
        Name("collections", "OrderedDict"): lambda pairs=(): dict(_members(pairs)),
        Name("collections", "defaultdict"): lambda factory=None: {},
        Name("collections", "deque"): lambda members=(), limit=None: list(_members(members)),
        Name("_codecs", "encode"): _encode,
        Name("functools", "partial"): lambda function: Record(Name("functools", "partial"), (function,)),
        Name("numpy", "dtype"): DType,
        Name("torch._tensor", "_rebuild_from_type_v2"): _from_type,
        Name("torch", "Size"): lambda numbers=(): tuple(map(_whole, _members(numbers))),
        Name("torch", "device"): _device,
        Name("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent_network,
    }
    for core in ("numpy.core", "numpy._core"):
        # Shape, dtype and bytes come as the state; what is asked for here allocates nothing.
        made[Name(f"{core}.multiarray", "_reconstruct")] = lambda subtype, shape, dtype: Array()
        made[Name(f"{core}.multiarray", "scalar")] = _scalar
        made[Name(f"{core}.numeric", "_frombuffer")] = _from_buffer
    for module in ("copyreg", "copy_reg"):
        made[Name(module, "_reconstructor")] = _reconstructor
        made[Name(module, "__newobj__")] = _new_object
        made[Name(module, "__newobj_ex__")] = lambda cls, args, kwargs: _new_object(cls, *args, kwargs)
    for module in ("builtins", "__builtin__"):
        for kind in (set, frozenset, list, tuple, dict):
            made[Name(module, kind.__name__)] = lambda members=(), kind=kind: kind(_members(members))
        made[Name(module, "complex")] = lambda real, imaginary: complex(float(real), float(imaginary))
        made[Name(module, "bytes")] = made[Name(module, "bytearray")] = _bytes
    return made | _TENSORS


_TENSORS = {
    Name("torch._utils", "_rebuild_tensor"): _tensor,
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    Name("torch._utils", "_rebuild_parameter"): _parameter,
    Name("torch._utils", "_rebuild_parameter_with_state"): _parameter,
}
# Subclasses of dict that hold nothing but their items.
_PLAIN_DICTS = {Name("dnnlib.util", "EasyDict"), Name("dnnlib", "EasyDict"), Name("builtins", "dict")}
_CALLS = _table()
_NESTED = Name("torch.storage", "_load_from_bytes")  # a file of torch in a byte string


# Pickles ---------------------------------------------------------------------------------------------------


@dataclass
class Asked:
    """What a file names and calls: name -> how often. `scan` lists unknown calls instead of refusing them."""

    scan: bool = False
    names: Counter = field(default_factory=Counter)
    calls: Counter = field(default_factory=Counter)


class Reader(pickle._Unpickler):
    """Reads the pickle at an extent's start.

    Args:
      files: for byte strings that another form holds.
      asked: counts what the pickle asks for.
      persistent: makes an object of a persistent id.
      nested: it lies in a file in a pickle already.
    """

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)

    def __init__(
        self,
        extent: Extent,
        files: Files,
        asked: Asked,
        persistent: Callable | None = None,
        nested: bool = False,
    ):
        self.extent, self.stream = extent, extent.open()
        self.files, self.asked, self.persistent, self.nested = files, asked, persistent, nested
        super().__init__(self.stream, encoding=ENCODING)

    def load(self) -> Any:
        value = super().load()
        if self.stack or self.metastack:
            raise Broken("a pickle that ends in the middle")
        return value

    def find_class(self, module: Any, name: Any) -> Name:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise Broken("a name that is no text")
        self.asked.names[Name(module, name)] += 1
        return Name(module, name)

    def persistent_load(self, pid: Any) -> Any:
        if self.persistent is None:
            raise Refused("a persistent object")
        return self.persistent(pid)

    def call(self, function: Any, arguments: Any) -> Any:
        """What a call of a name is here."""
        if not isinstance(function, Name):
            raise Refused(f"a call of a {type(function).__name__}")
        if not isinstance(arguments, tuple):
            raise Broken(f"a call of {function} without arguments")
        self.asked.calls[function] += 1
        if function == _NESTED:
            return self.load_nested(*arguments)
        if function in _CALLS:
            return _CALLS[function](*arguments)
        if self.asked.scan:
            return Record(function, arguments)
        raise Refused(f"a call of {function}")

    def load_nested(self, data: Any) -> Any:
        if not isinstance(data, bytes | Extent):
            raise Broken(f"a file in a {type(data).__name__}")
        if self.nested:
            raise Refused("a file in a file in a file")
        return load_legacy(self.files.place(data), self.files, self.asked, nested=True)

    def make(self, cls: Any, arguments: Any) -> Any:
        """An object of a class, which is called only where we know it."""
        known = isinstance(cls, Name) and (cls in _CALLS or cls == _NESTED)
        return self.call(cls, arguments) if known else _new_object(cls, *arguments)

    def _instantiate(self, cls: Any, arguments: list) -> None:  # INST and OBJ
        # Without arguments Python makes the object and does not call the class.
        made = self.call(cls, tuple(arguments)) if arguments else self.make(cls, ())
        self.append(made)

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.append(self.call(function, arguments))

    def load_newobj(self) -> None:
        arguments, cls = self.stack.pop(), self.stack.pop()
        self.append(self.make(cls, arguments))

    def load_newobj_ex(self) -> None:
        keywords, arguments, cls = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.append(self.make(cls, (*arguments, *([keywords] if keywords else []))))

    def load_build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, Record | DType | Array):
            made.set_state(state)
        elif not (isinstance(made, dict) and isinstance(state, dict)):
            # The attributes of a dict (PyTorch's `_metadata`) are nothing that we need.
            raise Refused(f"a state for a {type(made).__name__}")

    def load_frame(self) -> None:
        self.read(8)  # frames only spare small reads; without them positions are the file's

    def byte_string(self, layout: str) -> bytes | Extent:
        """Bytes; many of them stay in the file."""
        (size,) = struct.unpack(layout, self.read(struct.calcsize(layout)))
        extent = self.extent.part(self.stream.tell(), size)
        if size < _SHORT:
            return self.read(size)
        self.stream.seek(size, io.SEEK_CUR)
        return extent

    def load_binstring(self) -> None:
        data = self.byte_string("<i")  # a str of Python 2: text or bytes, nobody knows
        self.append(data.decode(ENCODING) if isinstance(data, bytes) else data)

    dispatch.update({
        pickle.REDUCE[0]: load_reduce, pickle.NEWOBJ[0]: load_newobj, pickle.NEWOBJ_EX[0]: load_newobj_ex,
        pickle.BUILD[0]: load_build, pickle.FRAME[0]: load_frame, pickle.BINSTRING[0]: load_binstring,
        pickle.BINBYTES[0]: lambda self: self.append(self.byte_string("<I")),
        pickle.BINBYTES8[0]: lambda self: self.append(self.byte_string("<Q")),
        pickle.BYTEARRAY8[0]: lambda self: self.append(self.byte_string("<Q")),
    })  # fmt: skip


# Formats ---------------------------------------------------------------------------------------------------


def _storage_id(pid: Any) -> tuple[str, str, int, Any]:
    """dtype, key, number of elements and, in the legacy format, what part of another storage this is."""
    if not (isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage"):
        raise Refused("a persistent object that is no storage")
    kind = pid[1]
    # torch.FloatStorage, torch.cuda.HalfStorage, torch.storage.UntypedStorage and so on
    name = kind.name if isinstance(kind, Name) and kind.module.split(".")[0] == "torch" else ""
    if name.removesuffix("Storage") not in _STORAGES or not name.endswith("Storage"):
        raise Refused(f"a storage of {kind if isinstance(kind, Name) else type(kind).__name__}")
    dtype = _STORAGES[name.removesuffix("Storage")]
    return dtype, _storage_key(pid[2]), _whole(pid[4]), pid[5] if len(pid) == 6 else None


def _storage_key(key: Any) -> str:
    if not isinstance(key, str | int):
        raise Broken(f"a storage whose name is a {type(key).__name__}")
    return str(key)


def load_legacy(extent: Extent, files: Files, asked: Asked, nested: bool = False) -> Any:
    """Pickles (magic number, version, about the machine, the object, the storages' keys), then bytes."""
    storages: dict[str, Storage] = {}
    views: dict[str, tuple[Storage, Storage, int]] = {}
    position = 0

    def load(persistent: Callable | None = None) -> Any:
        nonlocal position
        rest = extent.part(position, extent.size - position)
        reader = Reader(rest, files, asked, persistent, nested)
        value = reader.load()
        position += reader.stream.tell()
        return value

    def persistent(pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module":
            return pid[1]  # a class, with its source code
        dtype, key, count, view = _storage_id(pid)
        root = storages.setdefault(key, Storage(dtype, count))
        if (root.dtype, root.count) != (dtype, count):
            raise Broken(f"storage {key[:20]} in two sizes")
        if view is None:
            return root
        view_key, offset, size = view
        part = Storage(dtype, _whole(size))
        made, _, _ = views.setdefault(_storage_key(view_key), (part, root, _whole(offset)))
        return made

    magic, version = load(), load()
    if magic != _MAGIC or version != 1001:
        raise Broken("not the magic number and version of a file of torch")
    load()  # About the machine. Whatever it says, the bytes are little-endian.
    made = load(persistent)
    keys = load()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Broken("no list of storages")
    for key in keys:
        (count,) = struct.unpack("<q", extent.part(position, 8).read())
        storage = storages.get(key)
        if storage is None or storage.data is not None or storage.count != count:
            raise Broken(f"storage {key[:20]} is not of the size that was promised")
        storage.data = extent.part(position + 8, storage.size)
        position += 8 + storage.size
    for part, root, offset in views.values():
        if root.data is not None:
            part.data = root.data.part(offset * _DTYPES[part.dtype][1], part.size)
    if any(storage.data is None for storage in storages.values()):
        raise Broken("a storage without bytes")
    return made


def load_zip(files: Files, asked: Asked) -> Any:
    """An archive of data.pkl, a file per storage and the byte order."""
    entries = _zip_entries(files.source)
    roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise Broken("no data.pkl in the archive" if not roots else "several data.pkl in the archive")
    root = roots[0]
    if f"{root}constants.pkl" in entries:
        raise Refused("a TorchScript program")
    order = _checked(*entries[f"{root}byteorder"]).read() if f"{root}byteorder" in entries else b"little"
    if order not in (b"little", b"big"):
        raise Broken(f"byte order {order[:20]!r}")
    storages: dict[str, Storage] = {}

    def persistent(pid: Any) -> Storage:
        dtype, key, count, _ = _storage_id(pid)
        if key not in storages:
            found = entries.get(f"{root}data/{key}")
            if found is None:
                raise Broken(f"storage {key[:20]!r} is not in the archive")
            storages[key] = Storage(dtype, count, _checked(*found), ">" if order == b"big" else "<")
        storage = storages[key]
        if storage.dtype != dtype or storage.count != count or storage.data.size != storage.size:
            raise Broken(f"storage {key[:20]!r} is not of the size that was promised")
        return storage

    return Reader(_checked(*entries[f"{root}data.pkl"]), files, asked, persistent).load()


def _zip_entries(extent: Extent) -> dict[str, tuple[Extent, int, str]]:
    """Name -> bytes, CRC-32 and name, of an archive that stores entries as they are. Nothing is unpacked."""
    entries: dict[str, tuple[Extent, int, str]] = {}
    with zipfile.ZipFile(extent.open()) as archive:
        for info in archive.infolist():
            name = info.filename[:60]
            if info.filename in entries:
                raise Broken(f"two entries {name!r} in the archive")
            if info.filename.startswith("/") or ".." in info.filename.split("/"):
                raise Refused(f"the entry {name!r}")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise Refused(f"the compressed entry {name!r} (torch compresses none)")
            if info.flag_bits & 1:
                raise Refused(f"the encrypted entry {name!r}")
            header = extent.part(info.header_offset, 30).read()
            if header[:4] != b"PK\x03\x04":
                raise Broken(f"the entry {name!r} is not where it should be")
            lengths = sum(struct.unpack("<HH", header[26:30]))
            data = extent.part(info.header_offset + 30 + lengths, info.file_size)
            entries[info.filename] = data, info.CRC, name
    return entries


def _checked(extent: Extent, checksum: int, name: str) -> Extent:
    """The entry, if its bytes have the checksum that the archive says."""
    found, stream = 0, extent.open()
    while piece := stream.read(1 << 20):
        found = zlib.crc32(piece, found)
    if found != checksum:
        raise Broken(f"damaged bytes in {name!r}, their checksum differs")
    return extent


def load_npy(files: Files, asked: Asked) -> Any:
    """The array of a `.npy` file; the object itself where it is an array of a single object."""
    stream = files.source.open()
    start = stream.read(8)
    layout = {b"\x93NUMPY\x01\x00": "<H", b"\x93NUMPY\x02\x00": "<I"}.get(start)
    if layout is None:
        raise Broken("no magic number and version of NumPy")
    (size,) = struct.unpack(layout, stream.read(struct.calcsize(layout)))
    header = ast.literal_eval(stream.read(min(size, 1 << 16)).decode(ENCODING))
    data = files.source.part(stream.tell(), files.source.size - stream.tell())
    order = header["descr"][:1]
    if header["descr"] in ("|O", "O"):
        return Reader(data, files, asked).load()
    dtype = DType(header["descr"][order in "<>|=" :])
    dtype.order = ">" if order == ">" else "<"
    made = Array()
    made.fill(header["shape"], dtype, "F" if header["fortran_order"] else "C", data)
    return made


def load(kind: str, files: Files, asked: Asked) -> Any:
    """The object in a file."""
    if kind == "npy":
        return load_npy(files, asked)
    start = files.source.part(0, min(files.source.size, 32)).read()
    if kind == "torch" and start[:4] == b"PK\x03\x04":
        return load_zip(files, asked)
    if kind == "torch" and _LEGACY_START in start:
        return load_legacy(files.source, files, asked)
    return Reader(files.source, files, asked).load()


# What is in a file -----------------------------------------------------------------------------------------


def arrays_below(value: Any, kind: str) -> dict[str, Any]:
    """Every array below a module or nested dicts, by the keys that torch's `state_dict()` gives.

    A module's are its parameters, its persistent buffers and its submodules', in this order. The keys of a
    dict are joined by dots in the same way.

    Raises:
      Broken: more than 100 000 arrays, modules more than 100 deep (one that contains itself), or the like.
    """
    found: dict[str, Any] = {}
    pending, visits = [("", value, 0)], 0
    while pending:
        key, value, depth = pending.pop()
        if depth > _MAX_DEPTH or visits > _MAX_VISITS or len(found) > _MAX_KEYS or len(key) > _MAX_KEY:
            raise Broken("modules without end: too many, too deep in each other or too long a name")
        if isinstance(value, Array) and value.objects is not None and len(value.objects) == 1:
            value = value.objects[0]
        if is_array(value, kind):
            if key in found:
                raise Broken(f"two tensors {key!r}")
            found[key] = value
            continue
        prefix = f"{key}." if depth else ""
        for members in reversed(_members_of(value)):
            visits += len(members)
            if visits <= _MAX_VISITS:
                pending += [
                    (prefix + str(name)[: _MAX_KEY + 1], member, depth + 1)
                    for name, member in reversed(members.items())
                    if isinstance(member, Record | dict | Array) or is_array(member, kind)
                ]
    return found


def _members_of(value: Any) -> list[dict]:
    """The dicts that hold a module's parameters, persistent buffers and submodules, or what a dict holds."""
    if not isinstance(value, Record):
        return [value] if isinstance(value, dict) else []
    if not isinstance(value.state, dict) or "_modules" not in value.state:
        return [value.items]
    names = ("_parameters", "_buffers", "_modules")
    parameters, buffers, modules = (value.state.get(name) for name in names)
    if not all(isinstance(part, dict) for part in (parameters, buffers, modules)):
        raise Broken(f"the parameters, buffers and modules of {value.cls} are no dicts")
    transient = value.state.get("_non_persistent_buffers_set")
    if isinstance(transient, set | frozenset) and transient:
        buffers = {name: buffer for name, buffer in buffers.items() if name not in transient}
    return [parameters, buffers, modules]


_SPARSE = {
    Name(module, f"{layout}_{kind}"): layout
    for layout in ("csc", "csr", "coo")
    for module in (f"scipy.sparse.{layout}", f"scipy.sparse._{layout}")
    for kind in ("matrix", "array")
}
_CHUMPY = {Name("chumpy.ch", "Ch"), Name("chumpy", "Ch"), Name("chumpy.reordering", "Select")}


def is_array(value: Any, kind: str) -> bool:
    """Whether this is an array of numbers, or what stands for one in a head model's files."""
    if isinstance(value, Array):
        return value.objects is None and value.dtype.lstrip("<>")[:1] in ("b", "i", "u", "f", "c")
    if kind == "torch":
        return False
    return isinstance(value, list) or (isinstance(value, Record) and value.cls in _SPARSE.keys() | _CHUMPY)


def describe_array(value: Any, files: Files) -> dict:
    """Where an array's bytes lie, JSON-able."""
    if isinstance(value, Record) and value.cls in _CHUMPY:
        values = value.state.get("x") if isinstance(value.state, dict) else None
        if values is None:
            raise Broken("a chumpy array has no values ('x'); save it as a NumPy array")
        if isinstance(values, Record) and values.cls in _CHUMPY:
            raise Broken("a chumpy array is computed from others; save it as a NumPy array")
        return describe_array(values, files)
    if isinstance(value, Record) and value.cls in _SPARSE:
        return describe_sparse(value, files)
    if isinstance(value, list):
        return {"numbers": _numbers(value, 4, [_MAX_NUMBERS])}
    if not is_array(value, "torch"):
        raise Broken(f"a {value.cls if isinstance(value, Record) else type(value).__name__}, not an array")
    data = value.data
    if isinstance(data, Storage):
        if data.data is None:
            raise Broken("a storage without bytes")
        data = data.data
    elif not isinstance(data, Extent):
        value.data = data = files.place(data)  # once, however many refer to it
    last = sum((n - 1) * s for n, s in zip(value.shape, value.strides, strict=True))
    span = 0 if 0 in value.shape else last + 1
    part = data.part(value.offset * value.itemsize if span else 0, span * value.itemsize)
    return {
        "file": part.which, "start": part.start, "size": part.size, "dtype": value.dtype,
        "shape": value.shape, "strides": value.strides,
    }  # fmt: skip


def _numbers(value: Any, depth: int, left: list[int]) -> Any:
    """Nested lists of numbers as they are, if there are not too many (the same lists over and over)."""
    left[0] -= 1
    if type(value) in (int, float, bool) and left[0] >= 0:
        return value if abs(value) < 1 << 63 else float(value)
    if not isinstance(value, list | tuple) or depth == 0 or left[0] < len(value):
        raise Broken("a list that is not an array of numbers")
    return [_numbers(member, depth - 1, left) for member in value]


def describe_sparse(matrix: Record, files: Files) -> dict:
    """A SciPy CSC, CSR or COO matrix: layout, shape and the arrays that it is made of."""
    layout = _SPARSE[matrix.cls]
    if not isinstance(matrix.state, dict):
        raise Broken(f"a sparse matrix ({layout}) is broken")
    state = {str(key).lstrip("_"): value for key, value in matrix.state.items()}
    if isinstance(coords := state.get("coords"), tuple) and len(coords) == 2:
        state["row"], state["col"] = coords
    parts = ("data", "row", "col") if layout == "coo" else ("data", "indices", "indptr")
    if not all(is_array(state.get(part), "torch") for part in parts):
        raise Broken(f"a sparse matrix ({layout}) is broken")
    arrays = {part: describe_array(state[part], files) for part in parts}
    numbers = [n if type(n) is int else -1 for n in _members(state.get("shape"))]
    return {"sparse": layout, "shape": numbers, **arrays}


def describe(kind: str, files: Files, scan: bool = False) -> dict:
    """What is in a file, JSON-able.

    Returns:
      "arrays": key -> where each array's bytes lie; "keys": of the dict in the file, or None; "nested": those
      of them that are dicts or modules. Of a scan "asked" and "calls": what is named and called, how often,
      and whether we have a constructor for it.
    """
    asked = Asked(scan)
    value = load(kind, files, asked)
    if scan:
        known = lambda name: name in _CALLS or name == _NESTED or name in _PLAIN_DICTS
        listed = lambda counts: [[str(name)[:200], n, known(name)] for name, n in counts.most_common(1000)]
        return {"asked": listed(asked.names), "calls": listed(asked.calls), "arrays": {}, "nested": []}
    if isinstance(value, Array) and value.objects is not None and len(value.objects) == 1:
        value = value.objects[0]
    members = value if isinstance(value, dict) else {}
    arrays = {}
    for key, array in arrays_below(value, kind).items():
        try:
            arrays[key] = describe_array(array, files)
        except Broken as error:  # whoever needs this array will hear of it
            arrays[key] = {"broken": str(error)[:1000]}
    return {
        "arrays": arrays,
        "keys": [str(key)[:_MAX_KEY] for key in members][:_MAX_KEYS] if isinstance(value, dict) else None,
        "nested": [str(key)[:_MAX_KEY] for key, v in members.items() if isinstance(v, dict | Record)][
            :_MAX_KEYS
        ],
    }


def answer(kind: str, files: Files, scan: bool = False, limit: str = "") -> bytes:
    """`describe` as JSON, or what stands against it: "refused", "broken" or "failed"."""
    try:
        return json.dumps(describe(kind, files, scan)).encode()
    except Refused as error:
        said = {"refused": str(error)[:1000]}
    except Broken as error:
        said = {"broken": str(error)[:1000]}
    except MemoryError:
        said = {"refused": limit or "more memory than there is"}
    # A broken stream can fail in as many ways as there are instructions; none of them ran its code.
    except Exception as error:
        said = {"failed": type(error).__name__}
    return json.dumps(said).encode()


def set_limits(memory: int, seconds: int, written: int) -> None:
    """Bounds what this process may take: bytes of address space, processor time, bytes of a file."""
    try:
        import resource
    except ImportError:  # not a POSIX system; the parent's limit of time is what remains
        return
    for name, value in (("RLIMIT_AS", memory), ("RLIMIT_CPU", seconds), ("RLIMIT_FSIZE", written)):
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (value, hard))
        except (OSError, ValueError):  # macOS refuses limits of address space
            continue
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    kind, _, scan = sys.argv[1].partition("+")
    memory, seconds = int(sys.argv[2]), int(sys.argv[3])
    source, out = open(0, "rb", buffering=0), open(1, "w+b", buffering=0)  # noqa: SIM115  the process is theirs
    size = source.seek(0, io.SEEK_END)
    set_limits(memory, seconds, max(1 << 26, 2 * size))
    files = Files(Extent(source, 0, 0, size), out)
    text = answer(kind, files, scan == "scan", f"more than {memory >> 20} MB of memory")
    out.seek(0, io.SEEK_END)
    out.write(text)
    out.write(struct.pack("<Q", len(text)))
    # Python would free the objects one by one, which takes a stack as deep as they are nested.
    os._exit(0)


if __name__ == "__main__":
    main()
