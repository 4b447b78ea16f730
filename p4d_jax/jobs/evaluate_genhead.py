"""Measures a GenHead: control by the head model, and consistency over views (`evaluation.genhead`).

Writes `evaluation.json` and `evaluation.png` (pictures with the points of the head model).
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
from ml_collections import ConfigDict

from p4d_jax import assets
from p4d_jax.errors import UserError
from p4d_jax.evaluation.genhead import (
    GenHeadSubject,
    contact_sheet,
    measure_consistency,
    measure_control,
    summarise,
)
from p4d_jax.evaluation.people import HELD_OUT
from p4d_jax.genhead.renderer import about_weights, open_renderer
from p4d_jax.imaging.writing import save_picture
from p4d_jax.jobs._fields import check_ranges
from p4d_jax.jobs._publish import published, write_json
from p4d_jax.jobs.settings import EvaluateGenHeadSettings
from p4d_jax.openheads.scene import prepare_scene
from p4d_jax.settings import from_config


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs the job: see the module's docstring."""
    config = from_config(EvaluateGenHeadSettings, config)
    check_ranges(config, {"samples": (4, 512)})
    subject = read_subject(config)
    key = jax.random.fold_in(jax.random.key(config.seed), HELD_OUT)
    rows, pictures = measure_control(subject, key, config.samples_of_control)
    report = {
        "weights": config.weights,
        "about": about_weights(config.weights),
        "resolution": subject.resolution,
        "truncation_psi": config.truncation_psi,
        "control": summarise(rows),
        "consistency": measure_consistency(subject, key, config.heads_of_consistency),
    }
    with published(workdir) as folder:
        save_picture(folder / "evaluation.png", contact_sheet(pictures))
        write_json(folder / "evaluation.json", report)
    print(json.dumps(report, indent=1))


def read_subject(config: EvaluateGenHeadSettings) -> GenHeadSubject:
    """The GenHead that the config names, and how it is shown."""
    if not len(assets.head_model(config.head).mediapipe_indices):
        raise UserError(f"config.head={config.head!r}: it does not say where MediaPipe's landmarks are on it")
    renderer = open_renderer(config.weights, config.head)
    return GenHeadSubject(
        renderer,
        prepare_scene(renderer.head),
        config.resolution or renderer.trained_resolution,
        (config.samples, config.samples),
        config.truncation_psi,
    )
