"""The photo as a texture of the canonical head, and the refinement that mixes it in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p4d_jax import assets
from p4d_jax.geometry import look_at_camera, project
from p4d_jax.head.skinning import head_vertices
from p4d_jax.models.reconstructor import GUIDE_CHANNELS, GuidedRefinement, ReconstructorConfig
from p4d_jax.render.lifting import (
    build_canonical_frame,
    build_source_guide,
    look_up_features,
    look_up_source,
)

SIZE = 64


@pytest.fixture(scope="module")
def looked_up():
    """An open-mouthed head, turned by 0.4 rad before a photo whose colour is the place in it: its front
    vertices' places, and what `look_up_source` and `look_up_features` find at their canonical points."""
    head = assets.head_model("openhead")
    frame = build_canonical_frame(head, 256)
    expression = jnp.zeros(100).at[head.expression_names.index("mouthSmileLeft")].set(0.8)
    pose = jnp.zeros(6).at[3].set(0.2)
    posed = jax.jit(head_vertices)(head, jnp.zeros(300), expression, pose, jnp.zeros(6))
    camera = look_at_camera(0.4, 0.0, 4.0)
    centres = (np.arange(SIZE) + 0.5) / SIZE
    image = jnp.stack([*np.meshgrid(centres, centres), np.full((SIZE, SIZE), 0.5)], -1).astype(jnp.float32)
    guide = jax.jit(build_source_guide)(image, frame, posed, camera)
    front = np.asarray(head.regions["front"])
    uv = np.asarray(project(camera, posed[front])[0])
    features = jax.jit(look_up_features)(guide.with_features(image[::2, ::2]), frame.vertices[front])
    return uv, np.asarray(jax.jit(look_up_source)(guide, frame.vertices[front])), np.asarray(features)


def test_front_vertices_are_found_where_the_photo_shows_them(looked_up):
    uv, found, _ = looked_up
    seen = found[:, 3] > 0.9
    assert seen.mean() > 0.4
    error = np.abs(found[seen, :2] - uv[seen]).max(1)
    assert np.median(error) < 0.002 and np.quantile(error, 0.99) < 0.02  # shares of the photo's side
    seen = found[:, 7] > 0.5
    assert np.quantile(np.abs(found[seen, 4:6] - uv[seen]).max(1), 0.95) < 0.03


def test_a_turned_photo_hides_one_side_and_the_other_side_stands_in(looked_up):
    found = looked_up[1]
    hidden = found[:, 3] < 0.1
    assert 0.02 < hidden.mean() < 0.5
    assert (found[hidden, 11] > 0.9).mean() > 0.3


def test_points_see_the_features_of_their_pixel(looked_up):
    uv, _, features = looked_up
    inside = features[:, 3] == 1
    assert inside.mean() > 0.5 and np.all(features[~inside, :4] == 0)
    # Half as many pixels: those that were kept lie half a pixel further left and up.
    error = np.abs(features[inside, :2] + 0.5 / SIZE - uv[inside]).max(1)
    assert np.quantile(error, 0.95) < 0.04
    assert np.all(np.abs(features[:, 4:]) < 1)


def test_refinement_keeps_what_the_photo_does_not_show_and_mixes_only_what_it_does(key):
    image = jax.random.uniform(key, (1, 8, 8, 3), minval=-1)
    module = GuidedRefinement((4,))
    blind = jnp.full((1, 8, 8, GUIDE_CHANNELS), 0.7).at[..., jnp.array([3, 7, 11])].set(0.0)
    ones = jnp.ones((1, 8, 8, 1))
    variables = jax.jit(module.init)(key, image, blind, ones)
    variables["params"]["mix"] = jax.tree.map(jnp.zeros_like, variables["params"]["mix"])  # equal shares
    refine = jax.jit(module.apply)
    np.testing.assert_allclose(refine(variables, image, blind, ones), image, atol=1e-5)
    shown = blind.at[..., 3].set(1.0)
    np.testing.assert_allclose(refine(variables, image, shown, ones), (image + 0.7) / 2, atol=1e-5)
    np.testing.assert_allclose(refine(variables, image, blind, 0 * ones), (image + 0.7) / 2, atol=1e-5)


def test_refinement_says_what_it_needs():
    with pytest.raises(ValueError, match="source_lifting"):
        ReconstructorConfig(refinement_features=(8,))
