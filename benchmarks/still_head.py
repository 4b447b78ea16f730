"""How still the fitted head of a film is in which nothing moves but the sensor's noise.

python -m benchmarks.still_head
"""

from __future__ import annotations

import jax
import numpy as np
from absl import app, flags
from PIL import Image
from scipy.spatial.transform import Rotation

from p4d_jax import assets, main
from p4d_jax.capture.clip import capture_film
from p4d_jax.capture.smoothing import WIDTH
from p4d_jax.head.landmarks import project_landmarks
from p4d_jax.head.model import HeadModel
from p4d_jax.head.skinning import posed_vertices
from p4d_jax.types import FrameParams

FRAMES = flags.DEFINE_integer("frames", 60, "Frames of the film.")
NOISE = flags.DEFINE_float("noise", 6.0, "Standard deviation of the sensor's noise, of 255.")
LID_CORNERS = [36, 39, 42, 45]  # of iBUG's 68 landmarks
CROP_PIXELS = 512


def noisy_film(frames: int, noise: float) -> list[np.ndarray]:
    """The astronaut's face at 1200 x 900, so many times."""
    photo = Image.fromarray(assets.photo("astronaut")[0:300, 60:460])
    still = np.asarray(photo.resize((1200, 900), Image.Resampling.LANCZOS), np.float32)
    rng = np.random.default_rng(0)
    return [np.uint8((still + rng.normal(0, noise, still.shape)).clip(0, 255) + 0.5) for _ in range(frames)]


def deviations(head: HeadModel, params: FrameParams) -> tuple[np.ndarray, np.ndarray]:
    """Degrees (T,) of the head's rotation from its mean, and pixels (T, 4) of the corners of the lids."""
    rotation = Rotation.from_matrix(np.asarray(params.camera.cam2world)[:, :3, :3])
    turned = np.degrees((rotation * rotation.mean().inv()).magnitude())

    def landmarks(frame: FrameParams):
        return project_landmarks(head, posed_vertices(head, frame.shape, frame), frame.neck, frame.camera)

    corners = CROP_PIXELS * np.asarray(jax.jit(jax.vmap(landmarks))(params))[:, LID_CORNERS]
    return turned, np.linalg.norm(corners - corners.mean(axis=0), axis=-1)


def run(_) -> None:
    main.enable_compilation_cache()
    head, film = assets.head_model("openhead"), noisy_film(FRAMES.value, NOISE.value)
    for name, smoothing in (("as fitted", 0.0), ("as it ships", WIDTH)):
        turned, lids = deviations(head, capture_film(film, head, smoothing=smoothing).params)
        rms = lambda values: np.sqrt(np.mean(values**2))
        print(f"{name}: rotation {rms(turned):.3f} degrees rms, {turned.max():.3f} largest;", end=" ")
        print(f"corners of lids {rms(lids):.3f} pixels rms, {lids.max():.3f} largest")


if __name__ == "__main__":
    app.run(run)
