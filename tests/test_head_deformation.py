"""Deformation fields: float64 brute force, and what a field must do by its meaning."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_head import sphere, synthetic_head

from p4d_jax.geometry import axis_angle_to_matrix
from p4d_jax.head import deformation as fields
from p4d_jax.head.skinning import canonical_vertices, head_vertices

surface = jax.jit(fields.surface_field)
build = jax.jit(fields.build_neck_field)
apply = jax.jit(fields.apply_neck_field)
move = jax.jit(fields.vertex_field)


def last_of_the_nearest(points, triangles):
    """Squared distance and triangle as PyTorch3D finds them: NumPy float32, each operation rounded."""

    def dot(u, v):
        return u[..., 0] * v[..., 0] + u[..., 1] * v[..., 1] + u[..., 2] * v[..., 2]

    a, b, c = triangles[None, :, 0], triangles[None, :, 1], triangles[None, :, 2]
    p, tiny, best = points[:, None], np.float32(1e-8), None
    for s, t in ((a, b), (a, c), (b, c)):
        along = np.clip(dot(t - s, p - s) / dot(t - s, t - s), 0, 1)
        gap = p - (s + along[..., None] * (t - s))
        best = dot(gap, gap) if best is None else np.minimum(best, dot(gap, gap))
    ab, ac = b - a, c - a
    normal = np.cross(ac, ab)
    length = np.sqrt(dot(normal, normal))
    normal = normal / (length + tiny)[..., None]
    height = dot(a - p, normal)
    foot = p + height[..., None] * normal - a
    gram = dot(ab, ab) * dot(ac, ac) - dot(ab, ac) * dot(ab, ac) + tiny
    v = (dot(ac, ac) * dot(foot, ab) - dot(ab, ac) * dot(foot, ac)) / gram
    w = (dot(ab, ab) * dot(foot, ac) - dot(ab, ac) * dot(foot, ab)) / gram
    over = (np.minimum(np.minimum(v, w), 1 - v - w) >= 0) & (length / 2 >= fields.MIN_TRIANGLE_AREA)
    distance = np.where(over, height * height, best)
    return distance.min(1), len(a[0]) - 1 - np.argmin(distance[:, ::-1], axis=1)


@pytest.mark.parametrize("rings, around", [(8, 12), (14, 20)])
def test_equally_near_triangles_are_chosen_by_the_reference_s_roundings(rings, around):
    """Around a sphere most points have an edge or a vertex nearest, which two or more triangles share."""
    unit, faces = sphere(rings, around)
    vertices = (unit * [0.3, 0.42, 0.35]).astype(np.float32)
    points = np.random.default_rng(3).uniform(-0.6, 0.6, (600, 3)).astype(np.float32)
    distance, triangle = last_of_the_nearest(points, vertices[faces])
    found = surface(points, vertices, vertices, faces)
    np.testing.assert_array_equal(found.squared_distance, distance)
    np.testing.assert_array_equal(found.triangle, triangle)


def test_decimated_vertices_are_weighted_corners():
    rng = np.random.default_rng(4)
    vertices = rng.normal(size=(20, 3)).astype(np.float32)
    triangles = rng.integers(0, 20, (9, 3))
    weights = rng.dirichlet(np.ones(3), 9).astype(np.float32)
    expected = np.einsum("vkc,vk->vc", vertices[triangles].astype(np.float64), weights)
    np.testing.assert_allclose(
        fields.decimate(jnp.asarray(vertices), triangles, weights), expected, atol=1e-6
    )


def nearest_by_edges_and_large_faces(points, triangles):
    """Squared distance to a mesh in float64 where triangles of small area count with their edges only."""
    best = np.full(len(points), np.inf)
    for a, b, c in triangles.astype(np.float64):
        for s, t in ((a, b), (b, c), (c, a)):
            along = np.clip((points - s) @ (t - s) / ((t - s) @ (t - s)), 0, 1)
            best = np.minimum(best, np.square(points - s - along[:, None] * (t - s)).sum(1))
        normal = np.cross(b - a, c - a)
        if np.linalg.norm(normal) / 2 > fields.MIN_TRIANGLE_AREA:
            frame = np.stack([b - a, c - a, normal], 1)
            u, v, h = np.linalg.solve(frame, (points - a).T)
            over = (u >= 0) & (v >= 0) & (u + v <= 1)
            best = np.where(over, np.minimum(best, h**2 * (normal @ normal)), best)
    return best


@pytest.mark.parametrize("scale", [0.02, 0.3])
def test_nearest_distance_is_brute_force(scale):
    """Around triangles below and above the least area that has an inside."""
    rng = np.random.default_rng(5)
    corners = (rng.uniform(-0.5, 0.5, (30, 1, 3)) + scale * rng.normal(size=(30, 3, 3))).astype(np.float32)
    points = rng.uniform(-0.6, 0.6, (200, 3)).astype(np.float32)
    vertices, faces = corners.reshape(-1, 3), np.arange(90, dtype=np.int32).reshape(-1, 3)
    expected = nearest_by_edges_and_large_faces(points.astype(np.float64), corners)
    found = surface(points, vertices, vertices, faces)
    np.testing.assert_allclose(found.squared_distance, expected, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(found.offset, 0, atol=2e-5)  # the same mesh twice moves nothing


def test_a_rigid_motion_of_the_mesh_is_undone_everywhere():
    """The frame of whichever triangle is nearest carries the motion."""
    unit, faces = sphere(8, 10)
    straight = jnp.asarray(unit * [0.3, 0.42, 0.35], jnp.float32)
    rotation = axis_angle_to_matrix(jnp.array([0.2, -0.5, 0.1]))
    shift = jnp.array([0.01, 0.02, -0.03])
    points = jax.random.uniform(jax.random.key(0), (300, 3), minval=-0.6, maxval=0.6)
    found = surface(points @ rotation.T + shift, straight @ rotation.T + shift, straight, faces)
    np.testing.assert_allclose(points @ rotation.T + shift + found.offset, points, atol=2e-5)


def test_grid_reading_is_exact_for_linear_functions_and_zero_outside():
    centres = fields.grid_points(8, 2.0)
    slope, bias = jnp.array([0.3, -0.7, 0.2]), 0.4
    grid = (centres @ slope + bias).reshape(8, 8, 8, 1)
    points = jax.random.uniform(jax.random.key(1), (100, 3), minval=-0.87, maxval=0.87)
    np.testing.assert_allclose(fields.read_grid(grid, points)[:, 0], points @ slope + bias, atol=1e-6)
    outside = jnp.array([[1.2, 0, 0], [0, -1.3, 0.5], [3.0, 3.0, 3.0]])
    np.testing.assert_array_equal(fields.read_grid(grid, outside), 0)


def test_neck_field_straightens_a_turned_head_near_its_surface_and_rests_when_nothing_turns():
    head = synthetic_head()
    zero = {"shape": jnp.zeros(6), "expression": jnp.zeros(5), "eyes": jnp.zeros(6)}
    pose = jnp.zeros(6).at[1].set(0.35)
    posed, straight = (head_vertices(head, pose=p, **zero) for p in (pose, jnp.zeros(6)))
    index = head.decimated_triangles[:, 0]
    field = build(posed[index], straight[index], head.decimated_faces)
    moved = np.linalg.norm(apply(field, posed) - straight, axis=1)
    unmoved = np.linalg.norm(posed - straight, axis=1)
    assert moved.mean() < 0.25 * unmoved.mean()
    rest = build(straight[index], straight[index], head.decimated_faces)
    points = jax.random.uniform(jax.random.key(2), (200, 3), minval=-0.6, maxval=0.6)
    np.testing.assert_allclose(apply(rest, points), points, atol=2e-5)


def reference_vertex_field(points, observed, canonical, neighbours, candidates):
    moved, squared = [], []
    for point in points.astype(np.float64):
        distance = np.square(point - observed[candidates]).sum(1)
        ring = neighbours[candidates[np.argmin(distance)]]
        ring = ring[ring < len(observed)]
        weight = 1 / (np.square(point - observed[ring]).sum(1) + 1e-10)
        moved.append(point + weight @ (canonical - observed)[ring] / weight.sum())
        squared.append(distance.min())
    return np.array(moved), np.array(squared)


def test_vertex_field_is_brute_force():
    head = synthetic_head()
    observed = np.asarray(canonical_vertices(head))
    canonical = observed + 0.05 * np.sin(9 * observed[:, ::-1])
    candidates = np.asarray(head.regions["face"])
    points = np.random.default_rng(7).uniform(-0.4, 0.4, (300, 3)).astype(np.float32)
    neighbours = np.asarray(head.neighbours)
    expected = reference_vertex_field(points, observed, canonical, neighbours, candidates)
    moved, squared = move(points, observed, canonical.astype(np.float32), neighbours, candidates)
    np.testing.assert_allclose(squared, expected[1], atol=1e-6)
    # The point at infinity that pads a ring weighs less than 1e-5 of a vertex half a world unit away.
    np.testing.assert_allclose(moved, expected[0], atol=1e-5)


def test_a_vertex_goes_to_its_own_canonical_place():
    head = synthetic_head()
    canonical = canonical_vertices(head)
    observed = canonical * 1.1 + 0.02
    candidates = jnp.arange(canonical.shape[0])
    moved, squared = move(observed, observed, canonical, head.neighbours, candidates)
    np.testing.assert_allclose(moved, canonical, atol=1e-5)
    np.testing.assert_allclose(squared, 0, atol=1e-10)


def test_no_gradient_flows_and_vmap_is_the_single_one_many_times():
    head = synthetic_head()
    canonical = canonical_vertices(head)
    candidates = head.regions["face"]
    points = jax.random.uniform(jax.random.key(3), (2, 20, 3), minval=-0.4, maxval=0.4)
    observed = jnp.stack([canonical * 1.05, canonical - 0.03])

    def total(points, observed):
        both = jax.vmap(fields.vertex_field, in_axes=(0, 0, None, None, None))(
            points, observed, canonical, head.neighbours, candidates
        )[0]
        return both.sum(), both

    gradients, both = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(points, observed)
    assert all((g == 0).all() for g in gradients)
    for i in range(2):
        single = move(points[i], observed[i], canonical, head.neighbours, candidates)[0]
        np.testing.assert_allclose(both[i], single, atol=1e-6)
