"""`.npz` files of strangers and of our own: the one door through which their arrays come in.

Names, types, shapes and the size unpacked are read from the headers and checked before anything is unpacked;
nothing is unpickled, and numbers must be finite. Whatever is wrong is a `UserError` in one line.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from p4d_jax.errors import UserError, printable

_LIMIT = 1 << 28  # bytes unpacked, or 1.5 times the file
_MAX_ENTRIES = 20_000


class Header(NamedTuple):
    """What an entry says of its array."""

    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool


class Npz:
    """An opened archive.

    Attributes:
      headers: name -> shape and type of each array.
    """

    def __init__(self, archive: zipfile.ZipFile, path: Path, kind: str, limit: int) -> None:
        self._archive, self._path, self._kind = archive, path, kind
        infos = archive.infolist()
        if len(infos) > _MAX_ENTRIES:
            raise ValueError(f"{len(infos)} entries")
        self._entries = {info.filename.removesuffix(".npy"): info for info in infos}
        if len(self._entries) != len(infos):
            raise ValueError("a name that is there twice")
        # The sum of what the archive says; `read` takes no byte more than each entry's share of it.
        if sum(info.file_size for info in infos) > limit:
            raise ValueError(f"more than {limit >> 20} MB when unpacked")
        self.headers = {name: self._header(info) for name, info in self._entries.items()}

    def _header(self, info: zipfile.ZipInfo) -> Header:
        with self._archive.open(info) as stream:
            header = _read_header(stream)
            left = info.file_size - stream.tell()
        if header.dtype.hasobject:
            raise ValueError(f"{info.filename!r} holds pickled objects, which are refused")
        if header.dtype.kind not in "biufcUS":
            raise ValueError(f"{info.filename!r} is of type {header.dtype}")
        if math.prod(header.shape) * header.dtype.itemsize != left:
            raise ValueError(f"{info.filename!r} of shape {header.shape} and {header.dtype} in {left} bytes")
        return header

    def require(self, names: Collection[str], *, others: Collection[str] | None = None) -> None:
        """Asks for arrays by name.

        Args:
          names: what must be there.
          others: what else may be; None: anything.

        Raises:
          UserError: one is missing, or one that nobody knows is there.
        """
        if missing := [name for name in names if name not in self.headers]:
            lacks = ", ".join(map(repr, missing[:6]))
            raise UserError(f"{self._path}: not {self._kind}, it lacks {lacks}")
        if others is not None and (extra := sorted(self.headers.keys() - {*names, *others})):
            raise UserError(f"{self._path}: not {self._kind}, which has no array {extra[0][:100]!r}")

    def has(self, name: str) -> bool:
        """Whether there is an array of this name."""
        return name in self.headers

    def read(self, name: str, *, shape: tuple[int, ...] | None = None, finite: bool = True) -> np.ndarray:
        """An array.

        Args:
          name: of the array.
          shape: what it must have; None: any.
          finite: its numbers must be; False where the caller says better which are not.

        Raises:
          UserError: it is missing, misshapen, damaged, or holds numbers that are not finite.
        """
        self.require([name])
        header = self.headers[name]
        if shape is not None and header.shape != tuple(shape):
            raise UserError(
                f"{self._path}: {printable(name)} has shape {header.shape}, expected {tuple(shape)}"
            )
        with _one_line(self._path, self._kind):
            value = self._read(name, header)
        if finite and value.dtype.kind in "fc" and not np.isfinite(value).all():
            raise UserError(f"{self._path}: {printable(name)} holds values that are not finite")
        return value

    def _read(self, name: str, header: Header) -> np.ndarray:
        flat = np.empty(math.prod(header.shape), header.dtype)
        with self._archive.open(self._entries[name]) as stream:
            _read_header(stream)
            rest = memoryview(flat.view(np.uint8) if flat.nbytes else b"")
            while len(rest):
                count = stream.readinto(rest)
                if not count:
                    raise EOFError("the file ends too early")
                rest = rest[count:]
            if stream.read(1):  # at its end zipfile compares the checksum
                raise ValueError("more bytes than the entry says")
        return flat.reshape(header.shape, order="F" if header.is_fortran else "C")

    def text(self, name: str) -> str:
        """An array that is one text.

        Raises:
          UserError: it is missing or something else.
        """
        value = self.read(name)
        if value.shape != () or value.dtype.kind != "U":
            raise UserError(
                f"{self._path}: {printable(name)} is of shape {value.shape} and {value.dtype}, not a text"
            )
        return str(value)


@contextlib.contextmanager
def open_npz(path: str | Path, kind: str = "an .npz file") -> Iterator[Npz]:
    """Opens an `.npz`; its headers have been checked.

    Args:
      path: of the file.
      kind: what it is, for messages: 'a motion file'.

    Raises:
      UserError: it is missing, damaged, no `.npz` of plain arrays, or unpacked larger than 256 MB and 1.5
        times the file.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"no file {path}; expected {kind}")
    with contextlib.ExitStack() as stack:
        with _one_line(path, kind):
            archive = stack.enter_context(zipfile.ZipFile(path))
            opened = Npz(archive, path, kind, max(_LIMIT, int(1.5 * path.stat().st_size)))
        yield opened


def read_npz(
    path: str | Path,
    kind: str,
    names: Collection[str],
    *,
    others: Collection[str] | None = None,
    finite: bool = True,
) -> dict[str, np.ndarray]:
    """All arrays of an `.npz`; see `open_npz`, `Npz.require` and `Npz.read` for what is checked."""
    with open_npz(path, kind) as archive:
        archive.require(names, others=others)
        return {name: archive.read(name, finite=finite) for name in archive.headers}


def _read_header(stream: IO[bytes]) -> Header:
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"NumPy's format {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(stream)
    return Header(shape, dtype, is_fortran)


@contextlib.contextmanager
def _one_line(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    # zipfile, zlib and NumPy's headers have no common error for damaged bytes.
    except Exception as error:
        said = printable(str(error))[:300] or type(error).__name__
        raise UserError(f"{path}: not {kind}, or damaged ({said})") from None
