"""Training on sources of several photos: they reach Psi as one source, and teach it how to mix them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from psi_case import tiny_config

from p4d_jax import assets
from p4d_jax.errors import UserError
from p4d_jax.head.expression_field import build_canonical_frame
from p4d_jax.jobs.train_reenact import build_mixture
from p4d_jax.reconstructor.config import ReconstructorConfig, StepConfig
from p4d_jax.reconstructor.forward import encode_photos, render_samples
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.reconstructor.samples import build_samples
from p4d_jax.reconstructor.several_photos import SourceTextures
from p4d_jax.reconstructor.training import Constants, ReconstructorTraining, initial_variables
from p4d_jax.train.devices import build_mesh


def photos_case(photos: int, heads: int):
    """A config of so many photos a source and a model of so many heads, as small as can be."""
    config = tiny_config(batch=2)
    config.photos = photos
    config.model.update(
        fusion_heads=heads, source_lifting=True, deformation="expression", refinement_features=(4,)
    )
    model = Reconstructor(ReconstructorConfig.from_dict(config.model.to_dict()))
    return config, ReconstructorTraining(
        model, StepConfig((), stages=((0, 16),), samples=(4, 4)), build_mesh(), None
    )


def test_three_photos_become_one_source_that_teaches_the_attention():
    config, training = photos_case(3, 2)
    head = assets.head_model("openhead")
    constants = Constants(head, build_canonical_frame(head, 32))
    draw = build_mixture(config, training, head)
    keys = jnp.zeros((2, 2), jnp.uint32)

    def whole(key):
        variables = initial_variables(training.reconstructor, key)
        pairs = draw.trace(jnp.uint32(0), [])
        samples = build_samples(training, 16, False, constants, pairs, keys)
        return variables, pairs, samples, render_samples(training, variables, samples, None)

    variables, pairs, samples, out = jax.eval_shape(whole, jax.random.key(0))
    assert pairs.photos.shape == (2, 2, 32, 32, 3)
    assert isinstance(samples.texture, SourceTextures) and samples.texture.textures.image.shape == (
        2,
        3,
        32,
        32,
        3,
    )
    assert samples.motion_source.shape == (2, 3, 109)
    assert out.image.shape == (2, 32, 32, 3)
    # Numbers of these shapes: the gradient reaches the attention, and every photo counts.
    rng = np.random.default_rng(0)
    samples, variables = jax.tree.map(
        lambda x: rng.uniform(0.1, 0.3, x.shape).astype(x.dtype), (samples.replace(targets=None), variables)
    )

    def objective(variables, image):
        textures = samples.texture.textures.replace(image=image)
        changed = samples.replace(texture=samples.texture.replace(textures=textures))
        source = encode_photos(training.reconstructor, variables, changed)
        assert source.tokens.shape[0] == source.detail.shape[0] == 2
        return jnp.sum(source.tokens**2) + jnp.sum(source.detail**2)

    by_weight, by_photo = jax.jit(jax.grad(objective, (0, 1)))(variables, samples.texture.textures.image)
    for name in ("fuse_tokens", "fuse_detail"):
        leaves = jax.tree.leaves(by_weight["params"][name]["query"])
        assert all(np.abs(leaf).max() > 0 for leaf in leaves), name
    assert (np.abs(by_photo).max(axis=(2, 3, 4)) > 0).all()


@pytest.mark.parametrize(("photos", "heads"), [(1, 2), (0, 0)])
def test_what_could_not_learn_to_mix_is_refused(photos, heads):
    with pytest.raises(UserError, match="photos"):
        build_mixture(*photos_case(photos, heads), None)
