"""PyTorch's files as data, without torch: `torch.save` as zip and in its legacy format, StyleGAN's `.pkl`.

All three are pickles (`machine`) in which a tensor is a call of a rebuild function over a storage: in the zip
format an entry of the archive, in the legacy format bytes behind the pickle, in a `.pkl` a whole legacy file
as a byte string. Here a tensor becomes a `Tensor` that knows where its bytes lie and reads them when asked.
What a tensor claims (storage, offset, shape, stride) is checked before it is believed.

StyleGAN's persistent objects bring their source code along. It is never looked at: a network becomes a
`Record` of its state, and `tensors_below` gives its tensors the keys of its `state_dict`.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from p4d_jax.convert.extents import Broken, Extent, SeekableExtent, Stream, memory_extent, open_extent
from p4d_jax.convert.machine import (
    Budget,
    Machine,
    Name,
    Record,
    Refused,
    Vocabulary,
    one_line_errors,
    sequence,
)
from p4d_jax.convert.numpy_pickles import numpy_vocabulary

_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_LEGACY_START = b"\x8a\n" + _MAGIC.to_bytes(10, "little")
_MAX_DIRECTORY = 1 << 22  # bytes of a zip's directory; a released file has some 100 kB
_MAX_EXPANDED = 1 << 24  # elements of a tensor that repeats its storage
_MAX_KEYS = 100_000
_MAX_VISITS = 300_000  # members of dicts and modules; the same one may be found over and over
_MAX_KEY = 1000  # characters
_MAX_DEPTH = 100  # of modules in modules
_CHUNK = 1 << 20

_DTYPES = {
    "float32": np.dtype("<f4"), "float64": np.dtype("<f8"), "float16": np.dtype("<f2"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16), "complex64": np.dtype("<c8"), "complex128": np.dtype("<c16"),
    "int8": np.dtype("i1"), "int16": np.dtype("<i2"), "int32": np.dtype("<i4"), "int64": np.dtype("<i8"),
    "uint8": np.dtype("u1"), "uint16": np.dtype("<u2"), "uint32": np.dtype("<u4"),
    "uint64": np.dtype("<u8"), "bool": np.dtype("?"),
}  # fmt: skip
_STORAGES = {
    "Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16",
    "ComplexFloat": "complex64", "ComplexDouble": "complex128", "Char": "int8", "Short": "int16",
    "Int": "int32", "Long": "int64", "Byte": "uint8", "Bool": "bool", "Untyped": "uint8",
}  # fmt: skip


@dataclass(eq=False, slots=True)
class Storage:
    """The memory that tensors are views of.

    Attributes:
      dtype: of its elements, little-endian.
      count: how many elements.
      data: its bytes; of the legacy format they are found only after the pickle.
      checksum: CRC-32 of the bytes, where the file has one; checked when they are first read.
      swapped: the bytes are big-endian.
    """

    dtype: np.dtype
    count: int
    data: Extent | None = None
    checksum: int | None = None
    swapped: bool = False

    def read(self, start: int, count: int, dtype: np.dtype) -> np.ndarray:
        """(count,) elements from the byte `start` on."""
        if self.data is None:
            raise Broken("a storage without bytes")
        self._check()
        values = self.data.part(start, count * dtype.itemsize).read_array()
        if dtype.kind == "b":
            return values != 0  # any byte may be there; NumPy's bool knows only 0 and 1
        if self.swapped:
            unit = dtype.itemsize // (2 if dtype.kind == "c" else 1)
            values = values.view(f"u{unit}").byteswap()
        return values.view(dtype)

    def _check(self) -> None:
        if self.checksum is None:
            return
        found = 0
        for start in range(0, len(self.data), _CHUNK):
            found = zlib.crc32(self.data.part(start, min(_CHUNK, len(self.data) - start)).read(), found)
        if found != self.checksum:
            raise Broken("damaged bytes, their checksum differs")
        self.checksum = None


@dataclass(frozen=True, eq=False, slots=True)
class Tensor:
    """A tensor that is read on request.

    Attributes:
      storage: where its elements are.
      dtype: of them.
      offset: of the first, in elements.
      shape, stride: as torch's, in elements.
    """

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def read(self) -> np.ndarray:
        """Its values, of `shape`. Only the part of the storage that it spans is read.

        Raises:
          Broken: its bytes are missing or damaged.
        """
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        span = 1 + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        size = self.dtype.itemsize
        values = self.storage.read(self.offset * size, span, self.dtype)
        # NumPy checks once more that shape and strides stay inside the buffer.
        return np.ndarray(self.shape, self.dtype, values, strides=[s * values.itemsize for s in self.stride])


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise Broken("a size, offset or stride that is no whole number from 0 on")
    return value


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise Broken(f"a tensor over a {type(storage).__name__}")
    return _checked_tensor(storage, storage.dtype, offset, shape, stride)


def _rebuild_tensor_v3(
    storage: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> Tensor:
    """Tensors of the newer dtypes: the storage is bytes, the dtype an argument."""
    if not isinstance(storage, Storage):
        raise Broken(f"a tensor over a {type(storage).__name__}")
    if not (isinstance(dtype, Name) and dtype.module == "torch" and dtype.name in _DTYPES):
        raise Refused(f"a tensor of {dtype if isinstance(dtype, Name) else type(dtype).__name__}")
    return _checked_tensor(storage, _DTYPES[dtype.name], offset, shape, stride)


def _checked_tensor(storage: Storage, dtype: np.dtype, offset: Any, shape: Any, stride: Any) -> Tensor:
    if not (isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride) <= 32):
        raise Broken("a tensor whose shape and stride do not fit each other")
    shape, stride, offset = tuple(map(_whole, shape)), tuple(map(_whole, stride)), _whole(offset)
    available = storage.count * storage.dtype.itemsize // dtype.itemsize
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) if 0 not in shape else 0
    if last >= available and 0 not in shape:
        raise Broken(f"a tensor of shape {shape} and stride {stride} at {offset} in {available} elements")
    if math.prod(shape) > max(available, _MAX_EXPANDED):
        raise Broken(f"a tensor of shape {shape} over only {available} elements")
    return Tensor(storage, dtype, offset, shape, stride)


def _rebuild_parameter(tensor: Any, *_: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise Broken(f"a parameter of a {type(tensor).__name__}")
    return tensor


def _size(numbers: Any = ()) -> tuple[int, ...]:
    return tuple(map(_whole, sequence(numbers)))


def _device(kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str) or not isinstance(index, int | None):
        raise Broken("a device that is none")
    return kind if index is None else f"{kind}:{index}"


def _persistent_network(meta: Any) -> Record:
    """StyleGAN's persistent object: its state; the source code beside it stays what it is, a text."""
    if not isinstance(meta, dict) or not isinstance(meta.get("class_name"), str):
        raise Broken("a persistent object without the name of its class")
    return Record(Name("torch_utils.persistence", meta["class_name"]), (), meta.get("state"))


def torch_vocabulary(budget: Budget) -> Vocabulary:
    """What the pickles of PyTorch may do, on top of NumPy's."""

    def from_type(function: Any, kind: Any, arguments: Any, state: Any = None) -> Tensor:
        """`torch._tensor._rebuild_from_type_v2`: a tensor with attributes, which we do not need."""
        if not (isinstance(function, Name) and function in rebuilds and isinstance(arguments, tuple)):
            raise Refused(f"a call of {function if isinstance(function, Name) else type(function).__name__}")
        return rebuilds[function](*arguments)

    def nested_file(data: Any) -> Any:
        """`torch.storage._load_from_bytes`."""
        if not isinstance(data, bytes | Extent):
            raise Broken(f"a file in a {type(data).__name__}")
        if budget.depth:
            raise Refused("a file in a file in a file")
        budget.depth += 1
        made = _load_legacy(data if isinstance(data, Extent) else memory_extent(data), budget)
        budget.depth -= 1
        return made

    rebuilds: dict[Name, Callable[..., Any]] = {
        Name("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
        Name("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        Name("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
        Name("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        Name("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    }
    others: dict[Name, Callable[..., Any]] = {
        Name("torch._tensor", "_rebuild_from_type_v2"): from_type,
        Name("torch.storage", "_load_from_bytes"): nested_file,
        Name("torch", "Size"): _size,
        Name("torch", "device"): _device,
        Name("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent_network,
    }
    return numpy_vocabulary(budget) | Vocabulary({**rebuilds, **others})


def _storage_kind(kind: Any) -> np.dtype:
    """Of `torch.FloatStorage`, `torch.cuda.HalfStorage`, `torch.storage.UntypedStorage` and so on."""
    name = kind.name if isinstance(kind, Name) and kind.module.split(".")[0] == "torch" else ""
    kinds = [dtype for prefix, dtype in _STORAGES.items() if name == f"{prefix}Storage"]
    if not kinds:
        raise Refused(f"a storage of {kind if isinstance(kind, Name) else type(kind).__name__}")
    return _DTYPES[kinds[0]]


def _storage_id(pid: Any) -> tuple[np.dtype, str, int, Any]:
    """dtype, key, number of elements and, in the legacy format, what part of another storage this is."""
    if not (isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage"):
        raise Refused("a persistent object that is no storage")
    return _storage_kind(pid[1]), _storage_key(pid[2]), _whole(pid[4]), pid[5] if len(pid) == 6 else None


def _storage_key(key: Any) -> str:
    if not isinstance(key, str | int):
        raise Broken(f"a storage whose name is a {type(key).__name__}")
    return str(key)


# The two formats of torch.save -----------------------------------------------------------------------------


def _load_legacy(extent: Extent, budget: Budget) -> Any:
    """Pickles (magic number, version, about the machine, the object, the storages' keys), then bytes."""
    stream, vocabulary = Stream(extent), torch_vocabulary(budget)
    storages: dict[str, Storage] = {}
    views: dict[str, tuple[Storage, Storage, int]] = {}

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

    magic, version = (Machine(stream, Vocabulary({}), budget).load() for _ in range(2))
    if magic != _MAGIC or version != _LEGACY_VERSION:
        raise Broken("not the magic number and version of a file of torch")
    # About the machine. Whatever it says, the bytes are little-endian.
    Machine(stream, Vocabulary({}), budget).load()
    made = Machine(stream, vocabulary, budget, persistent).load()
    keys = Machine(stream, Vocabulary({}), budget).load()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Broken("no list of storages")
    for key in keys:
        (count,) = struct.unpack("<q", stream.read(8))
        storage = storages.get(key)
        if storage is None or storage.data is not None or storage.count != count:
            raise Broken(f"storage {key[:20]} is not of the size that was promised")
        storage.data = stream.skip(count * storage.dtype.itemsize)
    for part, root, offset in views.values():
        if root.data is not None:
            size = part.dtype.itemsize
            part.data = root.data.part(offset * size, part.count * size)
    if any(storage.data is None for storage in storages.values()):
        raise Broken("a storage without bytes")
    return made


def _load_zip(extent: Extent, budget: Budget) -> Any:
    """An archive of data.pkl, a file per storage and the byte order."""
    entries = _zip_entries(extent)
    roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise Broken("no data.pkl in the archive" if not roots else "several data.pkl in the archive")
    root = roots[0]
    if f"{root}constants.pkl" in entries:
        raise Refused("a TorchScript program")
    order = entries[f"{root}byteorder"][0].read() if f"{root}byteorder" in entries else b"little"
    if order not in (b"little", b"big"):
        raise Broken(f"byte order {order[:20]!r}")
    storages: dict[str, Storage] = {}

    def persistent(pid: Any) -> Storage:
        dtype, key, count, _ = _storage_id(pid)
        if key not in storages:
            found = entries.get(f"{root}data/{key}")
            if found is None:
                raise Broken(f"storage {key[:20]!r} is not in the archive")
            storages[key] = Storage(dtype, count, *found, swapped=order == b"big")
        storage = storages[key]
        if storage.dtype != dtype or storage.count != count or len(storage.data) != count * dtype.itemsize:
            raise Broken(f"storage {key[:20]!r} is not of the size that was promised")
        return storage

    data, checksum = entries[f"{root}data.pkl"]
    Storage(_DTYPES["uint8"], len(data), data, checksum)._check()
    return Machine(Stream(data), torch_vocabulary(budget), budget, persistent).load()


def _zip_entries(extent: Extent) -> dict[str, tuple[Extent, int]]:
    """Name -> bytes and CRC-32, of an archive that stores its entries as they are. Nothing is unpacked."""
    entries: dict[str, tuple[Extent, int]] = {}
    with zipfile.ZipFile(SeekableExtent(extent, _MAX_DIRECTORY)) as archive:
        for info in archive.infolist():
            if info.filename in entries:
                raise Broken(f"two entries {info.filename[:60]!r} in the archive")
            if info.filename.startswith("/") or ".." in info.filename.split("/"):
                raise Refused(f"the entry {info.filename[:60]!r}")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise Refused(f"the compressed entry {info.filename[:60]!r} (torch compresses none)")
            if info.flag_bits & 1:
                raise Refused(f"the encrypted entry {info.filename[:60]!r}")
            header = extent.part(info.header_offset, 30).read()
            if header[:4] != b"PK\x03\x04":
                raise Broken(f"the entry {info.filename[:60]!r} is not where it should be")
            name, extra = struct.unpack("<HH", header[26:30])
            data = extent.part(info.header_offset + 30 + name + extra, info.file_size)
            entries[info.filename] = data, info.CRC
    return entries


def read_torch(path: str | Path) -> Any:
    """The contents of a `.pth` (zip or legacy format) or a `.pkl` of StyleGAN's kind.

    Args:
      path: the file. It must stay as it is while tensors are read.

    Returns:
      Builtin containers with `Tensor` for tensors and `machine.Record` for modules and other objects.

    Raises:
      UserError: the file is missing, broken, or asks for anything but data.
    """
    extent, budget = open_extent(path), Budget()
    with one_line_errors(path, "a file of PyTorch"):
        start = extent.part(0, min(len(extent), 32)).read()
        if start[:4] == b"PK\x03\x04":
            return _load_zip(extent, budget)
        if _LEGACY_START in start:
            return _load_legacy(extent, budget)
        return Machine(Stream(extent), torch_vocabulary(budget), budget).load()


# What is in a file -----------------------------------------------------------------------------------------


def tensors_below(value: Any) -> dict[str, Tensor | np.ndarray]:
    """Every tensor below a module or nested dicts, by the keys that torch's `state_dict()` gives.

    A module's are its parameters, its persistent buffers and its submodules', in this order. The keys of a
    dict are joined by dots in the same way.

    Raises:
      Broken: more than 100 000 tensors, modules more than 100 deep (one that contains itself), or the like.
    """
    found: dict[str, Tensor | np.ndarray] = {}
    pending, visits = [("", value, 0)], 0
    while pending:
        key, value, depth = pending.pop()
        if depth > _MAX_DEPTH or visits > _MAX_VISITS or len(found) > _MAX_KEYS or len(key) > _MAX_KEY:
            raise Broken("modules without end: too many, too deep in each other or too long a name")
        if isinstance(value, Tensor | np.ndarray):
            if key in found:
                raise Broken(f"two tensors {key!r}")
            found[key] = value
        else:
            prefix = f"{key}." if depth else ""
            for members in reversed(_members(value)):
                visits += len(members)
                if visits <= _MAX_VISITS:
                    pending += [
                        (prefix + str(name)[: _MAX_KEY + 1], member, depth + 1)
                        for name, member in reversed(members.items())
                        if _leads_to_tensors(member)
                    ]
    return found


def _members(value: Any) -> list[dict]:
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


def _leads_to_tensors(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biufc"
    return isinstance(value, Tensor | Record | dict)


class LazyState(Mapping):
    """key -> array, each read when it is asked for and kept nowhere.

    Attributes:
      tensors: key -> `Tensor` or array, for shapes without reading.
    """

    def __init__(self, tensors: Mapping[str, Tensor | np.ndarray], source: Any) -> None:
        self.tensors, self._source = dict(tensors), source

    def __getitem__(self, key: str) -> np.ndarray:
        value = self.tensors[key]
        with one_line_errors(f"{self._source}: {key}", "a tensor"):
            return value.read() if isinstance(value, Tensor) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def state_dict(value: Any, source: Any = "the file") -> LazyState:
    """`tensors_below` as a mapping that reads each tensor when it is asked for.

    Args:
      value: from `read_torch`: a module, or (nested) dicts of tensors.
      source: names it in errors.
    """
    with one_line_errors(source, "a file of PyTorch"):
        return LazyState(tensors_below(value), source)
