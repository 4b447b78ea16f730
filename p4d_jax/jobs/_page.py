"""report.html: a run on one page that needs nothing beside it, to be looked at, kept or sent."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

import numpy as np
from PIL import Image

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
video, img { max-width: 100%; border-radius: 4px } table { border-collapse: collapse }
td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd }
figure { margin: 1rem 0 } figcaption { color: #666 }
"""
FILMS = {"reenactment.mp4": "Source, driving, result", "pasted.mp4": "Pasted back"}


def write_page(path: Path, report: dict, worst: dict[int, np.ndarray]) -> None:
    """Writes the page of a run.

    Args:
      path: Of the page; the films lie beside it and are taken into it.
      report: What report.json holds.
      worst: (H, W, 3) uint8 of the frames of which most is guessed, by their numbers.
    """
    films = [
        film(path.parent / name, title) for name, title in FILMS.items() if (path.parent / name).exists()
    ]
    share = report["guessed"]["share_of_frames"]
    pictures = [
        figure(row, f"Frame {index}: {share[index]:.0%} of the head is not in the photo")
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
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
    title = "<title>Report of a reenactment</title>"
    start = f'<!doctype html>\n<html lang="en">{head}{title}'
    path.write_text("\n".join([start, *sections, "</html>", ""]))


def film(path: Path, title: str) -> str:
    """A film in the page itself."""
    data = base64.b64encode(path.read_bytes()).decode()
    player = f'<video controls loop src="data:video/mp4;base64,{data}"></video>'
    return f"<figure>{player}<figcaption>{html.escape(title)}</figcaption></figure>"


def figure(picture: np.ndarray, title: str) -> str:
    """A picture in the page itself."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90)
    data = base64.b64encode(file.getvalue()).decode()
    image = f'<img alt="" src="data:image/jpeg;base64,{data}">'
    return f"<figure>{image}<figcaption>{html.escape(title)}</figcaption></figure>"


def items(lines: list[str]) -> str:
    """A list of sentences."""
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def table(values: dict) -> str:
    """Names and values."""
    rows = (
        f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in values.items()
    )
    return f"<table>{''.join(rows)}</table>"
