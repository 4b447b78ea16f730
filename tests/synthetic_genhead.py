"""A small GenHead with random weights, whose densities spread widely, so that there is a surface."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax.genhead.config import GenHeadConfig
from p4d_jax.genhead.model import GenHead

SMALL = GenHeadConfig(
    latent_size=4, style_size=4, shape_size=5, plane_size=16, plane_channels=4, channel_base=32,
    channel_max=8, background_size=4, background_mapping_layers=1, background_channel_base=16,
    background_channel_max=4, decoder_hidden=8, feature_channels=5, superresolution_size=16,
    superresolution_channels=(4,),
)  # fmt: skip


def random_variables(config: GenHeadConfig = SMALL, seed: int = 0) -> dict:
    """Variables drawn from N(0, 1) at half precision, so that saving them changes nothing."""
    generator = np.random.default_rng(seed)
    inputs = jnp.zeros((1, config.latent_size)), jnp.zeros((1, 25)), jnp.zeros((1, config.shape_size))
    shapes = jax.eval_shape(GenHead(config).init, jax.random.key(0), *inputs)

    def draw(leaf) -> np.ndarray:
        return generator.standard_normal(leaf.shape).astype(np.float16).astype(np.float32)

    variables = jax.tree.map(draw, shapes)
    density = variables["params"]["decoder"]["density"]
    density["weight"] = np.float32(np.float16(20 * (density["weight"] - density["weight"].mean())))
    density["bias"] = density["bias"] - 15
    return jax.tree.map(jnp.asarray, variables)
