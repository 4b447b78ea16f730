"""The notebooks of `colabs/`: run from top to bottom at a tiny size, and kept without outputs."""

from __future__ import annotations

import functools
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import imageio.v3 as iio
import nbformat
import numpy as np
import pytest
from genhead_case import tiny_config
from ml_collections import ConfigDict
from nbformat import NotebookNode
from synthetic_reconstructor import TINY, save_random_weights

from p4d_jax.main import field_names, load_config

COLABS = Path(__file__).parents[1] / "colabs"
NAMES = ("reenact", "train_small")
CONFIGS = COLABS.parent / "configs"
README = (COLABS.parent / "README.md").read_text()


def read(name: str) -> NotebookNode:
    return nbformat.read(COLABS / f"{name}.ipynb", as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def assigned(source: str) -> dict:
    """What a cell of plain assignments gives its names."""
    values = {}
    exec(source, values)
    return {name: value for name, value in values.items() if name.isupper()}


class Shown:
    """Instead of a picture or a film in a notebook: its file must be there."""

    def __init__(self, file: Path, **_):
        assert Path(file).stat().st_size > 0


def execute(name: str, monkeypatch, **parameters) -> dict[str, str]:
    """Runs a notebook's cells with other parameters, in this process; returns what each cell printed."""
    # No kernel: what the cells compile is kept for the tests beside them, and IPython is not needed.
    display = SimpleNamespace(Image=Shown, Video=Shown, display=lambda *shown: None)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=display))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.chdir(COLABS)
    names, printed, given = {"__name__": "__main__"}, {}, False
    for cell in code_cells(read(name)):
        with redirect_stdout(StringIO()) as out:
            exec(compile(cell.source, f"{name}.ipynb, cell {cell.id}", "exec"), names)
        printed[cell.id] = out.getvalue()
        if "parameters" in cell.metadata.get("tags", ()):
            assert parameters.keys() <= names.keys()
            names |= parameters
            given = True
    assert given
    return printed


def changes(config_name: str, wanted: ConfigDict) -> dict:
    """FIELDS that give a config what `wanted` says of the fields that it has."""
    values = {}
    for name in field_names(load_config(CONFIGS / f"{config_name}.py")):
        value = functools.reduce(lambda part, key: part.get(key, {}), name.split("."), wanted)
        if not isinstance(value, ConfigDict | dict):
            values[name] = value
    return values


@pytest.mark.parametrize("name", NAMES)
def test_no_output_is_kept(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.nbformat == 4
    for cell in code_cells(notebook):
        assert cell.outputs == [] and cell.execution_count is None, cell.id
        assert cell.metadata.keys() <= {"tags"}, cell.id


def test_fields_are_fields_of_the_configs():
    """At a tiny size other FIELDS are run; the notebook's own must exist, too."""
    cell = next(cell for cell in read("train_small").cells if "parameters" in cell.metadata.get("tags", ()))
    for config_name, values in assigned(cell.source)["FIELDS"].items():
        config = load_config(CONFIGS / f"{config_name}.py").lock()
        config.update_from_flattened_dict(values)


@pytest.mark.parametrize("name", NAMES)
def test_readme_opens_the_notebook(name):
    assert f"(colabs/{name}.ipynb)" in README
    assert f"[![Open in Colab][badge]][{name} in Colab]" in README
    assert f"[{name} in Colab]: https://colab.research.google.com/github" in README


def test_reenact_shows_a_film_and_moves_the_avatar(tmp_path, monkeypatch):
    printed = execute(
        "reenact", monkeypatch, WORKDIR=str(tmp_path / "run"), SAMPLES=(4, 4), PERSONALISE=2, MAX_FRAMES=3,
        WEIGHTS=str(save_random_weights(tmp_path / "tiny.npz")),
    )  # fmt: skip
    assert printed["choose"] == "photo: astronaut, motion: motion_talk\n"
    for name in ("reenactment.mp4", "me.avatar", "head.ply", "orbit.png", "expression.png", "overlay.png"):
        assert str(tmp_path / "run" / name) in printed["files"]
    photo, changed = np.split(iio.imread(tmp_path / "run/expression.png").astype(int), 2, axis=1)
    assert np.abs(photo - changed).max() > 10


def test_train_small_trains_and_measures(tmp_path, monkeypatch):
    # A crop of rays is upscaled as it is.
    tiny_psi = ConfigDict({"model": replace(TINY, superresolution_size=0).to_dict()})
    short = {"loop.steps": 1, "loop.log_every": 1}
    fields = {
        "genhead_demo": changes("genhead_demo", tiny_config()) | short,
        "synthesize": {
            "dynamic.shards": 1, "dynamic.samples": 1, "dynamic.motions": 1, "dynamic.views": 2,
            "static.shards": 0, "settings.samples": (4, 4), "settings.points": 20, "film_frames": 2,
            "panel": 32,
        },
        "reenact_demo": {
            "evaluate_people": 0, "loop.best": "",
            "batch": 2, "data.openheads": 2, "step.stages": ((0, 32),), "step.crop": 16,
            "step.samples": (4, 4), "terms.photo_depth": (0.0,), "terms.photo_opacity": (0.0,),
            "relief_alone": 0.0,
        } | changes("reenact_demo", tiny_psi) | short,
        "evaluate": {"resolution": 32, "samples": 4, "film_frames": 0, "photos": ""},
    }  # fmt: skip
    printed = execute(
        "train_small", monkeypatch,
        WORKDIR=str(tmp_path), MINUTES_GENHEAD=0.0, MINUTES_PSI=0.0, PEOPLE=2, FIELDS=fields,
    )  # fmt: skip
    for cell in ("genhead-show", "psi-show"):
        assert "'step': 1," in printed[cell]
    assert printed["evaluation-numbers"].startswith("psnr: ")
    for name in (
        "genhead/weights.npz",
        "synthesis/sheet.png",
        "psi/weights.npz",
        "evaluation/evaluation_held_out_self.png",
    ):
        assert (tmp_path / name).is_file()
