"""`capture` of many: nothing is made twice, nothing is half made, and every runner makes the same bytes."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from p4d_jax import assets
from p4d_jax.data.photos import open_photos, write_captures
from p4d_jax.errors import UserError
from p4d_jax.jobs import _capture_items as items
from p4d_jax.jobs import capture as job
from p4d_jax.jobs.settings import CaptureSettings
from p4d_jax.settings import to_config


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


# The books, with a capture that is none ---------------------------------------------------------------------


def copy_one(config, head, landmarker, folder) -> dict:
    """Instead of a capture: copies the file, refuses one that is empty, and is killed by another."""
    data = Path(config.source).read_bytes()
    (folder / "motion.npz").write_bytes(data)
    if not data:
        raise UserError("no face found")
    if data == b"killer":
        raise KeyboardInterrupt
    return {"source": config.source, "note": ""}


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(items, "Landmarker", lambda: None)
    monkeypatch.setattr(items.assets, "head_model", lambda name: None)


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    for name, data in {
        "a.jpg": b"1",
        "more/b.png": b"",
        "c.mp4": b"3",
        "d.JPG": b"4",
        "notes.txt": b"",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(data)
    return folder


def test_items_are_the_photos_and_films_of_a_folder_or_a_list(files):
    assert [name for name, _ in items.list_items(files)] == ["a", "c", "d", "more_b"]
    listed = files.parent / "list.txt"
    listed.write_text("files/c.mp4\n\nfiles/more\n")
    assert items.list_items(listed) == [("c", str(files / "c.mp4")), ("more", str(files / "more"))]
    (files / "a.png").touch()
    with pytest.raises(UserError, match=r"a\.jpg and .*a\.png would both be 'a'"):
        items.list_items(files)
    for source, message in (
        (files / "none", "no such folder"),
        (files / "notes.txt", "no photo and no film"),
    ):
        with pytest.raises(UserError, match=message):
            items.list_items(source)


def test_a_run_that_was_killed_goes_on_and_does_nothing_again(files, tmp_path, quick):
    config, whole, killed = CaptureSettings(sources=str(files)), tmp_path / "whole", tmp_path / "killed"
    report = items.capture_items(config, whole, copy_one)
    assert report == {"captured": ["a", "c", "d"], "failed": {"more_b": "no face found"}}
    assert sorted(path.name for path in (whole / "more_b").iterdir()) == ["report.json"]

    (files / "d.JPG").write_bytes(b"killer")
    with pytest.raises(KeyboardInterrupt):
        items.capture_items(config, killed, copy_one)
    assert sorted(path.name for path in killed.iterdir()) == ["a", "c", "recipe.json"]
    (killed / ".d.0123.part").mkdir()  # as SIGKILL leaves it
    (files / "d.JPG").write_bytes(b"4")
    done = []

    def noting(config, *rest):
        done.append(Path(config.source).name)
        return copy_one(config, *rest)

    items.capture_items(config, killed, noting)
    assert done == ["d.JPG", "b.png"] and content(killed) == content(whole)
    items.capture_items(config, killed, noting)
    assert len(done) == 2
    with pytest.raises(UserError, match="holds samples made with write_alphas=False, not True"):
        items.capture_items(CaptureSettings(sources=str(files), write_alphas=True), killed, copy_one)


def test_of_two_machines_at_one_item_the_first_counts(files, tmp_path, quick):
    def raced(config, head, landmarker, folder):
        other = items.ItemCapture(config, tmp_path / "out", copy_one)
        other(("a", str(files / "a.jpg")))
        return copy_one(config, head, landmarker, folder)

    items.ItemCapture(CaptureSettings(), tmp_path / "out", raced)(("a", str(files / "a.jpg")))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a"]


def test_without_beam_one_line_says_how_to_get_it(files, tmp_path, quick, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    config = CaptureSettings(sources=str(files), runner="DirectRunner")
    with pytest.raises(
        UserError, match=r"runner='DirectRunner' needs Apache Beam .*pip install '\.\[beam\]'"
    ):
        job.run(to_config(config), tmp_path / "out")


# Real captures ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory, photo):
    folder = tmp_path_factory.mktemp("photos")
    for name, picture in {"one": photo, "two": photo[:, ::-1], "none": np.zeros_like(photo)}.items():
        Image.fromarray(picture).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def serial(tmp_path_factory, photos):
    workdir = tmp_path_factory.mktemp("serial")
    job.run(to_config(CaptureSettings(sources=str(photos))), workdir)
    return workdir


def test_captures_become_data_to_train_on(serial, tmp_path):
    report = json.loads((serial / "report.json").read_text())
    assert report["captured"] == ["one", "two"] and "no face" in report["failed"]["none"]
    assert write_captures(tmp_path, [serial]) == 2
    found = open_photos(tmp_path, assets.head_model(), 512, mirror=False)
    assert found.names == ("one", "two")
    np.testing.assert_array_equal(found.read(0)[0], Image.open(serial / "one/crop.png"))


@pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None,
    reason="apache-beam (extra `beam`) is not installed: it is large",
)
def test_beam_makes_the_bytes_of_the_serial_run(photos, serial, tmp_path):
    shutil.copytree(serial / "one", tmp_path / "beam/one")  # done before
    before = (tmp_path / "beam/one/crop.png").stat().st_mtime_ns
    config = CaptureSettings(sources=str(photos), runner="DirectRunner")
    job.run(to_config(config), tmp_path / "beam")
    assert content(tmp_path / "beam") == content(serial)
    assert (tmp_path / "beam/one/crop.png").stat().st_mtime_ns == before
