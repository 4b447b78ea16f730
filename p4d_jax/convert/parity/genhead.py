"""Cases of GenHead and its discriminator."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax.convert.genhead import DISCRIMINATOR, GENERATOR, discriminator_shapes, genhead_shapes
from p4d_jax.convert.mapping import Rules, convert_state
from p4d_jax.convert.parity.fixtures import Case
from p4d_jax.genhead.config import DiscriminatorConfig, GenHeadConfig
from p4d_jax.genhead.discriminator import Discriminator
from p4d_jax.genhead.model import CAMERA_SIZE, GenHead
from p4d_jax.train.adversarial import DiscriminatorInput

# Not stored with the case: its note tells them.
TRUNCATION_PSI, TRUNCATION_CUTOFF = 0.7, 14
RAW_SIZE = 64


def part_variables(state: dict, rules: Rules, shapes: dict, name: str) -> dict:
    """Variables of GenHead that has one part only: what its other methods need is left out."""
    expected = {collection: parts[name] for collection, parts in shapes.items() if name in parts}
    variables = convert_state(state, rules, expected, name).variables
    return {collection: {name: values} for collection, values in variables.items()}


def to_nchw(x: jax.Array) -> np.ndarray:
    return np.asarray(x).transpose(0, 3, 1, 2)


def to_nhwc(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x.transpose(0, 2, 3, 1))


def genhead_backbone(case: Case) -> dict[str, np.ndarray]:
    """Styles and the 192 channels of the tri-planes."""
    genhead = GenHead(GenHeadConfig())
    variables = part_variables(case.state, GENERATOR, genhead_shapes(), "backbone")
    camera, shape = case.inputs["c"][:, :CAMERA_SIZE], case.inputs["c"][:, CAMERA_SIZE:]

    @jax.jit
    def run(variables, latent, camera, shape):
        ws = genhead.apply(variables, latent, camera, shape, TRUNCATION_PSI, TRUNCATION_CUTOFF, method="map")
        return ws, genhead.apply(variables, ws, method="planes")

    ws, planes = run(variables, case.inputs["z"], camera, shape)
    planes = np.asarray(planes).transpose(0, 1, 2, 5, 3, 4)
    return {"ws": np.asarray(ws), "planes": planes.reshape(len(planes), -1, *planes.shape[-2:])}


def background_generator(case: Case) -> dict[str, np.ndarray]:
    """Styles and features before the sigmoid."""
    genhead = GenHead(GenHeadConfig())
    variables = part_variables(case.state, GENERATOR, genhead_shapes(), "background_generator")

    def generate(genhead: GenHead, latent: jax.Array):
        ws = genhead.background_generator.map(latent, None)
        return ws, genhead.background_generator.synthesize(ws)

    run = jax.jit(lambda variables, latent: genhead.apply(variables, latent, method=generate))
    ws, features = run(variables, case.inputs["z"])
    return {"ws": np.asarray(ws), "features": to_nchw(features)}


def discriminator(case: Case) -> dict[str, np.ndarray]:
    """Logits of two images."""
    config = DiscriminatorConfig()
    network = Discriminator(config)
    variables = convert_state(
        case.state, DISCRIMINATOR, discriminator_shapes(config), "discriminator"
    ).variables
    batch, size = len(case.inputs["c"]), config.image_size
    inputs = DiscriminatorInput(
        image=to_nhwc(case.image("image_sr", (batch, 3, size, size))),
        raw=to_nhwc(case.image("image", (batch, 3, RAW_SIZE, RAW_SIZE))),
        correspondence=to_nhwc(case.image("uv", (batch, 3, size, size))),
        segmentation=to_nhwc(case.image("seg", (batch, 1, RAW_SIZE, RAW_SIZE))),
    )
    return {"logits": np.asarray(jax.jit(network.apply)(variables, inputs, case.inputs["c"]))}


# Case name -> our outputs by name, in the reference's layouts.
CASES: dict[str, Callable[[Case], dict[str, np.ndarray]]] = {
    "genhead_backbone": genhead_backbone,
    "background_generator": background_generator,
    "discriminator": discriminator,
}
