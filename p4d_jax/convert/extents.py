"""`Extent`: a stretch of a file that is read only when someone asks, and never beyond its end.

A released file is nearly a gigabyte, most of it tensors. The readers of this package pass extents around and
read each tensor's bytes straight into its array, so that no tensor is in memory twice.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from p4d_jax.errors import UserError

_BUFFER = 1 << 14


class Broken(ValueError):
    """The bytes are not what their format says: truncated, damaged or lying."""


class _File:
    """A file's bytes by position. Unbuffered: `Stream` buffers what is read in small pieces."""

    def __init__(self, path: Path) -> None:
        self._raw = open(path, "rb", buffering=0)  # noqa: SIM115  it lives as long as the extents of it
        self.size = self._raw.seek(0, io.SEEK_END)

    def read_into(self, start: int, view: memoryview) -> None:
        self._raw.seek(start)
        done = 0
        while done < len(view):
            count = self._raw.readinto(view[done:])
            if not count:
                raise Broken("the file ends too early")
            done += count

    def __del__(self) -> None:
        if raw := getattr(self, "_raw", None):
            raw.close()


class _Memory:
    """Bytes in memory by position."""

    def __init__(self, data: bytes) -> None:
        self._data, self.size = data, len(data)

    def read_into(self, start: int, view: memoryview) -> None:
        view[:] = self._data[start : start + len(view)]


@dataclass(frozen=True, eq=False)
class Extent:
    """`size` bytes of a file or of memory, from `start`."""

    source: Any
    start: int
    size: int

    def __len__(self) -> int:
        return self.size

    def part(self, offset: int, size: int) -> Extent:
        """The extent of `size` bytes from `offset` of this one.

        Raises:
          Broken: it would reach over either end.
        """
        if offset < 0 or size < 0 or offset + size > self.size:
            raise Broken(f"{size} bytes at {offset} are asked of {self.size}")
        return Extent(self.source, self.start + offset, size)

    def read(self) -> bytes:
        """All of it."""
        data = bytearray(self.size)
        self.source.read_into(self.start, memoryview(data))
        return bytes(data)

    def read_array(self) -> np.ndarray:
        """All of it, (size,) uint8, aligned and read straight into the array."""
        data = np.empty(self.size, np.uint8)
        self.source.read_into(self.start, memoryview(data))
        return data


def open_extent(path: str | Path) -> Extent:
    """The whole of a file.

    Raises:
      UserError: it cannot be opened.
    """
    try:
        source = _File(Path(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return Extent(source, 0, source.size)


def memory_extent(data: bytes) -> Extent:
    """The whole of some bytes."""
    return Extent(_Memory(data), 0, len(data))


class Stream:
    """Reads an extent from its start on, in small pieces. `position` counts from the extent's start."""

    def __init__(self, extent: Extent) -> None:
        self._extent, self._buffer, self._buffer_start = extent, b"", 0
        self.position = 0

    def read(self, size: int) -> bytes:
        """The next `size` bytes."""
        offset = self.position - self._buffer_start
        if not 0 <= offset <= offset + size <= len(self._buffer):
            # Checked before anything of that size is allocated.
            self._extent.part(self.position, size)
            length = min(max(size, _BUFFER), self._extent.size - self.position)
            self._buffer = self._extent.part(self.position, length).read()
            self._buffer_start, offset = self.position, 0
        self.position += size
        return self._buffer[offset : offset + size]

    def skip(self, size: int) -> Extent:
        """The next `size` bytes, unread."""
        extent = self._extent.part(self.position, size)
        self.position += size
        return extent

    def readline(self, limit: int) -> bytes:
        """The next bytes up to a line feed, which is left out."""
        # Usually it lies in the buffer: then nothing is read again.
        offset = max(0, self.position - self._buffer_start)
        end = self._buffer.find(b"\n", offset)
        if end >= 0:
            self.position += end + 1 - offset
            return self._buffer[offset:end]
        pieces, length = [], 0
        while True:
            size = min(_BUFFER, self._extent.size - self.position)
            piece = self.read(size)
            end = piece.find(b"\n")
            if end >= 0:
                self.position -= size - end - 1
                return b"".join([*pieces, piece[:end]])
            pieces.append(piece)
            length += size
            if size == 0 or length > limit:
                raise Broken("a line without end")


class SeekableExtent(io.RawIOBase):
    """An extent as a binary file, for `zipfile`, which believes what an archive says of its own size.

    Args:
      limit: the most bytes that are read at once.
    """

    def __init__(self, extent: Extent, limit: int = 1 << 16) -> None:
        self._extent, self._limit, self._position = extent, limit, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = (0, self._position, self._extent.size)[whence]
        if base + offset < 0:
            raise OSError("before the start")
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._extent.size - self._position)
        size = left if size is None or size < 0 else min(size, left)
        if size > self._limit:
            raise Broken(f"{size} bytes of directory")
        data = self._extent.part(self._position, size).read() if size else b""
        self._position += size
        return data
