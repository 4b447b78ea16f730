"""Reading pickles and PyTorch's files: everything that torch writes, and nothing that an attacker wants."""

from __future__ import annotations

import collections
import functools
import io
import json
import os
import pickle
import struct
import tempfile
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch_samples import (
    FORMATS,
    Evil,
    StoragePickler,
    Stored,
    legacy_file,
    pickled,
    public_code,
    tensor_call,
    zip_by_hand,
    zip_file,
)

from p4d_jax.convert import pickles, untrusted
from p4d_jax.convert.pickles import read_torch, scan
from p4d_jax.convert.untrusted import (
    Array,
    Asked,
    Broken,
    DType,
    Extent,
    Files,
    Name,
    Reader,
    Record,
    Refused,
)
from p4d_jax.errors import UserError

CALLS = {
    "system": Evil(os.system, "touch executed"),
    "eval": Evil(eval, "open('executed', 'w')"),
    "getattr": Evil(getattr, Evil(getattr, "text", "join"), "__self__"),
    "nested": [{"a": Evil(list, [Evil(exec, "open('executed', 'w')")])}],
    "partial": Evil(Evil, functools.partial(os.system, "touch executed")),
    "import": Evil(__import__, "antigravity"),
    "load": Evil(np.load, "executed.npy"),
    "torch": Evil(torch.load, "executed.pth"),
    "hub": Evil(torch.hub.load, "somebody/something", "model"),
    "open": Evil(open, "executed", "w"),
}


def read_here(path, kind: str = "torch") -> pickles.Contents:
    """What `pickles.read_torch` and its siblings give, without a process and its limits."""
    source, side = open(path, "rb", buffering=0), tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
    files = Files(Extent(source, 0, 0, os.path.getsize(path)), side)
    return pickles.contents(path, kind, json.loads(untrusted.answer(kind, files)), (source, side))


read_pickle, read_npy = functools.partial(read_here, kind="pickle"), functools.partial(read_here, kind="npy")


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes bytes to a file and reads it; whatever ran would leave a file 'executed' there."""
    monkeypatch.chdir(tmp_path)

    def read(data: bytes, reader=read_here):
        path = tmp_path / "file.bin"
        path.write_bytes(data)
        try:
            return reader(path)
        finally:
            assert not (tmp_path / "executed").exists()

    return read


def refuse(written, data: bytes, said: str = "", reader=read_here) -> str:
    """One line of error, which says so."""
    with pytest.raises(UserError, match=said or None) as caught:
        found = written(data, reader)
        for key in found:
            assert found[key] is not None
    message = str(caught.value)
    assert "\n" not in message and message.isprintable() and "file.bin" in message
    return message


def in_memory(data: bytes) -> Files:
    return Files(Extent(io.BytesIO(data), 0, 0, len(data)), io.BytesIO())


def run(data: bytes):
    """The object of a bare pickle; long byte strings are read."""
    files = in_memory(data)
    return Reader(files.source, files, Asked()).load()


def objects(data: bytes, kind: str = "torch"):
    """The object in a file, as the process that reads it has it."""
    return untrusted.load(kind, in_memory(data), Asked())


# What torch writes -----------------------------------------------------------------------------------------


def samples() -> dict[str, torch.Tensor]:
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5) / 7
    made = {
        "plain": base, "transposed": base.transpose(0, 2), "slice": base[1, 1:3, ::2], "row": base[2],
        "expanded": torch.ones(1).expand(4, 1), "scalar": torch.tensor(3.5), "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base), "complex": torch.complex(base, -base),
        "bool": torch.tensor([True, False, True]), "uint16": torch.arange(3).to(torch.uint16),
        "uint64": torch.arange(3).to(torch.uint64),
    }  # fmt: skip
    for dtype in ("float64", "float16", "bfloat16", "int8", "int16", "int32", "int64", "uint8"):
        made[dtype] = base.to(getattr(torch, dtype))
    return made


@pytest.mark.parametrize("kind", FORMATS)
def test_tensors_of_every_dtype_and_layout_are_exact(written, kind):
    expected = samples()
    nested = {"a": expected, "b": collections.OrderedDict(expected), "epoch": 3, "name": "x"}
    found = written(FORMATS[kind](nested))
    assert list(found) == [f"{part}.{key}" for part in "ab" for key in expected]
    for key, tensor in expected.items():
        value = found[f"a.{key}"]
        if tensor.dtype == torch.bfloat16:
            value, tensor = value.astype(np.float32), tensor.float()
        reference = tensor.detach().numpy()
        assert value.dtype == reference.dtype and value.shape == reference.shape
        np.testing.assert_array_equal(value, reference)


def test_views_share_their_storage(written):
    base = torch.arange(1000.0)
    found = written(zip_file({"whole": base, "part": base[10:20], "again": base}))
    whole, part = found.tensors["whole"], found.tensors["part"]
    assert whole.file is part.file and part.start == whole.start + 40 and part.size == 40
    np.testing.assert_array_equal(found["part"], np.arange(10, 20))


def test_old_views_of_storages(written):
    """Before PyTorch 0.4 a storage could be a part of another."""
    data = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(value, data, protocol=2)

    pid = ("storage", torch.FloatStorage, "7", "cpu", 10, ("8", 4, 3))
    StoragePickler(data, protocol=2).dump({"a": tensor_call(Stored(*pid), 1, (2,), (1,))})
    pickle.dump(["7"], data, protocol=2)
    data.write(struct.pack("<q", 10) + np.arange(10, dtype="<f4").tobytes())
    np.testing.assert_array_equal(written(data.getvalue())["a"], [5, 6])
    lying = data.getvalue().replace(b"K\x04K\x03\x87", b"K\x09K\x03\x87")
    assert lying != data.getvalue()
    refuse(written, lying, "bytes")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, bias=False)
        self.norm = torch.nn.Sequential(torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        self.same = self.conv
        self.register_buffer("kept", torch.arange(3))
        self.register_buffer("transient", torch.zeros(9), persistent=False)
        self.register_buffer("none", None)
        self.register_parameter("absent", None)
        self.absent_module = None
        self.mask = np.arange(4)
        self.act = torch.nn.functional.relu
        self.partial = functools.partial(torch.nn.LayerNorm, eps=1e-6)
        self.device, self.size, self.kind = torch.device("cpu"), torch.Size([1, 2]), torch.float32


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_stylegan_pickle_has_the_keys_of_its_state_dict(written, protocol):
    net = Net()
    with public_code() as (persistent, easy_dict):
        file = {
            "training_set_kwargs": easy_dict(path="x", options=easy_dict(n=3)),
            "G": persistent(Net()),
            "G_ema": persistent(net),
            "augment_pipe": None,
        }
        data = pickled(file, protocol)
    value = objects(data)
    assert value["training_set_kwargs"] == {"path": "x", "options": {"n": 3}}
    assert value["G_ema"].cls.name == "Net"
    assert value["G_ema"].state["mask"].shape == (4,)
    assert value["G_ema"].state["act"] == Name("torch.nn.functional", "relu")
    assert value["G_ema"].state["size"] == (1, 2)
    found = written(data)
    assert found.nested == {"training_set_kwargs", "G", "G_ema"} and found.names == tuple(file)
    found = {k.removeprefix("G_ema."): found[k] for k in found if k.startswith("G_ema.")}
    expected = net.state_dict()
    assert list(found) == list(expected)
    for key in expected:
        np.testing.assert_array_equal(found[key], expected[key].numpy())


@pytest.mark.parametrize("kind", FORMATS)
def test_whole_modules(written, kind):
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    found = written(FORMATS[kind](net))
    assert list(found) == list(net.state_dict()) and len(found) == len(list(iter(found))) == 7


def test_a_tensor_with_attributes_and_a_parameter_with_state(written):
    tensor, parameter = torch.ones(2), torch.nn.Parameter(torch.zeros(3))
    tensor.note, parameter.note = "a", "b"
    found = written(pickled({"t": tensor, "p": parameter}))
    np.testing.assert_array_equal(found["t"], np.ones(2))
    np.testing.assert_array_equal(found["p"], np.zeros(3))


def test_big_endian_archives(written):
    parameter = Stored("storage", torch.FloatStorage, "0", "cpu", 3)
    pair = Stored("storage", torch.ComplexFloatStorage, "1", "cpu", 1)
    value = {"a": tensor_call(parameter, 0, (3,), (1,)), "b": tensor_call(pair, 0, (1,), (1,))}
    numbers, pairs = np.array([1, 2.5, -3], ">f4"), np.array([1 + 2j], ">c8")
    entries = {"archive/data/0": numbers.tobytes(), "archive/data/1": pairs.tobytes()}
    found = written(zip_by_hand(value, {**entries, "archive/byteorder": b"big"}))
    np.testing.assert_array_equal(found["a"], [1, 2.5, -3])
    np.testing.assert_array_equal(found["b"], [1 + 2j])
    refuse(written, zip_by_hand(value, {**entries, "archive/byteorder": b"odd"}), "byte order")


@pytest.mark.parametrize("kind", FORMATS)
def test_tensors_stay_in_the_file(written, kind):
    data = FORMATS[kind]({"a": torch.zeros(5_000_000), "b": torch.zeros(5_000_000)})
    tracemalloc.start()
    found = written(data, read_torch)
    peak = tracemalloc.get_traced_memory()[1]
    assert peak < 1_000_000
    assert found["a"].nbytes == 20_000_000
    assert tracemalloc.get_traced_memory()[1] < 23_000_000
    tracemalloc.stop()


# What Python writes ----------------------------------------------------------------------------------------

VALUES = [
    None, True, False, 0, 1, -1, 255, 256, 65536, -(2**31), 2**31, 2**63, -(2**200), 0.0, -1.5e300, 1j,
    "", "text", "é\u20ac\U0001f600", "line\nbreak\\", "x" * 300, b"", b"bytes", b"y" * 300, bytearray(b"z"),
    (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], [1, [2, [3]]], {}, {"a": {"b": (1, None)}, 3: 4.5},
    {(1, "k"): 0}, set(), {1, "a"}, frozenset({2}), collections.OrderedDict(a=1), [None] * 3,
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_of_every_protocol(protocol):
    shared = [1, 2]
    value = [*VALUES, shared, shared]
    found = run(pickle.dumps(value, protocol=protocol))
    found = [one.read() if isinstance(one, Extent) else one for one in found]
    assert found[:-2] == VALUES and found[-1] is found[-2]


def test_other_containers_become_plain_ones():
    value = [collections.defaultdict(list, a=[1]), collections.deque([1, 2], 3), collections.Counter("aab")]
    assert run(pickle.dumps(value[:2], protocol=4)) == [{"a": [1]}, [1, 2]]
    record = run(pickle.dumps(Point(1, 2), protocol=4))
    assert (record.cls.name, record.arguments) == ("Point", (1, 2))


class Point(collections.namedtuple("Point", "x y")):
    pass


class Slots:
    __slots__ = ("a", "b")


class Stack(list):
    pass


class Table(dict):
    pass


@pytest.mark.parametrize("protocol", range(6))
def test_objects_become_records(protocol):
    stack, table, plain = Stack([1, 2]), Table(a=1), Evil(print)
    plain.__dict__["x"] = 1
    stack.name = "s"
    found = [run(pickle.dumps(value, protocol=protocol)) for value in (stack, table)]
    assert all(isinstance(record, Record) for record in found)
    assert found[0].elements == [1, 2] and found[0].state == {"name": "s"}
    assert found[1].items == {"a": 1} and str(found[1].cls).endswith("Table")
    if protocol >= 2:
        slots = Slots()
        slots.a = 5
        assert run(pickle.dumps(slots, protocol=protocol)).state == {"a": 5}


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"S'it\\'s'\n.", "it's"),
        (b'S"a\\x41"\n.', "aA"),
        (b"U\x02ab.", "ab"),
        (b"T\x02\x00\x00\x00\xe9b.", "éb"),
        (b"I01\n.", True),
        (b"L12L\n.", 12),
        (b"(I1\nI2\nl.", [1, 2]),
        (b"(S'a'\nI2\nd.", {"a": 2}),
        (b"]I1\na.", [1]),
        (b"K\x012\x86.", (1, 1)),
        (b"K\x01K\x020.", 1),
        (b"K\x01(K\x021.", 1),
        (b"K\x01(0.", 1),
        (b"K\x01r\x00\x01\x00\x000j\x00\x01\x00\x00.", 1),
        (b"K\x01p5\n0g5\n.", 1),
        (b"\x8b\x01\x00\x00\x00\x07.", 7),
        (b"\x8d\x01\x00\x00\x00\x00\x00\x00\x00a.", "a"),
        (b"\x8e\x01\x00\x00\x00\x00\x00\x00\x00a.", b"a"),
        (b"\x96\x01\x00\x00\x00\x00\x00\x00\x00a.", b"a"),
        (b"c__builtin__\nset\n(](K\x01etR.", {1}),
    ],
)
def test_rare_instructions(data, value):
    assert run(data) == value


def test_instances_of_unknown_classes_are_records_and_never_calls():
    for data in (b"(iposix\nsystem\n.", b"(cposix\nsystem\no.", b"cposix\nsystem\n)\x81."):
        record = run(data)
        assert isinstance(record, Record) and record.cls == Name("posix", "system")
    assert run(b"cfoo\nBar\n(K\x01t}\x92.").arguments == (1,)
    assert run(b"cfoo\nBar\n(K\x01t}X\x01\x00\x00\x00kK\x02s\x92.").arguments == (1, {"k": 2})
    assert run(b"(ccollections\nOrderedDict\no.") == {}
    assert run(b"ccollections\nOrderedDict\n)\x81.") == {}
    assert run(b"ccopyreg\n_reconstructor\n(cfoo\nBar\ncbuiltins\nint\nK\x05tR.").arguments == (5,)
    for data in (b"(S'ls'\niposix\nsystem\n.", b"(cposix\nsystem\nS'ls'\no."):
        with pytest.raises(Refused, match=r"posix\.system"):
            run(data)


# What nobody should write ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*FORMATS, "inside a storage", "behind a persistent id"])
@pytest.mark.parametrize("call", CALLS)
def test_calls_are_refused_by_name_and_never_made(written, kind, call):
    if kind == "inside a storage":
        inner = legacy_file(CALLS[call])
        data = pickled(Evil(torch.storage._load_from_bytes, inner))
    elif kind == "behind a persistent id":
        data = zip_by_hand({"a": Stored("storage", CALLS[call], "0", "cpu", 1)}, {})
    else:
        data = FORMATS[kind](CALLS[call])
    assert "refused" in refuse(written, data)


@pytest.mark.parametrize("protocol", range(6))
def test_the_refusal_names_what_was_called(written, protocol):
    refuse(written, pickle.dumps(CALLS["system"], protocol=protocol), "a call of (posix|nt).system")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"K\x01K\x02R.", "a call of a int"),
        (b"\x82\x01.", "broken"),
        (b"\x97.", "broken"),
        (b"K\x01}b.", "a state for a int"),
        (b"K\x01K\x02\x81.", "TypeError"),
        (b"K\x01K\x02a.", "AttributeError"),
        (b"K\x01(K\x02K\x03u.", "TypeError"),
        (b"}(K\x02u.", "IndexError"),
        (b"K\x01(K\x02\x90.", "AttributeError"),
        (b"](](l\x90.", "AttributeError"),
        (b"}]K\x01s.", "TypeError"),
        (b"(]K\x01d.", "TypeError"),
        (b"\x8f(}\x90.", "TypeError"),
        (b"(]\x91.", "TypeError"),
        (b"Pname\n.", "persistent"),
        (b"K\x01Q.", "persistent"),
        (b"\x8b\xff\xff\xff\xff.", "broken"),
        (b"\x8d\x00\x00\x00\x20\x00\x00\x00\x00.", "broken"),
        (b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00rottR.", "broken"),
        (b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.", "encoding"),
        (b"cbuiltins\nbytes\n(K\x09tR.", "bytes of a int"),
        (b"cnumpy\ndtype\n(X\x02\x00\x00\x00V8tR.", "dtype"),
        (b"cnumpy\ndtype\n(X\x05\x00\x00\x00f4,f4tR.", "dtype"),
        (b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x01\x00\x00\x00OtRC\x01atR.", "objects"),
        (b"ctorch\nSize\n(](K\x01J\xff\xff\xff\xffetR.", "broken"),
        (b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nN)tR.", "os.system"),
        (b"ctorch._tensor\n_rebuild_from_type_v2\n(K\x01N)tR.", "int"),
        (b"ctorch.storage\n_load_from_bytes\n(K\x01tR.", "broken"),
        (b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n(K\x01tR.", "persistent object"),
        (b"ctorch._utils\n_rebuild_parameter\n(K\x01tR.", "parameter"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x01))tR.", "a tensor over a int"),
        (b"ctorch._utils\n_rebuild_tensor_v3\n(K\x01K\x01))NNNtR.", "a tensor over a int"),
        (b"cos\nsystem\nK\x01R.", "os.system"),
        (b"ccollections\nOrderedDict\nK\x01R.", "without arguments"),
        (b"K\x01K\x01\x93.", "broken"),
        (b"S'open\n.", "broken"),
        (b"cbuiltins\nlist\n(X\x02\x00\x00\x00abtR.", "members of a str"),
        (b"cbuiltins\ntuple\n(C\x01atR.", "members of a bytes"),
        (b"ctorch\nSize\n(K\x01tR.", "members of a int"),
        (b"ctorch\ndevice\n(K\x01tR.", "a device"),
        (b"(K\x01d.", "IndexError"),
        (b"\x80\x09K\x01.", "ValueError"),
        (b"K\x01\x87.", "broken"),
        (b"K\x01K\x01.", "ends in the middle"),
        (b"h\x05.", "broken"),
        (b"", "broken"),
        (b"T\xff\xff\xff\xff.", "broken"),
        (b"V" + b"a" * 50_000, "broken"),
        (b"c" + b"a" * 50_000 + b"\nb\n)R.", "refused"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "asked"),
        (b"c\x1b[31mevil\nname\n)R.", "evil"),
    ],
)
def test_broken_and_hostile_pickles_are_one_clear_line(written, data, said):
    refuse(written, data, said)


def bomb(levels: int, step: bytes, start: bytes) -> bytes:
    """start, then each level twice the one before, by reference."""
    return start + b"\x94" + step * levels


DOUBLED = b"2\x86\x94"  # dup, tuple of two


def test_bombs_of_references_take_no_time(written):
    tuples = bomb(60, DOUBLED, b"K\x01")
    assert not written(tuples + b".", read_pickle)
    lists = b"]K\x01a\x940"
    for level in range(40):
        lists += b"](h" + bytes([level]) + b"h" + bytes([level]) + b"e\x940"
    lists += b"h\x28"
    with pytest.raises(UserError, match="a list that is not an array"):
        written(b"}X\x01\x00\x00\x00a" + lists + b"s.", read_pickle).array("a")
    member = b"X\x01\x00\x00\x00%sh%c"
    level = lambda k: b"}(" + member % (b"a", k) + member % (b"b", k) + b"u\x94"
    modules = b"}\x94" + b"".join(map(level, range(60)))
    refuse(written, modules + b"0" * 61 + b"h\x3c.", "modules without end")
    for use in (
        b"cnumpy\ndtype\nh\x3c\x85R.",  # where a text is made of it
        b"ctorch\ndevice\nh\x3c\x85R.",
        b"ctorch._tensor\n_rebuild_from_type_v2\n(h\x3cN)tR.",
        b"(h\x3cK\x01o.",
        b"(h\x3co.",
        b"h\x3c)\x81.",
        b"h\x3c)R.",
    ):
        refuse(written, tuples + use, "refused|broken")
    wide = {str(k): [{"a": [k] * 10_000} for k in range(3)] for k in range(3)}
    assert len(written(pickle.dumps(wide))) == 0
    shared = {k: {} for k in range(10_000)}
    refuse(written, pickle.dumps(dict.fromkeys(map(str, range(1000)), shared)), "modules without end")


def test_what_takes_too_much_ends(tmp_path, monkeypatch):
    """The limits are the process'; here with less than usual."""
    monkeypatch.setattr(pickles, "_SECONDS", 1)
    path = tmp_path / "file.bin"
    path.write_bytes(bomb(60, DOUBLED, b"K\x01") + b"}h\x3cK\x00s.")  # the hash of 2^60 members
    with pytest.raises(UserError, match=r"file\.bin: refused, it takes more than 2 s of processor time"):
        read_torch(path)
    copies = b"(" + b"N" * 100_000 + b"l\x94" + b"cbuiltins\nlist\nh\x00\x85R" * 5000 + b"N."
    path.write_bytes(copies)
    monkeypatch.setattr(pickles, "_SECONDS", 5)
    with pytest.raises(UserError, match="refused, it asks for more than 512 MB of memory"):
        read_torch(path)
    monkeypatch.setattr(pickles, "_PATIENCE", 0.01)
    with pytest.raises(UserError, match="refused, it takes more than 0 s to read"):
        read_torch(path)


def test_the_process_that_reads_may_crash(tmp_path):
    """Tuples so deep that their hash ends the stack."""
    path = tmp_path / "deep.bin"
    path.write_bytes(b"}K\x01" + b"\x85" * 2_000_000 + b"K\x00s.")
    with pytest.raises(UserError, match=r"deep\.bin: (refused|truncated or broken)"):
        read_torch(path)


def test_a_module_in_itself_and_deep_nesting(written):
    loop = {}
    loop["self"] = loop
    refuse(written, pickle.dumps(loop), "modules without end")
    deep = b"}X\x01\x00\x00\x00d" + b"]" * 5_000 + b"a" * 4_999 + b"s."
    with pytest.raises(UserError, match="a list that is not an array"):
        written(deep, read_pickle).array("d")
    found = written(pickle.dumps({"a": [[1, 2], [3, 4]], "b": [[1, 2], [3]], "c": ["x"]}), read_pickle)
    assert found.array("a").shape == (2, 2)
    for key in "bc":
        with pytest.raises(UserError, match=rf"file\.bin: {key}: truncated or broken"):
            found.array(key)


def test_names_that_collide_or_never_end(written):
    tensor = torch.ones(1)
    refuse(written, zip_file({"a": {"b": tensor}, "a.b": tensor}), "two tensors")
    refuse(written, zip_file({"a" * 2000: tensor}), "too long a name")
    record = Record(Name("torch.nn", "Module"), (), {"_modules": [], "_parameters": {}, "_buffers": {}})
    with pytest.raises(Broken, match="no dicts"):
        untrusted.arrays_below(record, "torch")


LIES = {
    "size": (0, (11,), (1,)), "offset": (5, (6,), (1,)), "stride": (0, (2, 6), (6, 1)),
    "negative offset": (-1, (2,), (1,)), "negative size": (0, (-2,), (1,)),
    "negative stride": (4, (2,), (-1,)),
    "huge": (2**61, (2**61,), (2**61,)), "overflow": (0, (2**62,), (1,)), "expanded": (0, (2**40,), (0,)),
    "ranks": (0, (2, 2), (1,)), "many axes": (0, (1,) * 40, (1,) * 40), "text": ("0", (2,), (1,)),
    "bool": (True, (2,), (1,)), "list": (0, [2], [1]), "shape of texts": (0, ("2",), (1,)),
}  # fmt: skip


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("lie", LIES)
def test_tensors_that_lie(written, kind, lie):
    storage = torch.storage.TypedStorage(
        wrap_storage=torch.arange(10.0).untyped_storage(), dtype=torch.float32, _internal=True
    )
    value = {"a": tensor_call(storage, *LIES[lie])}
    refuse(written, FORMATS[kind](value), "broken")


def test_the_largest_honest_view_is_read(written):
    base = torch.arange(10.0)
    value = {"a": torch.as_strided(base, (4, 4), (2, 1), 0), "b": torch.as_strided(base, (3, 0), (9, 9), 9)}
    found = written(zip_file(value))
    np.testing.assert_array_equal(found["a"], value["a"].numpy())
    assert found["b"].shape == (3, 0)


@pytest.mark.parametrize(
    ("pid", "said"),
    [
        (("storage", torch.FloatStorage, "0", "cpu", 4), "size"),
        (("storage", torch.FloatStorage, "0", "cpu", 2), "size"),
        (("storage", torch.FloatStorage, "0", "cpu", -1), "whole number"),
        (("storage", torch.FloatStorage, "0", "cpu", 2**61), "size"),
        (("storage", torch.DoubleStorage, "0", "cpu", 3), "size"),
        (("storage", torch.FloatStorage, "../../etc/passwd", "cpu", 3), "not in the archive"),
        (("storage", torch.Tensor, "0", "cpu", 3), "torch.Tensor"),
        (("storage", os.system, "0", "cpu", 3), "system"),
        (("module", Net, "file", "source"), "no storage"),
        (("storage",), "no storage"),
        (("storage", torch.FloatStorage, ("0",), "cpu", 3), "whose name is a tuple"),
        (7, "no storage"),
    ],
)
def test_storages_that_lie(written, pid, said):
    stored = Stored(*pid) if isinstance(pid, tuple) else Stored()
    if not isinstance(pid, tuple):
        stored.pid = pid
    value = {"a": tensor_call(stored, 0, (3,), (1,))}
    refuse(written, zip_by_hand(value, {"archive/data/0": bytes(12)}), said)


def test_one_storage_in_two_sizes(written):
    first, second = (Stored("storage", torch.FloatStorage, "0", "cpu", n) for n in (3, 4))
    refuse(written, zip_by_hand([first, second], {"archive/data/0": bytes(12)}), "size")


def archive(**options) -> bytes:
    return zip_by_hand({"a": 1}, **options)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (archive(entries={"archive/data/0": bytes(9), "../evil": b""}), "evil"),
        (archive(entries={"/etc/passwd": b""}), "passwd"),
        (archive(entries={"archive/../evil": b""}), "evil"),
        (archive(entries={"other/data.pkl": b"N."}), "several data.pkl"),
        (archive(entries={"archive/constants.pkl": b"N."}), "TorchScript"),
        (archive(entries={"archive/data/0": bytes(10**6)}, compression=zipfile.ZIP_DEFLATED), "compressed"),
        (zip_by_hand({}, {"x": b""}).replace(b"archive/data.pkl", b"archive/data.pkk"), "no data.pkl"),
        (b"PK\x03\x04" + bytes(100), "broken"),
        (b"PK\x03\x04", "broken"),
    ],
)
def test_archives_that_lie(written, data, said):
    refuse(written, data, said)


def test_archives_with_one_name_twice(written):
    data = archive(entries={"archive/datA.pkl": b"N."}).replace(b"archive/datA.pkl", b"archive/data.pkl")
    refuse(written, data, "two entries")


def test_archives_with_a_lying_directory(written):
    data = bytearray(zip_file({"a": torch.ones(3)}))
    entry = data.find(b"PK\x01\x02")
    for at, value, said in ((42, 99, "not where"), (42, 1 << 30, "broken"), (24, 1 << 30, "compressed")):
        changed = bytearray(data)
        changed[entry + at : entry + at + 4] = struct.pack("<I", value)
        refuse(written, bytes(changed), said)
    changed = bytearray(data)
    changed[entry + 8] |= 1
    refuse(written, bytes(changed), "encrypted")
    many = zip_by_hand({}, {f"archive/{k}": b"" for k in range(200)})
    at = many.rfind(b"PK\x05\x06") + 12
    refuse(written, many[:at] + struct.pack("<I", 1 << 31) + many[at + 4 :], "broken")


def test_flipped_bits_in_an_archive_are_found_by_its_checksum(written):
    data = bytearray(zip_file({"a": torch.arange(1000.0)}))
    at = bytes(data).find(np.arange(500, 510, dtype="<f4").tobytes())
    data[at] ^= 1
    refuse(written, bytes(data), "damaged bytes in 'archive/data/0', their checksum differs")


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    path = tmp_path / "file.pth"
    path.write_bytes(legacy_file({"a": torch.arange(100_000.0)}))
    found = read_torch(path)
    os.truncate(path, 1000)
    with pytest.raises(UserError, match="ends too early"):
        found["a"]


def test_files_in_files_have_a_bottom(written):
    inner = legacy_file({"a": torch.ones(1)})
    for _ in range(2):
        inner = legacy_file(Evil(torch.storage._load_from_bytes, inner))
    refuse(written, pickled(Evil(torch.storage._load_from_bytes, inner)), "a file in a file")


def legacy_by_hand(magic=0x1950A86A20F9469CFC6C, version=1001, keys=("0",), count=3, data=bytes(12)) -> bytes:
    stream = io.BytesIO()
    for value in (magic, version, {}):
        pickle.dump(value, stream, protocol=2)

    StoragePickler(stream, protocol=2).dump([Stored("storage", torch.FloatStorage, "0", "cpu", 3, None)])
    pickle.dump(keys if isinstance(keys, str) else list(keys), stream, protocol=2)
    return stream.getvalue() + struct.pack("<q", count) + data


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 1000}, "magic number and version"),
        ({"keys": "none"}, "no list of storages"),
        ({"keys": ()}, "a storage without bytes"),
        ({"keys": ("1",)}, "not of the size"),
        ({"keys": ("0", "0"), "data": bytes(12) + struct.pack("<q", 3) + bytes(12)}, "not of the size"),
        ({"count": 4}, "not of the size"),
        ({"count": -1}, "not of the size"),
        ({"data": bytes(11)}, "bytes at"),
    ],
)
def test_legacy_files_that_lie(written, change, said):
    assert not written(legacy_by_hand())
    refuse(written, legacy_by_hand(**change), said)


def test_one_legacy_storage_in_two_sizes(written):
    data = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {}):
        pickle.dump(value, data, protocol=2)

    pair = [Stored("storage", torch.FloatStorage, "0", "cpu", n, None) for n in (3, 4)]
    StoragePickler(data, protocol=2).dump(pair)
    refuse(written, data.getvalue(), "two sizes")


def test_tensors_of_unknown_dtypes_are_refused(written):
    refuse(written, zip_file({"a": torch.zeros(2).to(torch.float8_e4m3fn)}), "float8")


# NumPy -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_arrays_and_scalars(written, protocol):
    value = {
        "a": np.arange(12.0).reshape(3, 4), "f": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "big": np.arange(5, dtype=">i4"), "text": np.array(["ab", "c"]), "bytes": np.array([b"x", b"yz"]),
        "scalar": np.float32(2.5), "flag": np.bool_(True), "long": np.arange(5000.0),
        "half": np.float16([1, 2]),
        "objects": np.array([None, {"k": np.arange(2)}], object), "none": np.zeros((0, 3)),
        "type": np.dtype("f4"),
    }  # fmt: skip
    data = pickle.dumps(value, protocol=protocol)
    found, raw = written(data, read_pickle), objects(data)
    assert found["scalar"] == value["scalar"] and found["scalar"].shape == () and found["flag"]
    assert isinstance(raw["type"], DType) and raw["text"].shape == (2,)
    assert raw["objects"].objects[0] is None and isinstance(raw["objects"].objects[1]["k"], Array)
    for key in ("a", "f", "big", "long", "half", "none"):
        np.testing.assert_array_equal(found[key], value[key])
        assert found[key].dtype == value[key].dtype.newbyteorder("=")


def _array_state(shape: bytes, dtype: bytes, data: bytes) -> bytes:
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
    return made + b"(K\x01" + shape + dtype + b"\x89" + data + b"tb."


_F4 = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4K\x00K\x01tR(K\x03X\x01\x00\x00\x00<NNNK\x00K\x00K\x00tb"


def test_numpy_arrays_that_lie(written):
    four = b"C\x04\x00\x00\x80?"
    assert written(_array_state(b"(K\x01t", _F4, four), read_pickle)[""].tolist() == [1.0]
    for shape, dtype, data, said in (
        (b"(K\x02t", _F4, four, "an array of shape"),
        (b"(J\xff\xff\xff\xfft", _F4, four, "a shape that is none"),
        (b"X\x01\x00\x00\x00a", _F4, four, "a shape that is none"),
        (b"(" + b"K\x01" * 40 + b"t", _F4, four, "a shape that is none"),
        (b"(K\x01t", b"K\x01", four, "a int for a dtype"),
        (b"(K\x01t", b"cnumpy\ndtype\n(X\x01\x00\x00\x00OK\x00K\x01tR", four, "objects are not there"),
        (b"(K\x01t", _F4.replace(b"<NNN", b"<NNK\x01"), four, "structured"),
        (b"(K\x01t", _F4, b"N", "broken"),
    ):
        refuse(written, _array_state(shape, dtype, data), said, read_pickle)
    buffer = b"cnumpy._core.numeric\n_frombuffer\n("
    objects = b"cnumpy\ndtype\n(X\x01\x00\x00\x00OK\x00K\x01tR"
    refuse(written, buffer + four + objects + b"K\x01X\x01\x00\x00\x00CtR.", "buffer of objects", read_pickle)


def test_npy_files(tmp_path, written):
    for value in (np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3))):
        np.save(tmp_path / "a.npy", value)
        np.testing.assert_array_equal(read_npy(tmp_path / "a.npy")[""], value)
    np.save(tmp_path / "o.npy", {"a": np.arange(3), "t": torch.ones(2)}, allow_pickle=True)
    found = read_npy(tmp_path / "o.npy")
    assert found.array("a").tolist() == [0, 1, 2] and found.array("t").tolist() == [1, 1]
    np.save(tmp_path / "evil.npy", np.array(CALLS["open"], object), allow_pickle=True)
    refuse(written, (tmp_path / "evil.npy").read_bytes(), "refused", read_npy)
    lying = (tmp_path / "a.npy").read_bytes().replace(b"(2, 3)", b"(9, 9)")
    refuse(written, lying, "an array of shape", read_npy)
    refuse(written, b"not npy", "broken", read_npy)
    refuse(written, b"\x93NUMPY\x09\x00" + bytes(100), "broken", read_npy)
    with pytest.raises(UserError, match="cannot be read"):
        pickles.read_npy(tmp_path / "missing.npy")


def chumpy(state) -> Record:
    return Record(Name("chumpy.ch", "Ch"), (), state)


def sparse_matrix(**change) -> Record:
    state = {"_shape": (2, 2), "data": np.ones(1), "indices": np.zeros(1, int), "indptr": np.array([0, 1, 1])}
    arrays = {
        k: objects(pickle.dumps(v)) if isinstance(v, np.ndarray) else v for k, v in (state | change).items()
    }
    return Record(Name("scipy.sparse._csc", "csc_matrix"), (), arrays)


def read_record(record: Record) -> np.ndarray:
    """What the parent makes of a record that stands for an array."""
    files = Files(Extent(io.BytesIO(), 0, 0, 0), io.BytesIO())
    answer = json.loads(json.dumps({"arrays": {"a": untrusted.describe_array(record, files)}, "nested": []}))
    return pickles.contents("given", "pickle", answer, (None, files.answer)).array("a")


def test_arrays_out_of_records():
    with pytest.raises(Broken, match=r"a foo\.Bar, not an array"):
        read_record(Record(Name("foo", "Bar")))
    for state, said in (({"x": chumpy({"x": 1})}, "computed from others"), (None, "no values")):
        with pytest.raises(Broken, match=said):
            read_record(chumpy(state))
    assert read_record(sparse_matrix()).tolist() == [[1, 0], [0, 0]]
    for change in (
        {"_shape": (2, 2, 2)}, {"_shape": (2**40, 2**40)}, {"_shape": (-1, 2)}, {"indices": np.array([5])},
        {"indptr": np.array([0, 5, 1])}, {"data": np.ones(3)}, {"indices": np.array([0.5])},
    ):  # fmt: skip
        with pytest.raises(UserError, match="sparse matrix"):
            read_record(sparse_matrix(**change))
    for change in ({"data": None}, {"data": [1.0]}, {"_shape": None}):
        with pytest.raises(Broken):
            read_record(sparse_matrix(**change))


def test_windows():
    extent = Extent(io.BytesIO(bytes(range(100))), 0, 10, 50)
    assert extent.part(10, 5).part(1, 2).read() == bytes([21, 22]) and extent.part(10, 0).read() == b""
    stream = extent.open()
    stream.seek(-2, io.SEEK_END)
    assert stream.read() == bytes([58, 59]) and stream.read() == b""
    for offset, size in ((-1, 2), (0, 51), (50, 1)):
        with pytest.raises(Broken):
            extent.part(offset, size)


def test_a_scan_lists_what_is_asked_for_and_does_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps([CALLS["system"], np.arange(3), CALLS["nested"]], protocol=2))
    found = scan(path)
    calls = {name: known for name, _, known in found.calls}
    assert calls["posix.system"] is False and calls["__builtin__.exec"] is False
    assert any(known for name, known in calls.items() if name.endswith("_reconstruct"))
    assert not (tmp_path / "executed").exists() and not found.tensors


@pytest.mark.parametrize("kind", FORMATS)
def test_the_process_reads_what_is_read_here(tmp_path, kind):
    path = tmp_path / "file.bin"
    path.write_bytes(FORMATS[kind]({"a": torch.arange(12.0).reshape(3, 4).t(), "b": {"c": torch.ones(2)}}))
    there, here = read_torch(path), read_here(path)
    assert (there.names, there.nested) == (here.names, here.nested) == (("a", "b"), {"b"})
    for key in ("a", "b.c"):
        np.testing.assert_array_equal(there[key], here[key])


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "missing"):
        with pytest.raises(UserError, match="cannot be read"):
            read_torch(tmp_path / name)


# Fuzz ------------------------------------------------------------------------------------------------------


def corpus() -> dict[str, bytes]:
    value = {"a": torch.arange(6.0).reshape(2, 3).t(), "b": {"c": torch.ones(2, dtype=torch.float16)}, "n": 1}
    with public_code() as (persistent, _):
        network = pickled({"G_ema": persistent(torch.nn.Linear(2, 2)), "m": np.arange(3)})
    return {
        "zip": zip_file(value),
        "legacy": legacy_file(value),
        "network": network,
        "numpy": pickle.dumps({"a": np.arange(4.0), "o": np.array([1, "x"], object)}, protocol=2),
        "text": pickle.dumps([1, 2.5, "x", np.arange(3)], protocol=0),
    }


CORPUS = corpus()
INSTRUCTIONS = [
    *(bytes([code]) for code in b"().012NR]abdehloqstuQ}\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94"),
    b"K\x01", b"K\x00", b"h\x00", b"h\x01", b"q\x00", b"q\x01", b"X\x01\x00\x00\x00a", b"C\x02ab",
    b"J\xff\xff\xff\xff",
    b"cnumpy\ndtype\n", b"X\x02\x00\x00\x00f4", b"cnumpy.core.multiarray\n_reconstruct\n",
    b"ctorch\nFloatStorage\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch.storage\n_load_from_bytes\n", b"cos\nsystem\n",
    b"ccopyreg\n_reconstructor\n", b"cbuiltins\nset\n", b"cfoo\nBar\n", b"ifoo\nBar\n",
    b"cfunctools\npartial\n",
    b"cdnnlib.util\nEasyDict\n", b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n",
    b"ctorch\nSize\n",
    b"ccollections\nOrderedDict\n", b"c_codecs\nencode\n", b"X\x07\x00\x00\x00storage",
]  # fmt: skip


def read_everything(data: bytes, path) -> None:
    """Reads a file by every reader: each ends well or in one line."""
    path.write_bytes(data)
    for reader in (read_here, read_pickle, read_npy):
        try:
            found = reader(path)
            for key in found:
                assert found[key].nbytes < 1 << 26
        except UserError as error:
            assert "\n" not in str(error) and str(error).isprintable() and str(path) in str(error)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "fuzzed.bin"


FUZZ = settings(
    max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@FUZZ
@given(data=st.data(), kind=st.sampled_from(sorted(CORPUS)))
def test_mutated_files_end_well_or_in_one_line(fuzzed, data, kind):
    raw = bytearray(CORPUS[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(raw) - 1, 0)))
        change = data.draw(st.sampled_from(["flip", "set", "cut", "insert", "number", "copy"]))
        if change == "flip" and raw:
            raw[at] ^= 1 << data.draw(st.integers(0, 7))
        elif change == "set" and raw:
            raw[at] = data.draw(st.integers(0, 255))
        elif change == "cut":
            del raw[at : at + data.draw(st.sampled_from([1, 8, 10**6]))]
        elif change == "insert":
            raw[at:at] = data.draw(st.sampled_from(INSTRUCTIONS))
        elif change == "number":
            raw[at : at + 8] = struct.pack("<q", data.draw(st.integers(-(2**63), 2**63 - 1)))
        else:
            raw[at:at] = raw[data.draw(st.integers(0, at)) : at][:64]
    read_everything(bytes(raw), fuzzed)


@FUZZ
@given(st.lists(st.sampled_from(INSTRUCTIONS), max_size=40))
def test_any_instructions_end_well_or_in_one_line(fuzzed, instructions):
    read_everything(b"".join(instructions) + b".", fuzzed)


@pytest.mark.parametrize("kind", ["legacy", "network", "numpy", "zip"])
def test_every_truncation_is_one_line(written, kind):
    raw = CORPUS[kind]
    for size in range(0, len(raw), max(1, len(raw) // 150)):
        with pytest.raises(UserError):
            written(raw[:size])


def test_nothing_is_imported(written):
    """Names in a pickle are texts: a module that does not exist is as good as any."""
    value = run(b"cno.such.module\nThing\n)\x81}X\x01\x00\x00\x00xK\x01sb.")
    assert value.cls == Name("no.such.module", "Thing") and value.state == {"x": 1}
    assert isinstance(run(b"B\x00\x20\x00\x00" + bytes(8192) + b"."), Extent)
