"""One person's motion on another's head: properties of the transfer, on random parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p4d_jax.geometry import axis_angle_to_matrix, look_at_camera, matrix_to_axis_angle
from p4d_jax.head.retarget import Factors, transfer_motion
from p4d_jax.head.strength import Strength
from p4d_jax.types import FrameParams

look_at_cameras = jax.jit(jax.vmap(look_at_camera))


def random_clip(rng: np.random.Generator, frames: int) -> FrameParams:
    yaw, pitch, roll = np.float32(rng.uniform(-0.4, 0.4, (3, frames)))
    radius = np.float32(rng.uniform(3.7, 4.4, frames))
    cameras = look_at_cameras(yaw, pitch, radius, roll)
    normal = lambda scale, *shape: np.float32(rng.normal(0, scale, (frames, *shape)))
    pose = np.concatenate([normal(0.1, 3), np.abs(normal(0.2, 3)) * np.float32([1, 0, 0])], -1)
    expression = np.float32(rng.uniform(0, 1, (frames, 100)))
    clip = FrameParams(cameras, normal(1.0, 300), expression, pose, normal(0.2, 6))
    return jax.tree.map(jnp.asarray, clip)


def frame(clip: FrameParams, index: int) -> FrameParams:
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[index]), clip)


def head_rotation(params: FrameParams) -> np.ndarray:
    """Head to camera: R_w2c exp(neck)."""
    return np.asarray(params.camera.cam2world[:3, :3].T @ axis_angle_to_matrix(params.neck))


@pytest.mark.parametrize("neck_share", [0.0, 0.4, 1.0])
def test_reference_frame_is_the_photo_itself(rng, neck_share):
    source, driving = frame(random_clip(rng, 1), 0), random_clip(rng, 4)
    moved = transfer_motion(source, driving, 2, relative=True, neck_share=neck_share, bounded=True)
    np.testing.assert_allclose(frame(moved, 2).to_vector(), source.to_vector(), atol=2e-5)


@pytest.mark.parametrize("neck_share", [0.0, 0.4, 1.0])
def test_head_turns_as_the_driver_whoever_makes_the_turn(rng, neck_share):
    source, driving = frame(random_clip(rng, 1), 0), random_clip(rng, 5)
    moved = transfer_motion(source, driving, 0, relative=True, neck_share=neck_share, bounded=False)
    for index in range(5):
        turn = head_rotation(frame(driving, index)) @ head_rotation(frame(driving, 0)).T
        np.testing.assert_allclose(
            head_rotation(frame(moved, index)), turn @ head_rotation(source), atol=2e-5
        )


def test_share_decides_between_neck_and_bust(rng):
    source, driving = frame(random_clip(rng, 1), 0), random_clip(rng, 3)
    still = transfer_motion(source, driving, 0, relative=True, neck_share=1.0, bounded=False)
    rotations = np.asarray(still.camera.cam2world[:, :3, :3])
    np.testing.assert_allclose(
        rotations, np.broadcast_to(source.camera.cam2world[:3, :3], (3, 3, 3)), atol=1e-5
    )
    stiff = transfer_motion(source, driving, 0, relative=True, neck_share=0.0, bounded=False)
    np.testing.assert_allclose(stiff.neck, np.broadcast_to(source.neck, (3, 3)), atol=2e-5)


def test_identity_is_the_source_and_absolute_motion_the_driver(rng):
    source, driving = frame(random_clip(rng, 1), 0), random_clip(rng, 3)
    moved = transfer_motion(source, driving, 0, relative=False, neck_share=1.0, bounded=False)
    np.testing.assert_array_equal(moved.shape, np.broadcast_to(source.shape, (3, 300)))
    np.testing.assert_array_equal(moved.motion(), driving.motion())
    for index in range(3):  # the head's rotation is the driver's, too, whatever the reference
        want = head_rotation(frame(driving, index))
        np.testing.assert_allclose(head_rotation(frame(moved, index)), want, atol=2e-5)


def test_facial_actions_stay_in_their_range(rng):
    source, driving = frame(random_clip(rng, 1), 0), random_clip(rng, 6)
    source = source.replace(expression=source.expression.at[0].set(1.2))
    moved = transfer_motion(source, driving, 0, relative=True, neck_share=1.0, bounded=True)
    assert float(moved.expression.min()) >= 0.0
    assert float(moved.expression[:, 1:].max()) <= 1.0
    assert float(moved.expression[:, 0].max()) <= 1.2 + 1e-6
    assert float(moved.jaw[:, 0].min()) >= 0.0


def test_reference_outside_the_clip_is_refused(rng):
    clip = random_clip(rng, 3)
    with pytest.raises(ValueError, match=r"0\.\.2"):
        transfer_motion(frame(clip, 0), clip, 3, relative=True, neck_share=1.0, bounded=True)


def transfer_scaled(source: FrameParams, driving: FrameParams, **strength: float) -> FrameParams:
    names = ("eyeBlinkLeft", "eyeBlinkRight", "eyeLookUpLeft", "jawOpen")
    factors = Factors.of(Strength(**strength), names)
    return transfer_motion(source, driving, 0, relative=True, neck_share=1.0, bounded=False, factors=factors)


def spread(values) -> float:
    """Largest change over a clip's frames."""
    return float(np.ptp(np.asarray(values), axis=0).max())


def test_expression_comes_without_head_motion_and_head_motion_without_expression(rng):
    source, driving = frame(random_clip(rng, 1), 0), random_clip(rng, 6)
    face = transfer_scaled(source, driving, pose=0.0)
    assert spread(face.camera.cam2world) < 1e-6 and spread(face.neck) < 1e-6
    np.testing.assert_allclose(face.camera.cam2world[0], source.camera.cam2world, atol=1e-6)
    np.testing.assert_allclose(face.neck[0], source.neck, atol=1e-6)
    assert spread(face.expression) > 0.1 and spread(face.eyes) > 0.1
    head = transfer_scaled(source, driving, expression=0.0, gaze=0.0, blink_left=0.0, blink_right=0.0)
    assert spread(head.motion()) < 1e-6
    np.testing.assert_allclose(head.motion()[0], source.motion(), atol=1e-6)
    assert spread(head.neck) > 0.1


@pytest.mark.parametrize(
    ("part", "moves"),
    [
        ("expression", lambda moved: (moved.expression[:, 3:], moved.jaw)),
        ("gaze", lambda moved: (moved.expression[:, 2], moved.eyes)),
        ("blink_left", lambda moved: (moved.expression[:, 0],)),
        ("blink_right", lambda moved: (moved.expression[:, 1],)),
        ("travel", lambda moved: (moved.camera.cam2world[:, :3, 3],)),
    ],
)
def test_strength_scales_its_part_and_nothing_else(rng, part, moves):
    source, driving = frame(random_clip(rng, 1), 0), random_clip(rng, 6)
    whole, half = transfer_scaled(source, driving), transfer_scaled(source, driving, **{part: 0.5})
    for full, less in zip(moves(whole), moves(half), strict=True):
        np.testing.assert_allclose(less - less[0], 0.5 * (full - full[0]), atol=2e-5)
    changed = np.abs(np.asarray(half.to_vector() - whole.to_vector())).max(axis=0) > 2e-5
    mine = sum(int(np.prod(np.shape(values)[1:])) for values in moves(whole))
    assert 0 < changed.sum() <= mine


def test_strength_of_the_pose_scales_the_angle(rng):
    source, driving = frame(random_clip(rng, 1), 0), random_clip(rng, 3)
    angle = lambda moved: np.linalg.norm(
        matrix_to_axis_angle(jnp.asarray(head_rotation(frame(moved, 2)) @ head_rotation(source).T))
    )
    whole, half = (angle(transfer_scaled(source, driving, pose=pose)) for pose in (1.0, 0.5))
    assert half == pytest.approx(0.5 * whole, rel=1e-3)
    with pytest.raises(ValueError, match="gaze=4"):
        Strength(gaze=4.0)
