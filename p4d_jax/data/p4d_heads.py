"""Samples of `data.synthesis` on disk: the TensorFlow dataset `p4d_heads`, in ArrayRecord shards.

    DIR/p4d_heads/1.0.0/p4d_heads-train.array_record-00000-of-00008, ...

Read with `tfds.builder_from_directory(DIR / "p4d_heads/1.0.0")`, or `read_heads` here; the data source that
it gives needs no TensorFlow graph and is what grain takes. A shard depends on the dataset's key and its
number alone and appears under its name when it is complete, so that a run that was stopped goes on with the
shards that are missing, and hosts share the work by number. The metadata follow when all shards are there.

What is stored: `image` and `opacity` as 8 bits; `features`, `background`, `correspondence` and
`plane_features` as float16; the rest as float32; all without further loss.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from p4d_jax.data.synthesis import HeadSample
from p4d_jax.errors import UserError
from p4d_jax.types import FrameParams

NAME, VERSION, SPLIT = "p4d_heads", "1.0.0", "train"
HALF = ("features", "background", "correspondence", "plane_features")
FULL = ("depth", "landmarks", "points", "motion")


def encode_sample(sample: HeadSample) -> dict[str, np.ndarray]:
    """One sample (no leading axes) -> arrays by name, as stored."""
    arrays = {name: np.asarray(getattr(sample, name), np.float16) for name in HALF}
    arrays |= {name: np.asarray(getattr(sample, name), np.float32) for name in FULL}
    image, opacity = np.asarray(sample.image) * 127.5 + 127.5, np.asarray(sample.opacity) * 255
    arrays |= {"image": to_bytes(image), "opacity": to_bytes(opacity)}
    return arrays | {"params": np.asarray(sample.params.to_vector(), np.float32)}


def decode_sample(arrays: dict[str, np.ndarray]) -> HeadSample:
    """Inverse of `encode_sample`, float32, within what 8 and 16 bits hold."""
    single = {name: np.asarray(arrays[name], np.float32) for name in (*HALF, *FULL)}
    return HeadSample(
        image=np.asarray(arrays["image"], np.float32) / 127.5 - 1,
        opacity=np.asarray(arrays["opacity"], np.float32) / 255,
        params=FrameParams.from_vector(np.asarray(arrays["params"], np.float32)),
        **single,
    )


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Values of 0 to 255 -> uint8."""
    return np.round(np.clip(values, 0, 255)).astype(np.uint8)


def sample_bytes(arrays: dict[str, np.ndarray]) -> int:
    """Bytes of a sample's arrays, before the record's own compression."""
    return sum(array.nbytes for array in arrays.values())


def dataset_folder(root: Path) -> Path:
    """Where the shards are."""
    return root / NAME / VERSION


def shard_path(root: Path, shard: int, shards: int) -> Path:
    """Of one shard."""
    return dataset_folder(root) / f"{NAME}-{SPLIT}.array_record-{shard:05d}-of-{shards:05d}"


def build_features(arrays: dict[str, np.ndarray]):
    """The `tfds.features.FeaturesDict` of a sample's arrays: their shapes and types as they are."""
    import tensorflow_datasets as tfds

    tensor = tfds.features.Tensor
    return tfds.features.FeaturesDict(
        {
            name: tfds.features.Image(shape=array.shape, encoding_format="png")
            if name == "image"
            else tensor(shape=array.shape, dtype=array.dtype, encoding=tfds.features.Encoding.BYTES)
            for name, array in arrays.items()
        }
    )


def write_shard(path: Path, samples: Iterable[dict[str, np.ndarray]]) -> int:
    """Writes one shard, which appears when it is complete; returns its bytes.

    Raises:
      UserError: it cannot be written.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        writer, features, count = ArrayRecordWriter(str(temporary), "group_size:1"), None, 0
        for arrays in samples:
            features = features or build_features(arrays)
            writer.write(features.serialize_example(arrays))
            count += 1
        writer.close()
        size = temporary.stat().st_size
        path.with_name(f".{path.name}.json").write_text(json.dumps({"samples": count, "bytes": size}))
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
    return size


def finish_dataset(root: Path, shards: int, arrays: dict[str, np.ndarray], description: str) -> bool:
    """Writes the metadata once every shard is there; false where some are missing yet."""
    import tensorflow_datasets as tfds

    paths = [shard_path(root, shard, shards) for shard in range(shards)]
    if not all(path.is_file() for path in paths):
        return False
    about = [json.loads(path.with_name(f".{path.name}.json").read_text()) for path in paths]
    split = tfds.core.SplitInfo(
        name=SPLIT,
        shard_lengths=[shard["samples"] for shard in about],
        num_bytes=sum(shard["bytes"] for shard in about),
        filename_template=tfds.core.ShardedFileTemplate(
            data_dir=dataset_folder(root), dataset_name=NAME, split=SPLIT, filetype_suffix="array_record"
        ),
    )
    tfds.folder_dataset.write_metadata(
        data_dir=str(dataset_folder(root)),
        features=build_features(arrays),
        split_infos=[split],
        version=VERSION,
        description=description,
        check_data=False,
    )
    return True


def read_heads(root: Path):
    """The data source of a dataset: `source[k]` is a dict of arrays, which `decode_sample` takes.

    Raises:
      UserError: there is no complete dataset.
    """
    import tensorflow_datasets as tfds

    folder = dataset_folder(root)
    if not (folder / "dataset_info.json").is_file():
        raise UserError(f"{folder}: no complete dataset; run the job synthesize with the same workdir again")
    return tfds.builder_from_directory(str(folder)).as_data_source(split=SPLIT)
