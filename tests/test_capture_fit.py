"""The fit: it recovers what was projected, agrees with the full head, and is the same under vmap."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.spatial.transform import Rotation
from skimage import data

from p4d_jax import assets
from p4d_jax.capture import capture_film
from p4d_jax.capture.crop import camera_in_square
from p4d_jax.capture.fit import (
    OUTLINE,
    FitSettings,
    Unknowns,
    finish_fit,
    fit_photo,
    fit_photos,
    gaze_to_eyes,
    head_camera,
    levenberg_marquardt,
    linearise,
    make_targets,
    predict,
    residuals,
    shapes_left_open,
    soften_outliers,
)
from p4d_jax.capture.landmark_head import bake_shape, landmark_head, pose_rows, rows_at_rest
from p4d_jax.capture.photo import frame_params
from p4d_jax.errors import UserError
from p4d_jax.geometry import project
from p4d_jax.head.actions import ARKIT
from p4d_jax.head.landmarks import mediapipe_landmarks
from p4d_jax.head.skinning import head_joints, head_vertices

predict = jax.jit(predict)
head_vertices = jax.jit(head_vertices)
SIDE, CENTRE = 500.0, np.array([300.0, 260.0])  # photo pixels


@pytest.fixture(scope="module")
def head():
    return assets.head_model()


@pytest.fixture(scope="module")
def small(head):
    return landmark_head(head)


def random_unknowns(small, seed, spread=0.7):
    """A person with a face that people can make, centred, the side of the camera's square 1."""
    keys = jax.random.split(jax.random.key(seed), 4)
    expression = jnp.zeros(small.expression_basis.shape[-1])
    names = small.expression_names
    for k, name in enumerate(("mouthSmileLeft", "mouthSmileRight", "browInnerUp", "eyeBlinkLeft")):
        expression = expression.at[names.index(name)].set(jax.random.uniform(jax.random.fold_in(keys[3], k)))
    return Unknowns(
        rotation=jnp.array([0.12, -0.3, 0.1]) * jax.random.normal(keys[0], (3,)),
        centre=jnp.zeros(2),
        log_side=jnp.zeros(()),
        shape=spread * jax.random.normal(keys[1], (small.shape_basis.shape[-1],)),
        expression=expression,
        jaw=jnp.array([0.15, 0.0, 0.0]),
        gaze=jnp.tile(0.15 * jax.random.normal(keys[2], (2,)), (2, 1)),
    )


def place(small, unknowns):
    """The face as 468 photo landmarks (those without a place on the mesh stay zero) and iris centres."""
    points, iris = predict(small, unknowns)
    photo = jnp.asarray(CENTRE) + SIDE * jnp.concatenate([points, iris])
    return jnp.zeros((468, 2)).at[small.mediapipe_indices].set(photo[:-2]), photo[-2:]


@pytest.fixture(scope="module")
def faces(small):
    truths = [random_unknowns(small, seed) for seed in range(2)]
    return truths, [place(small, truth) for truth in truths]


@pytest.fixture(scope="module")
def fits(small, faces):
    return [fit_photo(small, *face) for face in faces[1]]


def test_the_landmark_head_moves_as_the_full_head(head, small):
    truth = random_unknowns(small, 7)
    pose = jnp.concatenate([jnp.zeros(3), truth.jaw])
    eyes = gaze_to_eyes(truth.gaze)
    arguments = (truth.shape, truth.expression, pose, eyes)
    expected = mediapipe_landmarks(head, head_vertices(head, *arguments))
    rows = rows_at_rest(small, truth.shape, truth.expression)
    reduced = pose_rows(small, rows, truth.jaw, truth.gaze)
    np.testing.assert_allclose(reduced[:-2], expected, atol=2e-6)
    # The pupils: of the eyes' joints, and an eyeball's radius from them, where the eyes look.
    joints = np.asarray(head.joint_regressor @ head.template)[3:]
    balls = [np.asarray(head.template)[head.regions[f"{side}_eyeball"]] for side in ("left", "right")]
    radius = 3 * np.array([ball[:, 2].max() - joint[2] for ball, joint in zip(balls, joints, strict=True)])
    looks = Rotation.from_rotvec(np.asarray(eyes).reshape(2, 3)).apply([0, 0, 1])
    np.testing.assert_allclose(
        reduced[-2:], head_joints(head, *arguments)[3:] + radius[:, None] * looks, atol=2e-6
    )
    # and its prediction is the projection by the standard camera
    uv, _ = project(head_camera(truth.rotation), expected)
    np.testing.assert_allclose(predict(small, truth)[0], np.asarray(uv) - 0.5, atol=2e-5)


@pytest.mark.parametrize("baked", [False, True])
def test_the_jacobian_is_that_of_the_residuals(small, faces, baked):
    """Put together from parts, beside the one that is differentiated whole; with outliers, bounds met."""
    truth, face = random_unknowns(small, 11), faces[1][0]
    head = bake_shape(small, truth.shape) if baked else small
    unknowns = truth.replace(
        shape=truth.shape[: head.shape_basis.shape[-1]],
        rotation=jnp.array([0.1, 0.3, -0.05]), centre=jnp.array([0.1, -0.2]), log_side=jnp.log(4.0),
        jaw=jnp.array([0.5, 0.02, -0.01]), expression=truth.expression.at[3].set(-0.1),
    )  # fmt: skip
    scores = jnp.linspace(0.0, 1.0, 52).at[5].set(jnp.nan)
    targets = make_targets(head, *face, scores)
    flat, unravel = ravel_pytree(unknowns)
    missed = lambda x: residuals(head, targets, unravel(x), FitSettings(), 0.05)
    expected = jax.jit(lambda x: (missed(x), jax.jacfwd(missed)(x)))(flat)
    found = jax.jit(lambda x: linearise(head, targets, unravel(x), FitSettings(), 0.05))(flat)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=2e-5 * np.abs(other).max())


def test_baking_the_shape_changes_nothing(small):
    truth = random_unknowns(small, 3)
    baked = bake_shape(small, truth.shape)
    points, iris = predict(baked, truth.replace(shape=truth.shape[:0]))
    np.testing.assert_allclose(points, predict(small, truth)[0], atol=1e-5)
    np.testing.assert_allclose(iris, predict(small, truth)[1], atol=1e-5)


def test_what_landmarks_leave_open_is_the_posterior_of_the_shape(head):
    factor = shapes_left_open(head)
    size = head.shape_basis.shape[-1]
    assert factor.shape == (300, size) and not factor[size:].any()
    # Kriging's form of the posterior, by landmarks moved one coefficient at a time.
    inner = ~np.isin(np.asarray(head.mediapipe_indices), OUTLINE)
    still = np.zeros((size, len(inner) * 3))
    rest = np.asarray(mediapipe_landmarks(head, head.template), np.float64)
    for k in range(size):
        moved = mediapipe_landmarks(head, head.template + head.shape_basis[..., k])
        still[k] = (np.asarray(moved, np.float64) - rest).reshape(-1)
    design = still[:, np.repeat(inner, 3)].T
    priors = FitSettings()
    corners = [rest[list(head.mediapipe_indices).index(k)] for k in (33, 133, 263, 362)]
    across = np.mean(corners[:2], axis=0) - np.mean(corners[2:], axis=0)
    noise = (priors.landmark_noise * np.linalg.norm(across)) ** 2
    noise *= inner.sum() / priors.independent_points
    gain = np.linalg.solve(design @ design.T + noise * np.eye(len(design)), design)
    expected = np.eye(size) - design.T @ gain
    np.testing.assert_allclose(factor[:size] @ factor[:size].T, expected, atol=1e-3)
    spread = np.sqrt(np.sum((np.asarray(head.shape_basis) @ factor[:size]) ** 2, axis=(1, 2)))
    parts = {
        name: spread[np.asarray(head.regions[name])].mean() for name in ("eyelids", "lips", "ears", "scalp")
    }
    assert 2 * max(parts["eyelids"], parts["lips"]) < min(parts["ears"], parts["scalp"])


def test_the_fit_recovers_what_was_projected(faces, fits):
    for truth, fit in zip(faces[0], fits, strict=True):
        assert fit.error < 0.01
        np.testing.assert_allclose(fit.rotation, truth.rotation, atol=0.06)
        np.testing.assert_allclose(fit.eyes.reshape(2, 3)[:, :2], truth.gaze, atol=0.12)
        np.testing.assert_allclose(fit.side, SIDE, rtol=0.08)
        np.testing.assert_allclose(fit.centre, CENTRE, atol=0.05 * SIDE)
        np.testing.assert_allclose(fit.jaw[0], truth.jaw[0], atol=0.1)
        assert fit.expression.min() > -0.05 and fit.expression.max() < 1.05


def test_a_blink_is_seen(small):
    calm = random_unknowns(small, 5, spread=0.4)
    index = small.expression_names.index("eyeBlinkLeft")
    other = small.expression_names.index("eyeBlinkRight")
    closed = fit_photo(small, *place(small, calm.replace(expression=calm.expression.at[index].set(0.95))))
    opened = fit_photo(small, *place(small, calm.replace(expression=calm.expression.at[index].set(0.0))))
    assert closed.expression[index] > opened.expression[index] + 0.5
    assert abs(closed.expression[other] - opened.expression[other]) < 0.2


def test_scores_decide_where_points_do_not_and_yield_to_them(small, faces):
    """Of a smile on a face that does not smile: a score draws the fit that way, a small way."""
    names, face = small.expression_names, faces[1][0]
    smiles = [names.index(f"mouthSmile{side}") for side in ("Left", "Right")]
    wanted = np.full(52, np.nan, np.float32)
    wanted[[ARKIT.index("mouthSmileLeft"), ARKIT.index("mouthSmileRight")]] = 1.0
    plain, none, pulled = (fit_photo(small, *face, scores) for scores in (None, wanted * np.nan, wanted))
    np.testing.assert_array_equal(none.expression, plain.expression)
    moved = pulled.expression[jnp.array(smiles)] - plain.expression[jnp.array(smiles)]
    assert moved.min() > 0.02
    assert pulled.error < plain.error + 0.01


def test_vmapped_equals_single(small, faces, fits):
    points, iris = (jnp.stack(column) for column in zip(*faces[1], strict=True))
    batch = fit_photos(small, points, iris)
    for index, fit in enumerate(fits):
        np.testing.assert_allclose(batch.points[index], fit.points, atol=0.004 * SIDE)
        np.testing.assert_allclose(batch.error[index], fit.error, atol=2e-3)


def test_a_warm_start_needs_few_steps(small, faces, fits):
    truth, fit = faces[0][0], fits[0]
    person = bake_shape(small, fit.shape)
    start = fit.unknowns
    moved = truth.replace(rotation=truth.rotation + 0.05, jaw=truth.jaw + jnp.array([0.08, 0, 0]))
    next_fit = fit_photo(person, *place(small, moved), start=start)
    assert next_fit.error < 0.015
    assert next_fit.jaw[0] > fit.jaw[0] + 0.03


def test_levenberg_marquardt_solves_rosenbrock():
    def rosenbrock(x, step):
        return jnp.array([10 * (x[1] - x[0] ** 2), 1 - x[0]])

    linearised = lambda x, step: (rosenbrock(x, step), jax.jacfwd(rosenbrock)(x, step))
    found = levenberg_marquardt(rosenbrock, linearised, jnp.array([-1.2, 1.0]), 40)
    np.testing.assert_allclose(found, 1, atol=1e-3)


def test_outliers_are_softened_smoothly():
    offsets = jnp.array([[0.0, 0.0], [1e-4, 0.0], [0.3, 0.4]])
    soft = soften_outliers(offsets, 0.1)
    np.testing.assert_allclose(
        jnp.sum(soft**2, axis=-1), 0.01 * np.log1p([0, 1e-6, 25]), rtol=2e-3, atol=1e-12
    )
    assert np.isfinite(jax.jacfwd(lambda x: soften_outliers(x, 0.1))(offsets)).all()


def test_a_camera_in_another_square_sees_the_head_where_it_is(head, small, faces, fits):
    fit, targets = fits[0], make_targets(small, *faces[1][0])
    assert np.isclose(finish_fit(small, targets, fit.unknowns).error, fit.error)
    square, side = jnp.asarray(CENTRE + np.array([40.0, -25.0])), jnp.asarray(SIDE * 1.15)
    camera = camera_in_square(fit, square, side)
    params = frame_params(fit, camera)
    vertices = head_vertices(head, params.shape, params.expression, params.pose, params.eyes)
    uv, _ = project(camera, mediapipe_landmarks(head, vertices))
    seen = np.asarray(square) + float(side) * (np.asarray(uv) - 0.5)
    assert np.linalg.norm(seen - np.asarray(fit.points), axis=-1).max() < 0.004 * SIDE


def test_a_film_shares_its_shape_and_survives_a_lost_face(head):
    face = data.astronaut()[:300, 80:380]
    frames = [np.roll(face, 4 * k, axis=1) for k in range(4)]
    frames[2] = np.full_like(face, 90)
    seen = []
    film = capture_film(frames, head, lambda done, total: seen.append((done, total)), smoothing=0)
    assert len(film) == 4 and seen[-1] == (4, 4) and "1 of 4" in film.note
    assert np.isnan(film.errors[2]) and np.nanmax(film.errors) <= 0.04
    np.testing.assert_array_equal(film.params.shape[0], film.params.shape[3])
    origin = jnp.zeros(3)
    shown = [project(jax.tree.map(lambda x, k=k: x[k], film.params.camera), origin)[0][0] for k in (0, 3)]
    pixels = (shown[1] - shown[0]) * 512 / film.crop_matrix[0, 0]
    np.testing.assert_allclose(pixels, 12, atol=2.5)  # the head moved by three times four pixels
    assert next(film.crops).shape == (512, 512, 3)
    with pytest.raises(UserError, match="0 of 2"):
        capture_film([frames[2]] * 2, head)
