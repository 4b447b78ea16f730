"""GenHead: a random code, a camera and a head's shape in, two tri-planes and a background out.

    z, camera, shape ──mapping──> styles ──synthesis──> T_p (eyes, mouth), T_h (head)
    z' ──mapping──> styles ──synthesis──sigmoid──> background features
    points of either tri-plane ──decoder──> density, features;   feature image ──super-resolution──> image

The networks only; `genhead.view` moves points through the head's deformation fields, fuses the two tri-planes
and renders. Letters: B batch, P plane size, C plane channels, b background size, F feature channels, R rays a
side, S image size, L styles, W style size. NHWC. Source: Portrait4D (arXiv 2311.18729, section 4.1 and
appendix), StyleGAN2 (arXiv 1912.04958), EG3D (arXiv 2112.07945), docs/concepts/genhead.md. All sizes come
from `GenHeadConfig`; its defaults are the released model's.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from p4d_jax.genhead.config import GenHeadConfig
from p4d_jax.nn.field_decoder import FieldDecoder
from p4d_jax.nn.stylegan2 import Generator, Noise
from p4d_jax.nn.superresolution import SuperResolution
from p4d_jax.types import Array

CAMERA_SIZE = 25
PARTS, HEAD = 0, 1  # of the two tri-planes: T_p, T_h


class GenHead(nn.Module):
    """The generator G. Methods are pure; `planes` once an identity, `decode` at points, `upscale` on images.

    Noise of the synthesis layers is 'const' (the stored images), 'none', or 'random', which needs
    `rngs={'noise': key}`. Super-resolution has none.
    """

    config: GenHeadConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        c = self.config
        self.backbone = Generator(
            resolution=c.plane_size,
            image_channels=2 * 3 * c.plane_channels,
            style_size=c.style_size,
            mapping_layers=c.mapping_layers,
            channel_base=c.channel_base,
            channel_max=c.channel_max,
            dtype=self.dtype,
        )
        self.background_generator = Generator(
            resolution=c.background_size,
            image_channels=c.feature_channels,
            style_size=c.style_size,
            mapping_layers=c.background_mapping_layers,
            channel_base=c.background_channel_base,
            channel_max=c.background_channel_max,
            clamp=c.background_clamp,
            dtype=self.dtype,
        )
        self.decoder = FieldDecoder(features=c.feature_channels, hidden=c.decoder_hidden, dtype=self.dtype)
        self.superresolution = SuperResolution(
            channels=c.superresolution_channels,
            input_resolution=c.superresolution_size,
            clamp=c.superresolution_clamp,
            dtype=self.dtype,
        )

    def map(
        self,
        latent: Array,
        camera: Array,
        shape: Array,
        truncation_psi: Array | float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Array:
        """Styles (B, L, W) of the tri-planes.

        Args:
          latent: (B, latent_size) normal.
          camera: (B, 25) label of the view that carries the whole head pose.
          shape: (B, >= shape_size) identity; what is beyond is ignored.
          truncation_psi, truncation_cutoff: see `nn.stylegan2.truncate_styles`.
        """
        if camera.shape[-1] != CAMERA_SIZE or shape.shape[-1] < self.config.shape_size:
            raise ValueError(
                f"camera, shape: expected (B, {CAMERA_SIZE}) and (B, {self.config.shape_size}) at least,"
                f" got {camera.shape} and {shape.shape}"
            )
        condition = jnp.concatenate([camera, shape[:, : self.config.shape_size]], axis=-1)
        return self.backbone.map(latent, condition, truncation_psi, truncation_cutoff)

    def planes(self, ws: Array, noise: Noise = "const") -> Array:
        """Styles (B, L, W) -> the tri-planes T_p, T_h (B, 2, 3, P, P, C), in the order `PARTS`, `HEAD`."""
        return self.split_planes(self.backbone.synthesize(ws, noise))

    def split_planes(self, image: Array) -> Array:
        """The backbone's image (B, P, P, 6C) -> (B, 2, 3, P, P, C): channels are plane by plane."""
        c = self.config
        image = image.reshape(-1, c.plane_size, c.plane_size, 2, 3, c.plane_channels)
        return image.transpose(0, 3, 4, 1, 2, 5)

    def background_styles(self, latent: Array) -> Array:
        """(B, latent_size) normal -> style (B, W) of the background, whose mean training keeps."""
        return self.background_generator.map(latent, None)[:, 0]

    def background(self, latent: Array, noise: Noise = "const") -> Array:
        """(B, latent_size) normal -> background features (B, b, b, F) in [0, 1]."""
        return nn.sigmoid(self.background_generator(latent, None, noise).astype(jnp.float32))

    def decode(self, plane_features: Array) -> tuple[Array, Array]:
        """(3, P, C) -> density (P, 1), features (P, F) in [0, 1]."""
        return self.decoder(plane_features)

    def upscale(self, features: Array) -> Array:
        """(B, R, R, F) features in [-1, 1] -> image (B, S, S, 3). Its style is a vector of ones."""
        return self.superresolution(features, jnp.ones((features.shape[0], self.config.style_size)))

    def __call__(self, latent: Array, camera: Array, shape: Array) -> Array:
        """Touches every part once, for initialisation; returns the tri-planes."""
        planes = self.planes(self.map(latent, camera, shape))
        self.background(latent)
        self.decode(planes[0, PARTS, :, 0])
        self.upscale(jnp.zeros((latent.shape[0], 8, 8, self.config.feature_channels)))
        return planes
