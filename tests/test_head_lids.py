"""The lids of the head model, and what shut eyes show of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p4d_jax import assets
from p4d_jax.head.lids import BLINKS, build_lids, eye_openings
from p4d_jax.head.skinning import head_vertices
from p4d_jax.reconstructor.lids import lid_colours, shut_lids


@pytest.fixture(scope="module")
def head():
    return assets.head_model()


@pytest.fixture(scope="module")
def lids(head):
    return build_lids(head)


@pytest.fixture(scope="module")
def blinked(head):
    vertices = jax.jit(head_vertices)

    def pose(left, right):
        columns = np.zeros(100, np.float32)
        columns[[head.expression_names.index(name) for name in BLINKS]] = left, right
        return vertices(head, jnp.zeros(300), jnp.asarray(columns), jnp.zeros(6), jnp.zeros(6))

    return pose


def test_each_eye_opens_and_shuts_by_itself(lids, blinked):
    wide = np.asarray(eye_openings(lids, blinked(0.0, 0.0)))
    for eye in (0, 1):
        found = np.asarray(eye_openings(lids, blinked(*np.eye(2)[eye])))
        assert found[eye] < 0.25 * wide[eye]
        np.testing.assert_allclose(found[1 - eye], wide[1 - eye], rtol=1e-5)
    half = np.asarray(eye_openings(lids, blinked(0.5, 0.5)))
    assert np.all((half < 0.75 * wide) & (half > 0.25 * wide))


def test_hidden_skin_lies_between_brow_and_eye_and_is_that_of_one_eye(head, lids, blinked):
    rest, hidden = np.asarray(blinked(0.0, 0.0)), np.asarray(lids.hidden)
    assert np.all(hidden.min(-1) == 0) and np.all((hidden.sum(0) > 20) & (hidden.sum(0) < 150))
    np.testing.assert_array_equal(np.flatnonzero(hidden.max(-1)), lids.lids)
    for eye, name in enumerate(("left_eyeball", "right_eyeball")):
        ball = rest[np.asarray(head.regions[name])]
        places = rest[hidden[:, eye] > 0.5]
        low, high = ball.min(0), ball.max(0)
        assert np.all((places[:, 0] > low[0] - 0.03) & (places[:, 0] < high[0] + 0.03))
        assert np.all((places[:, 1] > low[1] - 0.03) & (places[:, 1] < high[1] + 0.05))


def test_shut_lids_have_the_colour_of_bright_skin_around_and_open_ones_show_nothing(head, lids):
    vertices = len(head.template)
    skin = jnp.asarray([0.4, 0.1, -0.1])
    colours = jnp.broadcast_to(skin, (vertices, 3)).at[lids.lids].set(-1.0)
    colours = colours.at[lids.skin[::2]].set(-0.9)  # every second one a hair of the brow
    layer = lid_colours(lids, colours, jnp.ones(vertices))
    photo = jnp.asarray([0.03, 0.03])
    for openings, shut in (((0.03, 0.03), (0, 0)), ((0.004, 0.03), (1, 0)), ((0.004, 0.004), (1, 1))):
        drawn = np.asarray(shut_lids(layer, photo, jnp.asarray(openings)))
        np.testing.assert_allclose(drawn[:, 3], np.asarray(lids.hidden) @ shut, atol=1e-6)
        shown = drawn[drawn[:, 3] > 0.1]
        if len(shown):
            np.testing.assert_allclose(shown[:, :3] / shown[:, 3:], np.tile(skin, (len(shown), 1)), atol=0.05)
    # A photo with shut eyes shows the lids itself, and of skin that no photo shows nothing is known.
    assert np.all(np.asarray(shut_lids(layer, jnp.asarray([0.004, 0.004]), jnp.asarray([0.004, 0.004]))) == 0)
    assert np.all(np.asarray(lid_colours(lids, colours, jnp.zeros(vertices)))[:, 3:] == 0)


def test_a_head_whose_blinks_have_no_name_has_no_lids_to_draw(head):
    assert build_lids(dataclasses.replace(head, expression_names=())) is None
