"""`p4d_heads`: samples of a GenHead as a record set (`data.records`) of each kind, dynamic and static.

One record is one `SyntheticHead`, its fields in `record_spec`'s types and shapes: a record's size is exact
(`records.record_bytes`). What is not float32 there is rounded: `encode_sample` and `decode_sample` go between
a sample and its record.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp

from p4d_jax.data.records import RecordSet, RecordSpec
from p4d_jax.genhead.synthesis import SyntheticHead
from p4d_jax.types import Array, FrameParams

NAME = "p4d_heads"
DESCRIPTION = "Synthetic 4D portraits: identities in motion from all sides, with all that is known of them."
# Fields that are stored as they are; the image is uint8, all others float16.
EXACT = ("depth", "landmarks", "points", "motion", "params", "latent", "conditioning")


def heads_set(folder: str | Path, kind: str) -> RecordSet:
    """The record set of a kind, dynamic or static, below a folder."""
    return RecordSet(Path(folder), NAME, kind, DESCRIPTION, "the job `synthesize`")


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
