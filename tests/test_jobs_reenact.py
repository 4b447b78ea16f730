"""The job `reenact` at tiny size, from a photo to its files; and all that a user may get wrong."""

from __future__ import annotations

import errno
import json
import os
import re
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
from p4d_jax.evaluation.pairs import Pair, write_pairs
from p4d_jax.imaging.reading import read_photo
from p4d_jax.imaging.video import open_video
from p4d_jax.imaging.writing import save_video
from p4d_jax.jobs import _page
from p4d_jax.jobs._fields import parse_person
from p4d_jax.jobs._inputs import source_names
from p4d_jax.jobs._publish import check_workdir, published_files

CONFIG = f"--config={Path(__file__).parents[1]}/configs/reenact.py"
REPORTS = {"report.json", "report.html"}
WRITTEN = {"reenactment.mp4", "turntable.mp4", "depth.png", "mesh.ply", "mesh.obj"} | REPORTS
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
    assert all(0 <= share < 0.5 for share in report["guessed"]["share_of_frames"])
    page = (tmp_path / "run/report.html").read_text()
    assert len(re.findall("<video", page)) == 1 and len(re.findall("<img", page)) == 3
    sources = re.findall(r'src="([^"]{20})', page)
    assert len(sources) == 4 and all(source.startswith("data:") for source in sources)
    assert "http" not in page and "synthetic" in page


def test_a_long_film_is_shown_from_beside_the_page(tmp_path, monkeypatch):
    path = tmp_path / "reenactment.mp4"
    path.write_bytes(bytes(100))
    assert 'src="data:video/mp4;base64,AAAA' in _page.film(path, "short")
    monkeypatch.setattr(_page, "LARGEST_FILM", 99)
    assert '<video controls loop src="reenactment.mp4">' in _page.film(path, "long")


def test_photo_drives_a_photo(tiny_weights, tmp_path):
    photo = tmp_path / "me.png"
    Image.fromarray(assets.photo("astronaut")[:300, 60:360]).save(photo)
    same = (f"--config.source={photo}", f"--config.driving={photo}", f"--config.weights={tiny_weights}")
    quick = (
        "--config.personalise_steps=0",
        "--config.exports=avatar,gltf,motion,arkit",
        "--config.watermark=visible",
    )
    assert run(tmp_path / "run", *same, *quick) == 0
    written = {path.name for path in (tmp_path / "run").iterdir()}
    exported = {"avatar.avatar", "head.glb", "motion.npz", "arkit.csv"}
    assert written == {"reenactment.mp4", "frame_0000.png"} | exported | REPORTS
    assert "Marks in the pictures: visible." in (tmp_path / "run/report.html").read_text()
    corner = read_photo(tmp_path / "run/frame_0000.png")[-6:, -30:]
    assert corner.max() > 200 and len(Motion.open(tmp_path / "run/motion.npz")) == 1


def test_a_film_drives_a_photo(tiny_weights, tmp_path):
    film, face = tmp_path / "clip.mp4", assets.photo("astronaut")[:288, 64:352]
    save_video(film, [face, face[:, ::-1], face], fps=10)
    rest = (f"--config.driving={film}", f"--config.weights={tiny_weights}", "--config.personalise_steps=0")
    assert run(tmp_path / "run", *rest) == 0
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["film"]["frames"] == 3 and report["film"]["fps"] == pytest.approx(10)


def test_a_film_s_pairs_are_scored_from_a_list(tiny_weights, tmp_path):
    """The job `evaluate` on a network; here, where its programs have been compiled."""
    face = assets.photo("astronaut")[:288, 64:352]
    save_video(tmp_path / "film.mp4", [face, face, np.roll(face, 2, 1)], fps=10)
    there, missing = Pair("self", "film.mp4", "film.mp4", 0, (1, 2)), Pair("cross", "film.mp4", "nobody.png")
    write_pairs(tmp_path / "list.jsonl", [there, missing])
    command = ["main.py", CONFIG.replace("reenact.py", "evaluate.py"), f"--workdir={tmp_path / 'run'}"]
    given = {
        "weights": tiny_weights,
        "samples": 4,
        "sets": "",
        "photos": "",
        "scores.pairs": tmp_path / "list.jsonl",
        "scores.measures": "psnr,consistency",
    }
    assert main.main([*command, *(f"--config.{field}={value}" for field, value in given.items())]) == 0
    found = json.loads((tmp_path / "run/evaluation.json").read_text())["scores"]
    assert set(found["damaged"]) == {"nobody.png"} and found["left_out"] == 1
    (row,) = found["rows"]
    assert set(row["values"]) == {"psnr", "consistency"} and row["frames"] == 2
    # The source is seen in the film's own square: as it is, it almost is the truth. The weights are random.
    assert row["unchanged"]["psnr"] > 20 > row["values"]["psnr"] > 5 and row["values"]["consistency"] > 0


def test_heads_pasted_back_leave_the_photo_and_each_has_a_driver(tiny_weights, tmp_path):
    photo = assets.photo("astronaut")[:288, 64:351]  # of an odd width
    both = np.concatenate([photo, photo[:, ::-1]], axis=1)
    Image.fromarray(both[:, :-1]).save(tmp_path / "two.png")
    arguments = (
        f"--config.source={tmp_path / 'two.png'}",
        "--config.person=1",
        "--config.people=2=motion_talk",
        f"--config.weights={tiny_weights}",
        "--config.pose_driving=motion_talk",
        "--config.personalise_steps=0",
        "--config.films=pasted,webm,prores,png",
        "--config.exports=",
    )
    folder = tmp_path / "run"
    assert run(folder, *arguments) == 0
    for name in ("reenactment.mp4", "pasted.mp4", "alpha.webm", "alpha.mov"):
        assert len(pictures_of(folder / name)) == 3
    assert pictures_of(folder / "pasted.mp4").shape[1:] == (288, 574, 3)  # H.264 takes even sizes
    pasted = np.asarray(Image.open(folder / "pasted_0002.png"))
    changed = np.abs(pasted.astype(int) - both[:, :-1]).max(axis=-1) > 0
    assert pasted.shape == (288, 573, 3) and changed[:, :287].any() and changed[:, 287:].any()
    assert not changed[:, 270:300].any() and not changed[230:].any()  # between the two, and their bodies
    frames = [Image.open(path) for path in sorted((folder / "frames").iterdir())]
    assert len(frames) == 3 and {frame.mode for frame in frames} == {"RGBA"}
    assert "people.png" in json.loads((folder / "report.json").read_text())["files"]


def test_a_face_pasted_into_a_film_leaves_what_is_around_it(tiny_weights, tmp_path):
    face = assets.photo("astronaut")[:288, 64:352]
    into = tmp_path / "take.mp4"
    save_video(into, [face] * 2, edges=[0, 0.1, 0.14])
    arguments = (
        f"--config.weights={tiny_weights}",
        "--config.personalise_steps=0",
        "--config.films=pasted",
        "--config.exports=",
        f"--config.paste_into={into}",
        "--config.reference_frame=2",
    )
    assert run(tmp_path / "run", *arguments) == 0
    still = np.asarray(Image.open(tmp_path / "run/pasted_0001.png"))
    changed = np.abs(still.astype(int) - pictures_of(into)[1]).max(axis=-1) > 0
    assert 0.02 < changed.mean() < 0.6 and not changed[:, [0, -1]].any() and not changed[[0, -1]].any()
    times = [frame.time for frame in open_video(tmp_path / "run/pasted.mp4")]
    np.testing.assert_allclose(times, [0, 0.1], atol=0.001)


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
        (["--config.coarse_samples=3"], ["config.coarse_samples=3", "4 to 512"]),
        (["--config.panel=65"], ["config.panel=65", "even"]),
        (["--config.strength.pose=4.0"], ["config.strength", "pose=4.0", "0 to 3"]),
        (["--config.films=pastd"], ["config.films", "did you mean 'pasted'"]),
        (["--config.watermark=visibel"], ["config.watermark", "no mark 'visibel'"]),
        (["--config.paste_into=take.mp4"], ["config.paste_into", "take.mp4"]),
        (["--config.gaze_driving=nobody.mp4"], ["config.gaze_driving", "nobody.mp4"]),
        (["--config.people=2"], ["config.people", "2=clip.mp4"]),
        (["--config.people=2=motion_talk"], ["config.people", "pasted"]),
        (["--config.people=1=motion_talk", "--config.films=pasted"], ["config.people", "person 1 is whom"]),
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
