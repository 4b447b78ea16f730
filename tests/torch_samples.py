"""Files as PyTorch and StyleGAN write them, made by torch itself, and by hand where torch would not."""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
import types
import warnings
import zipfile

import torch


class Evil:
    """Pickles as a call of anything."""

    def __init__(self, call, *arguments):
        self.reduced = (call, arguments)

    def __reduce__(self):
        return self.reduced


def zip_file(value) -> bytes:
    """`torch.save` as it is by default."""
    return _saved(value, True)


def legacy_file(value) -> bytes:
    """`torch.save` as it was before version 1.6."""
    return _saved(value, False)


def pickled(value, protocol: int = 4) -> bytes:
    """`pickle.dumps`: each tensor's storage is a legacy file in a byte string."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pickle.dumps(value, protocol=protocol)


FORMATS = {"zip": zip_file, "legacy": legacy_file, "pickle": pickled}


def _saved(value, as_zip: bool) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, stream, _use_new_zipfile_serialization=as_zip)
    return stream.getvalue()


class StoragePickler(pickle.Pickler):
    """Writes a data.pkl; `Stored` objects become persistent ids."""

    def persistent_id(self, value):
        return value.pid if isinstance(value, Stored) else None


class Stored:
    def __init__(self, *pid):
        self.pid = pid


def zip_by_hand(value, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive with `value` as its data.pkl and any other entries."""
    data, stream = io.BytesIO(), io.BytesIO()
    StoragePickler(data, protocol=2).dump(value)
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of a name that is there already
        for name, content in [("archive/data.pkl", data.getvalue()), *entries.items()]:
            archive.writestr(name, content)
    return stream.getvalue()


def tensor_call(storage, offset, shape, stride) -> Evil:
    """What a tensor is in a pickle, with whatever claims."""
    return Evil(torch._utils._rebuild_tensor_v2, storage, offset, shape, stride, False, {})


@contextlib.contextmanager
def public_code():
    """Stand-ins for the modules that a StyleGAN pickle names; they are gone afterwards.

    Yields a function that makes a persistent network of a module, and a dict class.
    """
    names = ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")
    modules = {name: types.ModuleType(name) for name in names}

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("the reader called what it read")

    class EasyDict(dict):
        pass

    homes = {_reconstruct_persistent_obj: "torch_utils.persistence", EasyDict: "dnnlib.util"}
    for thing, module in homes.items():
        thing.__module__, thing.__qualname__ = module, thing.__name__
        setattr(modules[module], thing.__name__, thing)

    class Persistent:
        def __init__(self, network):
            self.network = network

        def __reduce__(self):
            meta = {
                "type": "class",
                "version": 6,
                "module_src": "raise SystemExit('the reader ran what it read')",
                "class_name": type(self.network).__name__,
                "state": self.network.__dict__,
            }
            return (_reconstruct_persistent_obj, (meta,), None)

    sys.modules.update(modules)
    try:
        yield Persistent, EasyDict
    finally:
        for name in modules:
            del sys.modules[name]
