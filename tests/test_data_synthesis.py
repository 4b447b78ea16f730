"""Synthesis: what a sample holds, and a dataset that gives back what was put in."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds

from p4d_jax import assets
from p4d_jax.data import p4d_heads, synthesis
from p4d_jax.data.motion import random_motion
from p4d_jax.errors import UserError
from p4d_jax.geometry import look_at_camera
from p4d_jax.models.genhead import GenHead, GenHeadConfig
from p4d_jax.render.part_fusion import build_head_parts

CONFIG = GenHeadConfig(
    latent_size=4, style_size=4, shape_size=5, plane_size=8, plane_channels=4, channel_base=32,
    channel_max=8, background_size=4, background_mapping_layers=1, background_channel_base=16,
    background_channel_max=4, decoder_hidden=8, feature_channels=5, superresolution_size=16,
    superresolution_channels=(4,),
)  # fmt: skip
SETTINGS = synthesis.SynthesisSettings(motions=2, views=2, resolution=8, samples=(4, 4), points=16)


@pytest.fixture(scope="module")
def made():
    """(2, 2) samples of one identity, from a clip of five frames."""
    head, genhead = assets.head_model(), GenHead(CONFIG)
    variables = jax.jit(genhead.init)(
        jax.random.key(1), jnp.zeros((1, 4)), jnp.zeros((1, 25)), jnp.zeros((1, 5))
    )
    clip = random_motion(jax.random.key(9), 5, head.expression_names)
    make = functools.partial(synthesis.synthesize, genhead, variables, head, build_head_parts(head))
    samples = make(jax.random.key(0), SETTINGS, clip)
    return jax.tree.map(np.asarray, samples), clip, make


def test_a_sample_holds_what_its_docstring_says(made):
    samples, clip, make = made
    shapes = {
        "image": (32, 32, 3), "opacity": (8, 8, 1), "depth": (8, 8, 1), "features": (8, 8, 5),
        "background": (8, 8, 5), "correspondence": (32, 32, 3), "landmarks": (70, 2), "points": (16, 3),
        "plane_features": (2, 16, 4), "motion": (109,),
    }  # fmt: skip
    for name, shape in shapes.items():
        value = getattr(samples, name)
        assert value.shape == (2, 2, *shape) and np.isfinite(value).all(), name
    # One identity: shape is shared; motions come from the clip, one for both views; views differ.
    params = samples.params
    assert (params.shape == params.shape[0, 0]).all()
    assert (params.pose[..., :3] == 0).all() and (params.expression[:, 0] == params.expression[:, 1]).all()
    known = np.asarray(clip.expression)
    places = [int(np.abs(known - expression).sum(1).argmin()) for expression in params.expression[:, 0]]
    np.testing.assert_array_equal(known[places], params.expression[:, 0])
    assert len(set(places)) == 2
    assert (params.camera.cam2world[:, 0] != params.camera.cam2world[:, 1]).any()
    # Landmarks lie where the correspondence map shows a face.
    inside = (samples.landmarks > 0).all(-1) & (samples.landmarks < 1).all(-1)
    assert inside.mean() > 0.9
    again = make(jax.random.key(0), SETTINGS, clip)
    np.testing.assert_array_equal(again.image, samples.image)


def test_views_look_at_the_head_within_their_ranges():
    settings = synthesis.SynthesisSettings(data_cameras=0.0)
    camera = synthesis.random_views(jax.random.key(2), 400, settings)
    place = np.asarray(camera.cam2world[:, :3, 3])
    distance = np.linalg.norm(place, axis=1)
    assert distance.min() > 3.65 - 1e-4 and distance.max() < 4.45 + 1e-4
    yaw = np.arctan2(-place[:, 0], place[:, 2])
    assert np.abs(yaw).max() < 0.79 and np.abs(yaw).max() > 0.7
    assert synthesis.camera_yaw(look_at_camera(0.5, 0.0, 4.0)) == pytest.approx(np.degrees(0.5), abs=1e-3)


def test_the_dataset_gives_back_every_field_that_was_put_in(made, tmp_path):
    flat = jax.tree.map(lambda x: x.reshape(4, *x.shape[2:]), made[0])
    arrays = [p4d_heads.encode_sample(jax.tree.map(lambda x, k=k: x[k], flat)) for k in range(4)]
    with pytest.raises(UserError, match="no complete dataset"):
        p4d_heads.read_heads(tmp_path)
    p4d_heads.write_shard(p4d_heads.shard_path(tmp_path, 0, 2), arrays[:2])
    assert not p4d_heads.finish_dataset(tmp_path, 2, arrays[0], "half")
    p4d_heads.write_shard(p4d_heads.shard_path(tmp_path, 1, 2), arrays[2:])
    assert p4d_heads.finish_dataset(tmp_path, 2, arrays[0], "whole")
    assert not list(p4d_heads.dataset_folder(tmp_path).glob("*.part"))

    source = p4d_heads.read_heads(tmp_path)
    assert len(source) == 4
    for stored, expected in zip(source, arrays, strict=True):
        assert set(stored) == set(expected)
        for name, value in expected.items():
            assert stored[name].dtype == value.dtype, name
            np.testing.assert_array_equal(stored[name], value, err_msg=name)
    builder = tfds.builder_from_directory(str(p4d_heads.dataset_folder(tmp_path)))
    assert builder.info.name == "p4d_heads" and builder.info.splits["train"].num_examples == 4

    decoded = p4d_heads.decode_sample(source[3])
    for name in p4d_heads.FULL:
        np.testing.assert_array_equal(getattr(decoded, name), getattr(flat, name)[3], err_msg=name)
    for path, value in jax.tree.leaves_with_path(decoded.params):
        expected = functools.reduce(lambda tree, key: getattr(tree, key.name), path, flat.params)[3]
        np.testing.assert_array_equal(value, expected)
    np.testing.assert_allclose(decoded.image, np.clip(flat.image[3], -1, 1), atol=1 / 255)
    np.testing.assert_allclose(decoded.features, flat.features[3], rtol=1e-3, atol=1e-4)
