"""The job `reenact` at tiny size, from a photo to its files; and all that a user may get wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_reconstructor import save_random_weights

from p4d_jax import assets, main
from p4d_jax.avatar.motion import Motion
from p4d_jax.errors import UserError
from p4d_jax.imaging.reading import read_photo
from p4d_jax.imaging.video import open_video
from p4d_jax.imaging.writing import save_video
from p4d_jax.jobs._fields import parse_person
from p4d_jax.jobs._publish import check_workdir, published_files
from p4d_jax.jobs.reenact import source_names

CONFIG = f"--config={Path(__file__).parents[1]}/configs/reenact.py"
WRITTEN = {"reenactment.mp4", "turntable.mp4", "depth.png", "mesh.ply", "report.json"}
QUICK = (
    "--config.personalise_steps=2",
    "--config.turntable_frames=2",
    "--config.mesh_resolution=16",
    "--config.max_frames=3",
    "--config.panel=64",
    "--config.stills=2",
    "--config.coarse_samples=4",
    "--config.fine_samples=4",
)


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory) -> Path:
    return save_random_weights(tmp_path_factory.mktemp("weights") / "tiny.npz")


def run(workdir: Path, *arguments: str) -> int:
    return main.main(["main.py", CONFIG, f"--workdir={workdir}", *QUICK, *arguments])


def pictures_of(film: Path) -> np.ndarray:
    return np.stack([frame.picture for frame in open_video(film)])


def refused(capsys, workdir: Path, *arguments: str) -> str:
    """The one line that says why a run was refused; nothing may have been written."""
    before = sorted(workdir.parent.rglob("*"))
    assert run(workdir, *arguments) == 2
    assert sorted(workdir.parent.rglob("*")) == before
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("p4d_jax: ")]
    assert len(lines) == 1
    return lines[0]


def test_photo_and_motion_become_films_mesh_and_report(tiny_weights, tmp_path):
    assert run(tmp_path / "run", f"--config.weights={tiny_weights}") == 0
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert written == WRITTEN | {"frame_0000.png", "frame_0002.png"}
    film = pictures_of(tmp_path / "run/reenactment.mp4")
    assert film.shape == (3, 64, 3 * 64, 3)
    assert len(pictures_of(tmp_path / "run/turntable.mp4")) == 2
    assert read_photo(tmp_path / "run/depth.png").shape == (64, 64, 3)
    assert (tmp_path / "run/mesh.ply").read_bytes().startswith(b"ply\n")
    # The left panel is the photo, in every frame.
    assert np.abs(film[:, :, :64].astype(int) - film[:1, :, :64]).mean() < 3
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert 0 < report["scores"]["fit_error_of_eye_distance"] < 0.1
    assert {"load", "capture", "encode", "personalise", "film", "turntable", "depth", "mesh"} <= report[
        "seconds"
    ].keys()
    assert report["config"]["max_frames"] == 3


def test_photo_drives_a_photo(tiny_weights, tmp_path):
    photo = tmp_path / "me.png"
    Image.fromarray(assets.photo("astronaut")[:300, 60:360]).save(photo)
    same = (f"--config.source={photo}", f"--config.driving={photo}", f"--config.weights={tiny_weights}")
    quick = ("--config.personalise_steps=0", "--config.exports=avatar,gltf")
    assert run(tmp_path / "run", *same, *quick) == 0
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert written == {"reenactment.mp4", "frame_0000.png", "avatar.avatar", "head.glb", "report.json"}


def test_a_film_drives_a_photo(tiny_weights, tmp_path):
    film, face = tmp_path / "clip.mp4", assets.photo("astronaut")[:288, 64:352]
    save_video(film, [face, face[:, ::-1], face], fps=10)
    rest = (f"--config.driving={film}", f"--config.weights={tiny_weights}", "--config.personalise_steps=0")
    assert run(tmp_path / "run", *rest) == 0
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["film"]["frames"] == 3 and report["film"]["fps"] == pytest.approx(10)


def test_the_bundled_motion_shuts_both_eyes_of_the_head_it_moves():
    head = assets.head_model("openhead")
    expression = np.asarray(Motion.open("motion_talk", head).params.expression)
    lids = [head.expression_names.index(f"eyeBlink{side}") for side in ("Left", "Right")]
    assert expression[:, lids].max(0) == pytest.approx([1, 1], abs=0.01)
    assert np.corrcoef(expression[:, lids].T)[0, 1] > 0.99


def test_photo_without_a_face_writes_nothing(tiny_weights, tmp_path, capsys):
    photo = tmp_path / "wall.png"
    Image.fromarray(np.full((128, 128, 3), 127, np.uint8)).save(photo)
    line = refused(capsys, tmp_path / "run", f"--config.source={photo}", f"--config.weights={tiny_weights}")
    assert "config.source" in line and "face" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config.source=nobody.jpg"], ["config.source", "nobody.jpg"]),
        (["--config.driving=nothing.mp4"], ["config.driving", "nothing.mp4"]),
        (["--config.driving=motion_tlak"], ["config.driving", "did you mean 'motion_talk'"]),
        (["--config.weights=nowhere.npz"], ["config.weights", "nowhere.npz"]),
        (["--config.head=openhaed"], ["config.head", "openhaed"]),
        (["--config.neck_share=1.5"], ["config.neck_share=1.5", "0 to 1"]),
        (["--config.panel=65"], ["config.panel=65", "even"]),
        (["--config.strength.pose=4.0"], ["config.strength", "pose=4.0", "0 to 3"]),
        (["--config.exports=turntabel"], ["config.exports", "did you mean 'turntable'"]),
        (["--config.driving="], ["config.driving", "nothing is given"]),
        ([f"--config.source={Path(__file__).parent}"], ["config.source", "is a folder"]),
        (["--config.person=left"], ["config.person", "'left'"]),
        (["--config.reference_frame=3"], ["config.reference_frame=3", "0 to 2"]),
    ],
)
def test_what_cannot_be_used_is_named(arguments, said, tiny_weights, tmp_path, capsys):
    line = refused(capsys, tmp_path / "run", f"--config.weights={tiny_weights}", *arguments)
    for part in said:
        assert part in line


def test_photos_have_commas_between_them_and_a_file_may_have_one_in_its_name(tmp_path):
    assert source_names("a.jpg, b.jpg") == ["a.jpg", "b.jpg"]
    assert source_names("astronaut") == ["astronaut"]
    one = tmp_path / "me, at sea.jpg"
    one.write_bytes(b"")
    assert source_names(str(one)) == [str(one)]
    with pytest.raises(UserError, match="commas"):
        source_names("a.jpg,,b.jpg")


def test_text_files_are_no_driving(tiny_weights, tmp_path, capsys):
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    line = refused(capsys, tmp_path / "run", f"--config.driving={text}", f"--config.weights={tiny_weights}")
    assert "neither film, photo nor motion" in line


def test_the_set_of_files_is_one_run_s(tmp_path):
    from p4d_jax.jobs._publish import published, write_report

    (tmp_path / "mine.txt").write_text("not of a run")
    for stills in (("frame_0000.png", "frame_0009.png"), ("frame_0000.png",)):
        with published(tmp_path) as folder:
            for name in stills:
                (folder / name).write_text(str(len(stills)))
            (folder / "crops").mkdir()
            (folder / f"crops/{len(stills)}.png").write_bytes(b"")
            write_report(folder, {"scores": {}})
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert files == {"mine.txt", "frame_0000.png", "crops", "crops/1.png", "report.json"}
    assert (tmp_path / "frame_0000.png").read_text() == "1"
    (tmp_path / "report.json").write_text('{"files": ["../mine.txt", 3, "mine.txt/.."]}')
    assert published_files(tmp_path) == []


def test_a_workdir_that_cannot_be_written_to_is_told_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file/below/it"):
        with pytest.raises(UserError, match="is a file; name a folder"):
            check_workdir(folder)
    check_workdir(tmp_path / "new/one")
    assert not (tmp_path / "new").exists()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3_000_000))
    with pytest.raises(UserError, match="3 MB left"):
        check_workdir(tmp_path / "new")

    def read_only(**_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with pytest.raises(UserError, match="cannot be written to"):
        check_workdir(tmp_path)


def test_a_disk_that_is_full_in_the_end_is_one_line(tmp_path):
    from p4d_jax.jobs._publish import published

    with pytest.raises(UserError, match="No space left"), published(tmp_path / "run"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not any(tmp_path.iterdir())


def test_people_are_named_by_number_or_point():
    assert parse_person("") is None and parse_person(" 2 ") == 2
    assert parse_person("310,140") == (310.0, 140.0) == parse_person("(310, 140)")
    with pytest.raises(UserError, match="'left' is no person"):
        parse_person("left")


def test_a_failure_leaves_no_trace(tmp_path):
    from p4d_jax.jobs._publish import published

    with pytest.raises(RuntimeError), published(tmp_path / "new/run") as folder:
        (folder / "half.mp4").write_bytes(b"")
        raise RuntimeError("the disk is full")
    assert not any(tmp_path.iterdir())
    with published(tmp_path / "run") as folder:
        (folder / "whole.mp4").write_bytes(b"film")
        assert not (tmp_path / "run/whole.mp4").exists()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["whole.mp4"]
