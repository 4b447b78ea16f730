"""The tables of an evaluation's report."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from p4d_jax.evaluation.summary import BINNED

TABLE_WIDTH = 110  # characters; narrower, names would be cut


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
        table = Table("photo", "psnr", "ssim", title="self-reconstruction of photos, in the alpha")
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
