"""Sheets of photos brought to life, for looking: a row a photo.

    python -m benchmarks.photo_sheets OUT PHOTO [PHOTO ...] [--steps=N]

Columns: the photo's crop before its alpha; the avatar as it is; mouth open; a smile that shows teeth; eyes
shut; the head turned by the neck, 25 degrees to either side; the camera 25 degrees to either side. Writes
OUT/sheet.png and OUT/NAME.png, and prints the PSNR of the own view in the person, and the seconds of
encoding and personalising.
"""

from __future__ import annotations

import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags
from PIL import Image

from p4d_jax import Avatar, AvatarModel
from p4d_jax.avatar.avatar import capture_photos
from p4d_jax.geometry import orbit
from p4d_jax.imaging.writing import to_alpha, to_picture

STEPS = flags.DEFINE_integer("steps", 0, "steps of personalisation", lower_bound=0)
WEIGHTS = flags.DEFINE_string("weights", "reenact_demo", "weights of the reconstructor")
TURN = np.radians(25.0)
OPEN = {"jawOpen": 0.7}
SMILE = {
    "jawOpen": 0.15,
    "mouthSmileLeft": 0.8,
    "mouthSmileRight": 0.8,
    "mouthUpperUpLeft": 0.5,
    "mouthUpperUpRight": 0.5,
    "mouthLowerDownLeft": 0.4,
    "mouthLowerDownRight": 0.4,
}
SHUT = {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}


def views(avatar: Avatar) -> list[np.ndarray]:
    """The pictures of one row, (S, S, 3) uint8."""
    params = avatar.params
    turned = [params.replace(pose=params.pose.at[1].add(yaw)) for yaw in (-TURN, TURN)]
    frames = [params, *(avatar.act(params, actions) for actions in (OPEN, SMILE, SHUT)), *turned]
    frames += [params.replace(camera=orbit(params.camera, yaw)) for yaw in (-TURN, TURN)]
    return [avatar.render(frame).picture for frame in frames]


def main(arguments: list[str]) -> None:
    out = Path(arguments[1])
    out.mkdir(parents=True, exist_ok=True)
    model = AvatarModel.load(WEIGHTS.value)
    rows = []
    for name in arguments[2:]:
        capture = capture_photos([name], model.head)[0]
        start = time.perf_counter()
        avatar = Avatar.from_captures([capture], model)
        jax.block_until_ready(avatar.source)
        encoded = time.perf_counter()
        avatar = avatar.personalised(STEPS.value)
        jax.block_until_ready(avatar.source)
        done = time.perf_counter()
        pictures = views(avatar)
        size = pictures[0].shape[0]
        alpha = np.asarray(avatar.image_alpha()) * np.asarray(to_alpha(capture.known, size))
        photo = np.asarray(avatar.image())
        error = alpha * (to_picture(photo).astype(np.float32) - pictures[0]) / 255
        psnr = -10 * np.log10((error**2).sum() / (3 * alpha.sum()))
        cut = to_picture(alpha * photo + (1 - alpha) * np.array([-0.6, 0.2, -0.6]))
        row = np.concatenate([to_picture(photo), cut, *pictures], axis=1)
        Image.fromarray(row).save(out / f"{Path(name).stem}.png")
        rows.append(row)
        seconds = f"encode {encoded - start:.0f} s, personalise {done - encoded:.0f} s"
        print(f"{name}: PSNR {psnr:.2f} dB at {size}, {seconds}")
    Image.fromarray(np.concatenate(rows)).save(out / "sheet.png")


if __name__ == "__main__":
    app.run(main)
