"""A motion: its times, the frame that stands for the photo, photos that are no clip."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from p4d_jax.avatar import motion as module
from p4d_jax.avatar.motion import Motion, find_motion, neutral_frame
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
