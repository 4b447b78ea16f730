"""What `reenact` makes of an avatar beside its film: one function an export, registered by its name.

An export is `f(avatar, folder, config, driving) -> scores`: it writes files into the folder and returns what
the report shall say of them. Adding one is a function here and its name in `config.exports`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from p4d_jax.avatar.avatar import Avatar
from p4d_jax.avatar.gltf import write_gltf
from p4d_jax.avatar.motion import Motion
from p4d_jax.avatar.stablehlo import write_stablehlo
from p4d_jax.avatar.textured_head import build_textured_head
from p4d_jax.geometry import orbit
from p4d_jax.imaging import writing as pictures
from p4d_jax.imaging.watermark import mark
from p4d_jax.jobs._fields import named_in, parse_names
from p4d_jax.jobs.settings import ReenactSettings
from p4d_jax.render.surface import write_obj, write_ply

Export = Callable[[Avatar, Path, ReenactSettings, Motion], dict]


def turntable(avatar: Avatar, folder: Path, config: ReenactSettings, driving: Motion) -> dict:
    """turntable.mp4: the photo's own expression from `turntable_yaw` left to right and back."""
    count = config.turntable_frames
    yaws = np.deg2rad(config.turntable_yaw) * np.sin(np.linspace(0, 2 * np.pi, count, endpoint=False))
    turned = jax.jit(orbit)
    with pictures.VideoWriter(folder / "turntable.mp4", driving.fps) as film:
        for yaw in tqdm(yaws, desc="turntable", unit="frame"):
            view = avatar.render(camera=turned(avatar.params.camera, yaw))
            film.add(mark(pictures.resize(view.picture, config.panel), parse_names(config.watermark)))
    return {}


def depth(avatar: Avatar, folder: Path, config: ReenactSettings, driving: Motion) -> dict:
    """depth.png: distance from the camera in the photo's view, near is yellow."""
    frame = avatar.render()
    colors = pictures.color_depth(np.asarray(frame.depth), np.asarray(frame.alpha))
    pictures.save_picture(folder / "depth.png", pictures.resize(colors, config.panel))
    return {}


def mesh(avatar: Avatar, folder: Path, config: ReenactSettings, driving: Motion) -> dict:
    """mesh.ply, mesh.obj: coloured surface of the head at rest; where densities have none, no file."""
    try:
        surface = avatar.mesh(config.mesh_resolution)
    except ValueError as error:
        print(f"no mesh: {error}", flush=True)
        return {"mesh_vertices": 0}
    write_ply(folder / "mesh.ply", surface)
    write_obj(folder / "mesh.obj", surface)
    return {"mesh_vertices": len(surface.vertices)}


def gltf(avatar: Avatar, folder: Path, config: ReenactSettings, driving: Motion) -> dict:
    """head.glb: the textured head with morph targets and joints, for three.js, Blender and game engines."""
    head = build_textured_head(avatar)
    write_gltf(folder / "head.glb", head)
    return {"gltf_vertices": len(head.vertices)}


def avatar_file(avatar: Avatar, folder: Path, config: ReenactSettings, driving: Motion) -> dict:
    """avatar.avatar: the avatar itself, for `p4d_jax.load_avatar`."""
    avatar.save(folder / "avatar.avatar")
    return {}


def motion_file(avatar: Avatar, folder: Path, config: ReenactSettings, driving: Motion) -> dict:
    """motion.npz: the driver's motion, which drives other photos and shows nobody's face."""
    driving.without_identity().save(folder / "motion.npz")
    return {}


def arkit_table(avatar: Avatar, folder: Path, config: ReenactSettings, driving: Motion) -> dict:
    """arkit.csv: the driver's facial actions and head rotation, as iPhone apps write them."""
    driving.save(folder / "arkit.csv")
    return {}


def stablehlo(avatar: Avatar, folder: Path, config: ReenactSettings, driving: Motion) -> dict:
    """encode.stablehlo, frame.stablehlo, weights.npz: the avatar's programs, which run with jax alone."""
    return {"stablehlo_bytes": write_stablehlo(folder, avatar)}


EXPORTS: dict[str, Export] = {
    "turntable": turntable,
    "depth": depth,
    "mesh": mesh,
    "gltf": gltf,
    "avatar": avatar_file,
    "motion": motion_file,
    "arkit": arkit_table,
    "stablehlo": stablehlo,
}


def named_exports(names: str) -> dict[str, Export]:
    """The exports that a config names."""
    return named_in(EXPORTS, names, "exports", "export")
