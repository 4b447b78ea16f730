"""The job `capture`: photo, film or folder -> parameters, crops and a report.

Written to the workdir, all at once at the end: `motion.npz` (the parameters of each frame, the format of
`data.motion`, which the job `reenact` takes as driving), `report.json`, and, if asked, of a photo `crop.png`,
`alpha.png` and `overlay.png`, of a film `crops/00000.png` and so on, and `alphas/` of the frames in which a
face was seen. Of many photos and films, each gets a folder like that in the workdir (`jobs._capture_items`).
"""

from __future__ import annotations

import time
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from tqdm import tqdm

from p4d_jax import assets
from p4d_jax.capture import FilmCapture, Landmarker, capture_film, capture_photo
from p4d_jax.capture.people import Person
from p4d_jax.data.motion import save_motion
from p4d_jax.head.model import HeadModel
from p4d_jax.imaging.video import is_video
from p4d_jax.jobs._capture_items import capture_items
from p4d_jax.jobs._fields import fields_named, parse_person
from p4d_jax.jobs._publish import published, write_report
from p4d_jax.jobs.settings import CaptureSettings
from p4d_jax.settings import from_config


def run(config: ConfigDict, workdir: str | Path) -> dict:
    """Captures `config.source`, or all `config.sources`. Returns the report."""
    settings, workdir = from_config(CaptureSettings, config), Path(workdir)
    if settings.sources:
        with fields_named(config):
            return capture_items(settings, workdir, capture_source)
    started = time.perf_counter()
    head = assets.head_model(settings.head)
    with published(workdir) as folder:
        report = capture_source(settings, head, Landmarker(), folder)
        if report["note"]:
            print(report["note"])
        report |= {"seconds": round(time.perf_counter() - started, 3)}
        write_report(folder, report)
    return report


def capture_source(config: CaptureSettings, head: HeadModel, landmarker: Landmarker, folder: Path) -> dict:
    """Captures `config.source` into a folder; what the report says of it."""
    source = (
        assets.photo(config.source) if config.source in assets.PHOTOS else Path(config.source).expanduser()
    )
    capture = run_film if isinstance(source, Path) and is_video(source) else run_photo
    person = parse_person(config.person)
    return {"source": config.source, **capture(config, source, head, landmarker, person, folder)}


def run_photo(
    config: CaptureSettings,
    source: np.ndarray | Path,
    head: HeadModel,
    landmarker: Landmarker,
    person: Person | None,
    folder: Path,
) -> dict:
    """One photo: a motion of one frame, its crop, alpha and overlay."""
    capture = capture_photo(source, head, landmarker, person=person)
    params = jax.tree.map(lambda x: x[None], capture.params)
    save_motion(folder / "motion.npz", params, 25.0, head.name, head.expression_names)
    if config.write_crops:
        Image.fromarray(capture.crop).save(folder / "crop.png")
        Image.fromarray((capture.alpha * 255).astype(np.uint8)).save(folder / "alpha.png")
        Image.fromarray(capture.overlay(head)).save(folder / "overlay.png")
    visibility = capture.visibility.report()
    return {"frames": 1, "error": round(capture.error, 5), "visibility": visibility, "note": capture.note}


def run_film(
    config: CaptureSettings,
    source: Path,
    head: HeadModel,
    landmarker: Landmarker,
    person: Person | None,
    folder: Path,
) -> dict:
    """A film: its motion, and its crops."""
    with tqdm(desc="landmarks", unit="frame") as bar:
        capture = capture_film(
            source,
            head,
            lambda done, total: advance(bar, done, total),
            landmarker=landmarker,
            max_frames=config.max_frames or None,
            smoothing=config.smoothing,
            person=person,
        )
    file = folder / "motion.npz"
    save_motion(file, capture.params, capture.fps, head.name, head.expression_names, edges=capture.edges)
    if config.write_crops:
        write_crops(capture, folder / "crops")
    if config.write_alphas:
        write_cutouts(capture, head, folder / "crops" if config.write_crops else None, folder / "alphas")
    return {
        "frames": len(capture),
        "fps": capture.fps,
        "film_seconds": float(capture.edges[-1]),
        "error": round(float(np.nanmean(capture.errors)), 5),
        "worst_error": round(float(np.nanmax(capture.errors)), 5),
        "note": capture.note,
    }


def advance(bar: tqdm, done: int, total: int | None) -> None:
    """Shows `done` of `total` on the bar."""
    bar.total = total
    bar.update(done - bar.n)


def write_crops(capture: FilmCapture, folder: Path) -> None:
    """One PNG a frame."""
    folder.mkdir(exist_ok=True)
    for index, crop in enumerate(tqdm(capture.crops, desc="crops", total=len(capture), unit="frame")):
        Image.fromarray(crop).save(folder / f"{index:05d}.png")


def write_cutouts(capture: FilmCapture, head: HeadModel, crops: Path | None, alphas: Path) -> None:
    """One PNG of alpha a frame in which a face was seen, and, if asked, the crop that it belongs to."""
    alphas.mkdir(exist_ok=True)
    cutouts = tqdm(capture.cutouts(head), desc="alphas", total=len(capture), unit="frame")
    for index, cutout in enumerate(cutouts):
        if cutout is None:
            continue
        Image.fromarray((cutout.alpha * 255).astype(np.uint8)).save(alphas / f"{index:05d}.png")
        if crops is not None and cutout.known.min() < 1:
            Image.fromarray(cutout.crop).save(crops / f"{index:05d}.png")
