"""What a photo does not show, on OpenHeads before sharp backgrounds: turned heads and opened mouths.

    python -m benchmarks.hidden_side [--people=16] [--alpha=truth|estimated|none] [--out=DIR]

Each person's one picture is the source; the neck then turns by 25 degrees to either side, and the mouth opens
by three amounts. Of turned heads: PSNR inside the true person, and the shares of the true person's and of its
bare head's pixels that show the background instead (nearer to the background's colour there than half the way
to the true one, where the two differ). Of mouths, of sources that smile with teeth and of shut ones apart:
PSNR and SSIM in the square around the true lips. Mean and standard error over people.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from PIL import Image

from p4d_jax import Avatar, AvatarModel
from p4d_jax.capture.outside import alpha_of_picture
from p4d_jax.capture.segmentation import Segmenter
from p4d_jax.evaluation.people import person_keys
from p4d_jax.evaluation.pictures import ssim
from p4d_jax.head.actions import JAW_OPEN
from p4d_jax.head.landmarks import project_landmarks
from p4d_jax.head.skinning import posed_vertices
from p4d_jax.imaging.writing import to_picture
from p4d_jax.openheads.config import OpenHeadsSettings
from p4d_jax.openheads.people import random_cameras, random_identity
from p4d_jax.openheads.portraits import render_scene
from p4d_jax.openheads.scene import prepare_scene
from p4d_jax.types import FrameParams, on_host, stack, take

PEOPLE = flags.DEFINE_integer("people", 16, "number of people", lower_bound=2)
ALPHA = flags.DEFINE_enum("alpha", "estimated", ("truth", "estimated", "none"), "the person in the source")
WEIGHTS = flags.DEFINE_string("weights", "reenact_demo", "weights of the reconstructor")
OUT = flags.DEFINE_string("out", None, "folder for a sheet of the first eight people")
SETTINGS = OpenHeadsSettings(supersample=2, sharp_backgrounds=1.0, noise=0.0, yaw=(0.2, 0.4))
TURNS = (-25.0, 25.0)  # degrees
OPENINGS = (0.25, 0.5, 0.8)
APART = 0.35  # root of summed squares of colours in [-1, 1] from which background and person differ
SMILE = {"mouthSmile": 0.8, "mouthUpperUp": 0.5, "mouthLowerDown": 0.35, "jawOpen": 0.1}


def with_mouth(frame: FrameParams, names: tuple[str, ...], actions: dict[str, float]) -> FrameParams:
    """The frame with nothing in the face but these actions, of both sides where they have sides."""
    expression = np.zeros_like(frame.expression)
    for index, name in enumerate(names):
        expression[index] = actions.get(name.removesuffix("Left").removesuffix("Right"), 0.0)
    jaw = np.array([JAW_OPEN * actions.get("jawOpen", 0.0), 0.0, 0.0])
    return frame.replace(expression=expression, pose=np.concatenate([np.zeros(3), jaw]).astype(np.float32))


def asked(source: FrameParams, names: tuple[str, ...], actions: dict[str, float]) -> FrameParams:
    """(5, ...) the source turned to both sides, and with its mouth open."""
    turned = []
    for yaw in np.radians(TURNS):
        pose = source.pose.copy()
        pose[1] += yaw
        turned.append(source.replace(pose=pose))
    opened = [with_mouth(source, names, {**actions, "jawOpen": amount}) for amount in OPENINGS]
    return on_host(stack([*turned, *opened]))


def turned_measures(made: np.ndarray, true: np.ndarray, mask, face_mask, behind: np.ndarray) -> dict:
    """PSNR in the person, and the shares of person and of bare head that show the background."""
    distance = lambda a, b: np.linalg.norm(a - b, axis=-1)
    through = distance(made, behind) < 0.5 * distance(true, behind)
    solid = mask[..., 0] > 0.99
    row = {"turned, PSNR": -10 * np.log10(np.mean(((made - true) / 2)[solid] ** 2))}
    for name, inside in (("person", solid), ("head", face_mask[..., 0] > 0.99)):
        differ = inside & (distance(true, behind) > APART)
        row[f"see-through {name} %"] = 100 * (through & differ).sum() / max(differ.sum(), 1)
    return row


def mouth_measures(made: np.ndarray, true: np.ndarray, landmarks: np.ndarray) -> dict:
    """PSNR and SSIM in the square around the lips, landmarks (70, 2) in pixels."""
    lips = landmarks[48:68]
    low, high = lips.min(axis=0), lips.max(axis=0)
    half = int(np.ceil(0.6 * (high - low).max()))
    column, row = np.round((low + high) / 2).astype(int)
    cut = lambda x: x[max(row - half, 0) : row + half, max(column - half, 0) : column + half]
    error = np.mean(((cut(made) - cut(true)) / 2) ** 2)
    return {
        "PSNR": -10 * np.log10(error),
        "SSIM": float(ssim(jnp.asarray(cut(made)), jnp.asarray(cut(true)))),
    }


def main(_: list[str]) -> None:
    model = AvatarModel.load(WEIGHTS.value)
    size, scene = model.config.picture_size, prepare_scene(model.head)
    rows, sheet, segmenter = [], [], Segmenter()
    for index, key in enumerate(person_keys(7, PEOPLE.value)):
        kind, actions = ("teeth", SMILE) if index % 2 else ("shut", {})
        keys = jax.random.split(key, 3)
        identity = random_identity(keys[0], scene, SETTINGS)
        camera = take(random_cameras(keys[1], 1, SETTINGS), 0)
        blank = FrameParams(camera, identity.shape, jnp.zeros(100), jnp.zeros(6), jnp.zeros(6))
        source = with_mouth(on_host(blank), model.head.expression_names, actions)
        frames = asked(
            source,
            model.head.expression_names,
            {"mouthSmile": 0.5, "mouthUpperUp": 0.3} if kind == "teeth" else {},
        )
        both = jax.tree.map(lambda a, b: np.concatenate([np.asarray(a)[None], b]), source, frames)
        shown = on_host(render_scene(scene, identity, both, keys[2], size, SETTINGS))
        image, truth = shown.image[0], shown.image[1:]
        if ALPHA.value == "truth":
            alpha = shown.mask[0]
        elif ALPHA.value == "estimated":
            alpha = alpha_of_picture(to_picture(image), model.head, source, segmenter)[..., None]
        alphas = None if ALPHA.value == "none" else jnp.asarray(alpha)[None]
        avatar = Avatar.encode(
            model, jnp.asarray(image)[None], take(jax.tree.map(jnp.asarray, both), slice(0, 1)), alphas=alphas
        )
        made = np.asarray(avatar.render_many(jax.tree.map(jnp.asarray, frames)))
        row = {}
        for i in range(2):
            for name, value in turned_measures(
                made[i], truth[i], shown.mask[1 + i], shown.face_mask[1 + i], shown.background
            ).items():
                row.setdefault(name, []).append(value)
        for i in range(2, len(made)):
            frame = take(frames, i)
            mesh = posed_vertices(model.head, identity.shape, frame)
            marks = np.asarray(project_landmarks(model.head, mesh, frame.pose[:3], frame.camera)) * size
            for name, value in mouth_measures(made[i], truth[i], marks).items():
                row.setdefault(f"mouth of {kind}, {name}", []).append(value)
        rows.append({name: float(np.mean(values)) for name, values in row.items()})
        if OUT.value and index < 8:
            sheet += [
                np.concatenate([to_picture(x) for x in (image, *pictures)], axis=1)
                for pictures in (truth, made)
            ]
    for name in (
        "turned, PSNR",
        "see-through person %",
        "see-through head %",
        *(f"mouth of {k}, {m}" for k in ("shut", "teeth") for m in ("PSNR", "SSIM")),
    ):
        values = np.array([row[name] for row in rows if name in row])
        print(f"{name:28s} {values.mean():8.3f} ± {values.std() / np.sqrt(len(values)):.3f}")
    if OUT.value:
        Path(OUT.value).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(sheet)).save(Path(OUT.value) / "hidden_side.png")


if __name__ == "__main__":
    app.run(main)
