"""Skinning and landmarks: what skinning must and must not move."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_head import synthetic_head

from p4d_jax.head import skinning
from p4d_jax.head.landmarks import eye_centres, landmarks70, mediapipe_landmarks
from p4d_jax.head.model import CANONICAL_JAW, JAW, LEFT_EYE, NECK, WORLD_SCALE
from p4d_jax.head.skinning import canonical_origin, canonical_vertices

head_joints, head_vertices, skin = map(jax.jit, (skinning.head_joints, skinning.head_vertices, skinning.skin))
HEAD = synthetic_head()
ZERO = {"shape": jnp.zeros(6), "expression": jnp.zeros(5), "pose": jnp.zeros(6), "eyes": jnp.zeros(6)}


def test_canonical_mesh_has_its_neck_joint_at_the_origin_and_only_the_jaw_open():
    pose = jnp.zeros(6).at[3].set(CANONICAL_JAW)
    np.testing.assert_allclose(HEAD.origin, canonical_origin(HEAD), atol=1e-7)
    joints = head_joints(HEAD, ZERO["shape"], ZERO["expression"], pose, ZERO["eyes"])
    np.testing.assert_allclose(joints[NECK], 0, atol=1e-6)
    expected = head_vertices(HEAD, ZERO["shape"], ZERO["expression"], pose, ZERO["eyes"])
    np.testing.assert_allclose(canonical_vertices(HEAD), expected, atol=1e-7)
    closed = head_vertices(HEAD, **ZERO)
    np.testing.assert_allclose(closed, (HEAD.template - HEAD.origin) * WORLD_SCALE, atol=1e-6)


def test_an_eye_turns_rigidly_about_its_joint_and_leaves_the_other_alone():
    rigid = HEAD.replace(pose_basis=jnp.zeros_like(HEAD.pose_basis))
    eyes = jnp.array([0.2, -0.3, 0.1, 0, 0, 0])
    rest, turned = head_vertices(rigid, **ZERO), head_vertices(rigid, **{**ZERO, "eyes": eyes})
    joint = head_joints(rigid, **ZERO)[LEFT_EYE]
    left, right = HEAD.regions["left_eyeball"], HEAD.regions["right_eyeball"]
    np.testing.assert_allclose(turned[right], rest[right], atol=1e-6)
    distance = np.linalg.norm(rest[left] - joint, axis=1)
    np.testing.assert_allclose(np.linalg.norm(turned[left] - joint, axis=1), distance, atol=1e-6)
    assert np.abs(turned[left] - rest[left]).max() > 1e-3


def test_joints_are_those_of_the_skinning():
    key = jax.random.split(jax.random.key(3), 4)
    args = [jax.random.normal(k, (n,)) * 0.3 for k, n in zip(key, (6, 5, 6, 6), strict=True)]
    rotations = jnp.concatenate([jnp.zeros(3), args[2], args[3]]).reshape(5, 3)
    expected = (skin(HEAD, args[0], args[1], rotations)[1] - HEAD.origin) * WORLD_SCALE
    np.testing.assert_allclose(head_joints(HEAD, *args), expected, atol=1e-6)


def test_gradients_are_finite_at_rest():
    def height(pose, eyes):
        return head_vertices(HEAD, ZERO["shape"], ZERO["expression"], pose, eyes)[:, 1].sum()

    gradients = jax.jit(jax.grad(height, argnums=(0, 1)))(ZERO["pose"], ZERO["eyes"])
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in gradients)


def test_long_coefficient_vectors_are_cut_and_short_ones_refused():
    long = {**ZERO, "shape": jnp.ones(300).at[:6].set(0), "expression": jnp.ones(100).at[:5].set(0)}
    np.testing.assert_allclose(head_vertices(HEAD, **long), head_vertices(HEAD, **ZERO), atol=1e-7)
    with pytest.raises(ValueError, match=r"shape: expected one vector of at least 6 .*\(4,\)"):
        head_vertices(HEAD, **{**ZERO, "shape": jnp.zeros(4)})
    with pytest.raises(ValueError, match=r"expression: .*vmap"):
        head_vertices(HEAD, **{**ZERO, "expression": jnp.zeros((2, 5))})
    with pytest.raises(ValueError, match=r"pose: .*\(3,\)"):
        head_vertices(HEAD, **{**ZERO, "pose": jnp.zeros(3)})


def test_landmarks_follow_the_mesh_and_the_contour_follows_the_yaw():
    vertices = head_vertices(HEAD, **ZERO)
    at = jax.jit(landmarks70)
    frontal = at(HEAD, vertices, 0.0)
    assert frontal.shape == (70, 3)
    for yaw, row in ((0.4, 39), (-39.0, 0), (25.0, 64), (80.0, 78), (-50.0, 0)):
        triangles = np.asarray(HEAD.contour_triangles[row])
        expected = np.einsum(
            "nka,nk->na", np.asarray(vertices)[triangles], np.asarray(HEAD.contour_barycentric[row])
        )
        found = at(HEAD, vertices, yaw)
        np.testing.assert_allclose(found[:17], expected, atol=1e-6)
        np.testing.assert_allclose(found[17:], frontal[17:], atol=1e-7)
    moved = vertices * 2 + jnp.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(
        at(HEAD, moved, 10.0), at(HEAD, vertices, 10.0) * 2 + jnp.array([1.0, -2.0, 0.5]), atol=1e-5
    )
    assert mediapipe_landmarks(HEAD, vertices).shape == (40, 3)


def test_eye_centres_are_the_middles_of_the_balls_right_first():
    centres = eye_centres(HEAD, HEAD.template)
    np.testing.assert_allclose(centres, [[-0.03, 0.02, 0.075], [0.03, 0.02, 0.075]], atol=1e-6)


def test_missing_embeddings_are_said():
    bare = HEAD.replace(
        landmark_triangles=HEAD.landmark_triangles[:0], mediapipe_indices=HEAD.mediapipe_indices[:0]
    )
    with pytest.raises(ValueError, match="'synthetic' carries no embedding of the 68 landmarks"):
        landmarks70(bare, HEAD.template, 0.0)
    with pytest.raises(ValueError, match="MediaPipe"):
        mediapipe_landmarks(bare, HEAD.template)


def test_the_jaw_moves_the_lips_and_not_the_eyes():
    rest = head_vertices(HEAD, **ZERO)
    opened = head_vertices(HEAD, **{**ZERO, "pose": jnp.zeros(6).at[3].set(0.3)})
    moved = np.linalg.norm(opened - rest, axis=1)
    joints = head_joints(HEAD, **{**ZERO, "pose": jnp.zeros(6).at[3].set(0.3)})
    np.testing.assert_allclose(joints, head_joints(HEAD, **ZERO), atol=1e-6)
    lips = np.asarray(HEAD.regions["lips"])
    weighted = lips[np.asarray(HEAD.skinning_weights)[lips, JAW] > 0.5]
    assert moved[weighted].mean() > 0.01
