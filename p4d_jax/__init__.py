"""Portrait4D in JAX: one photo and a motion in, an animated 3D head out.

    import p4d_jax as p4d

    avatar = p4d.Avatar.from_photo("me.jpg")
    for frame in avatar.drive("clip.mp4"):
        show(frame.picture)

Names are imported when they are first used, so that `import p4d_jax` costs nothing and needs no device.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p4d_jax.avatar.avatar import Avatar
    from p4d_jax.avatar.file import load_avatar
    from p4d_jax.avatar.model import AvatarModel
    from p4d_jax.avatar.motion import Motion
    from p4d_jax.avatar.paste import PasteBack
    from p4d_jax.capture.album import capture_album
    from p4d_jax.capture.clip import FilmCapture, capture_film
    from p4d_jax.capture.photo import Capture, capture_photo
    from p4d_jax.errors import UserError
    from p4d_jax.geometry.cameras import look_at_camera, orbit
    from p4d_jax.head.strength import Strength
    from p4d_jax.imaging.writing import VideoWriter, color_depth, save_picture, save_video, side_by_side
    from p4d_jax.main import enable_compilation_cache, run
    from p4d_jax.reconstructor.field import Frame
    from p4d_jax.render.surface import Mesh, write_ply
    from p4d_jax.types import Camera, FrameParams

__version__ = "0.1.0"

_HOMES = {
    "Avatar": "avatar.avatar",
    "AvatarModel": "avatar.model",
    "Camera": "types",
    "Capture": "capture.photo",
    "FilmCapture": "capture.clip",
    "Frame": "reconstructor.field",
    "FrameParams": "types",
    "Mesh": "render.surface",
    "Motion": "avatar.motion",
    "PasteBack": "avatar.paste",
    "Strength": "head.strength",
    "UserError": "errors",
    "VideoWriter": "imaging.writing",
    "capture_album": "capture.album",
    "capture_film": "capture.clip",
    "capture_photo": "capture.photo",
    "color_depth": "imaging.writing",
    "enable_compilation_cache": "main",
    "load_avatar": "avatar.file",
    "look_at_camera": "geometry.cameras",
    "orbit": "geometry.cameras",
    "run": "main",
    "save_picture": "imaging.writing",
    "save_video": "imaging.writing",
    "side_by_side": "imaging.writing",
    "write_ply": "render.surface",
}
__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'p4d_jax' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"p4d_jax.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
