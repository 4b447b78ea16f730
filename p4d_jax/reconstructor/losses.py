"""The loss table of the reconstructor: one small function a term, its weight and its span in the config.

    L = L_re at four places + L_f + 0.1 L_tri + L_depth + 0.3 L_opa + L_id + 0.01 L_adv

A term is `f(judges, sample, rendered) -> ()`, the mean over a batch; `TERMS` says what each needs to know of
a pair. Two networks that others trained may judge, and are given by name: LPIPS ('lpips') or its documented
substitute for machines without it ('structure': gradients over scales and block SSIM, `train.losses`); and
ArcFace. Letters: B batch, S image size, R rays a side, c side of the rendered crop of rays (R: all),
k = S / R, F feature channels. Images in [-1, 1]. Source: docs/concepts/training.md, Eq. 8.1 to 8.8.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from p4d_jax.genhead.discriminator import DiscriminatorInput
from p4d_jax.networks.arcface import IResNet, align_for_identity, cosine_similarity
from p4d_jax.networks.lpips import LPIPS
from p4d_jax.train import losses
from p4d_jax.types import Array

ALWAYS = (0.0, math.inf)


@struct.dataclass
class LossNetworks:
    """Networks that judge pictures; frozen.

    Attributes:
      lpips, lpips_variables: the perceptual distance; None: `losses.structure` stands for it.
      arcface, arcface_variables: face identity, or None.
    """

    lpips: LPIPS | None = struct.field(pytree_node=False, default=None)
    lpips_variables: dict | None = None
    arcface: IResNet | None = struct.field(pytree_node=False, default=None)
    arcface_variables: dict | None = None

    def perceptual(self, image: Array, target: Array, weights: Array | None = None) -> Array:
        """() mean distance of images (B, H, W, 3); LPIPS, which looks at whole pictures, takes no weights."""
        if self.lpips is None:
            return jax.vmap(losses.structure)(image, target, weights).mean()
        return self.lpips.apply(self.lpips_variables, image, target).mean()

    def reconstruction(self, image: Array, target: Array, weights: Array | None = None) -> Array:
        """() L_re at one place: L1 and perceptual distance, under weights (B, H, W, 1)."""
        return jax.vmap(losses.l1)(image, target, weights).mean() + self.perceptual(image, target, weights)


@struct.dataclass
class Targets:
    """What a batch should look like, cut to the rendered crop; None where a pair does not know it.

    Attributes:
      image: (B, kc, kc, 3). raw: (B, c, c, 3).
      mask: (B, c, c, 1) in [0, 1].
      weights, raw_weights: (B, kc, kc, 1), (B, c, c, 1) of pixels in L_re, or None.
      depth: (B, c, c, 1) world units.
      background: (B, c, c, 3): what is behind everywhere; None: `raw` shows it where the mask is 0.
      features: (B, c, c, F) of the head alone, premultiplied, in [-1, 1].
      background_features: (B, c, c, F) in [-1, 1].
      plane_features: (B, N, C).
      landmarks: (B, 70, 2) in pixels of the image; for whole views.
      correspondence: (B, S, S, 3) for whole views.
      depth_and_alpha: (B, S, S, 2) of the source (`texture.mesh_depth_and_alpha`), S the input size.
    """

    image: Array
    raw: Array
    mask: Array
    weights: Array | None = None
    raw_weights: Array | None = None
    depth: Array | None = None
    background: Array | None = None
    features: Array | None = None
    background_features: Array | None = None
    plane_features: Array | None = None
    landmarks: Array | None = None
    correspondence: Array | None = None
    depth_and_alpha: Array | None = None


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


def discriminator_input(targets: Targets, out: Rendered) -> DiscriminatorInput:
    """What D sees of a rendered batch."""
    return DiscriminatorInput(out.image, out.features[..., :3], targets.correspondence, out.opacity * 2 - 1)


def real_input(targets: Targets) -> DiscriminatorInput:
    """What D sees of the targets."""
    return DiscriminatorInput(targets.image, targets.raw, targets.correspondence, targets.mask * 2 - 1)


# L_re -------------------------------------------------------------------------------------------------------


def image_loss(loss_networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """The picture."""
    return loss_networks.reconstruction(out.image, targets.image, targets.weights)


def upscaled_loss(loss_networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """The picture before a refinement (ours)."""
    size = (*out.upscaled.shape[:3],)
    shrink = lambda x: jax.image.resize(x, (*size, x.shape[-1]), "linear", antialias=True)
    weights = None if targets.weights is None else shrink(targets.weights)
    return loss_networks.reconstruction(out.upscaled, shrink(targets.image), weights)


def raw_loss(loss_networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """The volume renderer's colours."""
    return loss_networks.reconstruction(out.features[..., :3], targets.raw, targets.raw_weights)


def over_black(image: Array, mask: Array) -> Array:
    """Images in [-1, 1], black where the mask is 0."""
    return (image + 1) * mask - 1


def foreground_loss(loss_networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """The same without background."""
    target = over_black(targets.raw, targets.mask)
    return loss_networks.reconstruction(out.foreground[..., :3], target, targets.raw_weights)


def background_loss(loss_networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """The background's colours; where only a picture tells them, those that the head does not hide."""
    if targets.background is not None:
        return loss_networks.reconstruction(out.background[..., :3], targets.background)
    seen = 1 - targets.mask
    return loss_networks.reconstruction(
        over_black(out.background[..., :3], seen), over_black(targets.raw, seen)
    )


# All others -------------------------------------------------------------------------------------------------


def feature_loss(loss_networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """L_f: L1 of the feature images of head and background."""
    head = jnp.abs(out.foreground - targets.features).mean()
    return head + jnp.abs(out.background - targets.background_features).mean()


def triplane_loss(loss_networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """L_tri: L1 of tri-plane features at points, each in its own canonical space."""
    return jnp.abs(out.plane_features - targets.plane_features).mean()


def depth_loss(loss_networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """L_depth: L1 inside the mask."""
    return jax.vmap(losses.depth_error)(out.depth, targets.depth, targets.mask).mean()


def opacity_loss(loss_networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """L_opa."""
    return jnp.abs(out.opacity - targets.mask).mean()


def photo_depth_loss(loss_networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """The relief's depth (ours): L1 inside the source's mask, in shares of half the box."""
    depth, mask = jnp.split(targets.depth_and_alpha, 2, axis=-1)
    return jax.vmap(losses.depth_error)(out.depth_and_alpha[..., :1], depth, mask).mean()


def photo_opacity_loss(loss_networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """The relief's opacity (ours): cross-entropy with the source's mask."""
    opacity, mask = jnp.clip(out.depth_and_alpha[..., 1], 1e-4, 1 - 1e-4), targets.depth_and_alpha[..., 1]
    return -(mask * jnp.log(opacity) + (1 - mask) * jnp.log1p(-opacity)).mean()


def identity_loss(loss_networks: LossNetworks, targets: Targets, out: Rendered) -> Array:
    """L_id: 1 - cosine of ArcFace's features."""
    align = jax.vmap(align_for_identity)
    both = jnp.concatenate([align(out.image, targets.landmarks), align(targets.image, targets.landmarks)])
    made, true = jnp.split(loss_networks.arcface.apply(loss_networks.arcface_variables, both), 2)
    return (1 - cosine_similarity(made, jax.lax.stop_gradient(true))).mean()


@dataclasses.dataclass(frozen=True)
class Entry:
    """A term, and what it needs.

    Attributes:
      loss: see the module's docstring; None where the step itself computes it.
      of_pair: fields of `data.samples.HeadPair`.
      whole: it needs whole views, not crops.
      photo: it needs a model with photo features.
    """

    loss: Callable[[LossNetworks, Targets, Rendered], Array] | None
    of_pair: tuple[str, ...] = ()
    whole: bool = False
    photo: bool = False


TERMS = {
    "image": Entry(image_loss),
    "upscaled": Entry(upscaled_loss),
    "raw": Entry(raw_loss),
    "foreground": Entry(foreground_loss),
    "background": Entry(background_loss),
    "features": Entry(feature_loss, ("features", "background_features")),
    "triplane": Entry(triplane_loss, ("points", "plane_features")),
    "depth": Entry(depth_loss, ("depth",)),
    "opacity": Entry(opacity_loss),
    "photo_depth": Entry(photo_depth_loss, ("source_depth",), photo=True),
    "photo_opacity": Entry(photo_opacity_loss, ("source_mask",), photo=True),
    "identity": Entry(identity_loss, whole=True),
    "adversarial": Entry(None, whole=True),
    "density": Entry(None),
}
