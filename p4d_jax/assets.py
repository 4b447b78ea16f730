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


def embedded(name: str) -> Path:
    """The file `name` (with its ending, '/' between folders) of the package's data."""
    path = EMBEDDED / name
    if not path.is_file():
        there = sorted(str(p.relative_to(EMBEDDED)) for p in EMBEDDED.rglob("*") if p.is_file())
        raise UserError(f"embedded asset {name!r} is not in this installation{nearest(name, there)}")
    return path


def find(name_or_path: str | Path, kind: str, endings: tuple[str, ...]) -> Path:
    """A file named by its path, or by the bare name of an embedded file.

    Args:
      name_or_path: 'openhead', or 'my/head.npz'.
      kind: what it is, for the message.
      endings: of embedded files, in order of preference, as in ('.npz',).
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    for ending in endings:
        candidate = EMBEDDED / f"{name_or_path}{ending}"
        if candidate.is_file():
            return candidate
    names = sorted(p.name.removesuffix(e) for e in endings for p in EMBEDDED.iterdir() if p.name.endswith(e))
    raise UserError(
        f"no {kind} file {str(name_or_path)!r}, and none of that name in the package"
        f" ({', '.join(names)}){nearest(str(name_or_path), names)}"
    )


@functools.cache
def head_model(name_or_path: str = "openhead"):
    """The `HeadModel` of that name or file; read once a process."""
    from p4d_jax.head.loading import load_head_model

    return load_head_model(find(name_or_path, "head model", (".npz",)))


def landmark_model(name: str) -> Path:
    """The file of a MediaPipe model: face_detection_short_range, face_landmark, iris_landmark, ..."""
    return embedded(f"mediapipe/{name}.tflite")


def weights(name_or_path: str | Path) -> Path:
    """The file of a network's weights, by the name of embedded ones or by path."""
    return find(name_or_path, "weights", ("_weights.npz",))


def motion(name_or_path: str | Path) -> Path:
    """The file of a motion clip, by the name of an embedded one or by path."""
    return find(name_or_path, "motion", (".npz",))


def photo(name: str) -> np.ndarray:
    """An example photo that ships with a dependency: (H, W, 3) uint8.

    'astronaut' is NASA's portrait of Eileen Collins, in the public domain, from scikit-image's wheel.
    """
    if name != "astronaut":
        raise UserError(f"photo {name!r} is not one of {', '.join(PHOTOS)}{nearest(name, PHOTOS)}")
    from skimage import data

    return np.asarray(data.astronaut(), np.uint8)
