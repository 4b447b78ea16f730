"""Faces compared: what a similarity of the picture must not change, and who is recognised."""

from __future__ import annotations

import numpy as np
import pytest

from p4d_jax.capture.landmarks import LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS, Landmarks
from p4d_jax.evaluation import descriptions, expression
from p4d_jax.evaluation.facts import rotation_angle
from p4d_jax.evaluation.landmarks import landmark_errors
from p4d_jax.geometry.similarity import ARCFACE_TEMPLATE

EYE_DISTANCE = 100.0


def face(points):
    return Landmarks(points=points, iris=np.zeros((2, 5, 2)), score=1.0)


@pytest.fixture
def points(rng):
    points = rng.normal(size=(468, 2)) * 20 + 100
    points[list(LEFT_EYE_CORNERS)] = [150.0, 100.0]
    points[list(RIGHT_EYE_CORNERS)] = [50.0, 100.0]
    return points


def moved(points, angle, scale, shift):
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ turn.T + shift


def speaking(points, by=(0.0, 10.0)):
    """The mouth moved; nothing that is `STABLE`."""
    result = points.copy()
    result[list(expression.MOUTH)] += by
    return result


def test_aligned_errors_ignore_a_similarity_and_plain_ones_do_not(points):
    errors = landmark_errors(face(moved(points, 0.3, 1.4, [7.0, -3.0])), face(points))
    assert errors["mouth_aligned"] < 1e-4 and errors["eyes_aligned"] < 1e-4
    assert errors["mouth"] > 0.05 and errors["eyes"] > 0.05


def test_errors_are_in_eye_distances_and_separate_mouth_from_eyes(points):
    errors = landmark_errors(face(speaking(points)), face(points))
    assert errors["mouth"] == pytest.approx(0.1, rel=1e-6)
    assert errors["eyes"] == 0.0
    parts = [set(part) for part in (*expression.PARTS.values(),)]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert not set(expression.STABLE) & (parts[0] | parts[2])


def test_displacement_is_the_movement_in_eye_distances(points):
    found = expression.expression_displacement(speaking(points), points)
    np.testing.assert_allclose(found[list(expression.MOUTH)], [[0.0, 0.1]] * 40, atol=1e-9)
    others = np.setdiff1d(np.arange(468), expression.MOUTH)
    np.testing.assert_allclose(found[others], 0, atol=1e-9)


def test_displacement_does_not_change_with_a_similarity_of_either_picture(points):
    wanted = expression.expression_displacement(speaking(points), points)
    for angles in ((0.0, 0.4), (-0.7, 0.2)):
        first = moved(speaking(points), angles[0], 1.3, [5.0, 2.0])
        second = moved(points, angles[1], 0.6, [-9.0, 30.0])
        np.testing.assert_allclose(expression.expression_displacement(first, second), wanted, atol=1e-9)


def test_the_same_movement_of_another_face_is_no_error_and_standing_still_is_all_of_it(points, rng):
    other = points + rng.normal(size=points.shape) * 5
    other[list(LEFT_EYE_CORNERS)], other[list(RIGHT_EYE_CORNERS)] = [150.0, 100.0], [50.0, 100.0]
    wanted = expression.expression_displacement(speaking(points), points)
    perfect = expression.expression_displacement(speaking(other), other)
    errors = expression.expression_errors(perfect, wanted)
    assert all(value == pytest.approx(0, abs=1e-9) for value in errors.values())
    still = expression.expression_displacement(other, other)
    errors = expression.expression_errors(still, wanted)
    assert errors["mouth"] == pytest.approx(0.1) and errors["eyes"] == errors["brows"] == 0
    assert errors["expression"] == pytest.approx(0.1 / 3)


@pytest.mark.parametrize("degrees", [0.0, 1e-4, 30.0, 179.0])
def test_angle_between_rotations(degrees):
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    base = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    base *= np.sign(np.linalg.det(base))
    assert rotation_angle(turn @ base, base) == pytest.approx(degrees, abs=1e-6)


def test_openings_ignore_a_shift_of_the_whole_face_s_points(points):
    wanted = expression.expression_displacement(speaking(points), points)
    shift = np.array([0.05, -0.02])
    assert expression.expression_errors(wanted + shift, wanted)["openings"] == pytest.approx(0, abs=1e-9)
    opened = points.copy()
    opened[[13, 14]] += [[0, -5.0], [0, 5.0]]  # a tenth of the eye distance between the lips
    errors = expression.expression_errors(
        expression.expression_displacement(opened, points), np.zeros_like(points)
    )
    assert errors["openings"] == pytest.approx(0.1 / len(expression.OPENINGS))


def test_colours_are_taken_at_their_places_and_move_with_the_face(points):
    picture = np.full((200, 200, 3), 50, np.uint8)
    column, row = points[50].astype(int)
    picture[row - 12 : row + 13, column - 12 : column + 13] = (255, 0, 100)
    place = [index for index, _, _ in descriptions.PLACES].index(50)
    read = lambda picture, at: descriptions.face_colors(picture, at).reshape(3, -1)[:, place]
    np.testing.assert_allclose(read(picture, points), [355 / 765, 1.0, -100 / 255])
    moved_points = points + np.array([-5.0, 3.0])
    np.testing.assert_allclose(read(np.roll(picture, (3, -5), (0, 1)), moved_points), read(picture, points))


def test_each_is_nearest_to_itself_whatever_the_measure(rng):
    people = rng.normal(size=(12, 30))
    scale = descriptions.learn_scale(people, people + 0.1 * rng.normal(size=people.shape))
    own = np.arange(12)
    again = people + 0.1 * rng.normal(size=people.shape)
    for distances in (
        descriptions.description_distances(again, people, scale),
        descriptions.cosine_distances(again, people),
    ):
        assert descriptions.is_recognised(distances, own).all()
        assert not descriptions.is_recognised(distances, np.roll(own, 1)).any()


def test_what_does_not_tell_people_apart_does_not_count(rng):
    people = rng.normal(size=(60, 8)) * np.array([0.0] + [1.0] * 7)
    noise = np.array([3.0] + [0.05] * 7)
    first, second = (people + noise * rng.normal(size=people.shape) for _ in range(2))
    scale = descriptions.learn_scale(first, second)
    assert scale.relevance[0] < 0.3 and scale.relevance[1:].min() > 0.98
    distances = descriptions.description_distances(first, second, scale)
    assert descriptions.is_recognised(distances, np.arange(60)).all()


def test_arcface_crop_puts_the_five_points_where_the_template_has_them():
    points = np.zeros((468, 2))
    template = np.array(ARCFACE_TEMPLATE)
    points[list(RIGHT_EYE_CORNERS)], points[list(LEFT_EYE_CORNERS)] = template[0] + 0.5, template[1] + 0.5
    points[[4, 61, 291]] = template[2:] + 0.5
    image = np.random.default_rng(0).uniform(-1, 1, (112, 112, 3)).astype(np.float32)
    five = descriptions.arcface_points(points).astype(np.float32)
    crop = np.asarray(descriptions.crop_for_arcface(image, five))
    np.testing.assert_allclose(crop[1:-1, 1:-1], image[1:-1, 1:-1], atol=2e-3)
