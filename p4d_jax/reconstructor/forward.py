"""Psi on samples: networks, then one view of each pair, each device its own. What losses compare.

Letters: B samples of all devices, S image size, R rays a side, c side of the crop of rays that is rendered
(R: all), k = S / R, F feature channels. Images in [-1, 1].
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import struct

from p4d_jax.reconstructor.deformation import apply_field
from p4d_jax.reconstructor.encoders import SourceFeatures
from p4d_jax.reconstructor.field import (
    HeadField,
    compose,
    march_rays,
    network_inputs,
    refine_image,
    resize_background,
)
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.reconstructor.samples import Sample, crop_image
from p4d_jax.reconstructor.several_photos import SourceTextures
from p4d_jax.reconstructor.training import ReconstructorTraining
from p4d_jax.render.triplane import sample_planes
from p4d_jax.train.adversarial import DiscriminatorInput, LabelledInput
from p4d_jax.train.devices import on_devices
from p4d_jax.types import Array


@struct.dataclass
class Rendered:
    """What Psi made of a batch.

    Attributes:
      image: (B, kc, kc, 3).
      upscaled: (B, kc', kc', 3) before a refinement, or None.
      features: (B, c, c, F) with background, in [-1, 1].
      foreground: (B, c, c, F) without, premultiplied, in [-1, 1].
      background: (B, c, c, F) in [-1, 1].
      opacity, depth: (B, c, c, 1).
      plane_features: (B, N, C) at the pair's points, or None.
      depth_and_alpha: (B, S, S, 2) of the source as Psi sees it, or None.
      logits: (B, 1) of D, where a loss reads them.
    """

    image: Array
    upscaled: Array | None
    features: Array
    foreground: Array
    background: Array
    opacity: Array
    depth: Array
    plane_features: Array | None
    depth_and_alpha: Array | None = None
    logits: Array | None = None


@struct.dataclass
class Identities:
    """What Psi makes of a batch before rays are marched.

    Attributes:
      planes: (B, 3, P, P, C). background: (B, b, b, F) in [0, 1].
      photo: `SourceFeatures.photo`, (B, ...) or None.
    """

    planes: Array
    background: Array
    photo: Array | None


def encode_photo(reconstructor: Reconstructor, variables: dict, samples: Sample) -> SourceFeatures:
    """Sources (B,) of one photo each."""
    image, lifted, mesh = jax.vmap(functools.partial(network_inputs, reconstructor))(samples.texture)
    return reconstructor.apply(
        variables, image, samples.motion_source, lifted, samples.scale, mesh, method="encode"
    )


def encode_photos(reconstructor: Reconstructor, variables: dict, samples: Sample) -> SourceFeatures:
    """Sources (B,) of K photos each, fused."""
    batch, count = samples.motion_source.shape[:2]
    flat = jax.tree.map(
        lambda x: x.reshape(batch * count, *x.shape[2:]), (samples.texture.textures, samples.motion_source)
    )
    each = samples.replace(texture=flat[0], motion_source=flat[1], scale=jnp.repeat(samples.scale, count))
    photos = encode_photo(reconstructor, variables, each)
    photos = jax.tree.map(lambda x: x.reshape(batch, count, *x.shape[1:]), photos)
    fuse = lambda one, trust: reconstructor.apply(variables, one, trust, method="fuse")
    return jax.tree.map(lambda x: x[:, 0], jax.vmap(fuse)(photos, samples.texture.trust))


def make_planes(training: ReconstructorTraining, variables: dict, samples: Sample) -> Identities:
    """The networks before the renderer; `views_at_once` pairs at a time, where memory is short."""
    reconstructor, config = training.reconstructor, training.config

    def networks(variables: dict, samples: Sample) -> Identities:
        apply = functools.partial(reconstructor.apply, variables)
        encode = encode_photos if isinstance(samples.texture, SourceTextures) else encode_photo
        source = encode(reconstructor, variables, samples)
        planes = apply(source, samples.motion_driving, samples.scale, method="animate")
        return Identities(planes, source.background, source.photo)

    def one(variables: dict, sample: Sample) -> Identities:
        made = networks(variables, jax.tree.map(lambda x: x[None], sample))
        return jax.tree.map(lambda x: x[0], made)

    used = samples.replace(targets=None)
    keep = jax.checkpoint if config.rematerialize else lambda f: f
    if config.views_at_once:
        return on_devices(training.mesh, keep(one), variables, at_once=config.views_at_once)(used)
    return keep(networks)(variables, used)


def render_samples(
    training: ReconstructorTraining, variables: dict, samples: Sample, keys: Array | None
) -> Rendered:
    """Psi on samples (B,) with raw keys (B, 2) of the rays, or None for no randomness."""
    reconstructor, config = training.reconstructor, training.config
    made = make_planes(training, variables, samples)
    side, pixels = samples.targets.raw.shape[1], samples.targets.image.shape[1]
    resolution = side * samples.texture.image.shape[1] // pixels

    def view(variables: dict, one: tuple) -> Rendered:
        identity, sample, key = one
        key = None if key is None else jax.random.wrap_key_data(key)
        texture = sample.texture.with_features(identity.photo)
        field = HeadField(reconstructor, variables, identity.planes, texture, sample.field, sample.box_scale)
        flat = march_rays(field, *sample.rays, sample.camera, config.samples, key)
        marched = jax.tree.map(lambda x: x.reshape(side, side, x.shape[-1]), flat)
        behind = crop_image(resize_background(identity.background, resolution), sample.corner, side)
        features = compose(marched.features, marched.transmittance, behind)
        upscaled = reconstructor.apply(variables, features[None], method="upscale")[0]
        image = refine_image(field, upscaled, flat, sample.pixel_rays)
        at_points = None
        if sample.points is not None:
            canonical = apply_field(sample.field, sample.points[:, None])[:, 0]
            at_points = sample_planes(identity.planes, canonical).mean(0)
        return Rendered(
            image, upscaled if reconstructor.config.refinement_features else None, features,
            2 * marched.features - 1, 2 * behind - 1, 1 - marched.transmittance, marched.depth, at_points,
        )  # fmt: skip

    one = jax.checkpoint(view) if config.rematerialize else view
    used = samples.replace(targets=None, face=None)
    out = on_devices(training.mesh, one, variables, at_once=config.views_at_once)((made, used, keys))
    if made.photo is None:
        return out
    several = made.photo.ndim == 5  # the first of K photos is the pair's source
    return out.replace(depth_and_alpha=(made.photo[:, 0] if several else made.photo)[..., -2:])


# What D sees


def labelled_fakes(samples: Sample, out: Rendered) -> LabelledInput:
    """What D sees of a rendered batch."""
    targets = samples.targets
    inputs = DiscriminatorInput(out.image, out.features[..., :3], targets.correspondence, out.opacity * 2 - 1)
    return LabelledInput(inputs, samples.label)


def labelled_reals(samples: Sample) -> LabelledInput:
    """What D sees of the targets."""
    targets = samples.targets
    inputs = DiscriminatorInput(targets.image, targets.raw, targets.correspondence, targets.mask * 2 - 1)
    return LabelledInput(inputs, samples.label)
