"""The scores of pairs in the job `evaluate`: what the config names, found and read; what was measured."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from p4d_jax.avatar.model import AvatarModel
from p4d_jax.errors import UserError
from p4d_jax.evaluation.fid import load_inception
from p4d_jax.evaluation.looks import PictureNetworks
from p4d_jax.evaluation.pairs import Pair, draw_pairs, read_pairs
from p4d_jax.evaluation.reenacted import Reenacted, Rendering, reenact_pairs
from p4d_jax.evaluation.scores import (
    ARCFACE,
    HEAD,
    INCEPTION,
    LANDMARKS,
    LPIPS,
    MEASURES,
    Measure,
    PairScores,
    ScoreNetworks,
    score_pairs,
)
from p4d_jax.jobs._evaluation_page import strip
from p4d_jax.jobs._fields import named_in, user_input
from p4d_jax.jobs._html import to_jpeg
from p4d_jax.jobs.settings import EvaluateSettings
from p4d_jax.train.network_folder import network_folder, read_about

LIST = ".jsonl"


@dataclass(frozen=True)
class ScoreInputs:
    """What is measured of pairs, and by what.

    Attributes:
      pairs: The pairs.
      folder: Where their files lie.
      damaged: Files that are left out of the list already, and why.
      measures: By what.
      networks: The networks of others.
    """

    pairs: list[Pair]
    folder: Path
    damaged: dict[str, str]
    measures: dict[str, Measure]
    networks: ScoreNetworks


@dataclass(frozen=True)
class Scored:
    """What was measured.

    Attributes:
      report: What evaluation.json says of it.
      rows: Of each pair its numbers.
      strips: Of each pair its pictures, as a file.
    """

    report: dict
    rows: list[PairScores]
    strips: list[bytes]


def read_score_inputs(config: EvaluateSettings, head: str) -> ScoreInputs | None:
    """Checks and reads what the config names; None where it names no pairs. head: The head model's name."""
    scores = config.scores
    measures = named_in(MEASURES, scores.measures, "scores.measures", "measure")
    if not scores.pairs:
        return None
    path, damaged = Path(scores.pairs).expanduser(), {}
    with user_input("scores.pairs"):
        if path.is_dir():
            folder = path
            pairs, damaged = draw_pairs(
                folder,
                seed=config.seed,
                count=scores.count,
                frames=scores.frames,
                max_frames=scores.max_frames,
            )
        elif path.suffix == LIST:
            folder = Path(scores.folder).expanduser() if scores.folder else path.parent
            pairs = read_pairs(path)
        else:
            raise UserError(
                f"{scores.pairs!r}: expected a folder, or a list of pairs, whose name ends in {LIST}"
            )
    weights = {
        LANDMARKS: "MediaPipe's face landmarks, which ship",
        HEAD: f"the head model {head!r}, fitted to MediaPipe's face landmarks",
    }
    for name, given in ((LPIPS, config.lpips), (ARCFACE, config.arcface), (INCEPTION, scores.inception)):
        if given:
            with user_input(name if name != INCEPTION else "scores.inception"):
                weights[name] = weights_in_words(given)
    features = None
    if scores.inception:
        with user_input("scores.inception"):
            features = load_features(scores.inception)
    return ScoreInputs(pairs, folder, damaged, measures, ScoreNetworks(features, weights))


def weights_in_words(folder: str) -> str:
    """The network of a folder, and which files it was converted from."""
    about = read_about(network_folder(Path(folder).expanduser()))
    files = [
        f"{one['name']} (sha256 {one['sha256'][:16]}…)"
        for one in about.get("sources", [])
        if isinstance(one, dict) and {"name", "sha256"} <= one.keys()
    ]
    return f"{about['network']} from {', '.join(files) or 'unknown files'}"


def load_features(folder: str) -> Callable[[np.ndarray], np.ndarray]:
    """Images (B, S, S, 3) in [-1, 1] -> Inception's features (B, D)."""
    network, variables = load_inception(folder)
    return functools.partial(jax.jit(network.apply), variables)


def measure_pairs(
    config: EvaluateSettings, inputs: ScoreInputs, model: AvatarModel, networks: PictureNetworks
) -> Scored:
    """Reenacts and measures all pairs; files that cannot be used are named when they are met."""
    rendering = Rendering(config.scores.personalise_steps, (config.samples, config.samples), config.seed)
    damaged, left_out, rows, strips = dict(inputs.damaged), [], [], []

    def on_damage(name: str, problem: str) -> None:
        if name not in damaged:
            tqdm.write(f"left out: {name}: {problem}")
        damaged[name] = problem
        left_out.append(name)

    def on_scored(case: Reenacted, row: PairScores) -> None:
        rows.append(row)
        strips.append(to_jpeg(strip(case)))

    pairs = tqdm(inputs.pairs, desc="pairs", unit="pair")
    cases = reenact_pairs(model, pairs, inputs.folder, networks, rendering, on_damage)
    try:
        report = score_pairs(cases, inputs.measures, inputs.networks, on_scored)
    except UserError as error:
        said = "; ".join(f"{name}: {problem}" for name, problem in list(damaged.items())[:1])
        raise UserError(f"config.scores.pairs: {error}" + (f"; {said}" if said else "")) from error
    report |= {
        "personalise_steps": config.scores.personalise_steps,
        "damaged": damaged,
        "left_out": len(left_out),
    }
    return Scored(report, rows, strips)
