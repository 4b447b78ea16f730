"""A motion: its times, the frame that stands for the photo, photos that are no clip, mixing, tables."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from p4d_jax.avatar import motion as module
from p4d_jax.avatar.motion import Motion, find_motion, neutral_frame
from p4d_jax.data.arkit import COLUMNS
from p4d_jax.data.motion import load_motion, save_motion
from p4d_jax.errors import UserError
from p4d_jax.geometry import look_at_camera
from p4d_jax.head.actions import ARKIT
from p4d_jax.types import FrameParams, on_host, stack

NAMES = tuple(ARKIT)


def frame(yaw: float = 0.0, jaw: float = 0.0, **actions: float) -> FrameParams:
    expression = jnp.zeros(100)
    for name, amount in actions.items():
        expression = expression.at[NAMES.index(name)].set(amount)
    pose = jnp.zeros(6).at[3].set(jaw)
    return on_host(FrameParams(look_at_camera(yaw, 0.0, 4.0), jnp.zeros(300), expression, pose, jnp.zeros(6)))


def clip(*frames: FrameParams) -> FrameParams:
    return stack(frames)


REST, OPEN = frame(), frame(jaw=0.3, jawOpen=0.8, mouthFunnel=0.5)
SHUT_EYES = frame(eyeBlinkLeft=0.9, eyeBlinkRight=0.9)


def test_the_neutral_frame_is_at_rest_and_the_first_if_it_is():
    assert neutral_frame(clip(REST, OPEN, SHUT_EYES), NAMES) == 0
    assert neutral_frame(clip(OPEN, SHUT_EYES, REST, OPEN), NAMES) == 2
    assert neutral_frame(clip(frame(yaw=0.9), REST, REST, REST), NAMES) == 1
    slight = frame(mouthSmileLeft=0.2, mouthSmileRight=0.2)
    assert neutral_frame(clip(slight, REST), NAMES) == 0  # near enough: the film begins as the photo is
    errors = np.array([np.nan, 0.01, 0.01])
    assert neutral_frame(clip(REST, OPEN, slight), NAMES, errors) == 2  # no face was found in the first
    assert neutral_frame(clip(OPEN), NAMES) == 0


def test_the_motion_that_ships_begins_at_rest():
    assert Motion.load("motion_talk").neutral_frame == 0


def test_times_are_kept_cut_and_replaced(tmp_path):
    edges = np.array([0, 0.1, 0.15, 1.15, 2.0])
    motion = Motion(clip(REST, OPEN, REST, OPEN), 2.0, "openhead", NAMES, edges=edges, errors=np.arange(4.0))
    assert motion.seconds == 2.0 and motion.at_rate(8).seconds == 0.5
    first = motion.first(2)
    np.testing.assert_array_equal(first.edges, edges[:3])
    np.testing.assert_array_equal(first.errors, [0, 1])
    assert motion.first(None) is motion and motion.first(9) is motion
    motion.save(tmp_path / "a.npz")
    np.testing.assert_array_equal(Motion.load(tmp_path / "a.npz").edges, edges)
    assert Motion.load(tmp_path / "a.npz").is_clip
    first.first(1).save(tmp_path / "one.npz")
    assert not Motion.load(tmp_path / "one.npz").is_clip
    with pytest.raises(ValueError, match="edges: expected 5"):
        save_motion(tmp_path / "b.npz", motion.params, 2.0, "openhead", edges=edges[:3])
    save_motion(tmp_path / "c.npz", motion.params, 2.0, "openhead", edges=edges[::-1])
    with pytest.raises(ValueError, match="ascending"):
        load_motion(tmp_path / "c.npz")


def test_a_folder_of_photos_is_taken_photo_by_photo_and_a_clip_as_a_film(tmp_path, monkeypatch, rng):
    for name in ("from_film", "from_photos"):
        monkeypatch.setattr(Motion, name, lambda source, *_, name=name, **__: (name, source))
    photos, frames = tmp_path / "photos", tmp_path / "frames"
    photos.mkdir()
    frames.mkdir()
    picture = np.kron(rng.integers(0, 255, (6, 6, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    for number in (1, 2, 10):
        Image.fromarray(np.roll(picture, number, axis=1)).save(frames / f"frame{number}.png")
        other = np.kron(rng.integers(0, 255, (6, 6, 3)), np.ones((16, 16, 1))).astype(np.uint8)
        Image.fromarray(other).save(photos / f"me{number}.png")
    assert Motion.open(frames) == ("from_film", frames)
    kind, files = Motion.open(photos)
    assert kind == "from_photos" and [path.name for path in files] == ["me1.png", "me2.png", "me10.png"]


def test_photos_that_show_no_face_are_left_out_and_named(monkeypatch):
    class Captured:
        crop, error, note, params = np.zeros((4, 4, 3), np.uint8), 0.01, "", REST

    def capture(photo, head, landmarker=None, person=None):
        if photo.startswith("wall"):
            raise UserError(f"photo: no face found in {photo!r}")
        return Captured

    monkeypatch.setattr(module, "capture_photo", capture)
    monkeypatch.setattr(module, "Landmarker", lambda: None)
    motion = Motion.from_photos(["a.jpg", "wall.jpg", "b.jpg"])
    assert len(motion) == 2 and not motion.is_clip
    assert "1 of 3 photos are left out" in motion.note and "wall.jpg" in motion.note
    assert not Motion.from_photo("a.jpg").is_clip
    with pytest.raises(UserError, match="no face"):
        Motion.from_photos(["wall.jpg"])


def test_nothing_is_no_motion():
    with pytest.raises(UserError, match="nothing is given"):
        find_motion(" ")


@pytest.fixture(scope="module")
def talk() -> Motion:
    return Motion.open("motion_talk", max_frames=24)


def columns(motion: Motion, prefix: str) -> list[int]:
    return [index for index, name in enumerate(motion.names) if name.startswith(prefix)]


def backwards(motion: Motion) -> Motion:
    return dataclasses.replace(motion, params=jax.tree.map(lambda x: x[::-1], motion.params))


def test_each_part_of_a_mixed_motion_is_its_drivers(talk):
    other = backwards(talk)
    mixed = talk.mixed(pose=other, gaze=other, blinks=other)
    assert len(mixed) == len(talk)
    theirs, mine = other.params, talk.params
    np.testing.assert_allclose(mixed.params.camera.cam2world, theirs.camera.cam2world, atol=1e-6)
    np.testing.assert_array_equal(mixed.params.jaw, mine.jaw)
    for prefix, source in (("eyeLook", theirs), ("eyeBlink", theirs), ("mouth", mine)):
        chosen = columns(talk, prefix)
        np.testing.assert_allclose(
            mixed.params.expression[:, chosen], source.expression[:, chosen], atol=1e-6
        )
    np.testing.assert_allclose(mixed.params.eyes, theirs.eyes, atol=1e-6)


def test_a_mixed_motion_ends_with_the_shorter_and_a_single_frame_lasts(talk):
    short = talk.first(6)
    assert len(talk.mixed(pose=short)) == len(short.mixed(pose=talk)) == 6
    held = talk.first(1).mixed(pose=talk)
    assert len(held) == len(talk) and np.ptp(held.params.expression, axis=0).max() == 0
    np.testing.assert_allclose(held.params.camera.cam2world, talk.params.camera.cam2world, atol=1e-6)
    turned_once = talk.mixed(pose=talk.first(1))
    assert len(turned_once) == len(talk) and np.ptp(turned_once.params.camera.cam2world, axis=0).max() < 1e-6
    slow = dataclasses.replace(talk, edges=2 * np.append(talk.times, talk.seconds))
    assert len(slow.mixed(gaze=talk)) == len(talk) // 2


def test_a_motion_at_other_times_lies_between_its_frames_and_its_cameras_stay_rigid(talk):
    every_second = np.append(talk.times[::2], talk.seconds)
    fewer = talk.resampled(every_second)
    np.testing.assert_allclose(fewer.params.to_vector(), talk.params.to_vector()[::2], atol=1e-6)
    assert fewer.seconds == pytest.approx(talk.seconds) and fewer.fps == pytest.approx(talk.fps / 2)
    more = talk.resampled(np.linspace(0, talk.seconds, 61))
    rotations = more.params.camera.cam2world[:, :3, :3]
    identity = np.broadcast_to(np.eye(3), (60, 3, 3))
    np.testing.assert_allclose(rotations @ rotations.swapaxes(1, 2), identity, atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=1e-5)


def test_a_driver_of_another_head_is_refused(talk):
    other = dataclasses.replace(talk, head="flame2020")
    with pytest.raises(UserError, match="gaze: it moves the head 'flame2020'"):
        talk.mixed(gaze=other)


def test_a_motion_without_identity_is_the_motion_alone(talk):
    shape = np.ones_like(talk.params.shape)
    someone = dataclasses.replace(talk, params=talk.params.replace(shape=shape), pictures=[shape])
    given = someone.without_identity()
    assert given.pictures is None and not given.params.shape.any()
    np.testing.assert_array_equal(given.params.motion(), talk.params.motion())


def head_rotations(motion: Motion) -> Rotation:
    world2cam = np.asarray(motion.params.camera.cam2world)[:, :3, :3].swapaxes(1, 2)
    return Rotation.from_matrix(world2cam) * Rotation.from_rotvec(motion.params.neck)


@pytest.mark.parametrize("frames", [24, 60])
def test_a_table_of_actions_gives_the_motion_back(frames, tmp_path):
    motion = Motion.open("motion_talk", max_frames=frames)
    motion.save(tmp_path / "take.csv")
    again = Motion.open(tmp_path / "take.csv")
    assert len(again) == frames and again.fps == pytest.approx(motion.fps)
    expression = np.asarray(motion.params.expression).clip(0, 1)
    np.testing.assert_allclose(again.params.expression, expression, atol=1e-6)
    np.testing.assert_allclose(again.params.jaw, motion.params.jaw, atol=1e-5)
    np.testing.assert_allclose(again.params.eyes, motion.params.eyes, atol=1e-5)
    assert (head_rotations(again) * head_rotations(motion).inv()).magnitude().max() < 1e-5


def table(*rows: str, order: list[str] = COLUMNS) -> str:
    """A table as an app writes it: `rows` are timecodes, and a number that all actions have."""
    lines = [",".join(["Timecode", "BlendShapeCount", *order])]
    for row in rows:
        timecode, _, value = row.partition(" ")
        lines.append(
            ",".join([timecode, "61" if value else "0", *[value] * 52, *["0.1" if value else ""] * 9])
        )
    return "\n".join(lines)


def test_a_table_of_an_app_is_read_with_its_gaps_and_its_rate(tmp_path):
    text = table(
        "14:03:52:58.207 0", "14:03:52:59.207 0.2", "14:03:53:00.207", "14:03:53:01.207 0.4",
        order=[name.lower() for name in COLUMNS],
    )  # fmt: skip
    (tmp_path / "take.csv").write_text(text, encoding="utf-8-sig")
    motion = Motion.open(tmp_path / "take.csv")
    assert motion.fps == 60 and len(motion) == 4
    blink = motion.names.index("eyeBlinkLeft")
    np.testing.assert_allclose(motion.params.expression[:, blink], [0, 0.2, 0.3, 0.4], atol=1e-6)
    turned = head_rotations(motion).as_euler("YXZ")
    np.testing.assert_allclose(turned, 0.1, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "no table of ARKit's actions: it has no column 'EyeBlinkLeft'"),
        (table("00:00:01:00"), "no rows"),
        (table("00:00:01:00 x"), "line 2"),
        (table("00:00:01:02 0.1", "00:00:01:01 0.1"), "do not run forwards"),
    ],
)
def test_what_is_no_table_is_one_line(text, said, tmp_path):
    (tmp_path / "take.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        Motion.open(tmp_path / "take.csv")
