"""Who is meant, how well a face is seen, where a film is cut: on the astronaut, and a told detector."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image
from skimage import data

from p4d_jax.capture import Landmarker
from p4d_jax.capture.clip import FACELESS_FRAMES, describe_film, find_landmarks
from p4d_jax.capture.crop import quarter_turn
from p4d_jax.capture.landmarks import LEFT_EYE_CONTOUR, RIGHT_EYE_CONTOUR, Landmarks
from p4d_jax.capture.outside import combine_alphas
from p4d_jax.capture.people import LIPS, draw_people, find_person, see_face
from p4d_jax.capture.photo import check_face, describe, face_roll
from p4d_jax.capture.shots import (
    face_greys,
    find_dissolves,
    find_new_faces,
    grey_thumbnail,
    is_cut,
    is_one_clip,
    normalised,
    thumbnail,
)
from p4d_jax.errors import UserError
from p4d_jax.imaging.video import Video, VideoFrame


@pytest.fixture(scope="module")
def crowd(photo):
    """Three people from left to right: small, large, middle; (300, 900, 3)."""
    face = Image.fromarray(photo[:300, 80:380])
    canvas = np.full((300, 900, 3), 128, np.uint8)
    for left, size in ((30, 180), (230, 300), (600, 240)):
        canvas[:size, left : left + size] = np.asarray(face.resize((size, size)))
    return canvas


def covered(photo: np.ndarray, landmarks: Landmarks, points, colour: int) -> np.ndarray:
    """The photo with a bar over some of its landmarks."""
    low, high = landmarks.points[list(points)].min(axis=0), landmarks.points[list(points)].max(axis=0)
    pad = 0.2 * landmarks.eye_distance
    (left, top), (right, bottom) = (low - pad).astype(int), (high + pad).astype(int)
    result = photo.copy()
    result[top:bottom, left:right] = colour
    return result


def judged(photo: np.ndarray, landmarker: Landmarker):
    return see_face(landmarker.detect(photo), photo.shape)


# Visibility -------------------------------------------------------------------------------------------------


def test_an_open_face_raises_no_doubts(photo, landmarks):
    seen = see_face(landmarks, photo.shape)
    assert seen.coverage == 1 and seen.confidence > 0.99 and seen.scatter < 0.015
    assert not seen.doubts and not seen.refusal
    assert describe(landmarks, np.eye(2, 3), seen, "'me.jpg'") == ""
    assert set(seen.report()) == {"coverage", "confidence", "scatter", "eyes_scatter", "mouth_scatter"}


def test_covered_eyes_and_mouths_are_told(photo, landmarker, landmarks):
    eyes = judged(covered(photo, landmarks, (*LEFT_EYE_CONTOUR, *RIGHT_EYE_CONTOUR), 10), landmarker)
    assert len(eyes.doubts) >= 1 and "eyes" in eyes.doubts[0] and not eyes.refusal
    mouth = judged(covered(photo, landmarks, LIPS, 200), landmarker)
    assert ["mouth" in doubt for doubt in mouth.doubts] == [True] and not mouth.refusal


def test_a_face_cut_by_the_border_is_told_and_half_of_one_refused(photo, landmarks):
    points = landmarks.points
    seen = lambda share: see_face(
        landmarks.replace(points=points - [np.quantile(points[:, 0], share), 0]), photo.shape
    )
    assert "20% of the face" in seen(0.2).doubts[0] and not seen(0.2).refusal
    assert "only 40%" in seen(0.6).refusal
    moved = landmarks.replace(points=points - [np.quantile(points[:, 0], 0.6), 0])
    with pytest.raises(UserError, match=r"photo: in 'me.jpg' only 40% of the face .*whole face"):
        check_face(moved, "'me.jpg'", photo.shape)
    unsure = landmarks.replace(scatter=np.full(468, 0.06))
    with pytest.raises(UserError, match="uncertain"):
        check_face(unsure, "'me.jpg'", photo.shape)
    once = see_face(landmarks.replace(scatter=None), photo.shape)  # a detector that does not measure it
    assert not once.doubts and not once.refusal and set(once.report()) == {"coverage", "confidence"}


def test_a_photo_upside_down_is_turned_and_said(photo, landmarker, landmarks):
    turned = landmarker.detect(photo[::-1, ::-1].copy())
    roll = face_roll(turned.points)
    assert abs(abs(roll) - np.pi) < 0.2
    said = describe(turned, quarter_turn(roll), see_face(turned, photo.shape), "'me.jpg'")
    assert said == "'me.jpg': the face is upside down: the photo was turned"
    back = np.array(photo.shape[1::-1]) - turned.points
    assert np.linalg.norm(back - landmarks.points, axis=-1).mean() < 0.06 * landmarks.eye_distance
    for turns, side in (
        (1, "left"),
        (3, "right"),
    ):  # against the clock: the top of the head comes to the left
        roll = face_roll(landmarker.detect(np.rot90(photo, turns).copy()).points)
        assert f"on its {side} side" in describe(
            landmarks, quarter_turn(roll), see_face(landmarks, photo.shape), "x"
        )


# People -----------------------------------------------------------------------------------------------------


def test_people_are_numbered_from_the_left_and_found_by_a_point(crowd, landmarker):
    people = landmarker.people(crowd)
    places = [one.points[:, 0].mean() for one in people]
    assert len(people) == 3 and places == sorted(places) and people[0].face_count == 3
    find = lambda who: find_person(crowd, landmarker, who, "'us.jpg'").points[:, 0].mean()
    assert [find(number) for number in (1, 2, 3)] == places
    assert find((float(places[2]), 110.0)) == places[2]
    assert abs(find(None) - places[1]) < 3  # the largest
    with pytest.raises(UserError, match=r"person: 4, but there are 3 faces in 'us.jpg'"):
        find(4)
    with pytest.raises(UserError, match=r"no face at \(5, 290\)"):
        find((5, 290))
    drawn = draw_people(crowd, people)
    changed = (drawn != crowd).any(axis=(0, 2))
    assert drawn.shape == crowd.shape and all(changed[int(place)] for place in places)
    assert not changed[540:590].any()  # between two of them
    note = describe(people[0], np.eye(2, 3), see_face(people[0], crowd.shape), "'us.jpg'")
    assert "3 faces" in note and "person" in note
    assert "3 faces" not in describe(people[0], np.eye(2, 3), see_face(people[0], crowd.shape), "x", person=1)


# Shots ------------------------------------------------------------------------------------------------------


class Told:
    """A detector that finds faces in frames that are not of one grey, and notes where it was asked anew."""

    def __init__(self, landmarks: Landmarks):
        self.landmarks, self.anew, self.asked = landmarks, [], 0

    def detect(self, image, previous=None):
        self.asked += 1
        if previous is None:
            self.anew.append(self.asked - 1)
        return None if image.std() < 1 else self.landmarks


def shifted(landmarks: Landmarks, across: float) -> Landmarks:
    return dataclasses.replace(landmarks, points=landmarks.points + np.array([across, 0]))


def film_of(pictures, duration=None) -> Video:
    frames = [VideoFrame(picture, index / 10, 0.1) for index, picture in enumerate(pictures)]
    return Video(frames, len(frames), duration)


def test_a_cut_parts_a_film_and_a_flash_or_a_moving_head_does_not(photo, landmarks):
    one = [np.roll(photo, 6 * k, axis=1) for k in range(4)]
    other = [np.roll(data.coffee()[:400, :400], 6 * k, axis=0) for k in range(3)]
    flash = [np.full_like(photo, 255)]
    told = Told(landmarks)
    seen = find_landmarks(film_of([*one[:2], *flash, *one[2:], *other]), told)
    assert seen.shots == [0, 5] and told.anew == [0, 3, 5]  # the flash lost the face, but is no cut
    film = film_of(one)
    assert describe_film(seen, film, None) == [
        "no face in 1 of 8 frames: the head holds still there",
        "a cut (at 0.50 s): each part is fitted as a person of its own",
    ]
    np.testing.assert_allclose(seen.edges, np.arange(9) / 10, atol=1e-9)
    brighter = np.clip(photo.astype(int) + 60, 0, 255).astype(np.uint8)
    assert not is_cut(thumbnail(photo), thumbnail(brighter))


def test_another_face_before_the_same_background_is_a_cut(photo, landmarks):
    box = slice(40, 260), slice(120, 330)
    other = photo.copy()
    other[box] = np.clip(photo[box][::-1].astype(int) + 20, 0, 255)  # a face with other features
    assert not is_cut(thumbnail(photo), thumbnail(other))
    moved = [np.roll(photo, 6 * k, axis=1) for k in range(3)]
    followed = [shifted(landmarks, 6 * k) for k in range(3)]
    greys = [face_greys(picture, face) for picture, face in zip(moved, followed, strict=True)]
    assert find_new_faces(greys) == []
    stranger = face_greys(other, landmarks)
    assert find_new_faces([*greys, stranger, stranger]) == [3]
    assert find_new_faces([*greys, stranger, *greys]) == []  # one frame in which the landmarks slipped
    assert find_new_faces([*greys, None, *greys]) == []
    seen = find_landmarks(film_of([photo] * 3 + [other] * 3), Told(landmarks))
    assert seen.shots == [0, 3]


def test_a_dissolve_is_a_cut_and_a_slow_move_is_not(photo, rng):
    ends = [grey_thumbnail(np.ascontiguousarray(one[:400, :400])) for one in (photo, data.coffee())]
    for length in (5, 12, 30):
        shares = np.clip((np.arange(length + 40) - 20) / length, 0, 1)[:, None, None]
        mixed = (1 - shares) * ends[0] + shares * ends[1] + rng.normal(0, 1, (len(shares), 24, 24))
        (cut,) = find_dissolves(mixed.clip(0, 255).astype(np.uint8))
        assert abs(cut - (20 + length / 2)) <= max(2, length / 4)
    pan = [grey_thumbnail(np.ascontiguousarray(data.coffee()[:300, 6 * k : 6 * k + 300])) for k in range(50)]
    assert is_cut(normalised(pan[0]), normalised(pan[24])) and find_dissolves(np.stack(pan)) == []


def test_frames_are_one_clip_and_photos_are_not(photo):
    moved = [np.roll(photo, 5 * k, axis=1) for k in range(6)]
    assert is_one_clip(moved)
    assert is_one_clip(moved[:1])
    assert not is_one_clip([photo, photo[:400]])
    others = [data.coffee()[:400, :400], photo[:400, :400], data.rocket()[:400, :400]]
    assert not is_one_clip(others)


def test_a_truncated_film_is_said(photo, landmarks):
    seen = find_landmarks(film_of([photo] * 5), Told(landmarks))
    assert describe_film(seen, film_of([photo] * 5, 0.5), None) == []
    assert describe_film(seen, film_of([photo] * 5, 2.4), 5) == []  # not read further
    (said,) = describe_film(seen, film_of([photo] * 5, 2.4), None)
    assert "0.50 s and 5 frames, of 2.40 s" in said and "truncated" in said


def test_a_film_without_a_face_is_refused_after_a_few_frames(photo, landmarks):
    wall = np.full_like(photo, 90)
    told = Told(landmarks)
    with pytest.raises(UserError, match=r"no face found in 'x\.mp4'"):
        find_landmarks(film_of([wall] * 500), told, has_a_face=lambda: False, name="'x.mp4'")
    assert told.asked == FACELESS_FRAMES
    late = find_landmarks(film_of([wall] * 5 + [photo] * 3), Told(landmarks), has_a_face=lambda: True)
    assert [one is not None for one in late.found] == [False] * 5 + [True] * 3


# Alpha ------------------------------------------------------------------------------------------------------


def test_a_cutout_s_alpha_is_the_person_s_and_a_round_frame_is_not():
    rows, columns = np.mgrid[:64, :64]
    person = (np.hypot(rows - 32, columns - 32) < 15).astype(np.float32)
    known = np.ones_like(person)
    finer = np.clip(person + (np.hypot(rows - 32, columns - 32) < 15.7) * 0.5, 0, 1).astype(np.float32)
    np.testing.assert_array_equal(combine_alphas(finer, person, known), finer)
    frame = (np.hypot(rows - 32, columns - 32) < 30).astype(np.float32)
    np.testing.assert_array_equal(combine_alphas(frame, person, known), person)
