"""Measures a reconstructor on people it never saw: OpenHeads, where the truth is known, and real ones.

Of OpenHeads self-reenactment, expressions and identity across people, novel views, flicker, and the first of
these sorted by pose and closed eyes; of pairs of photos and films of one's own the scores that papers report:
docs/howto/evaluate.md says what each figure is. Prints the tables and writes them to `evaluation.json`,
`evaluation.md` and `evaluation.html`, beside a sheet of pictures a part (`evaluation_SET_self.png`, `_cross`,
`_novel`, `evaluation_photos.png`) and the list of pairs, `pairs.jsonl`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from p4d_jax import assets
from p4d_jax.avatar.model import AvatarModel
from p4d_jax.capture import capture_photo
from p4d_jax.capture.photo import open_photo
from p4d_jax.errors import UserError
from p4d_jax.evaluation.evaluators import EVALUATORS, Evaluator
from p4d_jax.evaluation.flicker import MIN_FRAMES
from p4d_jax.evaluation.held_out import Rays, Subject, draw_subjects, measure
from p4d_jax.evaluation.looks import PictureNetworks, load_arcface, load_lpips
from p4d_jax.evaluation.pairs import write_pairs
from p4d_jax.evaluation.people import draw_people, film_motion
from p4d_jax.evaluation.photos import measure_photo
from p4d_jax.evaluation.report import print_report, to_markdown
from p4d_jax.evaluation.sheets import SHEETS, SHOWN, Shown, in_a_row, sheet
from p4d_jax.evaluation.summary import sort_into_bins, summarise
from p4d_jax.imaging.writing import save_picture
from p4d_jax.jobs._evaluation_page import write_evaluation_page
from p4d_jax.jobs._fields import check_ranges, named_in, parse_names, user_input
from p4d_jax.jobs._publish import published, write_json
from p4d_jax.jobs._scores import ScoreInputs, measure_pairs, read_score_inputs
from p4d_jax.jobs.settings import EvaluateSettings
from p4d_jax.openheads.sets import people_set
from p4d_jax.settings import from_config


@dataclass(frozen=True)
class Inputs:
    """What the user named, found and read.

    Attributes:
      model: What is measured.
      evaluators: By what.
      networks: What looks at pictures.
      sets: Names of sets of people.
      photos: (H, W, 3) uint8 by name.
      rays: How pictures are rendered.
      scores: What is measured of pairs; None for none.
    """

    model: AvatarModel
    evaluators: list[Evaluator]
    networks: PictureNetworks
    sets: list[str]
    photos: dict[str, np.ndarray]
    rays: Rays
    scores: ScoreInputs | None


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs the job: see the module's docstring."""
    config = from_config(EvaluateSettings, config)
    inputs = read_inputs(config)
    report = {
        "weights": config.weights,
        "identities": config.identities,
        "seed": config.seed,
        "resolution": config.resolution or inputs.model.resolution,
        "samples": config.samples,
        "identity_by": "ArcFace" if config.arcface else "colours",
        "lpips": config.lpips or "not measured: no weights given in config.lpips",
        "sets": {},
        "scores": None,
    }
    sheets: dict[str, np.ndarray] = {}
    with published(workdir) as folder:
        scored = None
        if inputs.scores is not None:
            write_pairs(folder / "pairs.jsonl", inputs.scores.pairs)
            scored = measure_pairs(config, inputs.scores, inputs.model, inputs.networks)
            report["scores"] = scored.report
        report["photos"], rows = measure_photos(inputs)
        if rows:
            sheets["evaluation_photos"] = np.concatenate(rows)
        for name in inputs.sets:
            report["sets"][name], shown = measure_set(config, inputs, name)
            for part, draw in SHEETS.items():
                sheets[f"evaluation_{name}_{part}"] = sheet(draw, shown)
        for name, picture in sheets.items():
            save_picture(folder / f"{name}.png", picture)
        write_json(folder / "evaluation.json", report)
        (folder / "evaluation.md").write_text(to_markdown(report))
        rows, strips = ([], []) if scored is None else (scored.rows, scored.strips)
        write_evaluation_page(folder / "evaluation.html", report, sheets, rows, strips)
    print_report(report)
    print(f"see {workdir}")


def read_inputs(config: EvaluateSettings) -> Inputs:
    """Checks and reads all that the config names, cheapest first."""
    check_numbers(config)
    evaluators = list(named_in(EVALUATORS, config.evaluators, "evaluators", "evaluator").values())
    sets = parse_names(config.sets)
    with user_input("sets"):
        for name in sets:
            people_set(name)
    with user_input("photos"):
        photos = {name: open_photo(name) for name in parse_names(config.photos)}
    with user_input("head"):
        head = assets.head_model(config.head)
    with user_input("weights"):
        model = AvatarModel.load(config.weights, head)
    with user_input("lpips"):
        lpips = load_lpips(config.lpips) if config.lpips else None
    with user_input("arcface"):
        embed = load_arcface(config.arcface) if config.arcface else None
    scores = read_score_inputs(config, head.name)
    rays = Rays(config.resolution or None, (config.samples, config.samples))
    return Inputs(model, evaluators, PictureNetworks(lpips=lpips, embed=embed), sets, photos, rays, scores)


def check_numbers(config: EvaluateSettings) -> None:
    """Every number of the config that has a range."""
    ranges = {
        "identities": (2, 10_000),
        "resolution": (0, 1024),
        "samples": (4, 512),
        "film_frames": (0, 240),
    }
    check_ranges(config, ranges)
    ranges = {
        "count": (1, 1_000_000),
        "frames": (1, 100_000),
        "max_frames": (1, 1_000_000),
        "personalise_steps": (0, 100_000),
    }
    check_ranges(config.scores, ranges, "scores")
    if 0 < config.film_frames < MIN_FRAMES:
        raise UserError(
            f"config.film_frames={config.film_frames}: flicker takes at least {MIN_FRAMES} frames"
        )


def measure_set(config: EvaluateSettings, inputs: Inputs, name: str) -> tuple[dict[str, dict], list[Shown]]:
    """The report of one set of people, and the first of them to show."""
    head, size, count = inputs.model.head, inputs.model.config.picture_size, config.identities
    people = draw_people(head, size, name, config.seed, count, film_motion(head), config.film_frames)
    shown = []

    def keep(subject: Subject, made: np.ndarray) -> None:
        if len(shown) < SHOWN:
            shown.append(Shown(subject.person, subject.driver, made))

    subjects = tqdm(draw_subjects(people, inputs.networks, head), desc=name, unit="person", total=count)
    rows = measure(inputs.model, subjects, inputs.evaluators, inputs.networks, inputs.rays, keep)
    return {**summarise(rows, inputs.evaluators), "bins": sort_into_bins(rows)}, shown


def measure_photos(inputs: Inputs) -> tuple[dict, list[np.ndarray]]:
    """The report of the photos, and a row of pictures of each."""
    report, rows = {}, []
    for name, photo in inputs.photos.items():
        with user_input("photos"):
            captured = capture_photo(photo, inputs.model.head)
        result = measure_photo(inputs.model, captured, inputs.rays)
        report[name] = result.measures
        rows.append(in_a_row(result.images))
    return report, rows
