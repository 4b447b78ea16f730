"""Record sets: data to train on as TFDS data sets of ArrayRecord shards.

    FOLDER/NAME/[KIND/]1.0.0/NAME-train.array_record-00003-of-00010
                             features.json, dataset_info.json      once every shard is there
                             recipe.json                           what the shards are made of

A record is a dict of arrays of fixed types and shapes, stored as raw bytes, and of strings. TFDS itself reads
it, without this package: `tfds.data_source("NAME/KIND", split="train", data_dir=FOLDER)`. A shard appears
under its name when it is complete, so that a set is made by several hosts, or by the same command again.
tensorflow_datasets and tensorflow (extra `train`) are imported by what needs them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import tempfile
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from p4d_jax.errors import UserError

VERSION, SPLIT = "1.0.0", "train"
STALE_SECONDS = 3600.0  # after which a half-written file is taken for nobody's

RecordSpec = Mapping[str, jax.ShapeDtypeStruct | type[str]]  # of each field
Record = dict[str, np.ndarray | str]


@dataclasses.dataclass(frozen=True)
class RecordSet:
    """Where a record set lies, and what it is called.

    Attributes:
      folder: TFDS's `data_dir`.
      name: Of the data set.
      kind: Of several sets of that name, which one; '' where there is one.
      description: A sentence for TFDS.
      maker: What makes it, for messages: "the job `synthesize`".
    """

    folder: Path
    name: str
    kind: str
    description: str
    maker: str

    def __str__(self) -> str:
        return f"{self.name}/{self.kind}" if self.kind else self.name

    @property
    def path(self) -> Path:
        """The folder of the shards."""
        return Path(self.folder) / self.name / self.kind / VERSION

    @property
    def is_finished(self) -> bool:
        """Whether all of it is there."""
        return (self.path / "dataset_info.json").is_file()

    def shard_path(self, shard: int, shards: int) -> Path:
        """The file of one shard, by TFDS's rule."""
        return self.path / f"{self.name}-{SPLIT}.array_record-{shard:05d}-of-{shards:05d}"

    def missing_shards(self, lengths: Sequence[int]) -> list[int]:
        """The shards that are not there yet, or not whole; those that are damaged are named.

        Args:
          lengths: Number of records of each shard.
        """
        missing = []
        for number, length in enumerate(lengths):
            path = self.shard_path(number, len(lengths))
            problem = shard_problem(path, length) if path.exists() else ""
            if problem:
                print(f"{path} is damaged ({problem}): it is made again", flush=True)
            if problem or not path.exists():
                missing.append(number)
        return missing

    def start(self, recipe: dict) -> None:
        """Makes the folder and notes there what its shards are made of (JSON-able).

        Raises:
          UserError: There are shards of another recipe.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        remove_stale_parts(self.path)
        keep_recipe(self.path, recipe)

    def recipe(self) -> dict:
        """What the shards were made of: what `start` noted, or nothing."""
        path = self.path / "recipe.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def finish(self, spec: RecordSpec, lengths: Sequence[int]) -> None:
        """Writes TFDS's metadata once every shard is there; several hosts may do it at once.

        Args:
          lengths: Number of records of each shard.
        """
        tfds = _tfds()
        if missing := self.missing_shards(lengths):
            raise ValueError(
                f"shards: {len(missing)} of {len(lengths)} are missing in {self.path}, first {missing[0]}"
            )
        template = tfds.core.ShardedFileTemplate(
            data_dir=self.path, dataset_name=self.name, split=SPLIT, filetype_suffix="array_record"
        )
        size = sum(self.shard_path(k, len(lengths)).stat().st_size for k in range(len(lengths)))
        split = tfds.core.SplitInfo(
            name=SPLIT, shard_lengths=list(lengths), num_bytes=size, filename_template=template
        )
        identity = tfds.core.DatasetIdentity(
            name=self.name, version=tfds.core.Version(VERSION), data_dir=str(self.path), module_name=""
        )
        info = tfds.core.DatasetInfo(
            builder=identity, features=tfds_features(spec), description=self.description
        )
        info.set_file_format("array_record")
        info.set_splits(tfds.core.SplitDict([split]))
        with tempfile.TemporaryDirectory(prefix=".metadata-", dir=self.path) as staging:
            info.write_to_directory(staging)
            # dataset_info.json last: with it, the data set can be read.
            for file in sorted(Path(staging).iterdir(), key=lambda f: f.name == "dataset_info.json"):
                file.replace(self.path / file.name)

    def open(self) -> Sequence[Record]:
        """The records of a finished set: a random-access sequence.

        Raises:
          UserError: It is not finished, or a shard is damaged.
        """
        if not self.is_finished:
            raise UserError(f"no finished data set {self} in {str(self.folder)!r}; {self.maker} makes one")
        builder = _tfds().builder_from_directory(str(self.path))
        split = builder.info.splits[SPLIT]
        for path, length in zip(split.filepaths, split.shard_lengths, strict=True):
            if problem := shard_problem(Path(path), length):
                raise UserError(f"{path} is damaged ({problem}); {self.maker} makes it again")
        return builder.as_data_source(split=SPLIT)


# Shards -----------------------------------------------------------------------------------------------------


def shard_problem(path: Path, length: int) -> str:
    """What is wrong with a shard's file, by its index and its number of records; '' if nothing is."""
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(str(path))
        count = reader.num_records() if reader.ok() else 0
        reader.close()
    except (RuntimeError, OSError, ValueError) as error:
        return str(error).split("\n")[0][:100]
    return "" if count == length else f"{count} records where {length} are expected"


def tfds_features(spec: RecordSpec):
    """The `tfds.features.FeaturesDict` of records."""
    features = _tfds().features

    def one(leaf):
        if leaf is str:
            return features.Text()
        return features.Tensor(shape=leaf.shape, dtype=np.dtype(leaf.dtype), encoding="bytes")

    return features.FeaturesDict({name: one(leaf) for name, leaf in spec.items()})


def write_shard(path: Path, spec: RecordSpec, records: Iterable[Record]) -> None:
    """Writes records as one ArrayRecord file, which appears when it is complete.

    Raises:
      UserError: The folder cannot be written.
    """
    tfds, features = _tfds(), tfds_features(spec)
    serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())

    def serialize(record: Record) -> bytes:
        example = serializer.get_tf_example(features.encode_example(record))
        # Protocol buffers order maps by a seed of the process: without this, the same record has other bytes.
        return example.SerializeToString(deterministic=True)

    rows = ((number, serialize(record)) for number, record in enumerate(records))
    temporary = part_of(path)
    try:
        tfds.core.file_adapters.ArrayRecordFileAdapter.write_examples(temporary, rows)
        publish(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        temporary.unlink(missing_ok=True)


def read_shard(path: Path, spec: RecordSpec) -> list[Record]:
    """The records of one complete shard, also of a data set that is not finished yet."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    features = tfds_features(spec)
    return [features.deserialize_example_np(row) for row in ArrayRecordDataSource([str(path)])]


def record_bytes(spec: RecordSpec) -> int:
    """Exact size of a record's arrays; ArrayRecord compresses them on disk."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in spec.values() if leaf is not str)


def keep_recipe(folder: Path, recipe: dict) -> None:
    """Notes in a folder what its content is made of (JSON-able).

    Raises:
      UserError: It holds what was made of something else.
    """
    path, text = folder / "recipe.json", json.dumps(recipe, indent=2, sort_keys=True) + "\n"
    if not path.exists():
        write_atomically(path, text.encode())
        return
    found, wanted = json.loads(path.read_text()), json.loads(text)
    changed = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
    if changed:
        raise UserError(
            f"{folder} holds samples made with {changed[0]}={found.get(changed[0])!r}, not"
            f" {wanted.get(changed[0])!r}; name another folder, or remove that one"
        )


# Files that are there whole or not at all -------------------------------------------------------------------


def write_atomically(path: Path, content: bytes) -> None:
    """A file that is there whole or not at all."""
    temporary = part_of(path)
    temporary.write_bytes(content)
    publish(temporary, path)


def part_of(path: Path) -> Path:
    """A name for a file while it is written, which no other process or host has."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")


def publish(temporary: Path, path: Path) -> None:
    """Gives a complete file its name, when it is on the disk and not only on its way there."""
    _flush(temporary)
    temporary.replace(path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_stale_parts(folder: Path) -> None:
    """Removes what killed processes left half written; what is younger may be somebody's at work."""
    for path in folder.glob(".*.part"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()


def _tfds():
    for name in ("tensorflow", "tensorflow_datasets"):  # the one without the other ends in a traceback
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"record sets need {name}, which is not installed, or not to be had for this Python:"
                " pip install '.[train]', or take the data as folders of photos and films"
            )
    import tensorflow_datasets

    return tensorflow_datasets
