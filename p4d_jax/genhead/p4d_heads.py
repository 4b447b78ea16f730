"""`p4d_heads`: samples of a GenHead as a TFDS data set of ArrayRecord shards.

    FOLDER/p4d_heads/<kind>/1.0.0/p4d_heads-train.array_record-00003-of-00010   kind: dynamic, static
                                  features.json, dataset_info.json              once every shard is there
                                  recipe.json                                   what the shards are made of

One record is one `SyntheticHead`, its fields in `record_spec`'s types and shapes, raw bytes each: a record's
size is exact (`record_bytes`; ArrayRecord compresses it on disk). TFDS itself reads it, without this file:
`tfds.data_source("p4d_heads/dynamic", split="train", data_dir=FOLDER)`. What is not float32 there is rounded:
`encode_sample` and `decode_sample` go between a sample and its record. A shard appears under its name when it
is complete. tensorflow_datasets (extra `train`) is imported by the functions that need it.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax.errors import UserError
from p4d_jax.genhead.synthesis import SyntheticHead
from p4d_jax.types import Array, FrameParams

NAME, VERSION, SPLIT = "p4d_heads", "1.0.0", "train"
DESCRIPTION = "Synthetic 4D portraits: identities in motion from all sides, with all that is known of them."
# Fields that are stored as they are; the image is uint8, all others float16.
EXACT = ("depth", "landmarks", "points", "motion", "params", "latent", "conditioning")

STALE_SECONDS = 3600.0  # after which a half-written file is taken for nobody's

RecordSpec = dict[str, jax.ShapeDtypeStruct]


# Samples and records ----------------------------------------------------------------------------------------


def encode_sample(sample: SyntheticHead) -> dict[str, Array]:
    """A sample, or a batch of samples, in the types of its record.

    image: round(127.5 (x + 1)), uint8. opacity, features, correspondence, plane_features and background:
    float16. All else stays float32; `params` is its vector of 437 numbers.
    """
    fields = {name: getattr(sample, name) for name in sample.__dataclass_fields__}
    fields["params"] = sample.params.to_vector()
    image = jnp.round(127.5 * (jnp.clip(sample.image, -1, 1) + 1)).astype(jnp.uint8)
    rest = {
        name: value if name in EXACT else value.astype(jnp.float16)
        for name, value in fields.items()
        if name != "image"
    }
    return {"image": image, **rest}


def decode_sample(record: dict[str, Array]) -> SyntheticHead:
    """What `encode_sample` made of a sample, float32 again."""
    return SyntheticHead(**decode_fields(record))


def decode_fields(record: dict[str, Array]) -> dict:
    """Some fields of a record as those of a `SyntheticHead`, float32; also of single views."""
    fields = {name: jnp.asarray(value).astype(jnp.float32) for name, value in record.items()}
    if "image" in fields:
        fields["image"] = fields["image"] / 127.5 - 1
    if "params" in fields:
        fields["params"] = FrameParams.from_vector(fields["params"])
    return fields


def record_spec(sample: SyntheticHead) -> RecordSpec:
    """Types and shapes of a sample's record; the sample may be a shape alone (`jax.eval_shape`)."""
    return jax.eval_shape(encode_sample, sample)


def record_bytes(spec: RecordSpec) -> int:
    """Exact size of a record's arrays."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in spec.values())


# Folders ----------------------------------------------------------------------------------------------------


def dataset_folder(folder: Path, kind: str) -> Path:
    """Where the data set of a kind lies below the folder that is TFDS's `data_dir`."""
    return Path(folder) / NAME / kind / VERSION


def shard_path(dataset: Path, shard: int, shards: int) -> Path:
    """The file of one shard, by TFDS's rule."""
    return dataset / f"{NAME}-{SPLIT}.array_record-{shard:05d}-of-{shards:05d}"


def missing_shards(dataset: Path, shards: int, samples: int) -> list[int]:
    """The shards that are not there yet, or not whole; those that are damaged are named.

    Args:
      samples: Number of records of each shard.
    """
    missing = []
    for number in range(shards):
        path = shard_path(dataset, number, shards)
        problem = shard_problem(path, samples) if path.exists() else ""
        if problem:
            print(f"{path} is damaged ({problem}): it is made again", flush=True)
        if problem or not path.exists():
            missing.append(number)
    return missing


def shard_problem(path: Path, samples: int) -> str:
    """What is wrong with a shard's file, by its index and its number of records; '' if nothing is."""
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(str(path))
        count = reader.num_records() if reader.ok() else 0
        reader.close()
    except (RuntimeError, OSError, ValueError) as error:
        return str(error).split("\n")[0][:100]
    return "" if count == samples else f"{count} records where {samples} are expected"


def start_dataset(dataset: Path, recipe: dict) -> None:
    """Makes the folder and notes there what its shards are made of (JSON-able).

    Raises:
      UserError: There are shards of another recipe.
    """
    dataset.mkdir(parents=True, exist_ok=True)
    remove_stale_parts(dataset)
    path, text = dataset / "recipe.json", json.dumps(recipe, indent=2, sort_keys=True) + "\n"
    if not path.exists():
        write_atomically(path, text.encode())
        return
    found, wanted = json.loads(path.read_text()), json.loads(text)
    changed = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
    if changed:
        raise UserError(
            f"{dataset} holds samples made with {changed[0]}={found.get(changed[0])!r}, not"
            f" {wanted.get(changed[0])!r}; name another --workdir, or remove that folder"
        )


def read_recipe(folder: Path, kind: str) -> dict:
    """What the shards of a data set were made of: what `start_dataset` noted, or nothing."""
    path = dataset_folder(folder, kind) / "recipe.json"
    return json.loads(path.read_text()) if path.is_file() else {}


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


def remove_stale_parts(dataset: Path) -> None:
    """Removes what killed processes left half written; what is younger may be somebody's at work."""
    for path in dataset.glob(".*.part"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()


# TFDS -------------------------------------------------------------------------------------------------------


def tfds_features(spec: RecordSpec):
    """The `tfds.features.FeaturesDict` of records."""
    tfds = _tfds()
    return tfds.features.FeaturesDict(
        {
            name: tfds.features.Tensor(shape=leaf.shape, dtype=np.dtype(leaf.dtype), encoding="bytes")
            for name, leaf in spec.items()
        }
    )


def write_shard(path: Path, spec: RecordSpec, records: Iterable[dict[str, np.ndarray]]) -> None:
    """Writes records as one ArrayRecord file, which appears when it is complete.

    Raises:
      UserError: The folder cannot be written.
    """
    tfds, features = _tfds(), tfds_features(spec)
    serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())

    def serialize(record: dict[str, np.ndarray]) -> bytes:
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


def read_shard(path: Path, spec: RecordSpec) -> list[dict[str, np.ndarray]]:
    """The records of one complete shard, also of a data set that is not finished yet."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    features = tfds_features(spec)
    return [features.deserialize_example_np(row) for row in ArrayRecordDataSource([str(path)])]


def finish_dataset(dataset: Path, spec: RecordSpec, shards: int, samples_per_shard: int) -> None:
    """Writes TFDS's metadata once every shard is there; several hosts may do it at once.

    Args:
      samples_per_shard: Number of records of each shard.
    """
    tfds = _tfds()
    if missing := missing_shards(dataset, shards, samples_per_shard):
        raise ValueError(f"shards: {len(missing)} of {shards} are missing in {dataset}, first {missing[0]}")
    template = tfds.core.ShardedFileTemplate(
        data_dir=dataset, dataset_name=NAME, split=SPLIT, filetype_suffix="array_record"
    )
    size = sum(shard_path(dataset, k, shards).stat().st_size for k in range(shards))
    split = tfds.core.SplitInfo(
        name=SPLIT, shard_lengths=[samples_per_shard] * shards, num_bytes=size, filename_template=template
    )
    identity = tfds.core.DatasetIdentity(
        name=NAME, version=tfds.core.Version(VERSION), data_dir=str(dataset), module_name=""
    )
    info = tfds.core.DatasetInfo(builder=identity, features=tfds_features(spec), description=DESCRIPTION)
    info.set_file_format("array_record")
    info.set_splits(tfds.core.SplitDict([split]))
    with tempfile.TemporaryDirectory(prefix=".metadata-", dir=dataset) as staging:
        info.write_to_directory(staging)
        # dataset_info.json last: with it, the data set can be read.
        for file in sorted(Path(staging).iterdir(), key=lambda f: f.name == "dataset_info.json"):
            file.replace(dataset / file.name)


def read_heads(folder: Path, kind: str):
    """The records of a finished data set: a random-access sequence of dicts of NumPy arrays."""
    dataset = dataset_folder(folder, kind)
    if not (dataset / "dataset_info.json").is_file():
        raise UserError(
            f"no finished data set {NAME}/{kind} in {str(folder)!r}; the job `synthesize` makes one"
        )
    builder = _tfds().builder_from_directory(str(dataset))
    split = builder.info.splits[SPLIT]
    for path, samples in zip(split.filepaths, split.shard_lengths, strict=True):
        if problem := shard_problem(Path(path), samples):
            raise UserError(f"{path} is damaged ({problem}); the job `synthesize` makes it again")
    return builder.as_data_source(split=SPLIT)


def _tfds():
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"stored samples need tensorflow_datasets ({error}): pip install 'p4d_jax[train]'"
        ) from None
    return tfds
