"""Measures a reconstructor on synthetic people it never saw: self-reenactment on held-out OpenHeads.

Of each identity one frame is the source and another the target; the source is shown with the target's motion
and camera. Reported against doing nothing (showing the source unchanged): PSNR inside the head mask, and how
far the mouth's and the eyes' landmarks, found by one landmark network in both pictures, are from the
target's, in shares of the distance between the eyes. Writes `evaluation.json` and `evaluation.png`.
"""

from __future__ import annotations

import json
from pathlib import Path

import imageio.v3 as iio
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from tqdm import tqdm

from p4d_jax import assets
from p4d_jax.capture.landmarks import LEFT_EYE_CONTOUR, RIGHT_EYE_CONTOUR, Landmarker, Landmarks
from p4d_jax.data.openheads import make_clip
from p4d_jax.geometry import fit_similarity
from p4d_jax.models.checkpoint import load_reconstructor
from p4d_jax.render.avatar import encode_source, render_frame
from p4d_jax.train.losses import psnr

HELD_OUT = 1_000_003  # folded into the key: training folds in its step, which stays below
EYES = (*LEFT_EYE_CONTOUR, *RIGHT_EYE_CONTOUR)
MOUTH = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409)
MOUTH += (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415)
SHOWN = 8  # identities in the picture
DETECTION_SIZE = 384


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs the job: see the module's docstring."""
    head = assets.head_model(config.head)
    reconstructor, variables = load_reconstructor(assets.weights(config.weights))
    landmarker, rows, panels = Landmarker(), [], []
    for index in tqdm(range(config.identities), desc="held-out people", unit="person"):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), HELD_OUT), index)
        row, panel = _one_person(config, head, reconstructor, variables, landmarker, key)
        rows.append(row)
        if index < SHOWN:
            panels.append(panel)
    report = summarise(rows, config)
    workdir.mkdir(parents=True, exist_ok=True)
    iio.imwrite(workdir / "evaluation.png", np.concatenate(panels))
    (workdir / "evaluation.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report, indent=1))


def _one_person(config, head, reconstructor, variables, landmarker, key) -> tuple[dict, np.ndarray]:
    """Measures of one identity, and its picture: source, target, result."""
    clip = make_clip(head, key, 2, reconstructor.config.picture_size)
    source, target = (jax.tree.map(lambda x, i=i: x[i], clip.replace(background=clip.image)) for i in (0, 1))
    avatar = encode_source(reconstructor, variables, source.image, source.params, head)
    frame = render_frame(
        reconstructor, variables, avatar, head, source.params, target.params,
        resolution=config.resolution, samples=(config.samples, config.samples),
    )  # fmt: skip
    row = {
        "psnr_result": float(psnr(frame.image, target.image, target.mask)),
        "psnr_unchanged": float(psnr(source.image, target.image, target.mask)),
        "psnr_face_result": float(psnr(frame.image, target.image, target.face_mask)),
        "psnr_face_unchanged": float(psnr(source.image, target.image, target.face_mask)),
    }
    pictures = [to_uint8(x) for x in (source.image, target.image, frame.image)]
    before, wanted, after = (detect(landmarker, picture) for picture in pictures)
    if before is not None and wanted is not None:
        row |= {f"{name}_unchanged": value for name, value in landmark_errors(before, wanted).items()}
        if after is not None:
            row |= {f"{name}_result": value for name, value in landmark_errors(after, wanted).items()}
        row["result_has_face"] = float(after is not None)
    return row, np.concatenate(pictures, axis=1)


def to_uint8(image) -> np.ndarray:
    """[-1, 1] -> uint8."""
    return np.asarray(jnp.clip(image * 127.5 + 127.5, 0, 255)).round().astype(np.uint8)


def detect(landmarker: Landmarker, picture: np.ndarray) -> Landmarks | None:
    """Landmarks of a small picture, enlarged first so that the detector's own scale does not matter."""
    return landmarker.detect(
        np.asarray(Image.fromarray(picture).resize((DETECTION_SIZE,) * 2, Image.BICUBIC))
    )


def landmark_errors(found: Landmarks, wanted: Landmarks) -> dict[str, float]:
    """Mean distances in shares of the wanted eye distance: as seen, and after a similarity of all points."""
    matrix = np.asarray(fit_similarity(jnp.asarray(found.points), jnp.asarray(wanted.points)))
    aligned = found.points @ matrix[:, :2].T + matrix[:, 2]
    errors = {}
    for name, points in (("mouth", list(MOUTH)), ("eyes", list(EYES))):
        for kind, places in (("", found.points), ("_aligned", aligned)):
            distance = np.linalg.norm(places[points] - wanted.points[points], axis=1)
            errors[name + kind] = float(distance.mean() / wanted.eye_distance)
    return errors


def summarise(rows: list[dict], config: ConfigDict) -> dict:
    """Mean and standard error of each measure over the people that have it."""
    report = {"weights": config.weights, "identities": len(rows), "seed": config.seed}
    for name in sorted(set().union(*rows)):
        values = np.array([row[name] for row in rows if name in row])
        report[name] = {
            "mean": round(float(values.mean()), 4),
            "standard_error": round(float(values.std() / np.sqrt(len(values))), 4),
            "people": len(values),
        }
    return report
