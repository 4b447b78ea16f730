"""Training on sources of several photos: they reach Psi as one source, and teach it how to mix them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from psi_case import tiny_config

from p4d_jax.errors import UserError
from p4d_jax.jobs.train_reenact import build_draw, build_psi
from p4d_jax.models.reconstructor import Reconstructor, ReconstructorConfig
from p4d_jax.render.fusion import SourceGuides
from p4d_jax.train.reenact_step import build_samples, make_planes, render_samples, step_keys


def photos_config(photos: int, heads: int):
    config = tiny_config(batch=2)
    config.photos = photos
    config.model.update(
        fusion_heads=heads, source_lifting=True, deformation="expression", refinement_features=(4,)
    )
    return config


def test_a_batch_of_three_photos_a_source_becomes_pictures():
    psi, given, state, _ = build_psi(photos_config(3, 2))
    draw = build_draw(photos_config(3, 2), psi, given.head, jax.random.key(0))

    def whole(state):
        pairs = draw.trace(jnp.uint32(0))
        samples = build_samples(psi, 16, False, given, pairs, step_keys(state, 0, 2))
        variables = {"params": state.params, "buffers": state.buffers}
        return pairs, samples, render_samples(psi, variables, samples, None)

    pairs, samples, out = jax.eval_shape(whole, state)
    assert pairs.photos.shape == (2, 2, 32, 32, 3)
    assert isinstance(samples.guide, SourceGuides) and samples.guide.guides.image.shape == (2, 3, 32, 32, 3)
    assert samples.motion_source.shape == (2, 3, 109)
    assert out.image.shape == (2, 32, 32, 3)
    # The gradient of what is made of them reaches the attention.
    rng = np.random.default_rng(0)
    samples = jax.tree.map(
        lambda x: rng.uniform(0.1, 1, x.shape).astype(x.dtype), samples.replace(wanted=None)
    )

    def objective(params):
        params = jax.tree.map(lambda x: x + 0.05, params)
        return jnp.sum(make_planes(psi, {"params": params, "buffers": state.buffers}, samples).planes ** 2)

    gradient = jax.jit(jax.grad(objective))(state.params)
    for name in ("fuse_tokens", "fuse_detail"):
        assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient[name]["query"])), name


def test_what_could_not_learn_to_mix_is_refused():
    for config in (photos_config(1, 2), photos_config(0, 0)):
        psi = functools.partial(_Psi, ReconstructorConfig.from_dict(config.model.to_dict()))()
        with pytest.raises(UserError, match=r"photos"):
            build_draw(config, psi, None, jax.random.key(0))


class _Psi:
    """As much of `Psi` as is asked before anything is drawn."""

    def __init__(self, config: ReconstructorConfig):
        self.reconstructor = Reconstructor(config)
        self.mesh = type("Mesh", (), {"size": 1})()
