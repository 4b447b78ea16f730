"""The door for `.npz` files: what is right comes through as it is, all else is one line."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p4d_jax import npz
from p4d_jax.errors import UserError
from p4d_jax.npz import open_npz, read_npz


def archive(compression: int = zipfile.ZIP_DEFLATED, **arrays) -> bytes:
    """An archive of arrays, or of bytes as they are."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        for name, value in arrays.items():
            data = io.BytesIO()
            if not isinstance(value, bytes):
                np.save(data, value, allow_pickle=True)
            file.writestr(f"{name}.npy", value if isinstance(value, bytes) else data.getvalue())
    return stream.getvalue()


def npy(header: str) -> bytes:
    """A `.npy` of nothing but a header."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


@pytest.fixture
def written(tmp_path):
    def write(data: bytes):
        (tmp_path / "file.npz").write_bytes(data)
        return tmp_path / "file.npz"

    return write


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read_exactly(tmp_path, save):
    arrays = {
        "a": np.arange(6.0).reshape(2, 3), "f": np.asfortranarray(np.arange(6).reshape(2, 3)), "t": "text",
        "none": np.zeros((0, 3), np.float16), "big": np.arange(3, dtype=">i4"), "flags": np.array([True]),
        "folder/name": np.array(["a", "bcd"]), "no": np.array([], str), "c": np.complex64([1j]),
    }  # fmt: skip
    save(tmp_path / "a.npz", **arrays)
    found = read_npz(tmp_path / "a.npz", "numbers", ["a"])
    assert list(found) == list(arrays)
    for name, value in arrays.items():
        assert found[name].dtype == np.asarray(value).dtype
        np.testing.assert_array_equal(found[name], value)
    with open_npz(tmp_path / "a.npz") as opened:
        assert opened.text("t") == "text" and opened.headers["a"].shape == (2, 3)


HEADER = archive(zipfile.ZIP_STORED, a=np.arange(4.0))
WRONG = {
    "nothing": (b"", "damaged"),
    "text": (b"not a zip", "damaged"),
    "half": (HEADER[: len(HEADER) // 2], "damaged"),
    "lacks": (archive(b=1.0), "lacks 'a'"),
    "unknown": (archive(a=1.0, z=1.0), "has no array 'z'"),
    "escape": (archive(a=1.0, **{"\x1b[31m": 1.0}), r"\\x1b\[31m"),
    "pickled": (archive(a=np.array([{}], object)), "pickled objects"),
    "fields": (archive(a=np.zeros(3, "f4,f4")), "is of type"),
    "dates": (archive(a=np.zeros(3, "M8[s]")), "is of type"),
    "nan": (archive(a=np.array([1, np.nan])), "not finite"),
    "infinite": (archive(a=np.array(np.inf)), "not finite"),
    "shape": (archive(a=npy("{'descr': '<f8', 'fortran_order': False, 'shape': (9,)}")), "in 0 bytes"),
    "header": (archive(a=b"\x93NUMPY\x01\x00\x04\x00" + b"((((" + b"x" * 90), "damaged"),
    "code": (archive(a=npy("__import__('os').system('touch executed')")), "damaged"),
    "version": (archive(a=b"\x93NUMPY\x07\x00" + b" " * 90), "damaged"),
    "flipped": (HEADER.replace(np.float64(3).tobytes(), np.float64(2).tobytes()), "CRC"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line(written, case, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    data, said = WRONG[case]
    with pytest.raises(UserError, match=said) as caught:
        read_npz(written(data), "a file of numbers", ["a"], others=["b"])
    assert str(caught.value).isprintable() and "file.npz" in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_a_bomb_is_seen_before_it_is_unpacked(written, monkeypatch):
    monkeypatch.setattr(npz, "_LIMIT", 1 << 20)
    bomb = archive(a=np.zeros(1 << 18), b=np.zeros(1 << 18))
    with pytest.raises(UserError, match="more than 1 MB when unpacked"):
        read_npz(written(bomb), "numbers", ["a"])
    # An archive that lies about the size: no byte more than it says is taken.
    lying = bytearray(archive(a=np.zeros(1 << 12)))
    at = lying.rfind(b"PK\x01\x02") + 24
    lying[at : at + 4] = (128 + 8).to_bytes(4, "little")
    with pytest.raises(UserError, match="damaged"):
        read_npz(written(bytes(lying)), "numbers", ["a"])


def test_shapes_and_texts_are_asked_for(written):
    with open_npz(written(archive(a=np.zeros((2, 3)), b=np.zeros(2)))) as opened:
        assert opened.read("a", shape=(2, 3)).shape == (2, 3)
        with pytest.raises(UserError, match=r"a has shape \(2, 3\), expected \(3, 2\)"):
            opened.read("a", shape=(3, 2))
        with pytest.raises(UserError, match="not a text"):
            opened.text("b")
        with pytest.raises(UserError, match="lacks 'c'"):
            opened.read("c")
    with pytest.raises(UserError, match=r"no file missing\.npz"), open_npz("missing.npz"):
        pass


RAW = archive(a=np.arange(9.0), b=np.array("text"))


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, len(RAW) - 1), bit=st.integers(0, 7), cut=st.booleans())
def test_damaged_files_are_one_line_or_whole(tmp_path_factory, at, bit, cut):
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    raw = bytearray(RAW[:at] if cut else RAW)
    if not cut:
        raw[at] ^= 1 << bit
    path.write_bytes(raw)
    try:
        found = read_npz(path, "numbers", ["a", "b"])
    except UserError as error:
        assert str(error).isprintable()
    else:
        np.testing.assert_array_equal(found["a"], np.arange(9.0))
