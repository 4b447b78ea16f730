"""The mouth of the head model, and how a picture of it is drawn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_head import synthetic_head

from p4d_jax import assets
from p4d_jax.geometry import look_at_camera, project
from p4d_jax.head.model import JAW
from p4d_jax.head.mouth import build_mouth, see_mouth, tooth_coordinates, tooth_pattern
from p4d_jax.head.skinning import head_vertices
from p4d_jax.reconstructor.mouth import draw_mouth, luminance, mouth_colours, put_mouth
from p4d_jax.types import CAMERA_PIVOT, CAMERA_RADIUS

SIZE = 32


@pytest.fixture(scope="module")
def head():
    return assets.head_model()


@functools.partial(jax.jit, static_argnums=1)
def opened(head, angle):
    zeros = jnp.zeros(100)
    return head_vertices(head, jnp.zeros(300), zeros, jnp.zeros(6).at[3].set(angle), jnp.zeros(6))


@pytest.fixture(scope="module")
def view(head):
    camera = look_at_camera(0.3, 0.1, CAMERA_RADIUS, 0.0, jnp.asarray(CAMERA_PIVOT))
    posed = opened(head, 0.3)
    return (
        camera,
        posed,
        jax.jit(see_mouth, static_argnames="size")(build_mouth(head), posed, camera, size=SIZE),
    )


def test_rows_of_teeth_are_rigid_the_upper_with_the_skull_and_the_lower_with_the_jaw(head):
    teeth = np.asarray(head.regions["teeth"])
    lower = teeth[np.asarray(head.skinning_weights)[teeth, JAW] > 0.5]
    upper = np.setdiff1d(teeth, lower)
    shut, wide = (np.asarray(opened(head, angle), np.float64) for angle in (0.0, 0.36))
    np.testing.assert_allclose(wide[upper], shut[upper], atol=1e-6)
    distances = lambda x: np.linalg.norm(x[lower] - x[lower[:1]], axis=-1)
    np.testing.assert_allclose(distances(wide), distances(shut), atol=1e-5)
    assert (shut[lower, 1] - wide[lower, 1]).mean() > 0.03
    # An open mouth shows the upper teeth below the upper lip, and the tongue lies below the palate.
    middle = lambda x: x[np.abs(x[:, 0]) < 0.02]
    lip = middle(wide[np.asarray(head.regions["upper_lip"])])
    assert middle(shut[upper])[:, 1].min() < lip[:, 1].min()
    assert shut[np.asarray(head.regions["tongue"]), 1].max() < shut[upper, 1].max()


def test_teeth_are_told_by_their_place_in_the_row(head):
    tooth, teeth = tooth_coordinates(head), np.asarray(head.regions["teeth"])
    place = np.asarray(head.template)[teeth]
    flipped = place * [-1.0, 1.0, 1.0]
    other = np.linalg.norm(place[:, None] - flipped, axis=-1).argmin(0)
    np.testing.assert_allclose(tooth[teeth][other, 0], -tooth[teeth][:, 0], atol=0.15)
    assert np.all((tooth[teeth, 1] >= 0) & (tooth[teeth, 1] <= 1))
    assert not tooth[np.setdiff1d(np.arange(len(tooth)), teeth)].any()
    along = np.linspace(-6.5, 6.5, 400)
    share, shade = tooth_pattern(jnp.stack([along, np.full(400, 0.9), np.zeros(400)], -1))
    np.testing.assert_allclose(share, 1.0, atol=1e-6)  # near the edge all is crown
    gap = np.abs(along - np.round(along))
    assert np.asarray(shade)[gap < 0.02].max() < np.asarray(shade)[gap > 0.2].min()
    np.testing.assert_array_equal(tooth_pattern(jnp.zeros((3, 3)))[0], 0.0)  # at the root all is gum


def test_the_window_shows_the_mouth_where_the_picture_has_it(view):
    camera, _, seen = view
    ticks = (np.arange(SIZE) + 0.5) / SIZE
    expected = np.stack(np.meshgrid(ticks, ticks), -1) * float(seen.side) + np.asarray(seen.corner)
    uv = np.asarray(project(camera, seen.points)[0])
    shown = np.asarray(seen.raster.mask)
    np.testing.assert_allclose(uv[shown], expected[shown], atol=2e-5)
    labels = np.stack([seen.teeth, seen.tongue, seen.cavity])
    assert np.all(labels.reshape(3, -1).max(-1) > 0.9)  # an open mouth shows all three
    assert labels.sum(0).max() < 1 + 1e-5


def test_a_head_without_teeth_has_no_mouth_to_draw():
    assert build_mouth(synthetic_head()) is None


def test_what_the_photo_shows_is_the_photos_and_the_rest_knows_nothing_of_it(view, head):
    _, posed, seen = view
    mouth = build_mouth(head)
    # A grey between the darkest that teeth and the brightest that the mouth's inside can be beside this face.
    shown = jnp.zeros(len(posed)).at[mouth.lips].set(1.0)
    colours = mouth_colours(mouth, jnp.full((len(posed), 3), 0.9), shown, jnp.zeros(len(posed)))
    draw = jax.jit(draw_mouth)
    photo, nothing = jnp.full((SIZE, SIZE, 3), 0.57), jnp.zeros((SIZE, SIZE))
    drawn, unseen = (draw(seen, colours, seen.extent, photo, shows) for shows in (nothing + 1.0, nothing))
    np.testing.assert_array_equal(unseen, draw(seen, colours, seen.extent, 0.5 * photo, nothing))
    opacity = np.asarray(drawn[..., 3])
    solid = (opacity > 0.999)[4:-4, 4:-4]  # what the photo shows fades in from the window's rim
    np.testing.assert_allclose(np.asarray(drawn)[4:-4, 4:-4][solid][:, :3], 0.57, atol=1e-3)
    assert np.all((opacity >= 0) & (opacity <= 1 + 1e-6)) and opacity.max() > 0.99
    # Deep inside it is darker than the face, and of a grey photo nothing has a colour.
    deep = (np.asarray(seen.cavity) > 0.99) & (np.asarray(seen.behind) > 0.2)
    assert deep.any() and np.asarray(luminance(unseen[..., :3]))[deep].max() < 0.3
    np.testing.assert_allclose(colours, colours.mean(-1, keepdims=True) * np.ones(3), atol=1e-5)


@pytest.mark.parametrize("size", [64, 96])  # of which the finest is a multiple, and not
def test_a_mouth_is_put_over_its_window_alone(view, size):
    _, _, seen = view
    image = jax.random.uniform(jax.random.key(0), (size, size, 3), minval=-1.0)
    white = jnp.ones((128, 128, 4))
    out = np.asarray(jax.jit(put_mouth)(image, seen, white))
    ticks = (np.arange(size) + 0.5) / size
    place = (np.stack(np.meshgrid(ticks, ticks), -1) - np.asarray(seen.corner)) / float(seen.side)
    inside = np.all((place > 0) & (place < 1), axis=-1)
    assert inside.any() and not inside.all()
    np.testing.assert_allclose(out[inside], 1.0, atol=1e-6)
    np.testing.assert_array_equal(out[~inside], np.asarray(image)[~inside])
