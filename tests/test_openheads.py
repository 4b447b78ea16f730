"""OpenHeads: clips are functions of their key; image, mask, depth and parameters agree."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p4d_jax import assets
from p4d_jax.data.motion import load_motion, motion_for_head, random_motion, save_motion
from p4d_jax.geometry import look_at_camera, project
from p4d_jax.head.actions import ARKIT
from p4d_jax.head.landmarks import landmarks70
from p4d_jax.head.skinning import head_vertices
from p4d_jax.openheads.config import OpenHeadsSettings
from p4d_jax.openheads.people import random_cameras, random_identity
from p4d_jax.openheads.portraits import make_clips, render_scene
from p4d_jax.openheads.scene import prepare_scene
from p4d_jax.types import FrameParams
from tools.bake_motion_clip import FPS, FRAMES, talking_clip

SIZE = 48
CLEAN = OpenHeadsSettings(noise=0.0, blur=0.0)


@pytest.fixture(scope="module")
def head():
    return assets.head_model("openhead")


@pytest.fixture(scope="module")
def scene(head):
    return prepare_scene(head)


@pytest.fixture(scope="module")
def clips(scene):
    return make_clips(scene, jax.random.split(jax.random.key(3), 2), 2, SIZE, CLEAN)


@pytest.fixture(scope="module")
def portraits(head, scene):
    """One person seen from the front, close: at rest, looking left, looking right, eyes shut."""
    identity = random_identity(jax.random.key(11), scene, CLEAN)
    names = list(head.expression_names)
    blinks = jnp.array([names.index("eyeBlinkLeft"), names.index("eyeBlinkRight")])
    expression = jnp.zeros((4, 100)).at[3, blinks].set(1.0)
    gaze = jnp.array([0.0, 0.5, -0.5, 0.0])
    eyes = jnp.zeros((4, 6)).at[:, 1].set(gaze).at[:, 4].set(gaze)
    camera = look_at_camera(jnp.zeros(4), 0.0, 1.0, pivot=(0.0, 0.09, 0.3))
    params = FrameParams(camera, jnp.zeros((4, 300)), expression, jnp.zeros((4, 6)), eyes)
    return render_scene(scene, identity, params, jax.random.key(0), SIZE, CLEAN)


def test_a_clip_is_a_function_of_its_key_whatever_its_place_in_the_batch(scene, clips):
    keys = jax.random.split(jax.random.key(3), 2)
    turned = make_clips(scene, keys[::-1], 2, SIZE, CLEAN)
    for one, other in zip(jax.tree.leaves(clips), jax.tree.leaves(turned), strict=True):
        np.testing.assert_allclose(one, other[::-1], atol=1e-5)
    assert np.abs(clips.image[0] - clips.image[1]).mean() > 0.02


def test_backgrounds_in_focus_change_nothing_of_the_person(scene, clips):
    sharp = dataclasses.replace(CLEAN, sharp_backgrounds=1.0)
    changed = make_clips(scene, jax.random.split(jax.random.key(3), 2), 2, SIZE, sharp)
    for name in ("mask", "face_mask", "depth"):
        np.testing.assert_allclose(getattr(changed, name), getattr(clips, name), atol=1e-5)
    person = np.asarray(clips.mask[..., 0]) == 1
    np.testing.assert_allclose(changed.image[person], clips.image[person], atol=1e-5)
    step = lambda background: np.abs(np.diff(background, axis=2)).max(axis=(1, 2, 3))
    assert np.all(step(changed.background) > step(clips.background))


def test_the_background_stands_still_behind_the_frames(clips):
    empty = np.asarray(clips.mask)[..., 0] == 0
    behind = np.broadcast_to(np.asarray(clips.background)[:, None], clips.image.shape)
    assert empty.mean() > 0.05
    np.testing.assert_allclose(np.asarray(clips.image)[empty], behind[empty], atol=1e-5)


def test_mask_depth_and_image_agree(clips):
    mask, depth = np.asarray(clips.mask), np.asarray(clips.depth)
    np.testing.assert_array_equal(mask > 0, depth > 0)
    assert np.all(np.asarray(clips.face_mask) <= mask)
    assert np.isfinite(clips.image).all() and np.abs(clips.image).max() <= 1.0
    distance = np.linalg.norm(np.asarray(clips.params.camera.cam2world)[..., :3, 3], axis=-1)
    offset = np.abs(depth - distance[..., None, None, None])[mask > 0]
    assert offset.max() < 1.2  # everything drawn is near the head's world


def test_parameters_put_the_landmarks_on_the_face(head, clips):
    for person in range(2):
        for frame in range(2):
            params = jax.tree.map(lambda value, p=person, f=frame: value[p, f], clips.params)
            vertices = head_vertices(head, params.shape, params.expression, params.pose, params.eyes)
            inner = landmarks70(head, vertices, 0.0)[27:68]  # nose, eyes, mouth: never behind hair's outline
            uv, z = project(params.camera, inner)
            at = np.clip((np.asarray(uv) * SIZE).astype(int), 0, SIZE - 1)
            seen = np.asarray(clips.face_mask)[person, frame, at[:, 1], at[:, 0], 0] > 0
            # A landmark may be hidden by hair or the nose, but the head is where the parameters say.
            assert seen.mean() > 0.8
            depth = np.asarray(clips.depth)[person, frame, at[:, 1], at[:, 0], 0]
            assert np.median(np.abs(depth - np.asarray(z))[seen]) < 0.06


def _eye_strip(portraits):
    """Grey images around the eyes, (4, rows, SIZE)."""
    grey = np.asarray(portraits.image).mean(-1)
    return grey[:, SIZE // 2 - 8 : SIZE // 2 + 8]


def test_gaze_moves_the_iris_and_closed_lids_hide_it(portraits):
    rest, left, right, shut = _eye_strip(portraits)
    # Change against shut lids is where the eyeballs show; nothing else moves.
    visible = np.abs(rest - shut) > 0.05
    assert 0.005 < visible.mean() < 0.6
    assert np.abs(left - right)[visible].mean() > 0.05
    assert np.abs(left - right)[~visible].mean() < 0.2 * np.abs(left - right)[visible].mean()


def test_make_clips_rejects_no_frames(scene):
    with pytest.raises(ValueError, match="frames"):
        make_clips(scene, jax.random.split(jax.random.key(0), 1), 0, SIZE)


def test_random_motion_stays_in_range_and_talks_and_blinks(head):
    motion = random_motion(jax.random.key(1), 400, head.expression_names)
    actions = np.asarray(motion.expression)[:, [head.expression_names.index(name) for name in ARKIT]]
    assert actions.min() >= 0 and actions.max() <= 1
    shut = actions[:, ARKIT.index("eyeBlinkLeft")] > 0.95
    assert 0.05 < shut.mean() < 0.3
    assert (actions[:, ARKIT.index("jawOpen")] > 0.4).mean() > 0.05
    np.testing.assert_allclose(motion.pose[:, 3], 0.36 * actions[:, ARKIT.index("jawOpen")], atol=1e-5)


def test_closed_eyes_shut_both_eyes_of_so_many_frames_and_change_nothing_else(head):
    columns = [head.expression_names.index(name) for name in ARKIT]
    draw = lambda share: random_motion(jax.random.key(1), 400, head.expression_names, share)
    plain, half = draw(0.0), draw(0.5)
    lids = [ARKIT.index("eyeBlinkLeft"), ARKIT.index("eyeBlinkRight")]
    before, after = (np.asarray(motion.expression)[:, columns] for motion in (plain, half))
    shut = (after[:, lids] == 1.0).all(1)
    expected = 0.5 + 0.5 * (before[:, lids] == 1.0).all(1).mean()
    assert shut.mean() == pytest.approx(expected, abs=4 * 0.5 / 20)  # four standard errors
    eyes = [i for i, name in enumerate(ARKIT) if name.startswith(("eyeBlink", "eyeWide", "eyeSquint"))]
    np.testing.assert_array_equal(np.delete(after, eyes, 1), np.delete(before, eyes, 1))
    np.testing.assert_array_equal(after[~shut], before[~shut])
    np.testing.assert_array_equal(half.eyes, plain.eyes)


def test_balanced_yaw_fills_its_range_evenly_and_other_angles_stay():
    draw = jax.jit(random_cameras, static_argnums=(1, 2))

    def angles(share: float):
        settings = OpenHeadsSettings(yaw_balance=share)
        place = np.asarray(draw(jax.random.key(2), 4000, settings).cam2world)[:, :3, 3]
        distance = np.linalg.norm(place, axis=1)
        return np.arctan2(-place[:, 0], place[:, 2]), np.arcsin(place[:, 1] / distance), distance

    (plain, *others), (mixed, *same), (even, *_) = angles(0.0), angles(0.5), angles(1.0)
    for a, b in zip(others, same, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    largest = OpenHeadsSettings().yaw[1]
    histogram = np.histogram(even, 8, (-largest, largest))[0]
    assert np.abs(histogram - 500).max() < 4 * np.sqrt(500 * 7 / 8)
    assert abs(np.std(plain) - 0.34) < 0.02  # a normal of 0.36 cut at 0.8
    moved = np.abs(mixed - plain) > 1e-4
    assert moved.mean() == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(4000))
    profiles = [(np.abs(yaw) > 0.6).mean() for yaw in (plain, mixed, even)]
    assert profiles[0] < 0.1 and profiles[1] == pytest.approx((profiles[0] + profiles[2]) / 2, abs=0.03)


def test_probabilities_are_in_their_range():
    with pytest.raises(ValueError, match=r"yaw_balance.*1\.5"):
        OpenHeadsSettings(yaw_balance=1.5)
    with pytest.raises(ValueError, match="closed_eyes"):
        OpenHeadsSettings(closed_eyes=-0.1)
    with pytest.raises(ValueError, match="sharp_backgrounds"):
        OpenHeadsSettings(sharp_backgrounds=2.0)


def test_random_motion_needs_named_actions():
    with pytest.raises(ValueError, match="lacks ARKit's"):
        random_motion(jax.random.key(0), 1, ("smile",))


def test_the_bundled_clip_is_what_its_command_makes_and_moves_as_promised(head):
    bundled = motion_for_head(load_motion(assets.motion("motion_talk")), head.expression_names)
    made = talking_clip()
    np.testing.assert_allclose(bundled.params.camera.to_label(), made.camera.to_label(), atol=1e-4)
    assert bundled.fps == FPS and bundled.params.pose.shape == (FRAMES, 6)
    column = {
        name: np.asarray(bundled.params.expression)[:, i] for i, name in enumerate(head.expression_names)
    }
    blink = column["eyeBlinkLeft"]
    shut = blink > 0.95
    assert (np.diff(np.concatenate([[0], shut.astype(int)])) == 1).sum() == 2
    assert 5 <= (blink > 0.02).sum() / 2 <= 8  # frames a blink
    place = np.asarray(bundled.params.camera.cam2world)[:, :3, 3]
    yaw = np.degrees(np.arctan2(-place[:, 0], place[:, 2]))
    assert yaw.max() == pytest.approx(25, abs=1) and yaw.min() == pytest.approx(-25, abs=1)
    assert np.abs(np.diff(yaw)).max() < 8  # smooth
    assert column["jawOpen"].max() > 0.4 and column["mouthSmileLeft"].max() > 0.6


def test_a_motion_file_comes_back_as_it_was(tmp_path):
    params = jax.tree.map(lambda value: value[:5], talking_clip())
    save_motion(tmp_path / "m.npz", params, 30.0, "openhead", tuple(ARKIT))
    back = load_motion(tmp_path / "m.npz")
    np.testing.assert_array_equal(back.params.to_vector(), params.to_vector())
    assert (back.fps, back.head, back.names) == (30.0, "openhead", tuple(ARKIT))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": np.zeros((3, 436), np.float32)}, "437"),
        ({"frames": np.full((3, 437), np.nan, np.float32)}, "not finite"),
        ({"fps": np.float32(0)}, "fps"),
        ({"format": np.array("other")}, "format"),
        ({"names": None}, "lacks"),
        ({"names": np.array([{}], dtype=object)}, "pickled objects"),
    ],
)
def test_a_bad_motion_file_is_named(tmp_path, change, message):
    content = {
        "format": np.array("p4d_jax.motion.1"),
        "head": np.array("openhead"),
        "fps": np.float32(24),
        "names": np.array(["a"]),
        "frames": np.zeros((3, 437), np.float32),
    } | change
    path = tmp_path / "bad.npz"
    np.savez(path, **{name: value for name, value in content.items() if value is not None})
    with pytest.raises(ValueError, match=message):
        load_motion(path)


def test_a_file_that_is_no_archive_or_is_absent_is_named(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.npz"):
        load_motion(tmp_path / "text.npz")
    with pytest.raises(ValueError, match="no file"):
        load_motion(tmp_path / "absent.npz")
