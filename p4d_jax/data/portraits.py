"""`portrait_images` and `portrait_clips`: photos, and frames of films, as record sets (`data.records`).

    FOLDER/portrait_images/1.0.0/   a record a photo, as FFHQ has them
    FOLDER/portrait_clips/1.0.0/    a record a frame, as VFHQ has them: the frames of a clip, of one person
                                    before one camera, follow one another
           parameters.npz           beside the shards, as in a folder of photos: names, parameters of all

Where a folder of photos (`data.photos`) has two small files a picture, these have a few large ones, in which
a picture is found at once and lies as bytes: nothing is decoded. A training reads either. A pair of a film is
two records, not the whole clip. A record, of S pixels a side:

    image       (S, S, 3) uint8    the aligned picture
    mask        (S, S) uint8       255 where the person is
    camera, shape, expression, pose, eyes
                (25,), (300,), (100,), (6,), (6,) float32: the parts of `FrameParams.to_vector`
    name        string             of the photo; of a frame `clip` and `frame`

A set is made of a folder of photos or of films, or goes on to be made, by

    python -m p4d_jax.data.portraits portrait_images|portrait_clips FROM FOLDER [--size=512] [--head=openhead]
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from p4d_jax import assets
from p4d_jax.data.photos import (
    PARAMETERS,
    Photos,
    clip_of,
    load_parameters,
    mirrored_too,
    open_bent_photos,
)
from p4d_jax.data.records import Record, RecordSet, RecordSpec, write_atomically, write_shard
from p4d_jax.errors import UserError
from p4d_jax.head.model import HeadModel
from p4d_jax.types import FRAME_VECTOR_SIZE, VectorParts

IMAGES, CLIPS = "portrait_images", "portrait_clips"
DESCRIPTIONS = {
    IMAGES: "Aligned photos of faces, with the person's mask, the camera and a head model's parameters.",
    CLIPS: "Aligned frames of clips of one person each, with masks, cameras and a head model's parameters.",
}
PARTS = {  # of a frame's vector
    "camera": VectorParts.CAMERA, "shape": VectorParts.SHAPE, "expression": VectorParts.EXPRESSION,
    "pose": VectorParts.POSE, "eyes": VectorParts.EYES,
}  # fmt: skip
RECORDS_A_SHARD = 1024


def portrait_set(folder: str | Path, name: str) -> RecordSet:
    """The record set `IMAGES` or `CLIPS` below a folder."""
    return RecordSet(Path(folder), name, "", DESCRIPTIONS[name], f"python -m p4d_jax.data.portraits {name}")


def portrait_spec(name: str, size: int) -> RecordSpec:
    """Types and shapes of a record."""
    pixels = lambda *shape: jax.ShapeDtypeStruct(shape, np.uint8)
    count = lambda where: where.stop - where.start
    numbers = {part: jax.ShapeDtypeStruct((count(where),), np.float32) for part, where in PARTS.items()}
    names = {IMAGES: ("name",), CLIPS: ("clip", "frame")}[name]
    return {
        "image": pixels(size, size, 3), "mask": pixels(size, size), **numbers, **dict.fromkeys(names, str)
    }  # fmt: skip


# Writing ----------------------------------------------------------------------------------------------------


def write_portraits(
    folder: str | Path,
    name: str,
    source: str | Path,
    head: HeadModel,
    size: int,
    *,
    records_a_shard: int = RECORDS_A_SHARD,
) -> int:
    """Makes the missing shards of a record set of a folder of photos, and its metadata.

    Args:
      folder: In which `name` is made.
      name: `IMAGES` or `CLIPS`.
      source: The folder of photos, or of films; see `data.photos`.
      head: Its head model.
      size: S, to which pictures are reduced.

    Returns:
      The number of records.

    Raises:
      UserError: The source cannot be used, a picture of it is damaged, a frame belongs to no clip, or the
        record set was begun with other pictures.
    """
    photos = open_bent_photos(source, head, size, mirror=False)
    stored = load_parameters(Path(source) / PARAMETERS, head)
    order = list(range(len(photos.names)))
    if name == CLIPS:
        if alone := [name for name in photos.names if not clip_of(name)]:
            raise UserError(f"{source}: {alone[0]!r} belongs to no clip; frames are named CLIP/FRAME")
        place = {clip: i for i, clip in enumerate(dict.fromkeys(map(clip_of, photos.names)))}
        order.sort(key=lambda photo: place[clip_of(photos.names[photo])])
    arrays = {key: stored[key][order] for key in ("pictures", "frames", "mirrored_frames") if key in stored}
    digest = hashlib.sha256(arrays["frames"].tobytes() + "\n".join(arrays["pictures"]).encode())
    made, spec = portrait_set(folder, name), portrait_spec(name, size)
    made.start(
        {"head": head.name, "size": size, "records": len(order), "records_a_shard": records_a_shard,
         "parameters": digest.hexdigest()}
    )  # fmt: skip
    file = io.BytesIO()
    np.savez_compressed(file, **stored | arrays)
    write_atomically(made.path / PARAMETERS, file.getvalue())
    shards = [order[start : start + records_a_shard] for start in range(0, len(order), records_a_shard)]
    lengths = [len(shard) for shard in shards]
    for number in made.missing_shards(lengths):
        write_shard(made.shard_path(number, len(shards)), spec, _records(name, photos, shards[number]))
        print(f"{made}: shard {number + 1} of {len(shards)} is written", flush=True)
    made.finish(spec, lengths)
    return len(order)


def _records(name: str, photos: Photos, chosen: Sequence[int]) -> Iterator[Record]:
    for photo in chosen:
        image, mask = photos.read(photo)
        numbers = {part: photos.frames[photo][where] for part, where in PARTS.items()}
        title = photos.names[photo]
        clip, _, frame = title.rpartition("/")
        named = {"name": title} if name == IMAGES else {"clip": clip, "frame": frame}
        yield {"image": image, "mask": mask, **numbers, **named}


# Reading ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PictureRecords:
    """`photos.Pictures` in a record set.

    Attributes:
      records: N.
      names: N, of the parameters.
      where: The set's folder, for messages.
    """

    records: Sequence[Record]
    names: tuple[str, ...]
    where: Path

    def read(self, photo: int) -> tuple[Image.Image, Image.Image]:
        """See `photos.Pictures`."""
        name = self.names[photo]
        try:
            record = self.records[photo]
        except (RuntimeError, ValueError, IndexError, OSError) as error:
            told = str(error).split("\n")[0][:100]
            raise UserError(f"{self.where}: the record of {name!r} is damaged ({told})") from None
        texts = [record[part].decode() for part in ("name", "clip", "frame") if part in record]
        if "/".join(texts) != name:
            raise UserError(f"{self.where}: the record of {name!r} holds {'/'.join(texts)!r}")
        return Image.fromarray(record["image"]), Image.fromarray(record["mask"])


def open_portraits(
    folder: str | Path, name: str, head: HeadModel, size: int, mirror: bool = True, damaged: int = 0
) -> Photos:
    """Photos, or frames of films, with bent necks: of the record set in a folder, else of the folder itself.

    Args:
      name: `IMAGES` or `CLIPS`.
      folder, head, size, mirror, damaged: See `photos.open_bent_photos`.

    Raises:
      UserError: The record set is not finished, damaged, of another head, or its pictures are too small.
    """
    made = portrait_set(folder, name)
    if not made.path.is_dir():
        return open_bent_photos(folder, head, size, mirror, damaged)
    stored, records = load_parameters(made.path / PARAMETERS, head), made.open()
    names = tuple(stored["pictures"].tolist())
    if len(records) != len(names):
        raise UserError(f"{made.path}: {len(records)} records, but {PARAMETERS} names {len(names)} pictures")
    if (largest := made.recipe()["size"]) < size:
        raise UserError(f"{made.path}: pictures of {largest}², the model takes {size}²")
    frames = mirrored_too(stored, head).reshape(-1, FRAME_VECTOR_SIZE) if mirror else stored["frames"]
    return Photos(names, PictureRecords(records, names, made.path), frames, size, 0, damaged)


def main(argv: Sequence[str]) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m p4d_jax.data.portraits", description=DESCRIPTIONS[IMAGES]
    )
    parser.add_argument("name", choices=(IMAGES, CLIPS))
    parser.add_argument("source", metavar="FROM", help="a folder of photos or of films")
    parser.add_argument("folder", metavar="FOLDER", help="where the data set is made")
    parser.add_argument("--size", type=int, default=512, help="pixels a side")
    parser.add_argument("--head", default="openhead", help="head model of the parameters")
    asked = parser.parse_args(argv)
    head = assets.head_model(asked.head)
    print(write_portraits(asked.folder, asked.name, asked.source, head, asked.size), "records")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"p4d_jax: {error}")
