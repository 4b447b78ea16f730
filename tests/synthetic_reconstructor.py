"""A small reconstructor with random weights, whose densities spread widely, so that there is a surface."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax.reconstructor.config import ReconstructorConfig
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.reconstructor.weights import save_reconstructor

TINY = ReconstructorConfig(
    image_size=64,
    global_widths=(8, 8, 8, 8),
    global_depths=(1, 1, 1, 1),
    pyramid_features=8,
    pyramid_rates=(1, 2, 3),
    detail_features=(8, 8),
    motion_size=109,
    motion_hidden=16,
    motion_grid=2,
    token_dim=16,
    token_heads=2,
    blocks_de=1,
    blocks_re=1,
    canonical_features=(8, 8, 8),
    plane_token_dim=16,
    plane_heads=2,
    plane_convs_before=(8,),
    plane_convs_after=(8,),
    plane_channels=8,
    background_widths=(8, 8, 8, 8),
    background_size=32,
    decoder_hidden=16,
    feature_channels=8,
    superresolution_size=32,
    superresolution_channels=(8,),
    style_dim=16,
    source_lifting=True,
    lifted_size=64,
    deformation="expression",
    refinement_features=(8,),
    refinement_scale=2,
)


def save_random_weights(path: Path) -> Path:
    """Writes the weights as an exported file."""
    image, motion, lifted = jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, 109)), jnp.zeros((1, 64, 64, 4))
    shapes = jax.eval_shape(Reconstructor(TINY).init, jax.random.key(0), image, motion, motion, lifted)
    rng = np.random.default_rng(0)

    def fill(path, leaf) -> np.ndarray:
        if path[-1].key == "w_avg":
            return np.ones(leaf.shape, np.float32)
        gain = 15.0 if path[1].key == "decoder" else 1.0
        return gain * rng.normal(0, 1 / np.sqrt(max(leaf.size // leaf.shape[-1], 1)), leaf.shape)

    save_reconstructor(path, TINY, jax.tree_util.tree_map_with_path(fill, shapes), {})
    return path
