"""Tri-planes against torch, the ray marcher against analysis and float64, sampling, surfaces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p4d_jax.geometry import look_at_camera
from p4d_jax.render import surface, volume
from p4d_jax.render.chosen import map_chosen
from p4d_jax.render.rays import depth_normals, generate_rays
from p4d_jax.render.triplane import sample_planes

# Tri-planes -----------------------------------------------------------------------------------------------


def _torch_sample_planes(planes, points, box_warp):
    """`grid_sample` of the three planes: (3, H, W, C), (P, 3) -> (3, P, C)."""
    scaled = points * (2 / box_warp)
    grid = torch.stack([scaled[:, [0, 1]], scaled[:, [1, 2]], scaled[:, [2, 0]]])[:, None]
    sampled = torch.nn.functional.grid_sample(
        planes.permute(0, 3, 1, 2), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return sampled[:, :, 0].transpose(1, 2)


@pytest.mark.parametrize("box_warp", [1.3, 0.7])
def test_planes_and_their_gradients_agree_with_torch(rng, box_warp):
    planes = rng.standard_normal((3, 5, 7, 4)).astype(np.float32)
    points = rng.uniform(-0.8, 0.8, (200, 3)).astype(np.float32)  # some outside the box, some at its edge
    cotangent = rng.standard_normal((3, 200, 4)).astype(np.float32)

    theirs = [torch.tensor(array, requires_grad=True) for array in (planes, points)]
    expected = _torch_sample_planes(*theirs, box_warp)
    (expected * torch.tensor(cotangent)).sum().backward()

    @jax.jit
    def both(planes, points):
        value, pullback = jax.vjp(lambda *inputs: sample_planes(*inputs, box_warp), planes, points)
        return value, pullback(jnp.asarray(cotangent))

    value, gradients = both(planes, points)
    np.testing.assert_allclose(value, expected.detach(), atol=1e-5)
    for ours, their in zip(gradients, theirs, strict=True):
        np.testing.assert_allclose(ours, their.grad, atol=2e-4)


def test_bad_plane_shapes_are_named():
    with pytest.raises(ValueError, match="planes"):
        sample_planes(jnp.zeros((2, 4, 4, 1)), jnp.zeros((1, 3)))
    with pytest.raises(ValueError, match="points"):
        sample_planes(jnp.zeros((3, 4, 4, 1)), jnp.zeros((1, 2)))


# One ray --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-24, 1e-12, 1e-3])
def test_depth_has_a_finite_gradient_however_little_a_ray_meets(scale):
    depths = jnp.linspace(3.4, 4.6, 9)
    weights = scale * jnp.linspace(0.5, 1.0, 8)
    depth, gradient = jax.jit(jax.value_and_grad(volume.expected_depth))(weights, depths)
    assert 3.4 <= depth <= 4.6 and jnp.isfinite(gradient).all()
    assert bool((gradient != 0).any()) == (scale == 1e-3)


march = jax.jit(volume.march_rays)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 60.0))
def test_weights_and_transmittance_share_one(seed, scale):
    rng = np.random.default_rng(seed)
    depths = np.sort(rng.uniform(3.3, 4.7, 16)).astype(np.float32)
    densities = (rng.standard_normal(16) * scale).astype(np.float32)
    result = march(densities, np.ones((16, 2), np.float32), depths)
    assert (result.weights >= 0).all()
    assert result.weights.sum() + result.transmittance == pytest.approx(1, abs=2e-6)
    assert 0 <= result.transmittance <= 1
    assert depths[0] <= result.depth <= depths[-1]
    np.testing.assert_allclose(result.features, 1 - result.transmittance, atol=2e-6)


@pytest.mark.parametrize("density", [0.5, 3.0, 20.0])
def test_a_slab_of_constant_density_obeys_beer_and_lambert(density):
    depths = jnp.linspace(3.5, 4.5, 400)
    raw = np.log(np.expm1(density)) + 1  # softplus(raw - 1) = density
    result = march(jnp.full(400, raw, jnp.float32), jnp.ones((400, 1)), depths)
    assert result.transmittance == pytest.approx(np.exp(-density), abs=2e-5)
    ends = 3.5 + 1 / density - np.exp(-density) / (1 - np.exp(-density))
    assert result.depth == pytest.approx(ends, abs=1e-3)


def test_an_empty_ray_is_background_with_finite_gradients():
    depths = jnp.linspace(3.5, 4.5, 8)
    features = jnp.ones((8, 2))
    result = march(jnp.full(8, -1e4), features, depths)
    assert result.transmittance == 1
    assert result.depth == depths[-1]
    gradient = jax.grad(lambda d: (lambda m: m.depth + m.features.sum())(march(d, features, depths)))
    assert np.isfinite(gradient(jnp.full(8, -1e4))).all()


def _march_in_float64(densities, features, depths):
    middle = 0.5 * (densities[1:] + densities[:-1]) - 1
    alpha = 1 - np.exp(-np.logaddexp(middle, 0) * np.diff(depths))
    weights = alpha * np.cumprod(np.concatenate([[1], 1 - alpha[:-1] + 1e-10]))
    depth = (weights * 0.5 * (depths[1:] + depths[:-1])).sum() / weights.sum()
    return (weights @ (0.5 * (features[1:] + features[:-1]))).sum() + depth + 2 * (1 - weights.sum())


def test_march_gradients_are_those_of_finite_differences(rng):
    densities, features = rng.standard_normal(9) * 3 + 3, rng.standard_normal((9, 3))
    depths = np.sort(rng.uniform(3.5, 4.5, 9))

    def ours(densities, features):
        result = volume.march_rays(densities, features, jnp.asarray(depths, jnp.float32))
        return result.features.sum() + result.depth + 2 * result.transmittance

    gradients = jax.jit(jax.grad(ours, (0, 1)))(
        jnp.asarray(densities, jnp.float32), jnp.asarray(features, jnp.float32)
    )
    for index, array in enumerate((densities, features)):
        finite = np.zeros_like(array)
        for position in np.ndindex(array.shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = [densities.copy(), features.copy()]
                moved[index][position] += step
                ends.append(_march_in_float64(*moved, depths))
            finite[position] = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(gradients[index], finite, atol=1e-4)


# Sampling -------------------------------------------------------------------------------------------------

invert_cdf = jax.jit(volume.invert_cdf)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_inverse_cdf_is_the_inverse(seed):
    rng = np.random.default_rng(seed)
    # Bins a thousandth wide at least: back from t to u, a bin as wide as t's rounding would tell nothing.
    edges = (3.3 + np.cumsum(rng.uniform(1e-3, 0.2, 13))).astype(np.float32)
    weights = rng.uniform(0.01, 1, 12).astype(np.float32)
    u = np.sort(rng.uniform(0, 1, 50)).astype(np.float32)
    t = np.asarray(invert_cdf(u, edges, weights))
    assert (np.diff(t) >= -1e-6).all()
    assert edges[0] - 1e-6 <= t[0] and t[-1] <= edges[-1] + 1e-6
    # Forwards again: the cumulative distribution in float64.
    mass = (weights + 1e-5).astype(np.float64)
    cdf = np.concatenate([[0], np.cumsum(mass / mass.sum())])
    np.testing.assert_allclose(np.interp(t, edges, cdf), u, atol=2e-3)
    np.testing.assert_allclose(t, np.interp(u, cdf, edges.astype(np.float64)), atol=2e-5)


def test_stratified_depths_stay_in_their_steps(key):
    depths = volume.stratified_depths(3.35, 4.65, jax.random.uniform(key, (48,)))
    ladder = np.linspace(3.35, 4.65, 48)
    assert (depths >= ladder - 1e-5).all()
    assert (depths <= ladder + 1.3 / 47 + 1e-5).all()


def test_importance_samples_gather_at_the_surface():
    depths = jnp.linspace(3.5, 4.5, 48)
    densities = jnp.where(depths > 4.0, 200.0, -20.0)
    weights = volume.compute_alpha_weights(volume.interval_optical_depths(densities, depths))
    fine = volume.importance_depths(depths, weights, (jnp.arange(48) + 0.5) / 48)
    assert jnp.mean(jnp.abs(fine - 4.0) < 0.07) > 0.5
    assert jax.grad(lambda w: volume.importance_depths(depths, w, jnp.array([0.3, 0.6])).sum())(
        weights
    ).max() == pytest.approx(0)


# Many rays ------------------------------------------------------------------------------------------------

RADIUS = 0.3
GROWTH = 400.0
# A ray towards the centre has passed the optical depth GROWTH s^2 / 2 at s behind the surface: its mean s is
DEPTH_INSIDE = np.sqrt(np.pi / (2 * GROWTH))


def _ball(points):
    """A ball about the origin whose density grows inwards, coloured by position."""
    distance = jnp.linalg.norm(points, axis=-1, keepdims=True)
    return GROWTH * (RADIUS - distance), points + 0.5


def short_list(length):
    return st.lists(st.integers(0, 9), min_size=length, max_size=length)


@settings(deadline=None)
@given(short_list(5), short_list(4))
def test_two_ascending_lists_are_merged_as_a_stable_sort_would(first, second):
    first, second = (np.sort(np.asarray(x, np.float32)) for x in (first, second))
    order, rank = volume.merge_ascending(first, second)
    np.testing.assert_array_equal(order, np.argsort(np.concatenate([first, second]), kind="stable"))
    np.testing.assert_array_equal(np.asarray(order)[np.asarray(rank)], np.arange(9))


def test_normals_of_a_balls_depth_point_away_from_its_centre():
    camera = look_at_camera(0.4, 0.2, 4.0)
    origins, directions = (np.asarray(x, np.float64) for x in generate_rays(camera, 64))
    middle = -(origins * directions).sum(-1)
    inside = RADIUS**2 - ((origins + middle[:, None] * directions) ** 2).sum(-1)
    depth = middle - np.sqrt(np.maximum(inside, 0))
    normals = np.asarray(depth_normals(camera, jnp.asarray(depth.reshape(64, 64), jnp.float32)))
    outward = (origins + depth[:, None] * directions) @ np.asarray(camera.cam2world)[:3, :3] / RADIUS
    seen = (inside > 0.3 * RADIUS**2).reshape(64, 64)  # differences do not reach over the edge
    assert seen.sum() > 100
    cosines = (normals * outward.reshape(64, 64, 3)).sum(-1)[seen]
    assert np.degrees(np.arccos(np.clip(cosines, -1, 1))).max() < 3


@pytest.mark.parametrize("fine_samples", [0, 24])
@pytest.mark.parametrize("seed", [None, 3])
def test_a_ball_is_seen_where_it_is(fine_samples, seed):
    camera = look_at_camera(0.4, 0.2, 4.0)
    key = None if seed is None else jax.random.key(seed)
    render = jax.jit(
        lambda key: volume.render_image(
            _ball, camera, 17, coarse_samples=24, fine_samples=fine_samples, key=key
        )
    )
    image = render(key)
    centre = 8
    assert image.features.shape == (17, 17, 3)
    assert image.transmittance[centre, centre, 0] < 1e-3
    assert image.transmittance[0, 0, 0] > 0.999
    tolerance = 0.02 if fine_samples == 0 else 0.005
    assert image.depth[centre, centre, 0] == pytest.approx(4 - RADIUS + DEPTH_INSIDE, abs=tolerance)
    end = (RADIUS - DEPTH_INSIDE) * camera.cam2world[:3, 3] / 4
    np.testing.assert_allclose(image.features[centre, centre], end + 0.5, atol=tolerance)
    if seed is None:
        assert (render(None).features == image.features).all()


def test_chosen_rows_are_computed_in_blocks_and_the_others_are_zero(rng):
    values, offsets = rng.standard_normal((24, 3)).astype(np.float32), np.arange(24.0, dtype=np.float32)
    rows = jax.device_put((values, offsets))
    function = lambda x, offset: {"sum": x.sum(-1) + offset, "twice": 2 * x}
    run = jax.jit(lambda chosen: map_chosen(function, chosen, rows, 4))
    for count in (0, 1, 6, 7, 24):
        chosen = np.isin(np.arange(24), rng.permutation(24)[:count])
        out = run(chosen)
        np.testing.assert_allclose(out["sum"], chosen * (values.sum(-1) + offsets), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(out["twice"], chosen[:, None] * 2 * values)
    with pytest.raises(ValueError, match="parts"):
        map_chosen(function, chosen, rows, 5)


def test_rays_without_a_second_pass_are_empty_and_the_others_as_ever():
    camera = look_at_camera(0.2, 0.1, 4.0)
    near, far = volume.depth_range(camera)

    @jax.jit
    def both():
        rays = generate_rays(camera, 12)
        march = lambda **more: volume.render_rays(
            _ball, *rays, near=near, far=far, coarse_samples=12, fine_samples=6, **more
        )
        return march(), march(choose=lambda opacity: opacity > 1e-3, parts=4)

    plain, chosen = both()
    shown = np.asarray(plain.transmittance[:, 0] < 0.99)
    assert 0.1 < shown.mean() < 0.9
    for name in ("features", "depth", "transmittance"):
        np.testing.assert_allclose(getattr(chosen, name)[shown], getattr(plain, name)[shown], atol=1e-6)
    empty = np.asarray(chosen.transmittance[:, 0] == 1.0)
    assert empty.any() and np.asarray(plain.transmittance[:, 0])[empty].min() > 0.99
    np.testing.assert_array_equal(chosen.features[empty], 0.0)


def test_merging_by_sorted_scalars_equals_marching_sorted_samples(rng):
    """The reference sorts features as well; ours leaves them where they are."""
    make = lambda: (
        jnp.asarray(rng.standard_normal(12) * 5, jnp.float32),
        jnp.asarray(rng.standard_normal((12, 4)), jnp.float32),
        jnp.asarray(np.sort(rng.uniform(3.4, 4.6, 12)), jnp.float32),
    )
    coarse, fine = make(), make()
    densities, features, depths = (np.concatenate(pair) for pair in zip(coarse, fine, strict=True))
    order = np.argsort(depths)
    expected = march(densities[order], features[order], depths[order])
    merged = jax.jit(volume._merge_and_march)(volume.Samples(*coarse), volume.Samples(*fine))
    np.testing.assert_allclose(merged.features, expected.features, atol=2e-6)
    np.testing.assert_allclose(merged.depth, expected.depth, atol=2e-6)
    np.testing.assert_allclose(merged.weights, expected.weights, atol=1e-6)


def test_distortion_is_the_double_sum_of_its_paper(rng):
    depths = np.sort(rng.uniform(3.4, 4.6, 14))
    weights = rng.dirichlet(np.ones(14))[:13]
    middle = (depths[1:] + depths[:-1]) / 2
    apart = np.abs(middle[:, None] - middle[None])
    expected = weights @ apart @ weights + (weights**2 @ np.diff(depths)) / 3
    single = lambda x: jnp.asarray(x, jnp.float32)
    march = volume.March(single(0), single(0), single(0), single(weights), single(depths))
    np.testing.assert_allclose(volume.distortion(march), expected, rtol=1e-4)


def test_the_depth_range_holds_the_box_seen_frontally():
    near, far = volume.depth_range(look_at_camera(0.0, 0.0, 4.2), 1.3)
    assert near == pytest.approx(4.2 - 0.65, abs=1e-5)
    assert far == pytest.approx(4.2 + 0.65, abs=1e-5)


def test_too_few_samples_are_named():
    with pytest.raises(ValueError, match="coarse_samples"):
        volume.render_image(_ball, look_at_camera(0.0, 0.0, 4.0), 4, coarse_samples=3, fine_samples=4)


# Surfaces -------------------------------------------------------------------------------------------------


def test_the_mesh_of_a_ball_is_closed_coloured_and_turned_outwards():
    mesh = surface.extract_mesh(_ball, resolution=32, level=0.0)
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), RADIUS, atol=3e-3)
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    inside = np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
    assert inside == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.02)
    edges = np.sort(mesh.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
    np.testing.assert_allclose(mesh.colors / 255, mesh.vertices + 0.5, atol=0.003)


def test_small_parts_are_dropped_and_the_box_is_closed():
    axis = np.linspace(-0.65, 0.65, 24)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    column = 0.2 - np.hypot(x, z)  # runs through the floor and the ceiling of the box
    speck = 0.08 - np.sqrt((x - 0.5) ** 2 + (y - 0.5) ** 2 + (z - 0.5) ** 2)
    vertices, faces = surface.marching_cubes(np.maximum(column, speck), 0.0)
    assert np.hypot(vertices[:, 0], vertices[:, 2]).max() < 0.25
    assert np.abs(vertices[:, 1]).max() == pytest.approx(0.65, abs=1e-5)
    edges = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()


def test_a_level_without_surface_is_named():
    with pytest.raises(ValueError, match="level"):
        surface.marching_cubes(np.zeros((4, 4, 4)), 10.0)


def test_ply_files_hold_the_mesh(tmp_path):
    mesh = surface.Mesh(
        vertices=np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.5]], np.float32),
        faces=np.array([[0, 2, 1], [0, 1, 3]], np.int32),
        colors=np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [7, 8, 9]], np.uint8),
    )
    path = tmp_path / "mesh.ply"
    surface.write_ply(path, mesh)
    header, body = path.read_bytes().split(b"end_header\n", 1)
    assert header.startswith(b"ply\nformat binary_little_endian 1.0\n")
    assert b"element vertex 4\n" in header and b"element face 2\n" in header
    assert len(body) == 4 * (12 + 3) + 2 * (1 + 12)
    assert np.frombuffer(body[45:57], "<f4").tolist() == [0, 0, 1.5]
    assert list(body[57:60]) == [7, 8, 9]
    assert body[60] == 3
    assert np.frombuffer(body[61:73], "<i4").tolist() == [0, 2, 1]
