"""Measures a reconstructor on people it never saw: OpenHeads, where the truth is known, and real photos.

Self-reenactment, expressions and identity across people, novel views, flicker, and the first of these sorted
by pose and closed eyes: docs/howto/evaluate.md says what each figure is. Writes `evaluation.json`, a sheet of
pictures a part (`evaluation_SET_self.png`, `_cross`, `_novel`, `evaluation_photos.png`) and prints the table.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from p4d_jax import assets
from p4d_jax.avatar.model import AvatarModel
from p4d_jax.capture import capture_photo
from p4d_jax.capture.photo import open_photo
from p4d_jax.errors import UserError
from p4d_jax.evaluation.people import (
    DRIVEN,
    DRIVEN_NEUTRAL,
    HELD_OUT,
    TARGET,
    VIEW_YAWS,
    VIEWS,
    Person,
    draw_people,
    novel_views,
)
from p4d_jax.evaluation.reenactment import (
    DETECTION_SIZE,
    Evaluators,
    Looks,
    Row,
    about_eyes,
    detect,
    film_motion,
    fit_all,
    image_measures,
    load_arcface,
    load_lpips,
    look_at_result,
    look_at_truth,
    measure_expression,
    measure_fits,
    measure_identity,
    measure_landmarks,
    measure_person,
    reenact,
    statistics,
    summarise,
)
from p4d_jax.imaging import writing as pictures
from p4d_jax.imaging.writing import to_picture
from p4d_jax.jobs._publish import published, write_json
from p4d_jax.jobs.reenact import user_input
from p4d_jax.jobs.settings import EvaluateSettings
from p4d_jax.openheads.sets import people_set
from p4d_jax.settings import from_config
from p4d_jax.types import on_host, stack

__all__ = ["DETECTION_SIZE", "HELD_OUT", "detect", "run"]

SHOWN = 8  # people in a sheet
TABLE_WIDTH = 110  # characters; narrower, names would be cut
# Self-reenactment's measures that are sorted, the facts they are sorted by, and the edges.
BINNED = ("self/psnr", "self/psnr_face", "self/ssim", "self/mouth_aligned", "self/eyes_aligned")
BINS = {
    "source_yaw": (0, 10, 20, 30, 90),  # degrees
    "turn": (0, 15, 30, 45, 180),  # degrees from source to target
    "source_eyes_shut": (0, 0.3, 0.7, 1),  # ARKit's blink
    "target_eyes_shut": (0, 0.3, 0.7, 1),
}
VIEW_BINS = (0, 15, 30, 45, 90)  # degrees of yaw from the source to a novel view


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs the job: see the module's docstring."""
    config = from_config(EvaluateSettings, config)
    model, evaluators, sets, photos = read_inputs(config)
    report = {
        "weights": config.weights,
        "identities": config.identities,
        "seed": config.seed,
        "resolution": config.resolution or model.resolution,
        "samples": config.samples,
        "identity_by": "ArcFace" if config.arcface else "colours",
        "lpips": config.lpips or "not measured: no weights given in config.lpips",
        "sets": {},
    }
    with published(workdir) as folder:
        report["photos"], rows = measure_photos(config, model, photos)
        if rows:
            pictures.save_picture(folder / "evaluation_photos.png", np.concatenate(rows))
        for name in sets:
            report["sets"][name], shown = measure_set(config, model, evaluators, name)
            for part, draw in (("self", draw_self), ("cross", draw_cross), ("novel", draw_novel)):
                pictures.save_picture(folder / f"evaluation_{name}_{part}.png", sheet(draw, shown))
        write_json(folder / "evaluation.json", report)
    print_report(report)
    print(f"see {workdir}")


def read_inputs(config: EvaluateSettings) -> tuple[AvatarModel, Evaluators, list[str], dict[str, np.ndarray]]:
    """Checks and reads all that the config names: the model, what judges it, sets of people, photos."""
    ranges = {
        "identities": (2, 10_000),
        "resolution": (0, 1024),
        "samples": (2, 512),
        "film_frames": (0, 240),
    }
    for field, (low, high) in ranges.items():
        if not low <= (value := getattr(config, field)) <= high:
            raise UserError(f"config.{field}={value}: expected a number from {low} to {high}")
    if config.film_frames in (1, 2):
        raise UserError(f"config.film_frames={config.film_frames}: flicker takes at least 3 frames")
    sets = split_names(config.sets)
    with user_input("sets"):
        for name in sets:
            people_set(name)
    with user_input("photos"):
        photos = {name: open_photo(name) for name in split_names(config.photos)}
    with user_input("head"):
        head = assets.head_model(config.head)
    with user_input("weights"):
        model = AvatarModel.load(config.weights, head)
    evaluators = Evaluators(
        lpips=load_lpips(config.lpips) if config.lpips else None,
        embed=load_arcface(config.arcface) if config.arcface else None,
    )
    return model, evaluators, sets, photos


def rays_of(config: EvaluateSettings) -> dict:
    """How many rays a side, and samples on each."""
    return {"resolution": config.resolution or None, "samples": (config.samples, config.samples)}


def split_names(names: str) -> list[str]:
    """'a, b' -> ['a', 'b']."""
    return [name.strip() for name in names.split(",") if name.strip()]


# People ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """A person and what the model made of it, for the sheets."""

    person: Person
    made: np.ndarray


def measure_set(
    config: EvaluateSettings, model: AvatarModel, evaluators: Evaluators, name: str
) -> tuple[dict[str, dict], list[Shown]]:
    """The report of one set of people, and the first of them to show."""
    size, count = model.config.picture_size, config.identities
    motion = film_motion(model.head)
    people = draw_people(model.head, size, name, config.seed, count, motion, config.film_frames)
    rows, true, seen, shown = [], [], [], []
    for person in tqdm(people, desc=name, unit="person", total=count):
        made = reenact(model, person.clip.image[0], person.source, person.asked, **rays_of(config))
        row = measure_person(evaluators, person, made)
        true.append(look_at_truth(evaluators, person))
        seen.append(look_at_result(evaluators, made))
        row |= measure_landmarks(true[-1], seen[-1]) | about_eyes(person, model.head.expression_names)
        rows.append(row)
        if len(shown) <= SHOWN:  # and the one who drives the last of them
            shown.append(Shown(person, made))
    measure_between(model, rows, true, seen)
    return {**summarise(rows), "bins": sort_into_bins(rows)}, shown


def measure_between(
    model: AvatarModel, rows: list[Row], true: Sequence[Looks], seen: Sequence[Looks]
) -> None:
    """Adds to the rows what compares people with one another, and the fits."""
    print("fitting heads ...", flush=True)
    fits = (
        fit_all(model.head, true, ("source", "target", "driven")),
        fit_all(model.head, seen, ("self", "driven")),
    )
    identity = measure_identity(true, seen)
    components = model.head.expression_basis.shape[-1]
    for index, row in enumerate(rows):
        driver = (index + 1) % len(rows)
        row |= measure_expression(true[driver], true[index], seen[index])
        row |= measure_fits(fits[0][index], fits[1][index], fits[0][driver], components)
        row |= identity[index]


def sort_into_bins(rows: Sequence[Row]) -> dict[str, dict]:
    """Statistics of self-reenactment by what is known of the frames, and of novel views by their angle."""
    report = {}
    for fact, edges in BINS.items():
        having = [row for row in rows if f"about/{fact}" in row]
        report[fact] = {}
        for low, high in itertools.pairwise(edges):
            top = np.nextafter(high, np.inf) if high == edges[-1] else high  # the last bin holds its edge
            inside = [row for row in having if low <= row[f"about/{fact}"] < top]
            if inside:
                report[fact][f"{low}..{high}"] = {
                    name: statistics(values)
                    for name in BINNED
                    if (values := [row[name] for row in inside if name in row])
                }
    views = [
        (row[f"about/view_angle_{yaw:+d}"], row[f"novel/psnr_{yaw:+d}"]) for row in rows for yaw in VIEW_YAWS
    ]
    report["view_angle"] = {}
    for low, high in itertools.pairwise(VIEW_BINS):
        if values := [value for angle, value in views if low <= angle < high]:
            report["view_angle"][f"{low}..{high}"] = {"novel/psnr": statistics(values)}
    return report


# Photos ----------------------------------------------------------------------------------------------------


def measure_photos(
    config: EvaluateSettings, model: AvatarModel, photos: dict[str, np.ndarray]
) -> tuple[dict, list[np.ndarray]]:
    """Self-reconstruction of each photo before it is personalised, and a row of pictures of each.

    A row: the photo, the result, and the result from each of `VIEW_YAWS`.
    """
    report, rows = {}, []
    size = model.config.picture_size
    for name, photo in photos.items():
        with user_input("photos"):
            captured = capture_photo(photo, model.head)
        params = on_host(captured.params)
        image = np.asarray(pictures.to_image(captured.crop, size))
        mask = jnp.asarray(pictures.resize_alpha(captured.alpha, size))[..., None]
        views = stack([params, *novel_views(params)])
        made = reenact(model, image, params, views, **rays_of(config))
        values = image_measures(made[0], image, mask, mask)
        report[name] = {key: round(float(values[key]), 3) for key in ("psnr", "ssim")}
        rows.append(in_a_row([image, *made]))
    return report, rows


# Report ----------------------------------------------------------------------------------------------------


def in_a_row(images: Sequence) -> np.ndarray:
    """Images (S, S, 3) in [-1, 1] side by side, as uint8."""
    return np.concatenate([to_picture(image) for image in images], axis=1)


def sheet(draw: Callable[[list[Shown], int], list], shown: list[Shown]) -> np.ndarray:
    """A row for each person but the last, who drives the one before (of all, where there are few)."""
    return np.concatenate([in_a_row(draw(shown, index)) for index in range(min(len(shown), SHOWN))])


def draw_self(shown: list[Shown], index: int) -> list:
    """Source, target, result, and five times the error."""
    clip, result = shown[index].person.clip, shown[index].made[TARGET]
    error = np.abs(result - clip.image[1]) * clip.mask[1]
    return [clip.image[0], clip.image[1], result, 5.0 * error - 1.0]


def draw_cross(shown: list[Shown], index: int) -> list:
    """Source, driver, result, the true picture of the source so, the result with a neutral face."""
    person, made = shown[index].person, shown[index].made
    driver = shown[(index + 1) % len(shown)].person.clip.image[1]
    return [person.clip.image[0], driver, made[DRIVEN], person.truth.image[DRIVEN], made[DRIVEN_NEUTRAL]]


def draw_novel(shown: list[Shown], index: int) -> list:
    """Source; the result from each of `VIEW_YAWS`; the truth."""
    person, views = shown[index].person, slice(VIEWS, VIEWS + len(VIEW_YAWS))
    return [person.clip.image[0], *shown[index].made[views], *person.truth.image[views]]


def print_report(report: dict) -> None:
    """The tables of the report."""
    console = Console()
    console.width = max(console.width, TABLE_WIDTH)
    for name, content in report["sets"].items():
        console.print(
            table_of_measures(f"{report['weights']}, {report['identities']} people of {name!r}", content)
        )
        console.print(table_of_bins(f"{name}, by pose and eyes", content["bins"]))
    if report["photos"]:
        table = Table("photo", "psnr", "ssim", title="self-reconstruction of photos, in the matte")
        for name, values in report["photos"].items():
            table.add_row(name, f"{values['psnr']:.2f}", f"{values['ssim']:.4f}")
        console.print(table)


def table_of_measures(title: str, content: dict[str, dict]) -> Table:
    """A row a measure: the result, the unchanged source's, the true picture's."""
    table = Table("measure", "result", "unchanged", "truth", "people", title=title)
    for name, value in content.items():
        if name == "bins" or name.endswith(("_unchanged", "_truth")):
            continue
        others = [content.get(f"{name}{suffix}") for suffix in ("_unchanged", "_truth")]
        table.add_row(name, *(written(v) for v in (value, *others)), str(value["people"]))
    return table


def table_of_bins(title: str, bins: dict[str, dict]) -> Table:
    """A row a bin, without standard errors, which the file has."""
    names = [*BINNED, "novel/psnr"]
    table = Table("fact", "bin", "people", *(name.split("/")[1] for name in BINNED), "novel", title=title)
    for fact, rows in bins.items():
        for edges, values in rows.items():
            people = max(value["people"] for value in values.values())
            means = (values[name] | {"standard_error": None} if name in values else None for name in names)
            table.add_row(fact, edges, str(people), *map(written, means))
    return table


def written(value: dict | None) -> str:
    """Mean and standard error."""
    if value is None:
        return ""
    error = value["standard_error"]
    digits = 2 if abs(value["mean"]) >= 2 else 3
    return f"{value['mean']:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")
