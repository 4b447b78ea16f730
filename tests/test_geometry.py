"""Rotations, cameras, similarity transforms: round trips, float64 numpy and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from p4d_jax import assets, geometry
from p4d_jax.genhead.parts import build_head_parts, correspondence_map, pose_parts
from p4d_jax.head.landmarks import project_landmarks
from p4d_jax.head.retarget import transfer_turn
from p4d_jax.imaging import affine
from p4d_jax.openheads.config import OpenHeadsSettings
from p4d_jax.openheads.portraits import portraits_in_scene
from p4d_jax.openheads.scene import prepare_scene
from p4d_jax.render.rays import generate_rays, pixel_centres
from p4d_jax.render.volume import march_rays
from p4d_jax.types import FRAME_VECTOR_SIZE, FrameParams

COMPONENT = st.floats(-1.75, 1.75, width=32)

to_matrix = jax.jit(geometry.axis_angle_to_matrix)
to_vector = jax.jit(geometry.matrix_to_axis_angle)
look_at = jax.jit(geometry.look_at_camera)
fit_similarity = jax.jit(geometry.fit_similarity)


@settings(max_examples=50, deadline=None)
@given(st.tuples(COMPONENT, COMPONENT, COMPONENT))
def test_rotation_agrees_with_scipy_and_comes_back(vector):
    vector = np.array(vector, np.float32)
    matrix = to_matrix(jnp.asarray(vector))
    np.testing.assert_allclose(matrix, Rotation.from_rotvec(vector).as_matrix(), atol=1e-6)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=2e-6)
    if np.linalg.norm(vector) < np.pi - 1e-3:  # beyond it, the other way round is shorter
        np.testing.assert_allclose(to_vector(matrix), vector, atol=2e-5)


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.6, 0, -0.8)])
def test_half_turns_come_back_as_the_same_rotation(axis):
    matrix = Rotation.from_rotvec(np.pi * np.array(axis)).as_matrix().astype(np.float32)
    vector = to_vector(matrix)
    assert np.linalg.norm(vector) == pytest.approx(np.pi, abs=1e-3)
    np.testing.assert_allclose(to_matrix(vector), matrix, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e-6, 1e-3, 0.3])
def test_rotation_gradients_are_finite_and_right_near_zero(scale):
    vector = np.array([0.5, -0.7, 0.2]) * scale
    jacobian = jax.jit(jax.jacfwd(to_matrix))(jnp.asarray(vector, jnp.float32))
    reverse = jax.jit(jax.jacrev(to_matrix))(jnp.asarray(vector, jnp.float32))
    step = 1e-5 * np.eye(3)
    finite = [
        (Rotation.from_rotvec(vector + d).as_matrix() - Rotation.from_rotvec(vector - d).as_matrix()) / 2e-5
        for d in step
    ]
    np.testing.assert_allclose(jacobian, np.stack(finite, -1), atol=2e-5)
    np.testing.assert_allclose(reverse, jacobian, atol=1e-6)
    log = jax.jit(jax.jacfwd(to_vector))(to_matrix(jnp.asarray(vector)))
    assert np.isfinite(log).all()


@settings(max_examples=30, deadline=None)
@given(st.floats(-1.2, 1.2), st.floats(-1.0, 1.0), st.floats(3.0, 5.0), st.floats(-0.5, 0.5))
def test_look_at_camera_is_rigid_and_centres_its_pivot(yaw, pitch, radius, roll):
    pivot = (0.02, -0.03, 0.09)
    camera = look_at(yaw, pitch, radius, roll, pivot)
    rotation = camera.cam2world[:3, :3]
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=2e-6)
    assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(camera.cam2world[:3, 3]) == pytest.approx(radius, rel=1e-5)
    uv, z = geometry.project(camera, jnp.array(pivot))
    np.testing.assert_allclose(uv, 0.5, atol=1e-5)
    assert z > 0


def test_frontal_camera_is_the_conventions_one():
    camera = look_at(0.0, 0.0, 4.0)
    expected = np.eye(4)
    expected[2, 3] = 4
    np.testing.assert_allclose(camera.cam2world, expected, atol=1e-6)
    assert camera.intrinsics[0, 0] == pytest.approx(4.757, abs=1e-3)
    uv, _ = geometry.project(camera, jnp.array([[0.1, 0.2, 0.0], [-0.1, -0.2, 0.0]]))
    assert uv[0, 0] > 0.5 > uv[1, 0]  # x is to the right
    assert uv[0, 1] < 0.5 < uv[1, 1]  # y is up, v is down


def test_points_along_rays_project_to_their_pixels():
    camera = look_at(0.5, -0.3, 4.1, 0.2, (0.0, 0.05, 0.1))
    origins, directions = generate_rays(camera, 8)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), 1, atol=1e-6)
    uv, z = geometry.project(camera, origins + 3.7 * directions)
    np.testing.assert_allclose(uv, pixel_centres(8), atol=2e-5)
    assert (z > 3.5).all()


def test_decomposed_neck_sees_the_bent_head_as_the_straight_one():
    camera = look_at(0.4, 0.2, 4.0, 0.1, (0.0, 0.0, 0.09))
    neck = jnp.array([0.3, -0.2, 0.1])
    joint = jnp.array([0.01, -0.2, -0.05])
    moved = geometry.camera_for_bent_neck(camera, neck, joint)
    points = jax.random.uniform(jax.random.key(0), (20, 3), minval=-0.5, maxval=0.5)
    rotation = Rotation.from_rotvec(neck).as_matrix()
    bent = (points - joint) @ rotation.T + joint
    np.testing.assert_allclose(
        geometry.world_to_camera(moved, jnp.asarray(bent)),
        geometry.world_to_camera(camera, points),
        atol=3e-6,
    )
    np.testing.assert_allclose(
        geometry.project(moved, joint)[0], geometry.project(camera, joint)[0], atol=1e-5
    )
    # The rule of docs/concepts/head.md, Eq. 2.6: R_w2c R^T.
    world2cam = np.asarray(camera.cam2world[:3, :3]).T @ rotation.T
    np.testing.assert_allclose(np.asarray(moved.cam2world[:3, :3]).T, world2cam, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.2, 5.0), st.floats(-3.1, 3.1), st.floats(-50, 50), st.integers(0, 99))
def test_similarity_is_recovered(scale, angle, shift, seed):
    source = np.random.default_rng(seed).uniform(0, 100, (5, 2)).astype(np.float32)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    expected = np.concatenate([linear, [[shift], [-shift]]], axis=1)
    target = source @ linear.T + expected[:, 2]
    fitted = fit_similarity(jnp.asarray(source), jnp.asarray(target, jnp.float32))
    np.testing.assert_allclose(fitted, expected, atol=3e-3)
    identity = np.concatenate([geometry.invert_affine(fitted), [[0, 0, 1]]]) @ np.concatenate(
        [fitted, [[0, 0, 1]]]
    )
    np.testing.assert_allclose(identity, np.eye(3), atol=3e-3)


def _warp_in_float64(image, matrix, size):
    inverse = np.linalg.inv(np.concatenate([matrix, [[0, 0, 1]]]).astype(np.float64))
    y, x = np.mgrid[:size, :size]
    x, y = (inverse[k, 0] * x + inverse[k, 1] * y + inverse[k, 2] for k in (0, 1))
    total = 0
    for j, i in ((np.floor(x) + a, np.floor(y) + b) for a in (0, 1) for b in (0, 1)):
        inside = (j >= 0) & (j < image.shape[1]) & (i >= 0) & (i < image.shape[0])
        weight = (1 - np.abs(x - j)) * (1 - np.abs(y - i)) * inside
        total += (
            weight[..., None] * image[np.where(inside, i, 0).astype(int), np.where(inside, j, 0).astype(int)]
        )
    return total


@pytest.mark.parametrize("size", [40, (30, 50)])
def test_warp_is_bilinear_reading(rng, size):
    """Of white noise, which shows every rounding of a coordinate: 512 pixels leave 5e-5 of one."""
    image = rng.standard_normal((96, 128, 2)).astype(np.float32)
    matrix = np.array([[0.4, -0.1, 5.0], [0.15, 0.35, -3.0]], np.float32)
    height, width = (size, size) if isinstance(size, int) else size
    expected = _warp_in_float64(image, matrix, max(height, width))[:height, :width]
    ours = jax.jit(affine.warp_affine, static_argnums=2)(image, matrix, size)
    np.testing.assert_allclose(ours, expected, atol=2e-4)


def test_the_identity_warp_keeps_the_image_and_shifts_bring_zeros(rng):
    image = rng.standard_normal((12, 9, 3)).astype(np.float32)
    still, shifted = (jnp.array([[1.0, 0, shift], [0, 1, 0]]) for shift in (0, 4))
    np.testing.assert_allclose(affine.warp_affine(image, still, (12, 9)), image, atol=1e-5)
    moved = affine.warp_affine(image, shifted, (12, 9))
    np.testing.assert_allclose(moved[:, 4:], image[:, :-4], atol=1e-5)
    np.testing.assert_allclose(moved[:, :4], 0, atol=1e-5)


def test_rounded_arithmetic_is_numpy_s(rng):
    """NumPy rounds each operation; a compiler left alone contracts products into sums."""
    a, b = rng.standard_normal((2, 3, 4096)).astype(np.float32)
    divisor = np.float32(0.7310586)
    np.testing.assert_array_equal(
        jax.jit(geometry.dot_in_order)(list(a), list(b)), a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
    )
    np.testing.assert_array_equal(jax.jit(geometry.divide_by_one)(a[0], divisor), a[0] / divisor)


def matrix_products(jaxpr) -> list:
    """All matrix products of a program, also those of the programs inside it."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            found.append(equation)
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found += matrix_products(inner)
    return found


def test_geometry_asks_for_float32_products_and_leaves_those_around_it_alone():
    """Where nothing is asked for, a GPU rounds the factors to 10 bits and a TPU to 7."""
    head = assets.head_model("openhead")
    scene, parts = prepare_scene(head), build_head_parts(head)
    frame = FrameParams.from_vector(jnp.zeros(FRAME_VECTOR_SIZE))

    def pictures(key):
        return portraits_in_scene(scene, key[None], 16, OpenHeadsSettings())

    def pose(frame):
        posed = pose_parts(head, frame.shape, frame)
        return posed, correspondence_map(parts, posed, frame.camera, 16)

    def landmarks(frame):
        return project_landmarks(head, head.template, frame.neck, frame.camera)

    programs = {
        "pictures": (pictures, jax.random.key(0)),
        "pose": (pose, frame),
        "landmarks": (landmarks, frame),
        "turn": (lambda frame: transfer_turn(frame, frame, frame, 0.5), frame),
        "march": (lambda x: jax.grad(lambda x: march_rays(x, x[:, None], x).features.sum())(x), jnp.ones(8)),
    }
    asked = (jax.lax.Precision.HIGHEST,) * 2
    with jax.default_matmul_precision("bfloat16"):
        for name, (program, argument) in programs.items():
            products = matrix_products(jax.make_jaxpr(program)(argument).jaxpr)
            assert products, name
            assert {product.params["precision"] for product in products} == {asked}, name
        around = lambda x: geometry.axis_angle_to_matrix(x) @ x
        own, plain = matrix_products(jax.make_jaxpr(around)(jnp.ones(3)).jaxpr)
    assert own.params["precision"] == asked != plain.params["precision"]


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match="landmarks"):
        geometry.arcface_transform(jnp.zeros((68, 2)))
    with pytest.raises(ValueError, match="axis_angle"):
        geometry.axis_angle_to_matrix(jnp.zeros(4))
    with pytest.raises(ValueError, match="image"):
        affine.warp_affine(jnp.zeros((4, 4)), jnp.zeros((2, 3)), 4)
    with pytest.raises(ValueError, match="2 x 2"):
        affine.warp_affine(jnp.zeros((4, 1, 3)), jnp.zeros((2, 3)), 4)
    with pytest.raises(ValueError, match="neck_rotation"):
        geometry.camera_for_bent_neck(geometry.look_at_camera(0, 0, 4.0), jnp.zeros(4), jnp.zeros(3))
