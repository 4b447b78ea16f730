"""Reads hostile and damaged files by every door, each in a process of its own, and prints what came of it.

    python -m benchmarks.hostile_files [FOLDER] [NAME ...]

FOLDER takes the files (a temporary one without it); names choose among them. A line a file that is not as it
should be, and at the end a table: how many files a door was shown, how many ran something, ended in a
traceback or by a signal, took more than 1 GB (or 1.5 times the file) or more than 10 s, and the largest
figures seen. A door's time and memory are those of its process and of the one that it starts, less those of a
process that only imports the same modules. Exit code 1 if any file is not as it should be.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

DOORS = ("pickle", "weights", "head", "motion", "avatar")
LIMIT_BYTES, LIMIT_SECONDS = 1 << 30, 10.0
_F8 = (
    b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8K\x00K\x01tR"
    b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)


class Evil:
    """Pickles as a call of anything."""

    def __init__(self, call: Callable, *arguments) -> None:
        self.reduced = (call, arguments)

    def __reduce__(self):
        return self.reduced


# Pickles ---------------------------------------------------------------------------------------------------


def calls() -> Iterator[tuple[str, bytes]]:
    """Pickles that call something, in every protocol."""
    payloads = {
        "system": Evil(os.system, "touch executed"),
        "eval": Evil(eval, "open('executed', 'w')"),
        "exec": [{"a": Evil(exec, "open('executed', 'w')")}],
        "import": Evil(__import__, "antigravity"),
        "open": Evil(open, "executed", "w"),
        "load": Evil(np.load, "executed.npy"),
        "popen": Evil(subprocess.Popen, ["touch", "executed"]),
    }
    for name, payload in payloads.items():
        for protocol in range(6):
            yield f"call_{name}_{protocol}", pickle.dumps(payload, protocol=protocol)
    for name, code in {
        "inst": b"(S'touch executed'\niposix\nsystem\n.",
        "obj": b"(cposix\nsystem\nS'touch executed'\no.",
        "newobj": b"cposix\nsystem\nS'touch executed'\n\x85\x81.",
        "stack_global": b"\x8c\x05posix\x8c\x06system\x93S'touch executed'\n\x85R.",
        "build_of_a_name": b"cbuiltins\nlist\n}S'__call__'\ncposix\nsystem\nsb.",
        "getattr": b"cbuiltins\ngetattr\n(cbuiltins\nlist\nS'__subclasses__'\ntR.",
        "extension": b"\x82\x01.",
        "persistent": b"cposix\nsystem\nQ.",
        "escape": b"c\x1b[31mevil\nname\n)R.",
    }.items():
        yield f"call_by_{name}", code


def text(size: int) -> bytes:
    return b"X" + struct.pack("<I", size) + b"a" * size


def bombs() -> Iterator[tuple[str, bytes]]:
    """Small pickles that would take much memory, time or stack."""
    doubled = b"2\x86\x94"
    tuples = b"K\x01\x94" + doubled * 60
    yield "hash_of_doubled_tuples", b"}" + tuples + b"K\x00s."
    yield "set_of_doubled_tuples", b"\x8f(" + tuples + b"\x90."
    yield "name_of_doubled_tuples", b"ctorch\ndevice\n" + tuples + b"\x85R."
    array = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
    objects = b"cnumpy\ndtype\n(X\x01\x00\x00\x00OK\x00K\x01tR"
    nested = b"".join((array + b"(K\x01(K\x01t" + objects + b"\x89](") for _ in range(10_000))
    yield "nested_object_arrays", nested + b"N" + b"etb" * 10_000 + b"."
    base = 2**61 - 1  # Python's hash of an int is its remainder by this
    same = b"".join(
        b"K\x07\x8a\x0a" + (base * k).to_bytes(10, "little") + b"\x86K\x00" for k in range(1, 200_001)
    )
    yield "keys_of_one_hash", b"}(" + same + b"u."
    yield "equal_texts_in_a_set", b"\x8f(" + text(10_000_000) + text(10_000_000) + b"\x90."
    levels = b"](K\x01K\x01e\x94" + b"".join(b"0](h%ch%ce\x94" % (k, k) for k in range(60))
    sparse = (
        b"cscipy.sparse._csc\ncsc_matrix\n)\x81}(S'data'\n%bS'indices'\nh\x3c"
        b"S'indptr'\nh\x3cS'shape'\nK\x09K\x09\x86ub."
    )
    yield "doubling_list_as_sparse_data", sparse % levels
    yield "doubling_list", b"}S'a'\n" + levels + b"s."
    big = text(1_000_000) + b"\x94"
    yield "list_of_one_text", b"(" + big + b"h\x00" * 5800 + b"l."
    yield (
        "encodings_of_one_text",
        big + b"0(" + b"c_codecs\nencode\n(h\x00X\x06\x00\x00\x00latin1tR" * 6000 + b"l.",
    )
    one = array + b"(K\x01(J" + struct.pack("<i", 125_000) + b"t" + _F8 + b"\x89B" + struct.pack("<I", 10**6)
    yield "list_of_one_array", b"}(" + one + bytes(10**6) + b"tb\x94" + b"".join(
        b"K" + bytes([k]) + b"h\x00" for k in range(200)
    ) + b"u."  # fmt: skip
    yield "copies_of_a_list", b"(" + b"N" * 100_000 + b"l\x94" + b"cbuiltins\nlist\nh\x00\x85R" * 5000 + b"N."
    yield "deep_lists", b"]" * 1_000_000 + b"a" * 999_999 + b"."
    yield "deep_tuples", b"N" + b"\x85" * 2_000_000 + b"."
    yield "deep_tuples_as_key", b"}N" + b"\x85" * 2_000_000 + b"K\x00s."
    yield "deep_dicts", b"}" * 300_000 + b"K\x00" + b"".join(b"K\x00s" for _ in range(1000)) + b"."
    yield "many_objects", b"(" + b"]" * 4_000_000 + b"l."
    yield "many_names", b"(" + b"ca\nb\n" * 1_000_000 + b"l."
    yield "many_marks", b"(" * 5_000_000 + b"."
    yield "memo_of_huge_index", b"Nr\xff\xff\xff\xff."
    yield "huge_number", b"\x8b" + struct.pack("<i", 5_000_000) + b"\x7f" * 5_000_000 + b"."
    yield "huge_decimal", b"I" + b"9" * 5_000_000 + b"\n."
    yield "line_without_end", b"V" + b"a" * 20_000_000
    yield "frame_that_lies", b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N."
    for code in (b"X", b"B", b"T"):
        yield f"size_that_lies_{code.decode()}", code + struct.pack("<I", (1 << 31) - 1) + b"a"
    for code in (0x8D, 0x8E, 0x96):
        yield f"size_that_lies_{code}", bytes([code]) + struct.pack("<Q", 1 << 40) + b"a"
    for shape in (b"J\xff\xff\xff\x7f", b"J\xff\xff\xff\xff", b"K\x01" * 40):
        yield (
            f"shape_that_lies_{len(shape)}_{shape[-1]}",
            array + b"(K\x01(" + shape + b"t" + _F8 + b"\x89C\x00tb.",
        )
    yield "bytes_of_a_number", b"cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R."
    yield "dtype_by_name", b"cnumpy\ndtype\nS'f4,O,V8'\n\x85R."


def torch_files() -> Iterator[tuple[str, bytes]]:
    """Archives of torch that lie, by hand: torch is not needed."""
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nK\x03tQ%btR."
    )
    honest = tensor % b"K\x00K\x03\x85K\x01\x85\x89}"
    floats = {"archive/data/0": np.arange(3, dtype="<f4").tobytes()}
    yield "zip_honest", archive({"archive/data.pkl": honest} | floats)
    for name, claim in {
        "size": b"K\x00K\x09\x85K\x01\x85\x89}",
        "offset": b"K\x09K\x01\x85K\x01\x85\x89}",
        "negative": b"J\xff\xff\xff\xffK\x01\x85K\x01\x85\x89}",
        "expanded": b"K\x00J\xff\xff\xff\x7f\x85K\x00\x85\x89}",
        "stride": b"K\x00K\x03\x85J\xff\xff\xff\x7f\x85\x89}",
    }.items():
        yield f"zip_tensor_{name}", archive({"archive/data.pkl": tensor % claim} | floats)
    yield (
        "zip_bomb",
        archive({"archive/data.pkl": honest, "archive/data/0": bytes(10**8)}, zipfile.ZIP_DEFLATED),
    )
    yield "zip_paths", archive({"archive/data.pkl": honest, "../../evil": b""} | floats)
    yield "zip_without_pickle", archive(floats)
    yield "zip_two_pickles", archive({"a/data.pkl": honest, "b/data.pkl": honest})
    yield "zip_script", archive({"archive/data.pkl": honest, "archive/constants.pkl": b"N."} | floats)
    yield (
        "zip_many_entries",
        archive({"archive/data.pkl": honest} | {f"archive/{k}": b"" for k in range(60_000)}),
    )
    whole = archive({"archive/data.pkl": honest} | floats)
    for share in (0.2, 0.5, 0.9, 0.99):
        yield f"zip_cut_{share}", whole[: int(share * len(whole))]
    for at in range(0, len(whole), len(whole) // 12):
        yield f"zip_flip_{at}", whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :]


def archive(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return stream.getvalue()


# Arrays ----------------------------------------------------------------------------------------------------


def npz_files(door: str) -> Iterator[tuple[str, bytes]]:
    """A file of a door, damaged or with an array that is not what it should be."""
    whole = honest_npz(door)
    with np.load(io.BytesIO(whole)) as stored:
        arrays = {name: stored[name] for name in stored.files}
    largest = max(arrays, key=lambda name: arrays[name].nbytes)
    yield "empty", b""
    yield "no_archive", b"hello" * 100
    for share in (0.1, 0.5, 0.9, 0.999):
        yield f"cut_{share}", whole[: int(share * len(whole))]
    for at in range(50, len(whole), len(whole) // 6):
        yield f"flip_{at}", whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :]
    value = arrays[largest]
    for name, wrong in {
        "nan": np.full_like(value, np.nan if value.dtype.kind == "f" else 0),
        "infinite": np.full(value.shape, np.inf, np.float32),
        "misshapen": value.reshape(-1)[:-1],
        "scalar": value.reshape(-1)[0],
        "text": np.array("text"),
        "pickled": np.array([Evil(os.system, "touch executed")], object),
        "bomb": np.zeros(50_000_000),
        "fields": np.zeros(3, "f4,f4"),
        "missing": None,
    }.items():
        changed = {**arrays, largest: wrong}
        yield name, packed({key: one for key, one in changed.items() if one is not None})
    yield "extra", packed(arrays | {"\x1b[31mextra": np.zeros(3)})
    yield "extra_bomb", packed(arrays | {"extra": np.zeros(200_000_000, np.uint8)})
    texts = [name for name in arrays if arrays[name].dtype.kind == "U" and arrays[name].shape == ()]
    for name in texts[:3]:
        for kind, wrong in {
            "nested": "[" * 100_000,
            "number": "1",
            "other": '{"a": 1}',
            "array": None,
        }.items():
            yield f"{name}_{kind}", packed(arrays | {name: np.array(wrong if wrong is not None else [1, 2])})


def packed(arrays: dict) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def honest_npz(door: str) -> bytes:
    """An unharmed file of the door."""
    from p4d_jax import assets

    names = {"weights": "reenact_demo.npz", "head": "openhead.npz", "motion": "motion_talk.npz"}
    if door in names:
        return assets.embedded(names[door]).read_bytes()
    from p4d_jax.avatar.file import FORMAT

    tree = {"format": FORMAT, "avatar": {"type": "Camera", "fields": {"cam2world": {"array": 0}}}}
    return packed({"avatar": np.array(json.dumps(tree)), "0": np.eye(4)})


def hostile_files() -> Iterator[tuple[str, str, bytes]]:
    """(door, name, bytes) of every file."""
    for name, data in (*calls(), *bombs(), *torch_files()):
        yield "pickle", name, data
    for door in DOORS[1:]:
        for name, data in npz_files(door):
            yield door, name, data


# Doors -----------------------------------------------------------------------------------------------------

_OPEN = """
import resource, sys, time
from p4d_jax.errors import UserError
{imports}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
try:
    {call}
    said = "read"
except UserError as error:
    said = str(error)
    assert "\\n" not in said, "two lines"
seconds = time.perf_counter() - started
mine = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
theirs = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(seconds, 1024 * max(mine, theirs), said.encode("unicode_escape").decode())
"""
_CALLS = {
    "pickle": (
        "from p4d_jax.convert.pickles import read_torch",
        "found = read_torch(sys.argv[1]); [found[key] for key in found]",
    ),
    "weights": (
        "from p4d_jax.reconstructor.weights import load_reconstructor",
        "load_reconstructor(sys.argv[1])",
    ),
    "head": ("from p4d_jax.head.loading import load_head_model", "load_head_model(sys.argv[1])"),
    "motion": ("from p4d_jax.data.motion import load_motion", "load_motion(sys.argv[1])"),
    "avatar": ("from p4d_jax.avatar.file import load_avatar", "load_avatar(sys.argv[1])"),
}


def open_file(door: str, path: Path) -> dict:
    """What came of a file: executed, traceback, signal, seconds, bytes, said."""
    imports, call = _CALLS[door]
    code = _OPEN.format(imports=imports, call=call)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "JAX_PLATFORMS": "cpu"}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=path.parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    result = {
        "door": door, "name": path.stem, "size": path.stat().st_size,
        "executed": (path.parent / "executed").exists(), "signal": done.returncode < 0,
        "traceback": done.returncode > 0, "seconds": time.perf_counter() - started, "bytes": 0,
        "said": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "",
    }  # fmt: skip
    if done.returncode == 0:
        seconds, size, said = done.stdout.splitlines()[-1].split(" ", 2)
        result |= {"seconds": float(seconds), "bytes": int(size), "said": said}
    return result


def faults(result: dict) -> list[str]:
    """What of a result is not as it should be."""
    found = [kind for kind in ("executed", "traceback", "signal") if result[kind]]
    if result["bytes"] > max(LIMIT_BYTES, 1.5 * result["size"]):
        found.append("memory")
    return found + (["time"] if result["seconds"] > LIMIT_SECONDS else [])


def main() -> int:
    chosen = set(sys.argv[2:])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        results = []
        for door, name, data in hostile_files():
            if chosen and name not in chosen:
                continue
            path = folder / f"{name.encode('unicode_escape').decode().replace('/', '_')}.bin"
            path = path.with_suffix(".npz") if door != "pickle" else path
            path.write_bytes(data)
            results.append(open_file(door, path))
            path.unlink()
            if (wrong := faults(results[-1])) or chosen:
                print(f"{door} {name}: {', '.join(wrong)}: {results[-1]['said']}", flush=True)
    print("door files executed tracebacks signals memory time largest_MB longest_s")
    for door in DOORS:
        mine = [result for result in results if result["door"] == door]
        if not mine:
            continue
        counts = [
            sum(kind in faults(r) for r in mine)
            for kind in ("executed", "traceback", "signal", "memory", "time")
        ]
        print(
            door,
            len(mine),
            *counts,
            max(r["bytes"] for r in mine) >> 20,
            f"{max(r['seconds'] for r in mine):.1f}",
        )
    return int(any(map(faults, results)))


if __name__ == "__main__":
    sys.exit(main())
