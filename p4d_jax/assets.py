"""Where head models, landmark models, weights and example photos are found.

Each function takes the name of something that ships in the package, or a path of the user's own. Nothing is
downloaded. A missing asset is a `UserError` that lists what there is.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from p4d_jax.errors import UserError, nearest

EMBEDDED = Path(__file__).parent / "embedded"
PHOTOS = ("astronaut",)
HEADS = ("openhead",)
MOTIONS = ("motion_talk",)
WEIGHTS = ("reenact_demo", "genhead_demo")


def embedded(name: str) -> Path:
    """The file `name` (with its ending, '/' between folders) of the package's data."""
    path = EMBEDDED / name
    if not path.is_file():
        there = sorted(str(p.relative_to(EMBEDDED)) for p in EMBEDDED.rglob("*") if p.is_file())
        raise UserError(f"embedded asset {name!r} is not in this installation{nearest(name, there)}")
    return path


def find(name_or_path: str | Path, kind: str, names: tuple[str, ...]) -> Path:
    """A file named by its path, or by the bare name of an embedded `.npz`.

    Args:
      name_or_path: 'openhead', or 'my/head.npz'.
      kind: what it is, for the message.
      names: of the embedded ones.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    if str(name_or_path) in names:
        return embedded(f"{name_or_path}.npz")
    raise UserError(
        f"no {kind} file {str(name_or_path)!r}, and none of that name in the package ({', '.join(names)})"
        f"{nearest(str(name_or_path), names)}"
    )


@functools.cache
def head_model(name_or_path: str = "openhead"):
    """The `HeadModel` of that name or file; read once a process."""
    from p4d_jax.head.loading import load_head_model

    return load_head_model(find(name_or_path, "head model", HEADS))


def mediapipe_model(name: str) -> Path:
    """The file of a MediaPipe model: face_landmarks_detector, selfie_segmentation, ..."""
    return embedded(f"mediapipe/{name}.tflite")


def weights(name_or_path: str | Path) -> Path:
    """A network's weights: the name of embedded ones, a file, or a folder that the job `convert` made."""
    if Path(name_or_path).expanduser().is_dir():
        return Path(name_or_path).expanduser()
    return find(name_or_path, "weights", WEIGHTS)


def motion(name_or_path: str | Path) -> Path:
    """The file of a motion clip, by the name of an embedded one or by path."""
    return find(name_or_path, "motion", MOTIONS)


def photo(name: str) -> np.ndarray:
    """An example photo that ships with a dependency: (H, W, 3) uint8.

    'astronaut' is NASA's portrait of Eileen Collins, in the public domain, from scikit-image's wheel.
    """
    if name != "astronaut":
        raise UserError(f"photo {name!r} is not one of {', '.join(PHOTOS)}{nearest(name, PHOTOS)}")
    from skimage import data

    return np.asarray(data.astronaut(), np.uint8)
