"""The motion of the posed mesh and of what stands off it, to the canonical frame."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from p4d_jax import assets
from p4d_jax.geometry import axis_angle_to_matrix, look_at_camera, project
from p4d_jax.head.expression_field import (
    ExpressionField,
    apply_expression_field,
    build_canonical_frame,
    build_expression_field,
    surface_on_rays,
)
from p4d_jax.head.model import NECK
from p4d_jax.head.skinning import head_joints, head_vertices
from p4d_jax.reconstructor.texture import build_source_texture, in_the_photo
from p4d_jax.render.raster import Raster
from p4d_jax.render.rays import generate_rays, rays_through


@jax.jit
def seen_at(field: ExpressionField, points: jax.Array) -> list[jax.Array]:
    """`RaySurface.at` points (P, 3), each on a ray of its own."""
    return [x[:, 0] for x in surface_on_rays(field, points).at(points[:, None])]


def test_the_surface_is_seen_between_its_own_pixels(rng):
    size, camera = 16, look_at_camera(0.0, 0.0, 4.0)
    origins, directions = generate_rays(camera, size)
    plane = (-4.0 / directions[:, 2]).reshape(size, size)  # the depth of z = 0
    u = jnp.tile((jnp.arange(size) + 0.5) / size, (size, 1))
    motion = jnp.stack([u, u.T, 0 * u, 0 * u], axis=-1)
    nothing = jnp.zeros((1, 3)), jnp.zeros((1, 4)), jnp.eye(3), jnp.zeros((size, size, 4))
    raster_of = lambda depth: Raster(depth > 0, depth, *jnp.zeros((3, size, size, 3)))
    whole = ExpressionField(camera, raster_of(plane), motion, *nothing)
    place = rng.uniform(1 / size, 1 - 1 / size, (50, 2)).astype(np.float32)
    origins, directions = rays_through(camera, jnp.asarray(place))
    points = origins - 4.0 / directions[:, 2:] * directions
    gap, near, seen = seen_at(whole, points)
    np.testing.assert_allclose(seen[:, :2], place, atol=2e-3)  # varies linearly, so exact between pixels
    np.testing.assert_allclose(gap, 0.0, atol=1e-3)
    assert np.all(near > 0.99)
    # Half of it is missing, or hidden by what is far in front: a point beside the edge sees its own surface.
    missing = u < 0.5
    for depth in (0.0, 3.0):
        half = ExpressionField(
            camera,
            raster_of(jnp.where(missing, depth, plane)),
            jnp.where(missing[..., None], 9.0, motion),
            *nothing,
        )
        gap, near, seen = seen_at(half, points)
        own, lost = place[:, 0] > 0.5 - 0.4 / size, place[:, 0] < 0.5 - 0.6 / size
        assert np.all(near[own] > 0.99) and np.all(np.asarray(near)[lost] < 1e-3)
        assert np.all(np.asarray(seen)[own, 0] < 1.0)
        np.testing.assert_allclose(gap[own], 0.0, atol=5e-3)


def test_what_stands_off_the_mesh_turns_with_the_neck():
    head = assets.head_model("openhead")
    frame = build_canonical_frame(head, 64)
    camera, neck = look_at_camera(0.0, 0.0, 4.0), jnp.array([0.1, 0.3, -0.05])
    pose = jnp.zeros(6).at[:3].set(neck)
    still = (jnp.zeros(300), jnp.zeros(100))

    @jax.jit
    def found(pose, points):
        posed = head_vertices(head, *still, pose, jnp.zeros(6))
        field = build_expression_field(frame, posed, pose[:3], camera, 64)
        texture = build_source_texture(jnp.zeros((8, 8, 3)), frame, posed, pose[:3], camera)
        canonical = apply_expression_field(field, points[:, None])[:, 0]
        return canonical, in_the_photo(texture, canonical)

    # A shell of hair, 0.1 outside the back and the sides of the head.
    up = np.asarray(head_vertices(head, *still, jnp.zeros(6), jnp.zeros(6)))
    middle = up[np.asarray(head.regions["face"])].mean(0) * np.array([1, 1, 0])
    hair = up[(up[:, 1] > middle[1]) & (up[:, 2] < 0.05)]
    hair = hair + 0.1 * (hair - middle) / np.linalg.norm(hair - middle, axis=1, keepdims=True)
    joint = head_joints(head, *still, pose, jnp.zeros(6))[NECK]
    turned = (hair - joint) @ axis_angle_to_matrix(neck).T + joint
    assert np.quantile(np.linalg.norm(turned - hair, axis=1), 0.5) > 0.08
    straight, there = found(jnp.zeros(6), hair)
    canonical, back = found(pose, turned)
    assert np.quantile(np.linalg.norm(canonical - straight, axis=1), 0.9) < 0.02
    for points, image in ((hair, there), (turned, back)):
        assert np.quantile(np.linalg.norm(points - image, axis=1), 0.9) < 0.02


def test_a_view_tells_eyes_with_their_gaze_and_the_mouths_inside():
    head, size = assets.head_model("openhead"), 256
    frame, camera = build_canonical_frame(head, 64), look_at_camera(0.0, 0.0, 3.0)
    build = jax.jit(lambda posed: build_expression_field(frame, posed, jnp.zeros(3), camera, size).parts)
    pose = jnp.zeros(6).at[3].set(0.3)
    nothing, pixels = (jnp.zeros(300), jnp.zeros(100)), np.moveaxis(np.mgrid[:size, :size], 0, -1)[..., ::-1]
    pupils = {}
    for gaze in (0.0, 0.3):
        posed = jax.jit(head_vertices)(head, *nothing, pose, jnp.tile(jnp.array([0.0, gaze, 0.0]), 2))
        parts = np.asarray(build(posed))
        assert parts.min() > -0.01 and parts[..., (0, 2, 3)].sum(-1).max() < 1.01
        assert np.all(parts[..., 1] < parts[..., 0] + 0.01)
        place = lambda region: np.asarray(project(camera, posed[head.regions[region]])[0]) * size  # noqa: B023
        eye = place("left_eyeball").mean(0)
        near = np.linalg.norm(pixels + 0.5 - eye, axis=-1) < 0.1 * size
        assert (parts[near][:, 0] > 0.99).sum() > 5
        weight = np.maximum(parts[..., 1] - 0.5, 0) * near
        pupils[gaze] = (weight[..., None] * (pixels + 0.5)).sum((0, 1)) / weight.sum() - eye
        # Lips part, and between them are teeth and the mouth's inside; no part of either is elsewhere.
        inside = parts[..., 2] + parts[..., 3] > 0.5
        low, high = place("lips").min(0) - 1, place("lips").max(0) + 1
        assert inside.sum() > 20 and np.all((pixels[inside] >= low) & (pixels[inside] <= high))
        assert parts[..., 2].max() > 0.5
        np.testing.assert_array_equal(parts[tuple(np.floor(place("scalp").mean(0)).astype(int)[::-1])], 0)
    assert np.abs(pupils[0.0]).max() < 1.5  # pixels
    assert 1.5 < pupils[0.3][0] - pupils[0.0][0] < 8


def test_points_well_behind_the_mesh_are_in_the_head_and_those_before_or_beside_it_are_not():
    head = assets.head_model("openhead")
    frame = build_canonical_frame(head, 64)
    camera = look_at_camera(0.3, 0.1, 4.0)
    field = jax.jit(build_expression_field, static_argnums=4)(
        frame, frame.vertices, jnp.zeros(3), camera, 128
    )
    depth = np.asarray(field.raster.depth)
    row, column = np.nonzero(ndimage.binary_erosion(depth > 0, iterations=3))
    steep = ndimage.maximum_filter(depth, 3) - ndimage.minimum_filter(depth, 3)
    flat = steep[row, column] < 0.02
    origins, directions = (np.asarray(x).reshape(128, 128, 3) for x in generate_rays(camera, 128))
    at = lambda row, column, distance: jnp.asarray(
        origins[row, column] + distance[:, None] * directions[row, column]
    )
    inside = jax.jit(lambda field, points: surface_on_rays(field, points).inside(points[:, None])[:, 0])
    surface = depth[row, column]
    np.testing.assert_allclose(inside(field, at(row, column, surface + 0.1))[flat], 1.0, atol=1e-5)
    np.testing.assert_array_equal(inside(field, at(row, column, surface - 0.005)), 0.0)
    row, column = np.nonzero(~ndimage.binary_dilation(depth > 0, iterations=2))
    np.testing.assert_array_equal(inside(field, at(row, column, np.full(len(row), 4.2))), 0.0)
