"""How well capture tells a person from the background.

    python -m benchmarks.alpha [--people=64] [--size=512]

Of OpenHeads portraits before blurred backgrounds and before ones in focus, with their true parameters: mean
absolute error of alpha against the true mask, of all pixels and of a band of 5 % of the picture's side around
the outline; and the median over people of the former.
"""

from __future__ import annotations

import argparse
import json
import time

import jax
import numpy as np
from PIL import Image
from scipy import ndimage

from p4d_jax import assets
from p4d_jax.capture.outside import cut_out
from p4d_jax.capture.segmentation import Segmenter
from p4d_jax.imaging.warping import PhotoPyramid
from p4d_jax.imaging.writing import to_picture
from p4d_jax.main import enable_compilation_cache
from p4d_jax.openheads.config import OpenHeadsSettings
from p4d_jax.openheads.portraits import portraits_in_scene
from p4d_jax.openheads.scene import prepare_scene
from p4d_jax.types import take

CROP, BATCH = 512, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=64)
    parser.add_argument("--size", type=int, default=CROP, help="pixels a side that portraits are drawn at")
    arguments = parser.parse_args()
    enable_compilation_cache()
    head, segmenter = assets.head_model(), Segmenter()
    scene, keys = prepare_scene(head), jax.random.split(jax.random.key(0), arguments.people)
    for sharp in (0.0, 1.0):
        errors, seconds = [], []
        for first in range(0, arguments.people, BATCH):
            settings = OpenHeadsSettings(sharp_backgrounds=sharp)
            shown = portraits_in_scene(scene, keys[first : first + BATCH], arguments.size, settings)
            for person in range(len(shown.image)):
                image, true, params = take((shown.image, shown.mask, shown.params), person)
                photo = to_picture(np.asarray(image))
                start = time.perf_counter()
                matrix = np.eye(2, 3) * CROP / arguments.size
                alpha = cut_out(PhotoPyramid(photo), matrix, head, params, segmenter).alpha
                seconds.append(time.perf_counter() - start)
                errors.append(measure(alpha, np.asarray(true)[..., 0]))
        all_pixels, band = np.array(errors).T
        print(
            json.dumps(
                {
                    "sharp_backgrounds": sharp,
                    "people": len(errors),
                    "all": round(float(all_pixels.mean()), 4),
                    "all_error": round(float(all_pixels.std(ddof=1) / len(errors) ** 0.5), 4),
                    "all_median": round(float(np.median(all_pixels)), 4),
                    "band": round(float(band.mean()), 4),
                    "seconds": round(float(np.median(seconds)), 3),
                }
            )
        )


def measure(alpha: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Mean absolute error of alpha (512, 512) against a true mask (S, S), everywhere and near its outline."""
    size = len(true)
    small = np.asarray(Image.fromarray(alpha).resize((size, size), Image.Resampling.BOX))
    inside = true > 0.5
    outline = inside & ~ndimage.binary_erosion(inside, border_value=1)
    error = np.abs(small - true)
    near = ndimage.distance_transform_edt(~outline) < 0.025 * size
    return float(error.mean()), float(error[near].mean())


if __name__ == "__main__":
    main()
