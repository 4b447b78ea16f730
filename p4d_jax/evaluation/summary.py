"""From rows of people to a report: statistics of each measure, and of some by what is known of the frames."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from p4d_jax.evaluation.case import Row
from p4d_jax.evaluation.evaluators import EVALUATORS, Evaluator
from p4d_jax.evaluation.people import VIEW_YAWS
from p4d_jax.evaluation.statistics import statistics

# Self-reenactment's measures that are sorted, the facts they are sorted by, and the edges.
BINNED = ("self/psnr", "self/psnr_face", "self/ssim", "self/mouth_aligned", "self/eyes_aligned")
BINS = {
    "source_yaw": (0, 10, 20, 30, 90),  # degrees
    "turn": (0, 15, 30, 45, 180),  # degrees from source to target
    "source_eyes_shut": (0, 0.3, 0.7, 1),  # ARKit's blink
    "target_eyes_shut": (0, 0.3, 0.7, 1),
}
VIEW_BINS = (0, 15, 30, 45, 90)  # degrees of yaw from the source to a novel view


def summarise(rows: Sequence[Row], evaluators: Iterable[Evaluator] = EVALUATORS.values()) -> dict[str, dict]:
    """Statistics of each measure over the people that have it, and what the evaluators add to them."""
    names = sorted(name for name in set().union(*rows) if not name.startswith("about/"))
    report = {name: statistics([row[name] for row in rows if name in row]) for name in names}
    for evaluator in evaluators:
        if evaluator.summary is not None:
            report |= evaluator.summary(rows)
    return report


def sort_into_bins(rows: Sequence[Row]) -> dict[str, dict]:
    """Statistics of self-reenactment by what is known of the frames, and of novel views by their angle."""
    report = {}
    for fact, edges in BINS.items():
        having = [row for row in rows if f"about/{fact}" in row]
        report[fact] = {}
        for low, high in itertools.pairwise(edges):
            top = np.nextafter(high, np.inf) if high == edges[-1] else high  # the last bin holds its edge
            inside = [row for row in having if low <= row[f"about/{fact}"] < top]
            found = {
                name: statistics(values)
                for name in BINNED
                if (values := [row[name] for row in inside if name in row])
            }
            if found:
                report[fact][f"{low}..{high}"] = found
    views = [
        (row[f"about/view_angle_{yaw:+d}"], row[f"novel/psnr_{yaw:+d}"])
        for row in rows
        for yaw in VIEW_YAWS
        if f"novel/psnr_{yaw:+d}" in row
    ]
    report["view_angle"] = {}
    for low, high in itertools.pairwise(VIEW_BINS):
        if values := [value for angle, value in views if low <= angle < high]:
            report["view_angle"][f"{low}..{high}"] = {"novel/psnr": statistics(values)}
    return report
