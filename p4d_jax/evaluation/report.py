"""The tables of an evaluation's report, for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from p4d_jax.evaluation.pairs import KINDS
from p4d_jax.evaluation.summary import BINNED

TABLE_WIDTH = 110  # characters; narrower, names would be cut


@dataclass(frozen=True)
class Grid:
    """A table: a title, the heads of its columns, rows of text."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def print_report(report: dict) -> None:
    """The tables of the report; the definitions of its scores are in the files."""
    console = Console()
    console.width = max(console.width, TABLE_WIDTH)
    for grid in grids_of(report):
        table = Table(*grid.header, title=grid.title)
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
    for line in said_of_pairs(report):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def to_markdown(report: dict) -> str:
    """The report as Markdown."""
    lines = [f"# What {short_name(report['weights'])} measures", ""]
    for grid in [*grids_of(report), *definitions_of(report)]:
        rows = [grid.header, ("---",) * len(grid.header), *grid.rows]
        cells = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
        lines += [f"## {grid.title}", "", *cells, ""]
    if said := said_of_pairs(report):
        lines += [f"- {line}" for line in said] + [""]
    return "\n".join(lines)


def grids_of(report: dict) -> Iterator[Grid]:
    """The tables of figures: of sets of people, of photos, of pairs."""
    for name, content in report["sets"].items():
        weights = short_name(report["weights"])
        yield grid_of_measures(f"{weights}, {report['identities']} people of {name!r}", content)
        yield grid_of_bins(f"{name}, by pose and eyes", content["bins"])
    if report["photos"]:
        rows = [
            (name, f"{values['psnr']:.2f}", f"{values['ssim']:.4f}")
            for name, values in report["photos"].items()
        ]
        yield Grid("self-reconstruction of photos, in the alpha", ("photo", "psnr", "ssim"), rows)
    if report["scores"]:
        yield grid_of_scores(short_name(report["weights"]), report["scores"])


def short_name(weights: str) -> str:
    """What titles call weights: a path's last part."""
    return Path(weights).name


def definitions_of(report: dict) -> Iterator[Grid]:
    """The table of the scores' definitions, sources and weights."""
    if report["scores"]:
        header = ("score", "what is computed", "defined in", "weights")
        rows = [
            (one["title"], one["definition"], one["source"], one.get("weights", ""))
            for one in report["scores"]["measures"].values()
        ]
        yield Grid("Definitions and weights", header, rows)


def grid_of_scores(weights: str, scores: dict) -> Grid:
    """A row a score: the result's and the unchanged source's, of each kind of which there are pairs."""
    kinds = [kind for kind in KINDS if scores["pairs"][kind]]
    counts = ", ".join(
        f"{scores['pairs'][kind]} {kind} of {scores['results'][kind]} frames" for kind in kinds
    )
    rows = []
    for one in scores["measures"].values():
        cells = [written(one.get(f"{kind}{column}")) for kind in kinds for column in ("", "_unchanged")]
        if "refused" in one:
            cells[0] = f"not measured: {one['refused']}"
        if any(cells):
            rows.append((one["title"], *cells, one["better"]))
    header = ("score", *(name for kind in kinds for name in (kind, "unchanged")), "better")
    return Grid(f"{weights} at {scores['picture_size']}², pairs: {counts}", header, rows)


def said_of_pairs(report: dict) -> list[str]:
    """Files that could not be used, a line each, after how many pairs were left out."""
    if not report["scores"] or not report["scores"]["damaged"]:
        return []
    damaged, left_out = report["scores"]["damaged"], report["scores"]["left_out"]
    said = f"{len(damaged)} files cannot be used, and {left_out} pairs are left out because of them:"
    return [said, *(f"{name}: {problem}" for name, problem in damaged.items())]


def grid_of_measures(title: str, content: dict[str, dict]) -> Grid:
    """A row a measure: the result, the unchanged source's, the true picture's."""
    rows = []
    for name, value in content.items():
        if name == "bins" or name.endswith(("_unchanged", "_truth")):
            continue
        others = [content.get(f"{name}{suffix}") for suffix in ("_unchanged", "_truth")]
        rows.append((name, *(written(v) for v in (value, *others)), str(value["people"])))
    return Grid(title, ("measure", "result", "unchanged", "truth", "people"), rows)


def grid_of_bins(title: str, bins: dict[str, dict]) -> Grid:
    """A row a bin, without standard errors, which the file has."""
    names, found = [*BINNED, "novel/psnr"], []
    for fact, rows in bins.items():
        for edges, values in rows.items():
            people = max(value["people"] for value in values.values())
            means = (values[name] | {"standard_error": None} if name in values else None for name in names)
            found.append((fact, edges, str(people), *map(written, means)))
    header = ("fact", "bin", "people", *(name.split("/")[1] for name in BINNED), "novel")
    return Grid(title, header, found)


def written(value: dict | None) -> str:
    """Mean and standard error."""
    if value is None:
        return ""
    mean, error = value["mean"], value.get("standard_error")
    digits = 2 if abs(mean) >= 2 else 3 if abs(mean) >= 0.01 else 5
    return f"{mean:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")
