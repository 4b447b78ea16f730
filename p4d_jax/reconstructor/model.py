"""Psi: one portrait and a motion vector in, the tri-plane of an animated head out.

Letters: B batch, S image size, T = S/2 plane size, P plane upsampling, C plane channels, F feature channels.
Networks are NHWC; images in [-1, 1]. Source: Portrait4D (arXiv 2311.18729, section 4.2 and appendix),
docs/concepts/reconstructor.md. All sizes come from `ReconstructorConfig`; its defaults are the paper's.

    image ──E_global──┐                       ┌─E_detail── image (or the lifted image)
                      Φ_de(source motion)     │
                      Φ_re(driving motion) ──G_T──> tri-plane (3, P T, P T, C)
    image ──background U-Net──> background features
    image ──photo U-Net──> features of the photo's pixels, seen by the points that lie behind them (optional)

Everything before Φ_re does not know the driving motion, so `encode` is called once for a source and
`animate` once a frame. Beyond the paper, off by default: see `ReconstructorConfig.source_lifting`. Several
photos of one person are encoded one by one, and `fuse` makes one source of them.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from p4d_jax.nn.field_decoder import FieldDecoder
from p4d_jax.nn.layers import pixel_shuffle, pixel_unshuffle
from p4d_jax.nn.photo_attention import PhotoAttention, mix_photos, resize_trust, trust_logits
from p4d_jax.nn.superresolution import SuperResolution
from p4d_jax.reconstructor.config import ReconstructorConfig
from p4d_jax.reconstructor.encoders import Canonicalizer, EncoderDetail, EncoderGlobal, SourceFeatures, UNet
from p4d_jax.reconstructor.planes import Reenactor, TriplaneGenerator
from p4d_jax.reconstructor.refinement import PART_CHANNELS, GuidedRefinement
from p4d_jax.types import Array

GUIDE_CHANNELS = 15  # `reconstructor.texture.look_up_source`, and the background at the same pixel
NEARBY_CHANNELS = 4  # `reconstructor.texture.look_up_nearby`
PLACE_CHANNELS = 9  # of `reconstructor.texture.look_up_features` beside the photo's


def mix_by_trust(values: Array, trust: Array) -> Array:
    """Values (K, ..., D) of K photos mixed in proportion to trust (K, ...)."""
    return mix_photos(values, trust_logits(trust)[..., None])


class Reconstructor(nn.Module):
    """Psi. Call `encode` once a source, `animate` once a frame, `decode` at points, `upscale` on images."""

    config: ReconstructorConfig

    def setup(self):
        c = self.config
        self.encoder_global = EncoderGlobal(c)
        self.encoder_detail = EncoderDetail(c)
        self.canonicalizer = Canonicalizer(c)
        self.reenactor = Reenactor(c)
        self.generator_triplane = TriplaneGenerator(c)
        self.background = UNet(c.background_widths, c.feature_channels, c.dtype)
        self.photo = UNet(c.photo_widths, c.photo_features + 2, c.dtype) if c.photo_features else None
        self.decoder = FieldDecoder(features=c.feature_channels, hidden=c.decoder_hidden)
        self.superresolution = SuperResolution(
            channels=c.superresolution_channels,
            input_resolution=c.superresolution_size,
            clamp=c.superresolution_clamp,
            dtype=jnp.dtype(c.dtype),
        )
        self.refinement = GuidedRefinement(c.refinement_features) if c.refinement_features else None
        if c.fusion_heads:
            self.fuse_tokens = PhotoAttention(c.fusion_heads)
            self.fuse_detail = PhotoAttention(c.fusion_heads)
        else:
            self.fuse_tokens = self.fuse_detail = mix_by_trust
        self.w_avg = self.variable("buffers", "w_avg", jnp.ones, (c.style_dim,))

    def encode(
        self,
        image: Array,
        motion_source: Array,
        lifted: Array | None,
        scale: Array,
        mesh: Array | None = None,
    ) -> SourceFeatures:
        """The part that knows only the source.

        Args:
          image: (B, S, S, 3).
          motion_source: (B, M).
          lifted: (B, L, L, 4) lifted image and visibility, or None without source lifting.
          scale: (B,) multiplies every cross-attention's output; 0 for static samples.
          mesh: (B, S, S, 2) `reconstructor.texture.mesh_depth_and_alpha`, or None without photo features.
        """
        c = self.config
        if image.shape[1:] != (c.image_size, c.image_size, 3):
            raise ValueError(
                f"image: expected (B, {c.image_size}, {c.image_size}, 3) for this model, got {image.shape}"
            )
        if c.source_lifting == (lifted is None):
            raise ValueError(
                f"lifted: source_lifting is {c.source_lifting},"
                f" got {'None' if lifted is None else lifted.shape}"
            )
        tokens = self.canonicalizer(self.encoder_global(image), motion_source, scale)
        side = c.image_size // 2
        if lifted is None:
            detail, folded = self.encoder_detail(image), jnp.zeros((image.shape[0], side, side, 0))
        else:
            detail = self.encoder_detail(pixel_unshuffle(lifted, c.lifted_size // c.image_size))
            folded = pixel_unshuffle(lifted, c.lifted_size // side)
        size = (image.shape[0], c.background_size, c.background_size, 3)
        background = self.background(jax.image.resize(image, size, "bilinear")).astype(jnp.float32)
        photo = None if self.photo is None else self.see_photo(image, mesh)
        return SourceFeatures(tokens, detail, folded, nn.sigmoid(background), photo)

    def see_photo(self, image: Array, mesh: Array | None) -> Array:
        """`SourceFeatures.photo`. Their depth is a correction of the mesh's."""
        if mesh is None:
            raise ValueError("mesh: photo_features need depth and alpha of the fitted mesh, got None")
        seen = self.photo(jnp.concatenate([image, mesh], axis=-1)).astype(jnp.float32)
        k = self.config.photo_features
        features, depth, opacity = jnp.split(seen, (k, k + 1), axis=-1)
        return jnp.concatenate([features, mesh[..., :1] + depth, nn.sigmoid(opacity)], axis=-1)

    def fuse(self, photos: SourceFeatures, trust: Array) -> SourceFeatures:
        """K photos of one person as one source, of batch axis 1. The background is the first photo's.

        Features of pixels stay the photos' own: points look them up in each.

        Detail is mixed where it lies on the canonical frame, with source lifting; else the first photo's own.

        Args:
          photos: of `encode`, batch axis K.
          trust: (K, L, L) how well each shows each texel of the xy-plane (`several_photos.trust_photo`).
        """
        c = self.config
        side, half = c.image_size // 16, c.image_size // 2
        grid_trust = resize_trust(trust, side)
        tokens = self.fuse_tokens(photos.tokens, grid_trust.reshape(len(trust), -1))[None]
        photo = None if photos.photo is None else photos.photo[None]
        if not c.source_lifting:
            return SourceFeatures(tokens, photos.detail[:1], photos.lifted[:1], photos.background[:1], photo)
        detail = self.fuse_detail(photos.detail, resize_trust(trust, half))[None]
        factor = c.lifted_size // half
        lifted = mix_by_trust(pixel_shuffle(photos.lifted, factor), trust)[None]
        return SourceFeatures(tokens, detail, pixel_unshuffle(lifted, factor), photos.background[:1], photo)

    def animate(self, source: SourceFeatures, motion_driving: Array, scale: Array) -> Array:
        """(B, M) driving motion -> tri-planes (B, 3, PT, PT, C)."""
        canonical = self.reenactor(source.tokens, motion_driving, scale)
        return self.generator_triplane(canonical, source.detail, source.lifted)

    def decode(self, plane_features: Array, shown: Array | None = None) -> tuple[Array, Array]:
        """(3, P, C) -> density (P, 1), features (P, F) in [0, 1].

        shown: (P, photo_features + 9) of `reconstructor.texture.look_up_features`, for a model that has them.
        """
        if (shown is None) != (self.photo is None):
            raise ValueError(
                f"shown: this model has {self.config.photo_features} features of the photo's pixels, got"
                f" {'None' if shown is None else shown.shape}"
            )
        return self.decoder(plane_features, shown)

    def upscale(self, features: Array) -> Array:
        """(B, R, R, F) features in [-1, 1] -> (B, kR, kR, 3) image, k = 2 a synthesis block."""
        style = jnp.broadcast_to(self.w_avg.value, (features.shape[0], self.config.style_dim))
        return self.superresolution(features, style)

    def refine(self, image: Array, *seen: Array) -> Array:
        """`GuidedRefinement` of the image and what else that takes; without one, the image as it is."""
        return image if self.refinement is None else self.refinement(image, *seen)

    def __call__(self, image: Array, motion_source: Array, motion_driving: Array, lifted: Array | None):
        """Touches every part once, for initialisation; returns the tri-planes."""
        one = jnp.ones(image.shape[0])
        mesh = jnp.zeros((*image.shape[:3], 2)) if self.config.photo_features else None
        source = self.encode(image, motion_source, lifted, one, mesh)
        if self.config.fusion_heads:
            size = self.config.lifted_size
            self.fuse(source, jnp.ones((image.shape[0], size, size)))
        planes = self.animate(source, motion_driving, one)
        at = planes[0, :, 0]
        width = self.config.photo_features
        self.decode(at, jnp.zeros((at.shape[1], width + PLACE_CHANNELS)) if width else None)
        self.upscale(jnp.zeros((image.shape[0], 8, 8, self.config.feature_channels)))
        of_surface = (NEARBY_CHANNELS,) if width else ()
        seen = (3, GUIDE_CHANNELS, 1, PART_CHANNELS, *of_surface)
        self.refine(*(jnp.zeros((1, 8, 8, channels)) for channels in seen))
        return planes
