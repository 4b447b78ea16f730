"""The job `synthesize` at tiny size: its files, a second run, hosts that share the work, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import imageio.v2 as imageio
import jax
import numpy as np
import pytest
from synthetic_genhead import SMALL, random_variables

from p4d_jax import assets, main
from p4d_jax.genhead import p4d_heads, synthesis
from p4d_jax.genhead.model import GenHead
from p4d_jax.genhead.parts import build_head_parts
from p4d_jax.genhead.weights import save_genhead
from p4d_jax.imaging.video import open_video

CONFIG = f"--config={Path(__file__).parents[1]}/configs/synthesize.py"
SHARDS = 3
QUICK = (
    "--config.dynamic.motions=2",
    "--config.dynamic.views=2",
    "--config.dynamic.samples=2",
    f"--config.dynamic.shards={SHARDS}",
    "--config.static.shards=0",
    "--config.settings.samples=(4, 4)",
    "--config.settings.points=20",
    "--config.film_frames=2",
    "--config.panel=32",
    "--config.sheet_rows=1",
)
SETTINGS = synthesis.SynthesisSettings(motions=2, views=2, resolution=8, samples=(4, 4), points=20)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.npz"
    save_genhead(path, SMALL, random_variables(), {"resolution": 8})
    return path


def run(workdir: Path, *arguments: str) -> int:
    return main.main(["main.py", CONFIG, f"--workdir={workdir}", *QUICK, *arguments])


@pytest.fixture(scope="module")
def made(weights, tmp_path_factory) -> Path:
    """The workdir of a whole run."""
    workdir = tmp_path_factory.mktemp("run")
    assert run(workdir, f"--config.weights={weights}") == 0
    return workdir


def shard(workdir: Path, number: int) -> Path:
    return p4d_heads.heads_set(workdir, "dynamic").shard_path(number, SHARDS)


def test_shards_sheet_film_and_figures(made):
    assert {path.name for path in made.iterdir()} == {"p4d_heads", "sheet.png", "film.mp4", "synthesis.json"}
    # One row: depth, map, and 2 x 2 views. Two frames: picture, map, depth.
    assert imageio.imread(made / "sheet.png").shape == (32, 6 * 32, 3)
    assert [frame.picture.shape for frame in open_video(made / "film.mp4")] == [(32, 3 * 32, 3)] * 2
    figures = json.loads((made / "synthesis.json").read_text())
    dynamic = figures["dynamic"]
    assert dynamic["samples"] == dynamic["samples_made"] == 2 * SHARDS and dynamic["complete"]
    assert dynamic["samples_per_second"] > 0 and "static" not in figures
    source = p4d_heads.heads_set(made, "dynamic").open()
    assert len(source) == 2 * SHARDS and source[0]["image"].shape == (2, 2, 32, 32, 3)
    assert dynamic["bytes_a_sample"] == sum(value.nbytes for value in source[0].values())
    on_disk = sum(shard(made, k).stat().st_size for k in range(SHARDS))
    assert dynamic["bytes_a_sample_on_disk"] == round(on_disk / len(source))
    assert len({record["latent"].tobytes() for record in source}) == len(source)


def test_a_record_is_the_sample_of_its_key(made):
    """Shard 1's second: seed, kind, shard and place alone decide."""
    head = assets.head_model()
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 1)
    sample = synthesis.synthesize(
        GenHead(SMALL), random_variables(), head, build_head_parts(head), jax.random.split(key, 2)[1],
        SETTINGS, synthesis.openheads_sources(head),
    )  # fmt: skip
    expected = jax.tree.map(np.asarray, p4d_heads.encode_sample(sample))
    found = p4d_heads.heads_set(made, "dynamic").open()[3]
    for name in ("latent", "conditioning", "motion", "params"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5, err_msg=name)
    assert np.abs(np.float32(found["image"]) - np.float32(expected["image"])).mean() < 0.5
    np.testing.assert_allclose(found["depth"], expected["depth"], atol=0.01)


def test_a_run_that_was_stopped_makes_what_is_missing(made, weights, tmp_path, capsys, monkeypatch):
    """Two processes, one after the other: each makes its shards; the last one finishes the data set."""
    monkeypatch.setattr(jax, "process_count", lambda *_: 2)
    monkeypatch.setattr(jax, "process_index", lambda *_: 1)
    command = (tmp_path, f"--config.weights={weights}", "--config.film_frames=0")
    assert run(*command) == 0
    assert p4d_heads.heads_set(tmp_path, "dynamic").missing_shards([2] * SHARDS) == [0, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["p4d_heads"]  # the rest is process 0's
    assert not (shard(tmp_path, 0).parent / "dataset_info.json").exists()
    before = shard(tmp_path, 1).stat().st_mtime_ns
    monkeypatch.setattr(jax, "process_index", lambda *_: 0)
    assert run(*command) == 0
    assert shard(tmp_path, 1).stat().st_mtime_ns == before
    assert len(p4d_heads.heads_set(tmp_path, "dynamic").open()) == 2 * SHARDS
    for number in range(SHARDS):
        assert shard(tmp_path, number).read_bytes() == shard(made, number).read_bytes()

    assert run(*command) == 0  # nothing is missing: nothing is made
    dynamic = json.loads((tmp_path / "synthesis.json").read_text())["dynamic"]
    assert dynamic["samples_made"] == 0 and "samples_per_second" not in dynamic and dynamic["complete"]
    capsys.readouterr()
    assert run(*command, "--config.seed=1") == 2
    assert "holds samples made with seed=0, not 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.weights=genhead_dem", "no weights file 'genhead_dem'"),
        ("--config.weights=reenact_demo", "not an exported genhead"),
        ("--config.motions=nowhere.npz", "config.motions: no motion file 'nowhere.npz'"),
        ("--config.film_motion=nowhere.npz", "config.film_motion: no motion file"),
        ("--config.settings.resolution=17", "takes up to 16 rays a side, or 32"),
        ("--config.dynamic.views=0", "config.dynamic.views=0: expected at least 1"),
        ("--config.dynamic.shards=0", "there is nothing to make"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(weights, tmp_path, capsys, argument, message):
    assert run(tmp_path / "run", f"--config.weights={weights}", argument) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("p4d_jax: ")]
    assert len(lines) == 1 and message in lines[0]
    assert not (tmp_path / "run").exists()
