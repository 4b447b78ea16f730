"""The part-wise head: masks of an embedded head's view, fusion against float64, whole views and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p4d_jax import assets
from p4d_jax.genhead import parts as part_fusion
from p4d_jax.genhead import view as views
from p4d_jax.genhead.config import GenHeadConfig
from p4d_jax.genhead.model import GenHead
from p4d_jax.geometry import look_at_camera, project
from p4d_jax.nn.stylegan2 import blur2d
from p4d_jax.types import FrameParams

CONFIG = GenHeadConfig(
    latent_size=4, style_size=4, shape_size=5, plane_size=8, plane_channels=4, channel_base=32,
    channel_max=8, background_size=4, background_mapping_layers=1, background_channel_base=16,
    background_channel_max=4, decoder_hidden=8, feature_channels=5, superresolution_size=32,
    superresolution_channels=(4,),
)  # fmt: skip
SIZE = 64

pose = jax.jit(part_fusion.pose_parts)
masks_of = jax.jit(part_fusion.rasterize_part_masks, static_argnums=3)
map_of = jax.jit(part_fusion.correspondence_map, static_argnums=3)


@pytest.fixture(scope="module")
def head():
    return assets.head_model()


@pytest.fixture(scope="module")
def parts(head):
    return part_fusion.build_head_parts(head)


def frame(head, camera, jaw=0.0, **actions) -> FrameParams:
    """A frame with the named expression components, the jaw open by `jaw` radians and a bent neck."""
    expression = np.zeros(100, np.float32)
    for name, value in actions.items():
        expression[head.expression_names.index(name)] = value
    bent = jnp.array([0.1, 0.2, 0, jaw, 0, 0], jnp.float32)
    return FrameParams(camera, jnp.zeros(300), jnp.asarray(expression), bent, jnp.zeros(6))


FRONT = look_at_camera(0.2, 0.1, 4.0, pivot=(0, 0, 0.09))


@pytest.fixture(scope="module")
def talking(head):
    return pose(head, jnp.zeros(300), frame(head, FRONT, jaw=0.36, jawOpen=1.0))


# Masks ----------------------------------------------------------------------------------------------------


def test_masks_show_open_eyes_and_an_open_mouth(head, parts, talking):
    still = pose(head, jnp.zeros(300), frame(head, FRONT))
    asleep = pose(head, jnp.zeros(300), frame(head, FRONT, eyeBlinkLeft=1.0, eyeBlinkRight=1.0))
    area = lambda mask: float(mask.sum()) / SIZE**2
    open_mouth, shut = (masks_of(parts, posed, FRONT, SIZE) for posed in (talking, still))
    closed = masks_of(parts, asleep, FRONT, SIZE)
    assert area(open_mouth.mouth) > 5e-3 > 10 * area(shut.mouth)
    assert 8e-3 > area(shut.eye) > 2e-3 > 4 * area(closed.eye)
    np.testing.assert_array_equal(open_mouth.eye * open_mouth.mouth, 0)

    for mask, regions in ((open_mouth.eye, ("left_eyeball", "right_eyeball")), (open_mouth.mouth, ("lips",))):
        chosen = np.concatenate([np.asarray(head.regions[name]) for name in regions])
        uv = np.asarray(project(FRONT, talking.full[chosen])[0])
        rows, columns = np.nonzero(np.asarray(mask))
        place = (np.stack([columns, rows], -1) + 0.5) / SIZE
        margin = 1 / SIZE
        assert (place >= uv.min(0) - margin).all() and (place <= uv.max(0) + margin).all()


def test_the_head_branch_follows_all_but_eyes_and_cavity(head, parts):
    chosen = set(np.asarray(parts.head_vertices).tolist())
    left_out = set(range(len(head.template))) - chosen
    eyes = {
        *np.asarray(head.regions["left_eyeball"]).tolist(),
        *np.asarray(head.regions["right_eyeball"]).tolist(),
    }
    assert left_out == eyes | set(np.asarray(head.regions["inner_mouth"]).tolist())
    flame_like = head.replace(
        regions={name: head.regions[name] for name in head.regions if name not in ("inner_mouth", "front")}
    )
    other = part_fusion.build_head_parts(flame_like)
    assert set(np.asarray(other.head_vertices).tolist()) == set(range(len(head.template))) - eyes
    assert int(other.backdrop.min()) >= len(head.template)  # without a cavity: the decimated mesh
    assert int(other.backdrop.max()) < len(head.template) + len(head.decimated_triangles)


def test_masks_resized_and_softened_stay_masks(parts, talking):
    masks = masks_of(parts, talking, FRONT, 128)
    small = part_fusion.resize_masks(masks, 16)
    soft = part_fusion.soften_masks(masks)
    for name in ("eye", "mouth"):
        full, low, high = (getattr(one, name) for one in (masks, small, soft))
        assert low.shape == (16, 16) and high.shape == (128, 128)
        assert low.min() >= 0 and low.max() <= 1 and high.min() >= -1e-6 and high.max() <= 1 + 1e-6
        np.testing.assert_allclose(low.mean(), full.mean(), rtol=0.02)
    np.testing.assert_allclose(soft.eye.sum(), masks.eye.sum(), rtol=1e-4)


def test_specks_vanish_from_the_soft_mouth_where_a_coarse_mask_does_not_see_them():
    mouth = np.zeros((64, 64), np.float32)
    mouth[20:40, 20:40], mouth[50, 5] = 1, 1
    soft = part_fusion.soften_masks(part_fusion.PartMasks(jnp.asarray(mouth), jnp.asarray(mouth))).mouth
    # At 64 pixels the coarse mask is the mask itself: the sum, at most one.
    assert soft[50, 5] == 1 and soft[50, 7] == 0
    distance = np.maximum(np.abs(np.arange(64) - 29.5) - 9.5, 0)
    assert (
        soft[distance[:, None] + distance[None] > 14] <= mouth[distance[:, None] + distance[None] > 14]
    ).all()
    assert soft[18, 30] > 0.1


def test_blur_is_a_normalised_bell(rng):
    image = np.zeros((21, 21, 1), np.float32)
    image[10, 10] = 1
    blurred = np.asarray(blur2d(jnp.asarray(image), 2.0))[..., 0]
    offset = np.arange(-10, 11)
    bell = np.where(np.abs(offset) <= 6, 2.0 ** -((offset / 2.0) ** 2), 0)
    np.testing.assert_allclose(blurred, np.outer(bell, bell) / bell.sum() ** 2, atol=1e-7)
    flat = rng.standard_normal((5, 6, 2)).astype(np.float32)
    np.testing.assert_array_equal(blur2d(jnp.asarray(flat), 0.2), flat)


def test_correspondence_map_holds_canonical_coordinates(head, parts, talking):
    image = np.asarray(map_of(parts, talking, FRONT, 256))
    tip = np.asarray(head.landmark_triangles[30])
    weights = np.asarray(head.landmark_barycentric[30])
    uv = np.asarray(project(FRONT, jnp.asarray(weights @ np.asarray(talking.full)[tip]))[0])
    column, row = np.floor(uv * 256).astype(int)
    np.testing.assert_allclose(
        image[row, column], weights @ np.asarray(parts.canonical)[tip] / 0.6, atol=0.03
    )

    eye = np.asarray(masks_of(parts, talking, FRONT, 256).eye) > 0
    left = np.asarray(head.regions["left_eyeball"])
    spots = eye & (image[..., 0] > 0)  # the subject's left is +x
    middle = np.asarray(parts.canonical)[left].mean(0) / 0.6
    assert np.abs(image[spots][:, :2].mean(0) - middle[:2]).max() < 0.05
    assert 0.3 < middle[2] - image[spots][:, 2].mean() < 0.5  # lowered by 0.5, seen from the front
    np.testing.assert_array_equal(image[np.abs(image).sum(-1) == 0], 0)


# Fusion ---------------------------------------------------------------------------------------------------


def branches(rng, points=50):
    draw = lambda *shape: rng.standard_normal(shape)
    part, rest = (draw(points, 1) * 5, draw(points, 4)), (draw(points, 1) * 5, draw(points, 4))
    eye, mouth = rng.uniform(size=(2, points, 1)) * (rng.uniform(size=(2, points, 1)) < 0.5)
    return part, rest, eye, mouth * (eye == 0), (rng.uniform(size=(points, 1)) < 0.5).astype(float)


def float64_fusion(part, rest, eye, mouth, box, by_density):
    """Point by point, in words of the paper: whose the point is, and what both have there."""
    densities, features = [], []
    for k in range(len(eye)):
        own = part[0][k] * (box[k] + mouth[k])
        share = (eye[k] if box[k] else 0) + mouth[k]
        density, feature = (
            own * share + rest[0][k] * (1 - share),
            part[1][k] * share + rest[1][k] * (1 - share),
        )
        if by_density and mouth[k] > 0:
            weights = np.exp([own[0], rest[0][k, 0]] - np.maximum(own[0], rest[0][k, 0]))
            density = own + rest[0][k]
            feature = (weights[0] * part[1][k] + weights[1] * rest[1][k]) / weights.sum()
        densities.append(density), features.append(feature)
    return np.stack(densities), np.stack(features)


@pytest.mark.parametrize("by_density", [False, True])
def test_fusion_agrees_with_float64_point_by_point(rng, by_density):
    part, rest, eye, mouth, box = branches(rng)
    expected = float64_fusion(part, rest, eye, mouth, box, by_density)
    part, rest, eye, mouth, box = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float32), (part, rest, eye, mouth, box)
    )
    at = part_fusion.PointMasks(eye, mouth, box)
    fuse = part_fusion.fuse_by_density if by_density else part_fusion.fuse_by_masks
    ours = fuse((part_fusion.gate_part_density(part[0], at), part[1]), rest, at)
    for mine, theirs in zip(ours, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("fuse", [part_fusion.fuse_by_masks, part_fusion.fuse_by_density])
def test_fusion_at_its_limits(rng, fuse):
    part, rest, *_ = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), branches(rng))
    nought, one = jnp.zeros((50, 1)), jnp.ones((50, 1))
    none = fuse(part, rest, part_fusion.PointMasks(nought, nought, one))
    outside = fuse(part, rest, part_fusion.PointMasks(one, nought, nought))
    eyes = fuse(part, rest, part_fusion.PointMasks(one, nought, one))
    for k in range(2):
        np.testing.assert_array_equal(none[k], rest[k])
        np.testing.assert_array_equal(outside[k], rest[k])  # an eye mask counts inside the eye boxes only
        np.testing.assert_array_equal(eyes[k], part[k])
    mouth = part_fusion.PointMasks(nought, one, nought)
    if fuse is part_fusion.fuse_by_masks:
        for k in range(2):
            np.testing.assert_array_equal(fuse(part, rest, mouth)[k], part[k])
    else:  # the denser branch takes all, equal ones half each
        for difference, weight in ((60.0, 1.0), (0.0, 0.5), (-60.0, 0.0)):
            density, features = fuse((rest[0] + difference, part[1]), rest, mouth)
            np.testing.assert_allclose(density, 2 * rest[0] + difference, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(features, weight * part[1] + (1 - weight) * rest[1], atol=1e-6)


# Views ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generated():
    """A small GenHead with full and empty places, its variables, tri-planes and background."""
    generator, genhead = np.random.default_rng(2), GenHead(CONFIG)
    inputs = (jnp.zeros((1, 4)), jnp.zeros((1, 25)), jnp.zeros((1, 5)))
    shapes = jax.eval_shape(genhead.init, jax.random.key(0), *inputs)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(generator.standard_normal(leaf.shape), jnp.float32), shapes
    )
    density = variables["params"]["decoder"]["density"]
    density["weight"] = 20 * (density["weight"] - density["weight"].mean())
    planes = jnp.asarray(generator.standard_normal((2, 3, 8, 8, 4)), jnp.float32)
    background = jnp.asarray(generator.uniform(size=(4, 4, 5)), jnp.float32)
    return genhead, variables, planes, background


def test_a_view_is_complete(head, parts, talking, generated):
    genhead, variables, _, background = generated
    frame_of = (head, parts, talking, FRONT)

    def render(planes):
        return views.render_genhead(
            genhead, variables, planes, background, *frame_of, resolution=16, samples=(4, 4)
        )

    view = render(generated[2])
    assert view.image_sr.shape == (SIZE, SIZE, 3) and view.correspondence.shape == (SIZE, SIZE, 3)
    assert view.image.shape == (16, 16, 3) and view.features.shape == view.background.shape == (16, 16, 5)
    assert view.depth.shape == view.opacity.shape == view.masks.eye.shape == (16, 16)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(view))
    assert view.opacity.min() >= 0 and view.opacity.max() <= 1 and float(view.opacity.std()) > 0.05
    shown = views.discriminator_input(jax.tree.map(lambda leaf: leaf[None], view))
    np.testing.assert_allclose(shown.segmentation[0, ..., 0], 2 * view.opacity - 1)
    assert shown.image.shape == (1, SIZE, SIZE, 3) and shown.raw.shape == (1, 16, 16, 3)

    # T_p changes nothing but the rays of its masks.
    other = render(generated[2].at[0].add(1.0))
    changed = jnp.abs(other.image - view.image).max(-1) > 0
    masked = (view.masks.eye > 0) | (view.masks.mouth > 0)
    assert changed.any() and not (changed & ~masked).any()
    np.testing.assert_allclose(view.features[..., :3], view.image)


def test_the_field_is_the_head_branch_but_for_its_masks(rng, monkeypatch, head, parts, talking, generated):
    genhead, variables, planes, _ = generated
    points = jnp.asarray(rng.uniform(-0.4, 0.4, (24, 3)), jnp.float32)
    canonical = jax.jit(part_fusion.canonical_points)(head, parts, talking, points)
    monkeypatch.setattr(views, "canonical_points", lambda *_: canonical)  # compiled once, not four times

    def without_terms(answer):
        return answer[0].reshape(24, 1), answer[1][..., :-2].reshape(24, -1)

    def evaluate(planes, mask):
        masks = part_fusion.PartMasks(0 * mask, mask)
        fields = [
            without_terms(
                views.part_wise_field(genhead, variables, planes, head, parts, talking, masks, fuse)(
                    points.reshape(8, 3, 3)
                )
            )
            for fuse in (part_fusion.fuse_by_masks, part_fusion.fuse_by_density)
        ]
        alone = [
            genhead.apply(variables, views.sample_planes(planes[branch], at), method="decode")
            for branch, at in ((0, canonical.mouth), (1, canonical.head))
        ]
        return fields, alone

    @jax.jit
    def evaluate_with_gradient(planes, mask):
        def total(planes):
            fields, alone = evaluate(planes, mask)
            return fields[1][0].sum() + fields[0][1].sum(), (fields, alone)

        return jax.grad(total, has_aux=True)(planes)

    # Eight rays of three points: the odd rays look into the mouth.
    mask = jnp.arange(8) % 2.0
    slope, ((mixed, _), (mouth, rest)) = evaluate_with_gradient(planes, mask)
    slope_without, ((none, also_none), _) = evaluate_with_gradient(planes, 0 * mask)
    assert jnp.isfinite(slope).all() and (jnp.abs(slope).max(axis=(1, 2, 3, 4)) > 0).all()
    assert jnp.abs(slope_without[0]).max() == 0 < jnp.abs(slope_without[1]).max()
    inside = np.repeat(np.asarray(mask) > 0, 3)
    for k in range(2):
        np.testing.assert_allclose(none[k], rest[k], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(also_none[k], none[k])
        np.testing.assert_allclose(mixed[k][~inside], rest[k][~inside], rtol=1e-5, atol=1e-5)
    assert not np.asarray(canonical.in_eye_box)[inside].any()
    for k in range(2):
        np.testing.assert_allclose(mixed[k][inside], mouth[k][inside], rtol=1e-5, atol=1e-5)


def test_resolutions_that_no_head_was_trained_for_are_refused(head, parts, talking, generated):
    with pytest.raises(ValueError, match="resolution"):
        views.render_genhead(*generated, head, parts, talking, FRONT, resolution=48, samples=(6, 6))
