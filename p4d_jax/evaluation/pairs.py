"""Lists of pairs: who is shown as whom. Written to a file, they let others measure on the same pictures.

A pair is a source, which is a photo or one frame of a film, and frames of a driver. In `self` both show one
person, and the driver's frames are the truth; in `cross` they show two. A list is JSON, a pair a line:

    {"kind": "self", "source": "anna.mp4", "source_frame": 0, "driving": "anna.mp4", "frames": [1, 2, 3],
     "sha256": {"anna.mp4": "..."}}

Names are relative to the folder in which the files lie. A film may be a folder of its frames.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from p4d_jax.errors import UserError
from p4d_jax.imaging.reading import PHOTO_SUFFIXES
from p4d_jax.imaging.video import folder_pictures, is_video, open_video

KINDS = ("self", "cross")
RUN = 3  # frames that follow one another, which flicker takes
READ_AT_ONCE = 1 << 20  # bytes


@dataclasses.dataclass(frozen=True)
class Pair:
    """A source and its driver.

    Attributes:
      kind: 'self' or 'cross'.
      source: Name of the source's file.
      source_frame: Its frame, where it is a film.
      driving: Name of the driver's file.
      frames: The frames of the driver, ascending; (0,) of a photo.
      sha256: Of the files by name; what is not named is not checked.
    """

    kind: str
    source: str
    driving: str
    source_frame: int = 0
    frames: tuple[int, ...] = (0,)
    sha256: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        """Raises `UserError` for what is no pair."""
        if self.kind not in KINDS:
            raise UserError(f"kind: {self.kind!r}, expected one of {', '.join(KINDS)}")
        for field in ("source", "driving"):
            name = getattr(self, field)
            if not isinstance(name, str) or not name:
                raise UserError(f"{field}: {name!r}, expected the name of a file")
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise UserError(f"{field}: {name!r} lies outside of the list's folder")
        numbers = (self.source_frame, *self.frames)
        if any(type(number) is not int or number < 0 for number in numbers):
            raise UserError(f"frames: {numbers}, expected whole numbers from 0 on")
        if not self.frames or list(self.frames) != sorted(set(self.frames)):
            raise UserError(f"frames: {self.frames}, expected at least one, ascending")
        if not isinstance(self.sha256, dict):
            raise UserError(f"sha256: {self.sha256!r}, expected a table of names")


def consecutive_runs(frames: Sequence[int]) -> list[slice]:
    """The places in `frames`, ascending numbers, of at least `RUN` frames that follow one another."""
    breaks = [0, *(np.flatnonzero(np.diff(frames) != 1) + 1).tolist(), len(frames)]
    return [slice(a, b) for a, b in itertools.pairwise(breaks) if b - a >= RUN]


# Files ------------------------------------------------------------------------------------------------------


def write_pairs(path: Path, pairs: Iterable[Pair]) -> None:
    """A list as JSON lines."""
    path.write_text("".join(json.dumps(dataclasses.asdict(pair)) + "\n" for pair in pairs))


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a list.

    Raises:
      UserError: It cannot be read, is empty, or a line of it is no pair.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{str(path)!r} is no list of pairs ({error})") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            given = json.loads(line)
            pairs.append(Pair(**given | {"frames": tuple(given.get("frames", (0,)))}))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{str(path)!r}, line {number}: no pair ({error})") from error
    if not pairs:
        raise UserError(f"{str(path)!r} is an empty list of pairs")
    return pairs


def digest(path: Path) -> str:
    """The sha256 of a file, or of a folder's pictures with their names.

    Raises:
      UserError: It is not there or cannot be read.
    """
    found = hashlib.sha256()
    try:
        for part in folder_pictures(path) if path.is_dir() else [path]:
            if path.is_dir():
                found.update(part.name.encode())
            with part.open("rb") as file:
                while block := file.read(READ_AT_ONCE):
                    found.update(block)
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read ({error.strerror})") from error
    return found.hexdigest()


# Drawing ----------------------------------------------------------------------------------------------------


def draw_pairs(
    folder: Path, *, seed: int, count: int, frames: int, max_frames: int
) -> tuple[list[Pair], dict[str, str]]:
    """Pairs of a folder of photos and films, and what is wrong with those of its files that are left out.

    `self`: each film's first frame, driven by its other frames. `cross`: each photo or film's first frame,
    driven by another one, so that each drives once. Neighbours in the list have one driver, which is read
    once.

    Args:
      seed: Of who drives whom, and of which are taken.
      count: Pairs of each kind, at most.
      frames: Of each film that drives: runs of three that follow one another, evenly spread.
      max_frames: Of a film's beginning, in which they lie.

    Raises:
      UserError: There is nothing to pair.
    """
    lengths, damaged = measure_files(folder, max_frames)
    names, random = list(lengths), np.random.default_rng(seed)
    driving = {name: spread_runs(min(1, length - 1), length, frames) for name, length in lengths.items()}
    films = [name for name in names if lengths[name] > 1]
    pairs = [Pair("self", name, name, 0, driving[name]) for name in chosen(films, count, random)]
    if len(names) > 1:
        circle = random.permutation(len(names))  # each is driven by the next
        following = {names[a]: names[b] for a, b in zip(circle, np.roll(circle, -1), strict=True)}
        pairs += [
            Pair("cross", name, following[name], 0, driving[following[name]])
            for name in chosen(names, count, random)
        ]
    if not pairs:
        said = f"; {len(damaged)} cannot be used: {next(iter(damaged.values()))}" if damaged else ""
        raise UserError(
            f"{str(folder)!r} holds neither a film nor two photos: there is nothing to pair{said}"
        )
    pairs.sort(key=lambda pair: (names.index(pair.driving), KINDS.index(pair.kind)))
    known = {
        name: digest(folder / name) for name in {n for pair in pairs for n in (pair.source, pair.driving)}
    }
    with_digests = [
        dataclasses.replace(pair, sha256={name: known[name] for name in sorted({pair.source, pair.driving})})
        for pair in pairs
    ]
    return with_digests, damaged


def chosen(names: list[str], count: int, random: np.random.Generator) -> list[str]:
    """At most `count` of the names, in their order."""
    return [names[index] for index in sorted(random.permutation(len(names))[:count])]


def measure_files(folder: Path, max_frames: int) -> tuple[dict[str, int], dict[str, str]]:
    """Frames of each photo (1) and film of a folder, by name; what is wrong with films that cannot be read.

    Raises:
      UserError: There is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {str(folder)!r}")
    lengths, damaged = {}, {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        try:
            if path.is_dir() and not any(one.suffix.lower() in PHOTO_SUFFIXES for one in path.iterdir()):
                continue
            if is_video(path):
                video = open_video(path, max_frames)
                lengths[path.name] = video.length or sum(1 for _ in video)
            elif path.suffix.lower() in PHOTO_SUFFIXES:
                lengths[path.name] = 1
        except (UserError, OSError) as error:
            damaged[path.name] = str(error)
    return lengths, damaged


def spread_runs(first: int, length: int, frames: int) -> tuple[int, ...]:
    """About `frames` of the frames `first` to `length` - 1: runs of `RUN` that are evenly spread."""
    if length - first <= frames:
        return tuple(range(first, length))
    run = min(RUN, frames)
    starts = np.linspace(first, length - run, frames // run).round().astype(int)
    return tuple(sorted({int(start) + k for start in starts for k in range(run)}))
