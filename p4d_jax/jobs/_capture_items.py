"""`capture` of many: each photo and film into a folder of its own, here or by Apache Beam on many machines.

    WORKDIR/NAME/         what the job writes of one photo or film; it appears when it is complete
    WORKDIR/NAME/         of one that could not be captured: report.json alone, with why as `failed`
    WORKDIR/report.json   names of those that were `captured`, and of those that `failed`, with why
    WORKDIR/recipe.json   the settings

An item depends on its file and the settings alone, so that every runner gives the same bytes; what is there
is not made again. Beam's workers need this package, and the files and the workdir under the same paths.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import jax
from tqdm import tqdm

import p4d_jax
from p4d_jax import assets
from p4d_jax.capture import Landmarker
from p4d_jax.data.records import keep_recipe
from p4d_jax.errors import UserError
from p4d_jax.imaging.reading import PHOTO_SUFFIXES
from p4d_jax.imaging.video import FILM_SUFFIXES
from p4d_jax.jobs._publish import write_json, write_report
from p4d_jax.jobs.settings import CaptureSettings

Item = tuple[str, str]  # name, path
# Settings on which an item depends.
OF_AN_ITEM = ("head", "person", "max_frames", "smoothing", "write_crops", "write_alphas")


def list_items(source: str | Path) -> list[Item]:
    """The photos and films below a folder, or those that a text file names, one path a line.

    An item's name is its path in the folder, or its file's name, without suffix, `_` for what separates
    folders. A line of a text file may be a folder, which is the frames of one film.

    Raises:
      UserError: There are none, or two have one name.
    """
    source = Path(source).expanduser()
    if source.is_dir():
        found = sorted(path for path in source.rglob("*") if path.is_file())
        paths = [path for path in found if path.suffix.lower() in (*PHOTO_SUFFIXES, *FILM_SUFFIXES)]
        names = ["_".join(path.relative_to(source).with_suffix("").parts) for path in paths]
    elif source.is_file():
        lines = source.read_text(encoding="utf-8").splitlines()
        paths = [source.parent / line.strip() for line in lines if line.strip()]
        names = [path.stem for path in paths]
    else:
        raise UserError(f"sources={str(source)!r}: no such folder or list")
    items: dict[str, Path] = {}
    for name, path in zip(names, paths, strict=True):
        if items.setdefault(name, path) != path:
            raise UserError(f"sources: {items[name]} and {path} would both be {name!r}; rename one")
    if not items:
        raise UserError(f"sources={str(source)!r}: no photo and no film there")
    return [(name, str(path.absolute())) for name, path in items.items()]


class ItemCapture:
    """What captures one item after the other; each machine makes its own.

    Args:
      config: The job's settings.
      workdir: In which the items' folders are made.
      capture: (settings with the item as source, head, landmarker, folder) -> report; writes into the folder.
    """

    def __init__(self, config: CaptureSettings, workdir: Path, capture: Callable[..., dict]) -> None:
        self._config, self._workdir, self._capture = config, workdir, capture
        self._head, self._landmarker = assets.head_model(config.head), Landmarker()

    def __call__(self, item: Item) -> None:
        """Makes the item's folder, unless it is there."""
        name, path = item
        if is_done(self._workdir, name):
            return
        part = self._workdir / f".{name}.{uuid.uuid4().hex}.part"  # two machines may be at the same item
        part.mkdir(parents=True)
        try:
            config = dataclasses.replace(self._config, source=path, sources="")
            try:
                report = self._capture(config, self._head, self._landmarker, part)
            except UserError as error:
                shutil.rmtree(part)
                part.mkdir()
                report = {"source": path, "failed": str(error)}
            write_report(part, report)
            if not is_done(self._workdir, name):
                os.rename(part, self._workdir / name)
        except OSError:
            if not is_done(self._workdir, name):  # else: the other one was faster
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)


def is_done(workdir: Path, name: str) -> bool:
    """Whether an item's folder is there, captured or failed."""
    return (workdir / name / "report.json").is_file()


# Runners ----------------------------------------------------------------------------------------------------


def capture_items(config: CaptureSettings, workdir: Path, capture: Callable[..., dict]) -> dict:
    """Captures all items that are not there yet; writes and returns the report.

    Args:
      config, workdir, capture: See `ItemCapture`.

    Raises:
      UserError: There are no items, the workdir's were captured with other settings, or Beam is not installed
        or does not know the runner.
    """
    items = list_items(config.sources)
    workdir.mkdir(parents=True, exist_ok=True)
    keep_recipe(workdir, {name: getattr(config, name) for name in OF_AN_ITEM})
    waiting = [item for item in items if not is_done(workdir, item[0])]
    print(f"{len(items)} items, {len(items) - len(waiting)} of them done before", flush=True)
    if waiting and config.runner == "serial":
        one = ItemCapture(config, workdir, capture)
        for item in tqdm(waiting, desc="items", unit="item"):
            one(item)
    elif waiting:
        run_beam(config, workdir, capture, waiting)
    report = {"captured": [], "failed": {}}
    for name, _ in items:
        for part in workdir.glob(f".{name}.*.part"):  # what killed runs left of what is now done
            shutil.rmtree(part, ignore_errors=True)
        told = json.loads((workdir / name / "report.json").read_text())
        if "failed" in told:
            report["failed"][name] = told["failed"]
        else:
            report["captured"].append(name)
    write_json(workdir / "report.json", report)
    for name, why in report["failed"].items():
        print(f"failed: {name}: {why}")
    print(
        f"{len(report['captured'])} captured, {len(report['failed'])} failed; see {workdir / 'report.json'}"
    )
    return report


def run_beam(config: CaptureSettings, workdir: Path, capture: Callable[..., dict], items: list[Item]) -> None:
    """The items by Apache Beam, spread evenly.

    Raises:
      UserError: Beam is not installed, or there is no such runner.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(
            f"runner={config.runner!r} needs Apache Beam ({error}): pip install '.[beam]'"
        ) from None

    precision = jax.config.jax_default_matmul_precision

    class CaptureItems(beam.DoFn):
        def setup(self) -> None:
            p4d_jax.enable_compilation_cache()
            jax.config.update("jax_default_matmul_precision", precision)
            self.capture = ItemCapture(config, workdir, capture)

        def process(self, item: Item):
            self.capture(item)
            yield item[0]

    try:
        options = PipelineOptions([f"--runner={config.runner}", *config.beam_options])
    except (ValueError, SystemExit) as error:
        raise UserError(f"runner={config.runner!r}, beam_options={config.beam_options!r}: {error}") from None
    with beam.Pipeline(options=options) as pipeline:
        _ = pipeline | beam.Create(items) | beam.Reshuffle() | beam.ParDo(CaptureItems())
