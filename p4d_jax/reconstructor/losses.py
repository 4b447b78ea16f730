"""The losses of the reconstructor: one small function each, its weight and its span in the config.

    L = L_re at four places + L_f + 0.1 L_tri + L_depth + 0.3 L_opa + L_id + 0.01 L_adv

A loss is `f(networks, targets, rendered) -> ()`, the mean over a batch, registered in `LOSSES` with what it
reads: fields of the data's `HeadPair`, or

    whole_view       views of all R rays, no crops
    photo_features   a model with photo features
    arcface          that network
    logits           those of a discriminator (`Rendered.logits`)

A lazy one, a regulariser with a step of its own, is `f(training, variables, samples, keys) -> ()`. The
perceptual distance is LPIPS ('lpips') or its documented substitute for machines without it ('structure':
gradients over scales and block SSIM, `train.losses`). Letters: B batch, S image size, R rays a side, c side
of the rendered crop of rays (R: all), k = S / R, F feature channels. Images in [-1, 1]. Source:
docs/concepts/training.md, Eq. 8.1 to 8.8.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from p4d_jax.data.samples import HeadPair
from p4d_jax.errors import UserError
from p4d_jax.networks.arcface import align_for_identity, cosine_similarity
from p4d_jax.reconstructor.config import ReconstructorConfig, StepConfig
from p4d_jax.reconstructor.field import HeadField
from p4d_jax.reconstructor.forward import Rendered, make_planes
from p4d_jax.reconstructor.samples import Sample, Targets, over_black
from p4d_jax.reconstructor.training import LossNetworks, ReconstructorTraining
from p4d_jax.train import adversarial, losses
from p4d_jax.train.devices import on_devices
from p4d_jax.train.loss_table import LossRegistry
from p4d_jax.types import BOX_WARP, Array

LOSSES = LossRegistry()


# L_re -------------------------------------------------------------------------------------------------------


@LOSSES.add("image")
def image_loss(networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """The picture."""
    return networks.reconstruction(out.image, targets.image, targets.weights)


@LOSSES.add("upscaled")
def upscaled_loss(networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """The picture before a refinement (ours)."""
    size = (*out.upscaled.shape[:3],)
    shrink = lambda x: jax.image.resize(x, (*size, x.shape[-1]), "linear", antialias=True)
    weights = None if targets.weights is None else shrink(targets.weights)
    return networks.reconstruction(out.upscaled, shrink(targets.image), weights)


@LOSSES.add("raw")
def raw_loss(networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """The volume renderer's colours."""
    return networks.reconstruction(out.features[..., :3], targets.raw, targets.raw_weights)


@LOSSES.add("foreground")
def foreground_loss(networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """The same without background."""
    target = over_black(targets.raw, targets.mask)
    return networks.reconstruction(out.foreground[..., :3], target, targets.raw_weights)


@LOSSES.add("background")
def background_loss(networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """The background's colours; where only a picture tells them, those that the head does not hide."""
    if targets.background is not None:
        return networks.reconstruction(out.background[..., :3], targets.background)
    seen = 1 - targets.mask
    return networks.reconstruction(over_black(out.background[..., :3], seen), over_black(targets.raw, seen))


# All others -------------------------------------------------------------------------------------------------


@LOSSES.add("features", reads=("features", "background_features"))
def feature_loss(networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """L_f: L1 of the feature images of head and background."""
    head = jnp.abs(out.foreground - targets.features).mean()
    return head + jnp.abs(out.background - targets.background_features).mean()


@LOSSES.add("triplane", reads=("points", "plane_features"))
def triplane_loss(networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """L_tri: L1 of tri-plane features at points, each in its own canonical space."""
    return jnp.abs(out.plane_features - targets.plane_features).mean()


@LOSSES.add("depth", reads=("depth",))
def depth_loss(networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """L_depth: L1 inside the mask."""
    return jax.vmap(losses.depth_error)(out.depth, targets.depth, targets.mask).mean()


@LOSSES.add("opacity")
def opacity_loss(networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """L_opa."""
    return jnp.abs(out.opacity - targets.mask).mean()


@LOSSES.add("photo_depth", reads=("photo_features", "source_depth"))
def photo_depth_loss(networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """The relief's depth (ours): L1 inside the source's mask, in shares of half the box."""
    depth, mask = jnp.split(targets.depth_and_alpha, 2, axis=-1)
    return jax.vmap(losses.depth_error)(out.depth_and_alpha[..., :1], depth, mask).mean()


@LOSSES.add("photo_opacity", reads=("photo_features", "source_mask"))
def photo_opacity_loss(networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """The relief's opacity (ours): cross-entropy with the source's mask."""
    opacity, mask = jnp.clip(out.depth_and_alpha[..., 1], 1e-4, 1 - 1e-4), targets.depth_and_alpha[..., 1]
    return -(mask * jnp.log(opacity) + (1 - mask) * jnp.log1p(-opacity)).mean()


@LOSSES.add("identity", reads=("whole_view", "arcface"))
def identity_loss(networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """L_id: 1 - cosine of ArcFace's features."""
    align = jax.vmap(align_for_identity)
    both = jnp.concatenate([align(out.image, targets.landmarks), align(targets.image, targets.landmarks)])
    made, true = jnp.split(networks.arcface.apply(networks.arcface_variables, both), 2)
    return (1 - cosine_similarity(made, jax.lax.stop_gradient(true))).mean()


@LOSSES.add("adversarial", reads=("whole_view", "logits"))
def adversarial_loss(networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """L_adv: how far the discriminator is from taking the pictures for true ones."""
    return adversarial.generator_loss(out.logits)


@LOSSES.add("density", lazy=True)
def density_loss(training: ReconstructorTraining, variables: dict, samples: Sample, keys: Array) -> Array:
    """How much the density differs between points of the box and points near by; `keys` (B, 2) are raw."""
    config, reconstructor = training.config, training.reconstructor

    def one(decoder: dict, batch: tuple) -> Array:
        identity, field, texture, key = batch
        at_key, moved_key = jax.random.split(jax.random.wrap_key_data(key))
        points = jax.random.uniform(at_key, (config.density_points, 3), minval=-1.0, maxval=1.0)
        reach = config.density_distance * BOX_WARP
        moved = points + reach * jax.random.normal(moved_key, points.shape)
        texture = texture.with_features(identity.photo)
        ask = HeadField(reconstructor, decoder, identity.planes, texture, field)
        densities, _ = ask(jnp.concatenate([points, moved])[:, None])
        return losses.density_difference(*jnp.split(densities, 2))

    made = make_planes(training, variables, samples)
    decoder = variables | {"params": {"decoder": variables["params"]["decoder"]}}
    return on_devices(training.mesh, one, decoder)((made, samples.field, samples.texture, keys)).mean()


# What a table of losses asks for --------------------------------------------------------------------------


def check_table(config: StepConfig, model: ReconstructorConfig) -> None:
    """Refuses a table of losses that does not exist, or that the settings or the model cannot serve.

    Raises:
      ValueError: which names the argument; what is wrong first.
    """
    LOSSES.check_names(config.terms)
    for name in config.weighted():
        if config.crop and "whole_view" in LOSSES[name].reads:
            raise ValueError(f"crop: {name} needs whole views, crop=0; or set its weight to 0")
        if not model.photo_features and "photo_features" in LOSSES[name].reads:
            raise ValueError(f"terms.{name} needs model.photo_features; set its weight to 0")


def check_data(config: StepConfig, pair: HeadPair, networks: LossNetworks) -> None:
    """Refuses a table of losses that read what a pair, or the networks, do not know.

    Args:
      pair: of the data; shapes are enough.

    Raises:
      UserError: the first such term.
    """
    for name in config.weighted():
        fields = [field for field in LOSSES[name].reads if field in HeadPair.__dataclass_fields__]
        if missing := [field for field in fields if getattr(pair, field) is None]:
            raise UserError(
                f"terms.{name}: this data does not know {', '.join(missing)}; set its weight to 0"
            )
        if "arcface" in LOSSES[name].reads and networks.arcface is None:
            raise UserError(f"terms.{name} needs the network ArcFace; or set its weight to 0")
    if config.face_weight and pair.face_mask is None:
        raise UserError("step.face_weight: this data does not know face_mask; set it to 0")
