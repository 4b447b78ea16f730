"""What a second and a third photo of a person bring: PSNR at novel views of held-out synthetic people.

    python -m benchmarks.several_sources [--people=16] [--yaws=-30,0,30] [--sheet=FILE]

Each person is drawn as by the job `evaluate`, so training never saw it. Photos differ in view, expression and
pose, as OpenHeads draws them; their parameters are the true ones. Targets show the first photo's expression
from straight ahead and from both sides. Reported for 1, 2, 3 photos, and for that one of three which is taken
from nearest to the target: PSNR in dB in the masks of the whole person and of the parametric head, mean
over people, and the gain over one photo with its standard error. Prints one line of JSON a view.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as iio
import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax.avatar.avatar import Avatar
from p4d_jax.avatar.model import AvatarModel
from p4d_jax.evaluation.people import HELD_OUT
from p4d_jax.geometry import look_at_camera
from p4d_jax.imaging.writing import to_picture
from p4d_jax.openheads.people import clip_identity
from p4d_jax.openheads.portraits import make_clip, render_scene
from p4d_jax.openheads.scene import prepare_scene
from p4d_jax.train.losses import psnr
from p4d_jax.types import Camera, FrameParams, stack, take

PHOTOS = 3
SHOWN = 4  # people in the sheet


def cameras_at(yaws: Sequence[float]) -> Camera:
    """Cameras (Y,) at head height, yaws in degrees."""
    each = [look_at_camera(float(np.deg2rad(yaw)), 0.0, 4.0) for yaw in yaws]
    return stack(each)


def nearest_photo(params: FrameParams, camera: Camera) -> int:
    """Of photos (K,), the one whose camera's direction is nearest to the camera's."""
    places = np.asarray(params.camera.cam2world)[:, :3, 3]
    wanted = np.asarray(camera.cam2world)[:3, 3]
    return int(np.argmax(places @ wanted / np.linalg.norm(places, axis=1)))


def measure_person(model: AvatarModel, key: jax.Array, views: Camera) -> tuple[np.ndarray, np.ndarray]:
    """PSNR (choices, Y, 2) of whole person and parametric head, and a picture: photos, then targets, results.

    Choices are 1, 2, 3 photos and the nearest one.
    """
    size = model.config.picture_size
    scene = prepare_scene(model.head)
    clip = make_clip(scene, key, PHOTOS, size)
    identity = clip_identity(scene, key)
    count = views.cam2world.shape[0]
    first = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], (count, *x.shape[1:])), clip.params)
    driving = first.replace(camera=views)
    truth = render_scene(scene, identity, driving, jax.random.fold_in(key, 1), size)
    encode = functools.partial(Avatar.encode, model)
    avatars = [encode(clip.image[:k], take(clip.params, slice(k))) for k in range(1, PHOTOS + 1)]
    singles = [encode(clip.image[k : k + 1], take(clip.params, slice(k, k + 1))) for k in range(PHOTOS)]
    table, rows = np.zeros((PHOTOS + 1, count, 2)), [list(clip.image), list(truth.image)]
    for choice in range(PHOTOS + 1):
        shown = []
        for view in range(count):
            wanted = take(driving, view)
            chosen = (
                singles[nearest_photo(clip.params, wanted.camera)] if choice == PHOTOS else avatars[choice]
            )
            frame = chosen.render(wanted)
            masks = (truth.mask[view], truth.face_mask[view])
            table[choice, view] = [float(psnr(frame.image, truth.image[view], mask)) for mask in masks]
            shown.append(frame.image)
        rows.append(shown)
    picture = [
        np.concatenate([to_picture(x) for x in row[:count]], axis=1) for row in rows if len(row) == count
    ]
    return table, np.concatenate(picture, axis=0)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--people", type=int, default=16)
    parser.add_argument("--weights", default="reenact_demo")
    parser.add_argument("--yaws", default="-30,0,30", help="degrees")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, help="PNG of the first people")
    arguments = parser.parse_args(argv)

    yaws = [float(yaw) for yaw in arguments.yaws.split(",")]
    model = AvatarModel.load(arguments.weights)
    key = jax.random.fold_in(jax.random.key(arguments.seed), HELD_OUT)
    measured = [
        measure_person(model, jax.random.fold_in(key, person), cameras_at(yaws))
        for person in range(arguments.people)
    ]
    tables = np.stack([table for table, _ in measured])  # (people, choices, views, masks)
    for view, yaw in [*enumerate(yaws), (slice(None), "mean")]:
        values = tables[:, :, view]
        values = values.mean(axis=2) if isinstance(view, slice) else values
        gain = values - values[:, :1]
        line = {"yaw": yaw, "people": len(values)}
        for choice, name in enumerate(("1", "2", "3", "nearest")):
            line[name] = {
                "psnr": round(float(values[:, choice, 0].mean()), 2),
                "gain": round(float(gain[:, choice, 0].mean()), 2),
                "error": round(float(gain[:, choice, 0].std() / np.sqrt(len(values))), 2),
                "psnr_face": round(float(values[:, choice, 1].mean()), 2),
                "gain_face": round(float(gain[:, choice, 1].mean()), 2),
            }
        print(json.dumps(line))
    if arguments.sheet:
        iio.imwrite(arguments.sheet, np.concatenate([picture for _, picture in measured[:SHOWN]], axis=1))


if __name__ == "__main__":
    main()
