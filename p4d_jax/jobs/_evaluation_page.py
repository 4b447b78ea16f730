"""evaluation.html: all figures of an evaluation, those of each pair, and the best, median and worst pairs."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from p4d_jax.evaluation.pairs import KINDS
from p4d_jax.evaluation.reenacted import Reenacted
from p4d_jax.evaluation.report import Grid, definitions_of, grids_of, said_of_pairs, short_name
from p4d_jax.evaluation.scores import PairScores, rank_cases
from p4d_jax.jobs._html import figure, items, table, to_jpeg, write_html

RANKED_BY = {"self": ("lpips", "ssim", "psnr", "akd"), "cross": ("csim", "aed", "apd")}  # the first there is
LEFT, RIGHT, ROW, TOP = 120, 430, 22, 10  # of a plot, pixels of a picture 460 wide
STYLE = """
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 0 2rem }
svg { width: 100%; display: block }
svg text { font: 12px system-ui, sans-serif; fill: currentColor }
svg line { stroke: var(--quiet) } .self { fill: var(--self); stroke: var(--self) }
.cross { fill: var(--cross); stroke: var(--cross) } svg circle { fill-opacity: .45 } .unchanged { fill: none }
svg .median { stroke: currentColor; stroke-width: 2 }
"""


def write_evaluation_page(
    path: Path,
    report: dict,
    sheets: dict[str, np.ndarray],
    scores: Sequence[PairScores],
    strips: Sequence[bytes],
) -> None:
    """Writes the page.

    Args:
      report: What evaluation.json holds.
      sheets: (H, W, 3) uint8 pictures of people and photos, by their titles.
      scores, strips: Of each pair its numbers, and `strip` of it as a file.
    """
    title = f"What {short_name(report['weights'])} measures"
    about = {key: report[key] for key in ("weights", "seed", "samples", "identity_by", "lpips")}
    sections = [f"<h1>{html.escape(title)}</h1>", table(about), *map(grid, grids_of(report))]
    if said := said_of_pairs(report):
        sections += ["<h2>Left out</h2>", items(said)]
    if report["scores"]:
        for kind in KINDS:
            sections += cases(kind, report["scores"], scores, strips)
        sections += [
            "<h2>Each pair</h2>",
            "<p>Filled: results. Hollow: the source as it is. Line: median.</p>",
        ]
        plots = [
            plot(measure["title"], measure["better"], rows_of(name, scores))
            for name, measure in report["scores"]["measures"].items()
            if any(name in row.values for row in scores)
        ]
        sections += ['<div class="plots">', *plots, "</div>", *map(grid, definitions_of(report))]
    sections += [figure(to_jpeg(picture), name) for name, picture in sheets.items()]
    write_html(path, title, sections, STYLE)


def grid(content: Grid) -> str:
    """A table of figures."""
    cells = lambda row, tag: "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"
    rows = cells(content.header, "th") + "".join(cells(row, "td") for row in content.rows)
    caption = f"<caption>{html.escape(content.title)}</caption>"
    return f'<div class="wide"><table>{caption}{rows}</table></div>'


def strip(case: Reenacted) -> np.ndarray:
    """Source, driver and result of the middle frame; where the driver is the truth, five times the error."""
    middle = len(case.made) // 2
    driver, made = case.driving[middle], case.made[middle]
    pictures = [case.source, driver, made]
    if case.pair.kind == "self":
        error = 5 * np.abs(made.astype(int) - driver)
        pictures.append(np.minimum(error, 255).astype(np.uint8))
    return np.concatenate(pictures, axis=1)


def cases(kind: str, report: dict, scores: Sequence[PairScores], strips: Sequence[bytes]) -> list[str]:
    """The best, the median and the worst pair of a kind, with their numbers."""
    name = next((one for one in RANKED_BY[kind] if any(one in row.values for row in scores)), None)
    ranked = {} if name is None else rank_cases(scores, kind, name)
    if not ranked:
        return []
    titles = {key: measure["title"] for key, measure in report["measures"].items()}
    shown = "source, driver, result" + (", five times the error" if kind == "self" else "")
    sections = [f"<h2>Pairs “{kind}”, by {html.escape(titles[name])}: {shown}</h2>"]
    for label, index in ranked.items():
        row = scores[index]
        numbers = "; ".join(f"{titles[key]} {value:.4g}" for key, value in row.values.items())
        said = f"{label}: {row.pair.source} driven by {row.pair.driving}. {numbers}"
        sections.append(figure(strips[index], said[0].upper() + said[1:]))
    return sections


def rows_of(name: str, scores: Sequence[PairScores]) -> dict[tuple[str, str], list[float]]:
    """A measure's numbers by kind and by what they are of, 'result' or 'unchanged'; those that there are."""
    found = {}
    for kind in KINDS:
        for label, column in (("result", "values"), ("unchanged", "unchanged")):
            values = [getattr(row, column).get(name) for row in scores if row.pair.kind == kind]
            if values := [value for value in values if value is not None]:
                found[kind, label] = values
    return found


def plot(title: str, better: str, rows: dict[tuple[str, str], list[float]]) -> str:
    """A picture (SVG) of numbers on one axis, a line of dots for each row."""
    everything = np.concatenate(list(rows.values()))
    low, high = float(everything.min()), float(everything.max())
    margin = 0.05 * (high - low) or max(abs(low) * 0.05, 1e-6)
    low, high = low - margin, high + margin
    place = lambda value: LEFT + (RIGHT - LEFT) * (value - low) / (high - low)
    bottom, marks = TOP + ROW * len(rows), []
    for line, ((kind, label), values) in enumerate(rows.items()):
        y, middle = TOP + ROW * (line + 0.5), place(float(np.median(values)))
        marks.append(f'<text x="0" y="{y + 4}">{kind}{", unchanged" if label == "unchanged" else ""}</text>')
        marks += [
            f'<circle class="{kind} {label}" cx="{place(value):.1f}" cy="{y}" r="4"/>' for value in values
        ]
        marks.append(f'<line class="median" x1="{middle:.1f}" x2="{middle:.1f}" y1="{y - 9}" y2="{y + 9}"/>')
    marks.append(f'<line x1="{LEFT}" x2="{RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    digits = max(0, 1 - int(np.floor(np.log10(high - low))))
    for value in np.unique(np.linspace(low + margin, high - margin, 4).round(digits)):
        at = place(min(max(value, low), high))
        marks.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{value:.{digits}f}</text>')
    said = html.escape(f"{title}; {better} is better")
    view = f'viewBox="0 0 460 {bottom + 22}" role="img" aria-label="{said}"'
    return f"<figure><figcaption>{said}</figcaption><svg {view}>{''.join(marks)}</svg></figure>"
