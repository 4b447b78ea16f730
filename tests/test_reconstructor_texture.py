"""The photo as a texture of the canonical head, and the refinement that mixes it in."""

from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_head import sphere

from p4d_jax import assets
from p4d_jax.geometry import look_at_camera, project
from p4d_jax.head.expression_field import (
    CanonicalFrame,
    build_canonical_frame,
    build_expression_field,
    surface_on_rays,
)
from p4d_jax.head.model import HeadModel
from p4d_jax.head.skinning import head_vertices
from p4d_jax.reconstructor.config import ReconstructorConfig
from p4d_jax.reconstructor.model import GUIDE_CHANNELS, NEARBY_CHANNELS
from p4d_jax.reconstructor.refinement import PART_CHANNELS, GuidedRefinement
from p4d_jax.reconstructor.texture import (
    GRAZING,
    SQUARE,
    SourceTexture,
    beyond_hair,
    body_goes_on,
    bound_chroma,
    build_source_texture,
    chroma_of,
    detail_of_photo,
    facing,
    fill_by_mirror,
    inner_edges,
    look_up_features,
    look_up_nearby,
    look_up_source,
    mesh_depth_and_alpha,
    normalized_depth,
    reach_of_hair,
    seen_by,
)
from p4d_jax.render.raster import rasterize
from p4d_jax.render.rays import rays_through

SIZE = 64


class LookedUp(NamedTuple):
    """See the fixture."""

    head: HeadModel
    frame: CanonicalFrame
    texture: SourceTexture
    uv: np.ndarray
    found: np.ndarray
    on_mesh: np.ndarray
    front: np.ndarray
    features: np.ndarray
    nearby: dict


@pytest.fixture(scope="module")
def looked_up():
    """An open-mouthed head, turned by 0.4 rad in a photo of which red and green are the place and blue is the
    head: its vertices' places, what `look_up_source` finds at them in a view from the other side, with
    another expression, which of them that view sees, and of the front's what `look_up_features` and
    `look_up_nearby` find at their canonical points; of the last also at their mirror images, and off the
    mesh, and without a person. The features are the colour and the mesh's own relief."""
    head = assets.head_model("openhead")
    frame = build_canonical_frame(head, 256)
    expression = jnp.zeros(100).at[head.expression_names.index("mouthSmileLeft")].set(0.8)
    pose = jnp.zeros(6).at[3].set(0.5)  # wide open: teeth and tongue have few vertices
    posed = jax.jit(head_vertices)(head, jnp.zeros(300), expression, pose, jnp.zeros(6))
    camera = look_at_camera(0.4, 0.0, 4.0)
    centres = (np.arange(SIZE) + 0.5) / SIZE
    image = jnp.stack([*np.meshgrid(centres, centres), np.full((SIZE, SIZE), 0.5)], -1).astype(jnp.float32)
    texture = jax.jit(build_source_texture)(image, frame, posed, pose[:3], camera)
    image = image.at[..., 2].set(mesh_depth_and_alpha(texture, SIZE)[..., 1] - 0.5)
    texture = texture.replace(image=image, person=image, background=image)
    front = np.asarray(head.regions["front"])
    uv = np.asarray(project(camera, posed)[0])
    driving = jax.jit(head_vertices)(head, jnp.zeros(300), 0 * expression, 0.9 * pose, jnp.zeros(6))
    view = look_at_camera(-0.1, 0.0, 4.0)
    field = build_expression_field(frame, driving, pose[:3], view, 128)
    on_mesh = np.asarray(surface_on_rays(field, driving).at(driving[:, None])[1])[:, 0]
    shown = jax.jit(look_up_source)(texture, field, driving, frame.vertices)
    found = np.concatenate([shown.by_mesh, shown.by_point, shown.by_mirror], axis=-1)
    pixels = jnp.concatenate([image[::2, ::2], mesh_depth_and_alpha(texture, SIZE // 2)], axis=-1)
    points = frame.vertices[front]
    features = jax.jit(look_up_features)(texture.with_features(pixels), points)
    shown, empty, near = (
        texture.with_features(pixels),
        texture.with_features(0 * pixels),
        jax.jit(look_up_nearby),
    )
    skin, flip = jnp.ones(len(front)), jnp.array([-1.0, 1.0, 1.0])
    nearby = {
        "here": near(shown, points, skin),
        "mirrored": near(shown, points * flip, skin),
        "off": near(shown, points, 0 * skin),
        "empty": near(empty, points, skin),
    }
    nearby = {name: np.asarray(value) for name, value in nearby.items()}
    return LookedUp(head, frame, texture, uv, found, on_mesh, front, np.asarray(features), nearby)


def test_front_vertices_are_found_where_the_photo_shows_them(looked_up):
    uv, found = looked_up.uv[looked_up.front], looked_up.found[looked_up.front]
    seen = found[:, 3] > 0.9
    assert seen.mean() > 0.4
    error = np.abs(found[seen, :2] - uv[seen]).max(1)
    assert np.median(error) < 0.002 and np.quantile(error, 0.99) < 0.02  # shares of the photo's side


def test_what_a_view_sees_of_the_mesh_is_found_in_the_photo_mouth_and_eyes_too(looked_up):
    shown = looked_up.on_mesh > 0.99
    for region in ("front", "inner_mouth", "left_eyeball", "lips", "ears"):
        chosen = np.asarray(looked_up.head.regions[region])
        surely = 0.05 if region == "inner_mouth" else 0.5  # few of its vertices face the photo
        chosen = chosen[shown[chosen] & (looked_up.found[chosen, 7] > surely)]
        assert len(chosen) > 5, region
        error = np.abs(looked_up.found[chosen, 4:6] - looked_up.uv[chosen]).max(1)
        assert np.quantile(error, 0.9) < 0.01, region
    # Mirror images: the place of the vertex on the other side.
    other = np.asarray(looked_up.frame.mirror)
    mirrored = np.asarray(looked_up.frame.vertices) * np.array([-1, 1, 1])
    exact = np.linalg.norm(looked_up.frame.vertices[other] - mirrored, axis=1) < 0.002
    chosen = shown & exact & (looked_up.found[:, 11] > 0.5)
    assert chosen.sum() > 500
    error = np.abs(looked_up.found[chosen, 8:10] - looked_up.uv[other][chosen]).max(1)
    assert np.quantile(error, 0.9) < 0.01


def test_a_turned_photo_hides_one_side_and_the_other_side_stands_in(looked_up):
    found = looked_up.found[looked_up.front]
    hidden = found[:, 3] < 0.1
    assert 0.02 < hidden.mean() < 0.5
    assert (found[hidden, 11] > 0.9).mean() > 0.3


def test_points_see_the_features_of_their_pixel(looked_up):
    features = looked_up.features
    uv, shown = looked_up.uv[looked_up.front], looked_up.found[looked_up.front]
    inside = features[:, 7] == 1
    assert inside.mean() > 0.5 and np.all(features[~inside, :7] == 0)
    opaque, gap = features[:, 3] > 0.99, features[:, 6]
    # Half as many pixels: those that were kept lie half a pixel further left and up.
    error = np.abs(features[opaque, :2] + 0.5 / SIZE - uv[opaque]).max(1)
    assert np.quantile(error, 0.95) < 0.04
    assert np.all(np.abs(features[:, 8:]) < 1)
    # At the photo's surface there is no gap, and what the photo hides lies behind it.
    seen = shown[:, 3] > 0.9
    assert np.median(np.abs(gap[opaque & seen])) < 0.1
    assert gap[opaque & (shown[:, 3] == 0)].mean() > 0.15


def test_what_the_photo_hides_is_guessed_from_the_nearest_place_that_it_shows(looked_up):
    uv, found, nearby = looked_up.uv[looked_up.front], looked_up.found[looked_up.front], looked_up.nearby
    seen, hidden = found[:, 3] > 0.9, found[:, 3] < 0.1
    # The colour is the place in the photo: a point that it shows gets its own, to within two places of 32.
    here, mirrored = nearby["here"], nearby["mirrored"]
    assert np.quantile(np.abs(here[seen, :2] - uv[seen]).max(1), 0.9) < 2 / 32
    assert np.median(here[seen, 3]) > 0.9
    # A point well behind what the photo shows gets what its mirror image gets, if the photo shows that.
    other = hidden & (looked_up.features[:, 6] > 0.3) & (mirrored[:, 3] > 0.9)
    assert other.sum() > 20
    assert np.median(np.abs(here[other, :2] - mirrored[other, :2]).max(1)) < 2 / 32
    # All the photo shows here is skin: nothing of the kind is near a point off the mesh, and nothing is near
    # at all where the photo shows nobody.
    assert np.all(nearby["off"][:, 3] < np.exp(-0.9)) and np.all(nearby["empty"][:, 3] == 0)
    assert all(np.isfinite(value).all() for value in nearby.values())


def test_person_and_background_are_spread_over_each_other(rng, looked_up):
    """A person of two colours before noise; at its right edge a column of pixels is half the person's."""
    image = rng.uniform(-1, -0.5, (48, 48, 3)).astype(np.float32)
    opacity = np.zeros((48, 48, 1), np.float32)
    opacity[20:, 10:29], opacity[20:, 29] = 1.0, 0.5
    image[20:, 10:20], image[20:, 20:29], image[20:, 29] = (0.2, 0.5, 0.8), (0.6, 0.1, 0.3), 0.9
    split = jax.jit(lambda texture, features: texture.replace(image=image).with_features(features))
    texture = split(looked_up.texture, np.concatenate([opacity, opacity], axis=-1))
    person, background = np.asarray(texture.person), np.asarray(texture.background)
    surely = opacity[..., 0] == 1
    np.testing.assert_allclose(person[surely], image[surely], atol=1e-6)
    assert person.min() > 0.1 - 1e-3 and person.max() < 0.8 + 1e-3
    far = lambda pixel, colour: np.abs(pixel - np.array(colour)).max()
    assert far(person[40, 5], (0.2, 0.5, 0.8)) < far(person[40, 5], (0.6, 0.1, 0.3))
    assert far(person[40, 34], (0.6, 0.1, 0.3)) < far(person[40, 34], (0.2, 0.5, 0.8))
    # The background keeps one pixel's distance.
    np.testing.assert_allclose(background[:19, :9], image[:19, :9], atol=1e-6)
    assert background.max() < -0.5 + 1e-3


def test_a_depth_buffer_hides_what_lies_behind_it_softly_at_its_edges():
    camera = look_at_camera(0.0, 0.0, 4.0)
    depth = np.where(np.arange(16) < 8, 3.0, 5.0) * np.ones((16, 1))  # the left half is in front
    u = np.array([0.2, 0.5, 0.8], np.float32)
    origins, directions = rays_through(camera, jnp.stack([u, jnp.full(3, 0.5)], -1))
    uv, seen = seen_by(camera, origins + 4.0 * directions, jnp.asarray(depth, jnp.float32), 0.02)
    np.testing.assert_allclose(uv[:, 0], u, atol=1e-5)
    np.testing.assert_allclose(seen, (0.0, 0.5, 1.0), atol=1e-3)
    np.testing.assert_array_equal(
        seen_by(camera, origins + 4.0 * directions, jnp.zeros((16, 16)), 0.02)[1], 1.0
    )


def test_a_sphere_is_seen_squarely_in_its_middle_and_not_at_its_outline():
    vertices, faces = sphere(60, 120)
    camera = look_at_camera(0.3, 0.0, 40.0, 0.0, jnp.zeros(3))
    towards = np.asarray(camera.cam2world[:3, 3]) / 40.0
    cosine = np.abs(vertices @ towards) / np.linalg.norm(vertices, axis=1)
    expected = np.clip((cosine - GRAZING) / (SQUARE - GRAZING), 0, 1)
    found = facing(jnp.asarray(vertices, jnp.float32), jnp.asarray(faces), camera)
    np.testing.assert_allclose(found, expected, atol=0.1)


def test_refinement_keeps_what_the_photo_does_not_show_and_mixes_only_what_it_does(key):
    image = jax.random.uniform(key, (1, 8, 8, 3), minval=-1)
    module = GuidedRefinement((4,))
    blind = jnp.full((1, 8, 8, GUIDE_CHANNELS), 0.7).at[..., jnp.array([3, 7, 11])].set(0.0)
    ones, skin = jnp.ones((1, 8, 8, 1)), jnp.zeros((1, 8, 8, PART_CHANNELS))
    variables = jax.jit(module.init)(key, image, blind, ones, skin)
    variables["params"]["mix"] = jax.tree.map(jnp.zeros_like, variables["params"]["mix"])  # equal shares
    refine = jax.jit(module.apply)
    np.testing.assert_allclose(refine(variables, image, blind, ones, skin), image, atol=1e-5)
    shown = blind.at[..., 3].set(1.0)
    np.testing.assert_allclose(refine(variables, image, shown, ones, skin), (image + 0.7) / 2, atol=1e-5)
    np.testing.assert_allclose(refine(variables, image, blind, 0 * ones, skin), (image + 0.7) / 2, atol=1e-5)
    # Eyes, teeth and the mouth's inside have a paint: at first white at an eye's rim, dark at its pupil.
    for part, paint in (((1, 0, 0, 0), 0.8), ((1, 1, 0, 0), -0.8), ((0, 0, 1, 0), 0.5), ((0, 0, 0, 1), -0.8)):
        parts = skin + jnp.array(part)
        painted = refine(variables, image, blind, ones, parts)
        np.testing.assert_allclose(painted, (image + paint) / 2, atol=1e-5)
    # With a relief: what is nearby, where the person is.
    nearby = jnp.full((1, 8, 8, NEARBY_CHANNELS), -0.5)
    variables = jax.jit(module.init)(key, image, blind, ones, skin, nearby)
    variables["params"]["mix"] = jax.tree.map(jnp.zeros_like, variables["params"]["mix"])
    np.testing.assert_allclose(
        refine(variables, image, blind, ones, skin, nearby), (image - 0.5) / 2, atol=1e-5
    )
    np.testing.assert_allclose(
        refine(variables, image, blind, 0 * ones, skin, nearby), (image + 0.7) / 2, atol=1e-5
    )


def test_refinement_says_what_it_needs():
    with pytest.raises(ValueError, match="source_lifting"):
        ReconstructorConfig(refinement_features=(8,))


def test_a_photos_own_alpha_is_the_opacity_of_its_features_and_parts_its_colours(looked_up):
    texture = looked_up.texture
    alpha = (np.arange(SIZE)[None, :, None] < SIZE // 2) * np.ones((SIZE, 1, 1), np.float32)
    image = jnp.where(alpha > 0.5, 0.5, -0.5) * jnp.ones(3)
    given = texture.replace(image=image, alpha=jnp.asarray(alpha))
    pixels = jax.random.uniform(jax.random.key(0), (SIZE // 2, SIZE // 2, 5))
    made = jax.jit(lambda texture: texture.with_features(pixels))(given)
    away = np.abs(np.arange(SIZE // 2) - SIZE // 4 + 0.5) > 2  # from where the alpha steps
    np.testing.assert_allclose(made.depth_and_alpha[:, away, 1:], alpha[::2, ::2][:, away], atol=1e-5)
    np.testing.assert_array_equal(made.features[..., :-1], pixels[..., :-1])
    np.testing.assert_allclose(made.person, 0.5, atol=0.02)  # spread over the other half
    np.testing.assert_allclose(np.asarray(made.background)[:, SIZE // 2 + 4 :], -0.5, atol=0.02)


def test_detail_is_what_a_picture_lacks_parted_by_alpha_and_not_at_the_edges_of_the_mesh():
    depth = np.zeros((32, 32), np.float32)
    depth[4:28, 4:28], depth[16:28, 4:28] = 4.0, 4.3  # one edge inside, and an outline
    lacks = np.random.default_rng(0).uniform(-2, 2, (64, 64, 3)).astype(np.float32)
    alpha = np.random.default_rng(1).uniform(0, 1, (64, 64, 1)).astype(np.float32)
    edges = np.asarray(inner_edges(jnp.asarray(depth)))
    rows = np.flatnonzero(edges.max(1) > 0)
    assert rows.min() >= 12 and rows.max() <= 19 and edges[15:17, 8:24].min() > 0.9
    detail = np.asarray(detail_of_photo(*map(jnp.asarray, (depth, lacks, alpha))))
    np.testing.assert_array_equal(detail[..., 3:], 0.0)  # there is some of the person everywhere
    half = jnp.asarray(np.arange(64)[None, :, None] < 32) * jnp.ones((64, 1, 1))
    still = np.asarray(detail_of_photo(jnp.asarray(depth), jnp.asarray(lacks), half))[..., 3:]
    np.testing.assert_allclose(still[:, 35:], lacks[:, 35:], atol=1e-6)
    np.testing.assert_array_equal(still[:, :35], 0.0)
    np.testing.assert_allclose(detail[:20, :, :3], (alpha * lacks)[:20], atol=1e-6)
    assert np.abs(detail[31:33, 20:44, :3]).max() < 0.1 * np.abs(lacks).max()


def test_no_colour_is_stronger_than_the_photos_strongest():
    image = jax.random.uniform(jax.random.key(0), (16, 16, 3), minval=-1.0)
    largest = float(np.median(chroma_of(image)))
    bounded = np.asarray(bound_chroma(image, jnp.asarray(largest)))
    assert np.asarray(chroma_of(bounded)).max() <= largest + 1e-5
    np.testing.assert_allclose(bounded.mean(-1), np.asarray(image).mean(-1), atol=1e-6)
    weak = np.asarray(chroma_of(image)) < 0.99 * largest
    np.testing.assert_allclose(bounded[weak], np.asarray(image)[weak], atol=1e-6)
    grey = np.asarray(bound_chroma(image, jnp.zeros(())))
    np.testing.assert_allclose(grey, grey[..., :1] * np.ones(3), atol=1e-6)


def test_hair_reaches_as_far_as_the_photo_shows_and_what_is_farther_out_is_empty():
    camera = look_at_camera(0.0, 0.0, 4.0)
    focal = float(camera.intrinsics[0, 0])
    centre = (np.arange(SIZE) + 0.5) / SIZE - 0.5
    radius = np.hypot(*np.meshgrid(centre, centre)) * 4.0 / focal  # world units, at the middle
    depth, alpha = jnp.asarray(4.0 * (radius < 0.25), jnp.float32), jnp.asarray(radius < 0.4, jnp.float32)
    reach = jax.jit(reach_of_hair)
    pixel = 4.0 / focal / SIZE
    found = float(reach(alpha[..., None], None, depth, camera))
    assert abs(found - 0.15) < 2.5 * pixel
    known = jnp.asarray(np.abs(centre)[None, :, None] < 0.1) * jnp.ones((SIZE, 1, 1))
    below = jnp.asarray(centre)[:, None, None] > 0.02  # rows under the middle: hair there does not count
    assert float(reach(alpha[..., None] * below, known, depth, camera)) < found - 2 * pixel
    anchors = jnp.zeros((1, 3))
    texture = SimpleNamespace(anchors=anchors, hair_reach=jnp.asarray(0.15))
    heights = jnp.array([[0.0, 0.1, 0.0], [0.0, 0.24, 0.0], [0.0, 0.5, 0.0], [0.0, -0.5, 0.0]])
    np.testing.assert_allclose(beyond_hair(texture, heights)[:, 0], [0, 0, 1, 0], atol=1e-5)


def test_the_body_goes_on_where_the_border_cuts_it():
    head = assets.head_model("openhead")
    frame, camera = build_canonical_frame(head, 64), look_at_camera(0.0, 0.0, 4.0)
    texture = build_source_texture(jnp.zeros((SIZE, SIZE, 3)), frame, frame.vertices, jnp.zeros(3), camera)
    # A person 3.9 units away in the left half of the photo, and in the lower part of its right border.
    alpha = np.zeros((SIZE, SIZE, 1), np.float32)
    alpha[:, : SIZE // 2] = alpha[-4:, -4:] = 1.0
    depth = np.full_like(alpha, normalized_depth(camera, jnp.asarray(3.9)))
    texture = texture.replace(features=jnp.asarray(np.concatenate([depth, alpha], axis=-1)))

    def surely(u: float, v: float, distance: float) -> float:
        origin, direction = rays_through(camera, jnp.array([[u, v]]))
        return float(body_goes_on(texture, origin + distance * direction)[0, 0])

    assert surely(0.25, 1.1, 3.98) > 0.9  # below the photo
    assert surely(0.75, 1.1, 3.98) == 0.0  # where the border shows the background
    assert surely(0.25, 1.1, 3.8) == surely(0.25, 1.1, 4.3) == 0.0  # before the person, and far behind
    assert surely(0.25, 0.9, 3.98) == surely(0.25, -0.1, 3.98) == 0.0  # in the photo, and above it
    assert surely(1.05, 0.99, 3.98) > 0.9  # beside a shoulder
    assert surely(-0.05, 0.5, 3.98) == 0.0  # beside a face
    texture = texture.replace(known=jnp.zeros((SIZE, SIZE, 1)))
    assert surely(0.25, 1.1, 3.98) == 0.0  # where the border is not the photo's


def test_a_face_that_the_border_cuts_gets_its_other_side():
    head = assets.head_model("openhead")
    frame = build_canonical_frame(head, 64)
    camera = look_at_camera(0.0, 0.0, 4.0)
    centre = (np.arange(SIZE) + 0.5) / SIZE - 0.5
    x, y = np.meshgrid(centre, centre)
    image = jnp.asarray(np.stack([np.abs(x), y, 0.5 + 0 * x], -1), jnp.float32)  # as heads are: symmetric
    known = jnp.asarray((x < 0.02)[..., None], jnp.float32)
    raster = rasterize(frame.vertices, frame.faces, camera, SIZE, False)
    surface = jnp.concatenate([frame.vertices, facing(frame.vertices, frame.faces, camera)[:, None]], axis=-1)
    cut = image * known
    filled, shown = jax.jit(fill_by_mirror)(cut, known, raster, surface[frame.mirror], camera)
    mine = np.asarray(shown[..., 0]) > 0.9
    assert mine[:, SIZE // 2 + 2 :].sum() > 0.04 * SIZE**2
    assert np.quantile(np.abs(filled - image).max(-1)[mine], 0.95) < 0.03
    np.testing.assert_array_equal(filled[:, : SIZE // 2], cut[:, : SIZE // 2])
    empty = ~np.asarray(raster.mask) & (x > 0.02)
    np.testing.assert_allclose(np.asarray(filled)[empty][:, 2], 0.0, atol=0.6)
    assert np.asarray(shown[..., 0])[empty].mean() < 0.05
