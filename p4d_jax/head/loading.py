"""Head models in one `.npz`: written by the bakes and importers, read and checked here.

Keys are the fields of `HeadModel`; regions are `regions/<name>`. Large bases are stored as float16 and
widened to float32; a basis that is zero throughout may be left out. Nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np

from p4d_jax.errors import UserError
from p4d_jax.head.model import NEIGHBOURS, REGIONS, HeadModel
from p4d_jax.npz import read_npz

_HALF = ("shape_basis", "expression_basis", "pose_basis", "uv")
_PLAIN = tuple(
    field.name
    for field in dataclasses.fields(HeadModel)
    if field.name not in ("regions", "name", "expression_names")
)


def save_head_model(path: str | Path, head: HeadModel) -> None:
    """Writes a head model; `load_head_model` reads it back, its bases rounded to float16."""
    arrays = {}
    for name in _PLAIN:
        value = np.asarray(getattr(head, name))
        if name in _HALF:
            value = value.astype(np.float16)
        if name == "pose_basis" and not value.any():
            continue
        arrays[name] = value
    arrays |= {f"regions/{name}": np.asarray(index, np.int32) for name, index in head.regions.items()}
    about = json.dumps({"name": head.name, "expression_names": head.expression_names})
    np.savez_compressed(path, about=np.array(about), **arrays)


def load_head_model(path: str | Path) -> HeadModel:
    """Reads and checks a head model.

    Raises:
      UserError: the file is missing, not an .npz, or an array is missing, misshapen, not finite or points
        outside the mesh.
    """
    arrays = read_npz(path, "a head model", ())
    if "template" in arrays and arrays["template"].ndim == 2:
        arrays.setdefault("pose_basis", np.zeros((*arrays["template"].shape, 36), np.float16))
    missing = [name for name in (*_PLAIN, "about") if name not in arrays]
    missing += [f"regions/{name}" for name in REGIONS if f"regions/{name}" not in arrays]
    if missing:
        raise UserError(f"{path}: not a head model, it lacks {', '.join(missing)}")
    extra = sorted(name for name in arrays if name not in (*_PLAIN, "about") and name[:8] != "regions/")
    if extra:
        raise UserError(f"{path}: not a head model, which has no array {extra[0][:100]!r}")
    name, expression_names = _names(path, arrays.pop("about"))
    _check(path, arrays)
    # `device_put`, since `jnp.asarray` compiles a program for each shape
    regions = jax.device_put({key[8:]: value for key, value in arrays.items() if key.startswith("regions/")})
    fields = jax.device_put(
        {
            name: arrays[name].astype(np.float32 if arrays[name].dtype.kind == "f" else np.int32)
            for name in _PLAIN
        }
    )
    return HeadModel(**fields, regions=regions, name=name, expression_names=expression_names)


def _names(path, about: np.ndarray) -> tuple[str, tuple[str, ...]]:
    """The head's name and those of its expressions."""
    try:
        told = json.loads(str(about))
        name, expressions = told["name"], told["expression_names"]
    except (ValueError, TypeError, KeyError, RecursionError):
        name, expressions = None, ()
    if not all(isinstance(one, str) for one in (name, *expressions)):
        raise UserError(f"{path}: about is no JSON of name and expression_names")
    return name, tuple(expressions)


def _check(path, arrays: dict[str, np.ndarray]) -> None:
    """Every array's shape, values and indices; V and the other sizes come from the arrays themselves."""
    flat = [name for name in _PLAIN if arrays[name].ndim == 0 or arrays[name].dtype.kind not in "biuf"]
    if flat:
        value = arrays[flat[0]]
        raise UserError(f"{path}: {flat[0]} has shape {value.shape} and type {value.dtype}")
    vertices = len(arrays["template"])
    points, shapes = len(arrays["mediapipe_indices"]), arrays["shape_basis"].shape[-1]
    expressions, small = arrays["expression_basis"].shape[-1], len(arrays["decimated_triangles"])
    expected = {
        "template": (vertices, 3), "shape_basis": (vertices, 3, shapes),
        "expression_basis": (vertices, 3, expressions), "pose_basis": (vertices, 3, 36),
        "joint_regressor": (5, vertices), "skinning_weights": (vertices, 5),
        "faces": (len(arrays["faces"]), 3), "origin": (3,),
        "landmark_triangles": (68, 3), "landmark_barycentric": (68, 3),
        "contour_triangles": (79, 17, 3), "contour_barycentric": (79, 17, 3),
        "mediapipe_indices": (points,), "mediapipe_triangles": (points, 3),
        "mediapipe_barycentric": (points, 3), "neighbours": (vertices, NEIGHBOURS),
        "decimated_faces": (len(arrays["decimated_faces"]), 3), "decimated_triangles": (small, 3),
        "decimated_barycentric": (small, 3), "uv": (vertices, 2),
    }  # fmt: skip
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise UserError(f"{path}: {name} has shape {arrays[name].shape}, expected {shape}")
    limits = {name: vertices for name in arrays if name.endswith("_triangles") or name.startswith("regions/")}
    limits |= {
        "faces": vertices,
        "neighbours": vertices + 1,
        "decimated_faces": small,
        "mediapipe_indices": 468,
    }
    for name, limit in limits.items():
        value = arrays[name]
        if (
            value.ndim == 0
            or value.dtype.kind not in "iu"
            or (value.size and (value.min() < 0 or value.max() >= limit))
        ):
            raise UserError(f"{path}: {name} must hold indices in 0..{limit - 1}")
