"""An avatar as one file: arrays with names, and a JSON tree that says which object each belongs to.

The file is a `.npz`. Its entry `avatar` is the tree; all others are arrays that the tree names by number. A
node is null, {"value": number or text}, {"array": number}, {"tuple": [nodes]}, {"dict": {key: node}} or
{"type": name, "fields": {field: node}} of one of `TYPES`. Nothing in it is code, and no type but those is
ever made. What only encodes a photo is left out of the weights.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np

from p4d_jax.avatar.avatar import Avatar
from p4d_jax.avatar.encode import EncodedSource
from p4d_jax.avatar.model import AvatarModel
from p4d_jax.avatar.motion_source import EncoderMotion, ParameterMotion
from p4d_jax.errors import UserError, printable
from p4d_jax.head.expression_field import CanonicalFrame
from p4d_jax.head.lids import Lids
from p4d_jax.head.model import HeadModel
from p4d_jax.head.mouth import Mouth
from p4d_jax.networks.motion_encoder import MotionEncoder
from p4d_jax.npz import open_npz
from p4d_jax.reconstructor.config import ReconstructorConfig
from p4d_jax.reconstructor.encoders import SourceFeatures
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.reconstructor.several_photos import SourceTextures
from p4d_jax.reconstructor.texture import SourceTexture
from p4d_jax.types import Camera, FrameParams

FORMAT = "p4d_jax.avatar.2"
TYPES = {
    kind.__name__: kind
    for kind in (
        Avatar,
        AvatarModel,
        Camera,
        CanonicalFrame,
        EncodedSource,
        EncoderMotion,
        FrameParams,
        HeadModel,
        Lids,
        MotionEncoder,
        Mouth,
        ParameterMotion,
        Reconstructor,
        ReconstructorConfig,
        SourceFeatures,
        SourceTexture,
        SourceTextures,
    )
}
# Parts of Psi that an encoded source needs no more.
ENCODING_PARTS = (
    "encoder_global",
    "encoder_detail",
    "canonicalizer",
    "background",
    "photo",
    "fuse_tokens",
    "fuse_detail",
)


def save_avatar(path: str | Path, avatar: Avatar) -> None:
    """Writes an avatar to exactly `path`, whole or not at all."""
    path, model = Path(path).expanduser(), avatar.model
    params = {k: v for k, v in model.variables["params"].items() if k not in ENCODING_PARTS}
    lean = avatar.replace(model=model.replace(variables={**model.variables, "params": params}))
    arrays: list[np.ndarray] = []
    text = json.dumps({"format": FORMAT, "avatar": describe(lean, arrays)})
    temporary = path.with_name(f".{path.name}.unfinished")
    try:
        with temporary.open("wb") as file:
            stored = {str(number): array for number, array in enumerate(arrays)}
            np.savez_compressed(file, avatar=np.array(text), **stored)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"path: {str(path)!r} cannot be written ({error.strerror})") from None
    finally:
        temporary.unlink(missing_ok=True)


def load_avatar(path: str | Path) -> Avatar:
    """Reads an avatar; it renders the same bits as the one that was saved.

    Raises:
      UserError: There is no such file, or it is not an avatar's.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"path: no file {str(path)!r}; an avatar's file is written by Avatar.save")
    try:
        with open_npz(path, "an avatar's file") as stored:
            header = json.loads(stored.text("avatar"))
            if header["format"] != FORMAT:
                raise ValueError(f"format {header['format']!r}, expected {FORMAT!r}")
            avatar = restore(header["avatar"], stored)
        if not isinstance(avatar, Avatar):
            raise ValueError(f"it holds {type(avatar).__name__}")
    except UserError:
        raise
    # A tree whose nodes do not fit each other fails in as many ways as there are types in it.
    except Exception as error:
        said = printable(str(error).split("\n")[0])[:200]
        raise UserError(f"path: {str(path)!r} is not an avatar's file, or damaged ({said})") from None
    return avatar


def describe(value, arrays: list[np.ndarray]):
    """The node of a value; its arrays are appended to `arrays`."""
    if value is None:
        return None
    if isinstance(value, bool | int | float | str):
        return {"value": value}
    if isinstance(value, jax.Array | np.ndarray):
        arrays.append(np.asarray(value))
        return {"array": len(arrays) - 1}
    if isinstance(value, tuple | list):
        return {"tuple": [describe(one, arrays) for one in value]}
    if isinstance(value, Mapping):
        return {"dict": {key: describe(one, arrays) for key, one in value.items()}}
    name = type(value).__name__
    if TYPES.get(name) is not type(value):
        raise TypeError(f"value: an avatar's file does not hold {type(value)}")
    fields = {field: describe(getattr(value, field), arrays) for field in field_names(type(value))}
    return {"type": name, "fields": fields}


def restore(node, stored):
    """The value of a node, with the arrays of an opened file."""
    if node is None:
        return None
    ((kind, content),) = ((k, v) for k, v in node.items() if k != "fields")
    if kind == "value":
        return content
    if kind == "array":
        return jax.device_put(stored.read(str(content)))
    if kind == "tuple":
        return tuple(restore(one, stored) for one in content)
    if kind == "dict":
        return {key: restore(one, stored) for key, one in content.items()}
    if kind != "type" or content not in TYPES:
        raise ValueError(f"unknown object {content!r}")
    cls, fields = TYPES[content], node["fields"]
    if unknown := sorted(set(fields) - set(field_names(cls))):
        raise ValueError(f"{content} has no field {unknown[0]!r}")
    return cls(**{field: restore(one, stored) for field, one in fields.items()})


def field_names(cls: type) -> list[str]:
    """Fields of a dataclass; of a Flax module its settings alone."""
    own = ("parent", "name") if issubclass(cls, nn.Module) else ()
    return [field.name for field in dataclasses.fields(cls) if field.name not in own]
