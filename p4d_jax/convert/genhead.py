"""The released GenHead's keys, and those of its discriminator, into our own.

A table a part, so that a reference case of one part is mapped by the very rules of the whole.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np

from p4d_jax.convert.mapping import (
    NetworkImport,
    Rule,
    Rules,
    Unused,
    below,
    conv,
    dense,
    image,
    layer,
    shapes_of,
)
from p4d_jax.convert.reconstructor import DECODER, SUPERRESOLUTION
from p4d_jax.genhead.config import DiscriminatorConfig
from p4d_jax.genhead.discriminator import Discriminator
from p4d_jax.genhead.model import CAMERA_SIZE
from p4d_jax.genhead.weights import RELEASED, genhead_shapes
from p4d_jax.train.adversarial import DiscriminatorInput

_FILTER = Unused(r".*resample_filter", "the filter (1, 3, 3, 1) is a constant of the resampling layers")


equalized_layer = functools.partial(layer, weight="weight")  # as `nn.stylegan2` names it


def dense_behind_image(value: np.ndarray) -> np.ndarray:
    """Linear weight (out, C·4·4) over a flattened CHW image -> (4·4·C, out) over a flattened HWC image."""
    if value.ndim != 2 or value.shape[1] % 16:
        return value
    return value.reshape(value.shape[0], -1, 4, 4).transpose(2, 3, 1, 0).reshape(-1, value.shape[0])


def modulated(block: str, name: str) -> list[Rule]:
    """The modulated layers of synthesis blocks; `block` matches a block's key, `name` is our name of it."""
    return [
        *equalized_layer(rf"{block}\.(conv[01]|torgb)", rf"{name}/\2"),
        *equalized_layer(rf"{block}\.(conv[01]|torgb)\.affine", rf"{name}/\2/affine", dense),
    ]


MAPPING: Rules = [*equalized_layer("embed", "embed", dense), *equalized_layer(r"fc(\d+)", r"layer\1", dense)]

SYNTHESIS: Rules = [
    _FILTER,
    Rule(r"b4\.const", "params/block4/const", image),
    *modulated(r"b(\d+)", r"block\1"),
    Rule(r"b(\d+)\.(conv[01])\.noise_strength", r"params/block\1/\2/noise_strength"),
    Rule(r"b(\d+)\.(conv[01])\.noise_const", r"buffers/block\1/\2/noise_const"),
]

GENERATOR: Rules = [
    Rule(r"mapping\.w_avg", "buffers/w_avg"),
    *below("mapping.", "mapping", MAPPING),
    *below("synthesis.", "synthesis", SYNTHESIS),
]

GENHEAD: Rules = [
    *below("backbone.", "backbone", GENERATOR),
    *below("background.", "background_generator", GENERATOR),
    *below("superresolution.", "superresolution", SUPERRESOLUTION),
    *below("decoder.", "decoder", DECODER),
    Unused(r"deformer\..*", "buffers of the head model: they come from the head asset"),
    Unused(r"renderer\..*", "axes of the planes: constants"),
]

DISCRIMINATOR: Rules = [
    _FILTER,
    *equalized_layer(r"b\d+\.fromrgb", "from_rgb"),
    *equalized_layer(r"b(\d+)\.(conv[01])", r"block\1/\2"),
    Rule(r"b(\d+)\.skip\.weight", r"params/block\1/skip", conv),
    *equalized_layer(r"b4\.conv", "block4/conv"),
    *equalized_layer(r"b4\.fc", "block4/dense", dense_behind_image),
    *equalized_layer(r"b4\.out", "block4/out", dense),
    *below("mapping.", "mapping", MAPPING),
]


RELEASED_DISCRIMINATOR = DiscriminatorConfig()


def discriminator_shapes(config: DiscriminatorConfig = RELEASED_DISCRIMINATOR) -> dict:
    """Shapes of the discriminator's variables."""
    sharp = jnp.zeros((1, config.image_size, config.image_size, 3))
    inputs = DiscriminatorInput(sharp, sharp, sharp, sharp[..., :1])
    return shapes_of(Discriminator(config).init, inputs, jnp.zeros((1, CAMERA_SIZE)))


NETWORKS: dict[str, NetworkImport] = {
    "genhead": NetworkImport(
        rules=GENHEAD,
        init_shapes=genhead_shapes,
        config=RELEASED.to_dict(),
        marks=("backbone.mapping.w_avg", "background.mapping.w_avg", "decoder.out_sigma.weight"),
    ),
    "genhead_discriminator": NetworkImport(
        rules=DISCRIMINATOR,
        init_shapes=discriminator_shapes,
        config=RELEASED_DISCRIMINATOR.to_dict(),
        marks=("b512.fromrgb.weight", "b4.out.weight", "mapping.embed.weight"),
    ),
}
