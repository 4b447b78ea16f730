"""report.html: a run on one page, to be looked at, kept or sent; only long films lie beside it."""

from __future__ import annotations

import base64
import html
from pathlib import Path

import numpy as np

from p4d_jax.jobs._html import figure, items, table, to_jpeg, write_html

FILMS = {"reenactment.mp4": "Source, driving, result", "pasted.mp4": "Pasted back"}
LARGEST_FILM = 16 * 2**20  # bytes; a page of more opens slowly, and takes its memory several times


def write_page(path: Path, report: dict, worst: dict[int, np.ndarray]) -> None:
    """Writes the page of a run.

    Args:
      path: Of the page; the films lie beside it and are taken into it, but for those of many minutes.
      report: What report.json holds.
      worst: (H, W, 3) uint8 of the frames of which most is guessed, by their numbers.
    """
    films = [
        film(path.parent / name, title) for name, title in FILMS.items() if (path.parent / name).exists()
    ]
    share = report["guessed"]["share_of_frames"]
    pictures = [
        figure(to_jpeg(row), f"Frame {index}: {share[index]:.0%} of the head is not in the photo")
        for index, row in worst.items()
    ]
    names = (html.escape(str(report["config"][field])) for field in ("source", "driving"))
    sections = [
        f"<h1>{' as '.join(names)}</h1>",
        *films,
        "<h2>What is synthetic</h2>",
        items(report["synthetic"]),
        "<h2>What was guessed</h2>",
        items(report["guessed"]["said"]),
        "<h2>Frames of which most is guessed</h2>",
        *pictures,
        "<h2>Scores</h2>",
        table(report["scores"]),
        "<h2>Seconds</h2>",
        table(report["seconds"] | {"together": report["seconds_total"]}),
        "<h2>Machine, versions, settings</h2>",
        table(report["device"] | report["versions"] | report["config"]),
    ]
    write_html(path, "Report of a reenactment", sections)


def film(path: Path, title: str) -> str:
    """A film in the page itself, or where it is larger than `LARGEST_FILM`, from beside the page."""
    source = path.name
    if path.stat().st_size <= LARGEST_FILM:
        source = f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"
    player = f'<video controls loop src="{source}"></video>'
    return f"<figure>{player}<figcaption>{html.escape(title)}</figcaption></figure>"
