"""Cases of Psi and its parts: each part alone, mapped by its own table."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax.convert import reconstructor as tables
from p4d_jax.convert.mapping import Rules, convert_state, shapes_of
from p4d_jax.convert.parity.fixtures import Case
from p4d_jax.convert.parity.geometry import reference_mesh
from p4d_jax.head.deformation import build_neck_field
from p4d_jax.imaging.resizing import resize_bilinear
from p4d_jax.nn.field_decoder import FieldDecoder
from p4d_jax.nn.layers import pixel_shuffle
from p4d_jax.nn.superresolution import SuperResolution
from p4d_jax.nn.transformer import tokens_to_image
from p4d_jax.reconstructor.config import ReconstructorConfig
from p4d_jax.reconstructor.encoders import Canonicalizer, EncoderDetail, EncoderGlobal, UNet
from p4d_jax.reconstructor.field import HeadField, compose
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.reconstructor.planes import Reenactor, TriplaneGenerator
from p4d_jax.render.rays import generate_rays
from p4d_jax.render.volume import depth_range, render_rays_at
from p4d_jax.types import BOX_WARP, Camera

RESOLUTION = 64
SAMPLES = 48  # coarse samples a ray, and as many fine ones

Outputs = dict[str, np.ndarray]


def channels_last(x: np.ndarray) -> jax.Array:
    """NCHW -> NHWC."""
    return jnp.asarray(x).transpose(0, 2, 3, 1)


def channels_first(x: jax.Array) -> np.ndarray:
    """NHWC -> NCHW."""
    return np.asarray(x).transpose(0, 3, 1, 2)


def planes_first(planes: jax.Array) -> np.ndarray:
    """Tri-planes (B, 3, H, W, C) -> (B, 3 C, H, W)."""
    batch, _, height, width, _ = planes.shape
    return np.asarray(planes).transpose(0, 1, 4, 2, 3).reshape(batch, -1, height, width)


def run(case: Case, module: nn.Module, rules: Rules, *arguments):
    """The module's result for the case's weights, mapped by `rules`."""
    shapes = shapes_of(module.init, *arguments)
    variables = convert_state(case.state, rules, shapes, type(module).__name__).variables
    return jax.jit(module.apply)(variables, *arguments)


def config_for(image_size: int) -> ReconstructorConfig:
    """The released sizes for another image size: the networks are convolutional."""
    return dataclasses.replace(tables.CONFIG, image_size=image_size)


def encoder_global(case: Case) -> Outputs:
    module = EncoderGlobal(tables.CONFIG)
    features = run(case, module, tables.ENCODER_GLOBAL, channels_last(case.inputs["image"]))
    return {"features": channels_first(features)}


def encoder_detail(case: Case) -> Outputs:
    module = EncoderDetail(tables.CONFIG)
    features = run(case, module, tables.ENCODER_DETAIL, channels_last(case.inputs["image"]))
    return {"features": channels_first(features)}


class _Canonical(nn.Module):
    """Phi_de and Phi_re, which one module of the source holds."""

    config: ReconstructorConfig

    def setup(self):
        self.canonicalizer = Canonicalizer(self.config)
        self.reenactor = Reenactor(self.config)

    def __call__(self, features, motion_driving, motion_source, scale):
        tokens = self.canonicalizer(features, motion_source, scale)
        return self.reenactor(tokens, motion_driving, scale)


def encoder_canonical(case: Case) -> Outputs:
    side = case.inputs["features"].shape[-1] // 2
    config = config_for(16 * side)
    module, last = _Canonical(config), f"block{config.blocks_re - 1}"
    features = channels_last(case.inputs["features"])
    motions = [jnp.asarray(case.inputs[key]) for key in ("motion_driving", "motion_source")]
    ones, outputs = jnp.ones(len(features)), {}
    shapes = shapes_of(module.init, features, *motions, ones)
    variables = convert_state(case.state, tables.ENCODER_CANONICAL, shapes, "encoder_canonical").variables

    @jax.jit
    def tokens_and_features(variables, features, motions, scale):
        high, kept = module.apply(
            variables,
            features,
            *motions,
            scale,
            capture_intermediates=lambda inner, _: inner.name == last and inner.path[0] == "reenactor",
            mutable=["intermediates"],
        )
        return kept["intermediates"]["reenactor"][last]["__call__"][0], high

    for suffix, scale in (("on", ones), ("off", 0 * ones)):
        tokens, high = tokens_and_features(variables, features, motions, scale)
        outputs[f"low_{suffix}"] = channels_first(pixel_shuffle(tokens_to_image(tokens, side, side), 2))
        outputs[f"high_{suffix}"] = channels_first(high)
    return outputs


def triplane_decoder(case: Case) -> Outputs:
    features = [channels_last(case.inputs[key]) for key in ("global_features", "detail_features")]
    module = TriplaneGenerator(config_for(2 * features[0].shape[1]))
    nothing_lifted = jnp.zeros((*features[0].shape[:3], 0))
    planes = run(case, module, tables.GENERATOR_TRIPLANE, *features, nothing_lifted)
    return {"planes": planes_first(planes)}


def background_encoder(case: Case) -> Outputs:
    config = tables.CONFIG
    module = UNet(config.background_widths, config.feature_channels, config.dtype)
    features = run(case, module, tables.BACKGROUND, channels_last(case.inputs["image"]))
    return {"features": channels_first(features)}


def superresolution(case: Case) -> Outputs:
    config = tables.CONFIG
    module = SuperResolution(
        config.superresolution_channels, config.superresolution_size, config.superresolution_clamp
    )
    features = channels_last(case.inputs["features"])
    image = run(case, module, tables.SUPERRESOLUTION, features, jnp.asarray(case.inputs["ws"])[:, -1])
    return {"image": channels_first(image)}


def field_decoder(case: Case) -> Outputs:
    module = FieldDecoder(tables.CONFIG.feature_channels, tables.CONFIG.decoder_hidden)
    features = jnp.moveaxis(jnp.asarray(case.inputs["features"]), 1, 0)
    density, rgb = run(case, module, tables.DECODER, features)
    return {"sigma": np.asarray(density), "rgb": np.asarray(rgb)}


def reconstructor(case: Case) -> Outputs:
    """Psi and R end to end, with samples at the left edge of their strata and importance u = 0.5."""
    config = tables.CONFIG
    module = Reconstructor(config)
    shapes = tables.variable_shapes(config)
    variables = convert_state(case.state, tables.RECONSTRUCTOR, shapes, "reconstructor").variables
    image = channels_last(case.image("image", (1, 3, config.image_size, config.image_size)))
    driving, source = (case.inputs[key].reshape(1, -1) for key in ("motion_driving", "motion_source"))
    posed, straight = (
        reference_mesh(jnp.asarray(case.inputs[key].reshape(-1, 3))) for key in ("posed", "unposed")
    )
    faces = jnp.asarray(case.inputs["faces"].reshape(-1, 3), jnp.int32)

    @jax.jit
    def frame(variables, image, source, driving, camera, posed, straight):
        apply, one = functools.partial(module.apply, variables), jnp.ones(1)
        features = apply(image, source, None, one, method="encode")
        planes = apply(features, driving, one, method="animate")
        field = HeadField(module, variables, planes[0], None, build_neck_field(posed, straight, faces))
        near, far = depth_range(camera, BOX_WARP)
        rays = render_rays_at(
            field,
            *generate_rays(camera, RESOLUTION),
            near=near,
            far=far,
            jitter=jnp.zeros(SAMPLES),
            u=jnp.full(SAMPLES, 0.5),
        )
        rays = jax.tree.map(lambda x: x.reshape(1, RESOLUTION, RESOLUTION, -1), rays)
        behind = resize_bilinear(features.background, RESOLUTION)
        raw = compose(rays.features, rays.transmittance, behind)
        return planes, behind, rays, raw, apply(raw, method="upscale")

    camera = Camera.from_label(jnp.asarray(case.inputs["camera"].reshape(25)))
    planes, behind, rays, raw, image = frame(variables, image, source, driving, camera, posed, straight)
    outputs = {
        "image_sr": channels_first(image),
        "image": channels_first(raw)[:, :3],
        "image_wobg": channels_first(2 * rays.features - 1)[:, :3],
        "depth": channels_first(rays.depth),
        "planes": planes_first(planes),
        "background": 2 * channels_first(behind) - 1,
        "opacity": 1 - channels_first(rays.transmittance),
    }
    return {name: as_stored(value, case, name) for name, value in outputs.items()}


def as_stored(value: np.ndarray, case: Case, name: str) -> np.ndarray:
    """A result with the axes, the channels and the range in which the reference keeps it.

    Planes are stored with or without an axis of planes, the background as RGB or as all features, and both
    opacity and background in [0, 1] or [-1, 1]: the public implementation has each of these.
    """
    reference = case.outputs[name]
    if name == "background":
        value = value[:, : reference.shape[1]]
        value = value if reference.min() < -0.01 else (value + 1) / 2
    if name == "opacity" and reference.min() < -0.01:
        value = 2 * value - 1
    return value.reshape(*reference.shape[:-2], *value.shape[-2:])


# Case name -> our outputs by name, in the reference's layouts.
CASES: dict[str, Callable[[Case], dict[str, np.ndarray]]] = {
    function.__name__: function
    for function in (
        encoder_global,
        encoder_detail,
        encoder_canonical,
        triplane_decoder,
        background_encoder,
        superresolution,
        field_decoder,
        reconstructor,
    )
}
