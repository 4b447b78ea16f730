"""What the evaluation measures."""

from __future__ import annotations

import numpy as np
import pytest
from ml_collections import ConfigDict

from p4d_jax.capture.landmarks import LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS, Landmarks
from p4d_jax.jobs.evaluate import EYES, MOUTH, landmark_errors, summarise


def face(points):
    return Landmarks(points=points, iris=np.zeros((2, 5, 2)), score=1.0)


@pytest.fixture
def points():
    points = np.random.default_rng(3).normal(size=(468, 2)) * 20 + 100
    points[list(LEFT_EYE_CORNERS)] = [150.0, 100.0]
    points[list(RIGHT_EYE_CORNERS)] = [50.0, 100.0]
    return points


def test_aligned_errors_ignore_a_similarity_and_plain_ones_do_not(points):
    angle, scale = 0.3, 1.4
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    errors = landmark_errors(face(points @ turn.T + [7.0, -3.0]), face(points))
    assert errors["mouth_aligned"] < 1e-4 and errors["eyes_aligned"] < 1e-4
    assert errors["mouth"] > 0.05 and errors["eyes"] > 0.05


def test_errors_are_in_eye_distances_and_separate_mouth_from_eyes(points):
    moved = points.copy()
    moved[list(set(MOUTH))] += [0.0, 10.0]  # a tenth of the eye distance
    errors = landmark_errors(face(moved), face(points))
    assert errors["mouth"] == pytest.approx(0.1, rel=1e-6)
    assert errors["eyes"] == 0.0
    assert not set(EYES) & set(MOUTH)


def test_summary_counts_the_people_that_have_a_measure():
    config = ConfigDict({"weights": "x", "seed": 0})
    report = summarise([{"psnr": 20.0, "mouth": 0.1}, {"psnr": 24.0}], config)
    assert report["psnr"] == {"mean": 22.0, "standard_error": 1.4142, "people": 2}
    assert report["mouth"]["people"] == 1
