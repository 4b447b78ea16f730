"""Psi: one portrait and a motion vector in, the tri-plane of an animated head out.

Letters: B batch, S image size, T = S/2 plane size, P plane upsampling, C plane channels, F feature channels.
Networks are NHWC; images in [-1, 1]. Source: Portrait4D (arXiv 2311.18729, section 4.2 and appendix),
SPEC section 7. All sizes come from `ReconstructorConfig`; its defaults are the paper's.

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

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from p4d_jax.geometry import exact_products
from p4d_jax.models.field_decoder import FieldDecoder
from p4d_jax.models.superresolution import SuperResolution
from p4d_jax.nn.fusion import PhotoAttention, mix_photos, resize_trust, trust_logits
from p4d_jax.nn.resnet import AtrousPyramid, ResNet
from p4d_jax.nn.transformer import CrossBlock, OverlapPatchEmbed, SelfBlock, dense_init, tokens_to_image
from p4d_jax.types import Array

GUIDE_CHANNELS = 15  # `render.guide.look_up_source`, and the background at the same pixel
NEARBY_CHANNELS = 4  # `render.guide.look_up_nearby`
PART_CHANNELS = 4  # `render.lifting.tell_parts`
# Colours that a new refinement paints them in: eyes white at the rim and dark in the middle, teeth white, the
# mouth's inside dark.
PAINT = (0.8, -1.6, 0.5, -0.8)
PLACE_CHANNELS = 9  # of `render.guide.look_up_features` beside the photo's
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


@dataclasses.dataclass(frozen=True)
class ReconstructorConfig:
    """Sizes of Psi. The defaults are the released model's (225 M parameters).

    Attributes:
      image_size: S, side of the source image.
      global_widths, global_depths: the ResNet of E_global.
      pyramid_features, pyramid_rates: its atrous pyramid.
      detail_features: output channels of E_detail's five convolutions.
      motion_size: length of the motion vector (548 PD-FGC, 109 flame_motion).
      motion_hidden, motion_grid: motion is mapped to `motion_hidden` and then to a grid of motion tokens.
      token_dim, token_heads, blocks_de, blocks_re: the transformers Phi_de and Phi_re.
      canonical_features: the three convolutions after them.
      plane_token_dim, plane_heads, plane_reduction, plane_stride, plane_convs_before, plane_convs_after: G_T.
      plane_channels: C of each of the three planes.
      plane_upsample: 1 as in the paper; 2 doubles the planes' side by pixel shuffle.
      background_widths: the U-Net's four widths.
      background_size: side its input is resized to (its output has the same side).
      decoder_hidden, feature_channels: the field decoder; F.
      superresolution_size, superresolution_channels: side to which the first synthesis block's input is
        resized (0: any side goes in as it is), and channels of each block; each doubles the side.
      superresolution_clamp: bound of their activations, or None; the released weights grew up with it.
      style_dim: length of the stored style `w_avg`.
      source_lifting: also give the source image resampled into the canonical frame (`render.guide`):
        fitted parameters say where every texel of the xy-plane is in the photo, so that input and output
        are aligned and a small network learns quickly. Adds a learned mean tri-plane. Not in the paper.
      lifted_size: side of that lifted image.
      deformation: 'neck' (paper: the motion reaches the planes through cross-attention alone) or
        'expression' (points are moved by the head model to its canonical expression before the planes are
        read; cross-attention adds what the mesh cannot say). Not in the paper.
      refinement_features: hidden channels of the convolutions that mix the rendered picture with the photo
        seen at the rendered surface (`GuidedRefinement`); empty: none. Needs source_lifting and
        deformation 'expression'. Not in the paper.
      refinement_scale: by which the picture is enlarged before that; the source is then given as large.
      photo_features, photo_widths: channels of the photo's pixel features and widths of the U-Net that makes
        them, with a relief of the whole person (depth and opacity of each pixel), from photo and fitted mesh.
        Each point of the field also sees those of the pixel that it projects to in the photo, and how far
        behind the relief it lies (`render.guide.look_up_features`; pixelNeRF, arXiv 2012.02190), so that
        shapes of hair and shoulders need not pass through the tri-plane. 0: none. Needs deformation
        'expression'; not in the paper.
      fusion_heads: heads of the attention by which several photos become one source (`nn.fusion`); 0: they
        are mixed by how well each shows a place, which needs no training. Not in the paper.
      dtype: of the layers, 'float32' or 'bfloat16'. Parameters, transformer tokens between blocks, planes,
        field decoder, background and images are float32 in both.
    """

    image_size: int = 512
    global_widths: tuple[int, ...] = (64, 128, 256, 512)
    global_depths: tuple[int, ...] = (3, 4, 6, 3)
    pyramid_features: int = 256
    pyramid_rates: tuple[int, ...] = (12, 24, 36)
    detail_features: tuple[int, ...] = (64, 96, 96, 96, 96)
    motion_size: int = 548
    motion_hidden: int = 512
    motion_grid: int = 8
    token_dim: int = 1024
    token_heads: int = 4
    blocks_de: int = 4
    blocks_re: int = 4
    canonical_features: tuple[int, ...] = (128, 128, 96)
    plane_token_dim: int = 1024
    plane_heads: int = 2
    plane_reduction: int = 2
    plane_stride: int = 2
    plane_convs_before: tuple[int, ...] = (256, 128)
    plane_convs_after: tuple[int, ...] = (256, 128, 128)
    plane_channels: int = 32
    plane_upsample: int = 1
    background_widths: tuple[int, ...] = (64, 128, 256, 512)
    background_size: int = 512
    decoder_hidden: int = 64
    feature_channels: int = 32
    superresolution_size: int = 128
    superresolution_channels: tuple[int, ...] = (256, 128)
    superresolution_clamp: float | None = 256.0
    style_dim: int = 512
    source_lifting: bool = False
    lifted_size: int = 512
    deformation: str = "neck"
    refinement_features: tuple[int, ...] = ()
    refinement_scale: int = 1
    photo_features: int = 0
    photo_widths: tuple[int, ...] = (64, 128, 256, 512)
    fusion_heads: int = 0
    dtype: str = "float32"

    def __post_init__(self):
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype must be 'float32' or 'bfloat16', got {self.dtype!r}")
        if self.deformation not in ("neck", "expression"):
            raise ValueError(f"deformation must be 'neck' or 'expression', got {self.deformation!r}")
        if self.image_size % 16:
            raise ValueError(f"image_size must be a multiple of 16, got {self.image_size}")
        if self.source_lifting and self.lifted_size % self.image_size:
            raise ValueError(
                f"lifted_size must be a multiple of image_size {self.image_size}, got {self.lifted_size}"
            )

        if self.refinement_features and not (self.source_lifting and self.deformation == "expression"):
            raise ValueError("refinement_features need source_lifting=True and deformation='expression'")
        if self.photo_features and self.deformation != "expression":
            raise ValueError("photo_features need deformation='expression'")
        if self.fusion_heads and (
            self.token_dim % self.fusion_heads or self.detail_width % self.fusion_heads
        ):
            raise ValueError(
                f"fusion_heads must divide token_dim {self.token_dim} and the last of detail_features"
                f" {self.detail_width}, got {self.fusion_heads}"
            )

    @property
    def detail_width(self) -> int:
        """Channels of E_detail's output."""
        return self.detail_features[-1]

    @property
    def picture_size(self) -> int:
        """Side of the source picture that is given and of the picture that comes out."""
        return self.image_size * self.refinement_scale

    @property
    def plane_size(self) -> int:
        """Side of the tri-plane."""
        return self.image_size // 2 * self.plane_upsample

    def to_dict(self) -> dict:
        """A JSON-able dict; inverse of `from_dict`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> ReconstructorConfig:
        """From `to_dict` (lists become tuples). Unknown fields raise."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown fields of ReconstructorConfig: {unknown}; known: {sorted(known)}")
        return cls(**{k: tuple(v) if isinstance(v, list | tuple) else v for k, v in values.items()})


@struct.dataclass
class SourceFeatures:
    """What Psi keeps of a source, before any driving motion.

    Attributes:
      tokens: (B, N, D) canonicalised tokens, Phi_de's output.
      detail: (B, T, T, d) E_detail's output.
      lifted: (B, T, T, k) the lifted image folded to the plane's grid, k = 0 without source lifting.
      background: (B, b, b, F) background features in [0, 1].
      photo: (B, S, S, photo_features + 2) of the photo's pixels, relief last (`render.guide.mesh_relief`),
        or None; of K photos that were fused (B, K, S, S, photo_features + 2).
    """

    tokens: Array
    detail: Array
    lifted: Array
    background: Array
    photo: Array | None = None


def add_coordinates(image: Array) -> Array:
    """Appends x and y in [-1, 1] (corner pixels at the ends): (B, H, W, C) -> (B, H, W, C + 2)."""
    batch, height, width, _ = image.shape
    y, x = jnp.meshgrid(jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij")
    xy = jnp.broadcast_to(jnp.stack([x, y], -1), (batch, height, width, 2))
    return jnp.concatenate([image, xy.astype(image.dtype)], axis=-1)


def pixel_shuffle(x: Array, factor: int) -> Array:
    """(B, H, W, C f²) -> (B, H f, W f, C), channels ordered as PyTorch's PixelShuffle (C, f, f)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, channels // factor**2, factor, factor)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(batch, height * factor, width * factor, -1)


def pixel_unshuffle(x: Array, factor: int) -> Array:
    """Inverse of `pixel_shuffle`: (B, H f, W f, C) -> (B, H, W, C f²)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // factor, factor, width // factor, factor, channels)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height // factor, width // factor, -1)


@exact_products
def upsample_aligned(x: Array, factor: int = 2) -> Array:
    """Bilinear, corner pixels stay corners (align_corners): (B, H, W, C) -> (B, fH, fW, C)."""

    def matrix(size: int) -> np.ndarray:
        place = np.arange(size * factor) * (size - 1) / (size * factor - 1)
        low = np.minimum(place.astype(int), size - 2)
        weights = np.zeros((size * factor, size), np.float32)
        weights[np.arange(size * factor), low] = 1 - (place - low)
        weights[np.arange(size * factor), low + 1] = place - low
        return weights

    x = jnp.einsum("yh,bhwc->bywc", matrix(x.shape[1]), x)
    return jnp.einsum("xw,bywc->byxc", matrix(x.shape[2]), x)


def conv3(
    features: int,
    stride: int = 1,
    kernel: int = 3,
    name: str | None = None,
    init=conv_init,
    dtype: str | jnp.dtype = jnp.float32,
) -> nn.Conv:
    """Convolution with bias and symmetric zero padding."""
    padding = [(kernel // 2, kernel // 2)] * 2
    return nn.Conv(
        features, (kernel, kernel), stride, padding, kernel_init=init, dtype=jnp.dtype(dtype), name=name
    )


def leaky(x: Array) -> Array:
    return nn.leaky_relu(x, 0.01)


class EncoderGlobal(nn.Module):
    """E_global: (B, S, S, 3) -> (B, S/8, S/8, pyramid_features)."""

    config: ReconstructorConfig

    @nn.compact
    def __call__(self, image: Array) -> Array:
        c = self.config
        dtype = jnp.dtype(c.dtype)
        x = ResNet(c.global_widths, c.global_depths, dtype, name="encoder")(add_coordinates(image))
        return AtrousPyramid(c.pyramid_features, c.pyramid_rates, dtype, name="decoder")(x)


class EncoderDetail(nn.Module):
    """E_detail: five convolutions, the first of stride 2: (B, S, S, k) -> (B, S/2, S/2, detail)."""

    config: ReconstructorConfig

    @nn.compact
    def __call__(self, image: Array) -> Array:
        c, x = self.config, add_coordinates(image)
        for index, features in enumerate(c.detail_features):
            first = index == 0
            x = leaky(
                conv3(features, 2 if first else 1, 7 if first else 3, name=f"conv{index}", dtype=c.dtype)(x)
            )
        return x


class MotionTokens(nn.Module):
    """Motion vector (B, M) -> motion tokens (B, grid², token_dim)."""

    config: ReconstructorConfig

    @nn.compact
    def __call__(self, motion: Array) -> Array:
        c = self.config
        dense = lambda n, name: nn.Dense(n, kernel_init=dense_init, dtype=c.dtype, name=name)  # noqa: E731
        x = leaky(dense(c.motion_hidden, "map0")(motion))
        x = leaky(dense(c.motion_hidden, "map1")(x))
        x = dense(c.motion_grid**2 * c.token_dim, "proj")(x)
        return x.reshape(x.shape[0], c.motion_grid**2, c.token_dim)


class Canonicalizer(nn.Module):
    """Phi_de: global features and the source's motion -> tokens of a head at rest."""

    config: ReconstructorConfig

    @nn.compact
    def __call__(self, features: Array, motion_source: Array, scale: Array) -> Array:
        c = self.config
        x, grid = OverlapPatchEmbed(c.token_dim, dtype=c.dtype, name="patch_embed")(features)
        motion_tokens = MotionTokens(c, name="motion")(motion_source)
        for index in range(c.blocks_de):
            x = CrossBlock(c.token_heads, dtype=c.dtype, name=f"block{index}")(x, motion_tokens, grid, scale)
        return x


class Reenactor(nn.Module):
    """Phi_re: tokens of the head at rest and the driving motion -> (B, S/2, S/2, canonical_features[-1])."""

    config: ReconstructorConfig

    @nn.compact
    def __call__(self, tokens: Array, motion_driving: Array, scale: Array) -> Array:
        c = self.config
        side = c.image_size // 16
        x = tokens
        motion_tokens = MotionTokens(c, name="motion")(motion_driving)
        for index in range(c.blocks_re):
            x = CrossBlock(c.token_heads, dtype=c.dtype, name=f"block{index}")(
                x, motion_tokens, (side, side), scale
            )
        x = pixel_shuffle(tokens_to_image(x, side, side), 2)
        x = nn.relu(conv3(c.canonical_features[0], name="conv0", dtype=c.dtype)(upsample_aligned(x)))
        x = nn.relu(conv3(c.canonical_features[1], name="conv1", dtype=c.dtype)(upsample_aligned(x)))
        return conv3(c.canonical_features[2], name="conv2", dtype=c.dtype)(x)


class TriplaneGenerator(nn.Module):
    """G_T: canonical features, detail and lifted features (all (B, T, T, .)) -> (B, 3, P T, P T, C)."""

    config: ReconstructorConfig

    @nn.compact
    def __call__(self, canonical: Array, detail: Array, lifted: Array) -> Array:
        c = self.config
        x = jnp.concatenate([canonical, detail], axis=-1)
        for index, features in enumerate(c.plane_convs_before):
            x = leaky(conv3(features, name=f"before{index}", dtype=c.dtype)(x))
        x, grid = OverlapPatchEmbed(
            c.plane_token_dim, stride=c.plane_stride, dtype=c.dtype, name="patch_embed"
        )(x)
        x = SelfBlock(c.plane_heads, reduction=c.plane_reduction, dtype=c.dtype, name="block0")(x, grid)
        x = pixel_shuffle(tokens_to_image(x, *grid), c.plane_stride)
        x = jnp.concatenate([x, canonical], axis=-1)
        if c.source_lifting:
            x = jnp.concatenate([x, detail], axis=-1)
        for index, features in enumerate(c.plane_convs_after):
            x = leaky(conv3(features, name=f"after{index}", dtype=c.dtype)(x))
        return self.to_planes(x, lifted)

    def to_planes(self, x: Array, lifted: Array) -> Array:
        """Features on the plane's grid -> tri-plane; upsampled planes get the frontal plane's detail by
        pixel shuffle, the other two (which no pixel of the photo is aligned with) by interpolation."""
        c = self.config
        init = nn.initializers.normal(0.15 / np.sqrt(max(1, 128 / x.shape[-1])))
        if c.source_lifting:
            init = nn.initializers.variance_scaling(0.5, "fan_in", "normal")
        planes = conv3(3 * c.plane_channels, name="last", init=init, dtype=c.dtype)(x)
        planes = planes.astype(jnp.float32)
        if c.source_lifting:
            mean = self.param(
                "mean_planes", nn.initializers.normal(0.3), (*planes.shape[1:3], 3 * c.plane_channels)
            )
            planes = planes + mean
        if c.plane_upsample > 1:
            frontal, others = planes[..., : c.plane_channels], planes[..., c.plane_channels :]
            fine = conv3(c.plane_channels * c.plane_upsample**2, name="last_fine", init=init, dtype=c.dtype)(
                jnp.concatenate([x, lifted], axis=-1)
            )
            frontal = jnp.repeat(frontal, c.plane_upsample**2, axis=-1) + fine
            frontal = pixel_shuffle(frontal, c.plane_upsample)
            others = jax.image.resize(others, (*frontal.shape[:3], others.shape[-1]), "bilinear")
            planes = jnp.concatenate([frontal, others], axis=-1)
        batch, height, width, _ = planes.shape
        return planes.reshape(batch, height, width, 3, c.plane_channels).transpose(0, 3, 1, 2, 4)


class UNet(nn.Module):
    """Shallow U-Net: (B, b, b, 3) -> (B, b, b, features), of the background before its sigmoid.

    Attributes:
      widths: four. features: of the output. dtype: of the layers.
    """

    widths: tuple[int, ...]
    features: int
    dtype: str

    @nn.compact
    def __call__(self, image: Array) -> Array:
        w = self.widths
        conv = functools.partial(conv3, dtype=self.dtype)
        grow = lambda x: jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)  # noqa: E731
        h1 = leaky(conv(w[0], 2, name="input")(add_coordinates(image)))
        skips = [h1]
        for index in range(3):
            x = leaky(conv(w[index], name=f"down{index}")(skips[-1]))
            skips.append(conv(w[index + 1], 2, name=f"down{index}_stride")(x))
        x = leaky(conv(w[3], name="middle")(skips[-1]))
        for index, features in enumerate((w[2], w[1], w[0], w[0])):
            x = leaky(conv(features, name=f"up{index}")(jnp.concatenate([x, skips.pop()], axis=-1)))
            x = conv(features, name=f"up{index}_conv")(grow(x))
        return conv(self.features, name="out")(x)


def paint_of_parts(key: Array, shape: tuple[int, int], dtype=jnp.float32) -> Array:
    """Initial weights (PART_CHANNELS, 3) of the paint."""
    del key
    return jnp.broadcast_to(jnp.asarray(PAINT, dtype)[:, None], shape)


class GuidedRefinement(nn.Module):
    """The rendered picture, and the photo seen at the rendered surface, mixed pixel by pixel.

    A 3D-anchored stand-in for detail that a small super-resolution would have to invent: each pixel is a
    convex mixture of the rendered colour; the three of `look_up_source`; the background, which stands still,
    at the same pixel of the photo; where a relief is known, the colour of what the photo shows nearby; and
    paint for eyes, teeth and the mouth's inside, since what lids or lips hide in the photo is seen nowhere
    in it. And a correction.
    """

    features: tuple[int, ...]

    @nn.compact
    def __call__(
        self, image: Array, guide: Array, opacity: Array, parts: Array, nearby: Array | None = None
    ) -> Array:
        """image (B, S, S, 3) in [-1, 1], guide (B, S, S, 15), opacity (B, S, S, 1) -> (B, S, S, 3).

        The guide is `look_up_source` (12) and the photo's background at the same pixel (3). parts:
        (B, S, S, 4) `lifting.tell_parts` of the surface. Of a model with a relief, nearby: (B, S, S, 4)
        `look_up_nearby`; else nothing is nearby.
        """
        more = [] if nearby is None else [nearby]
        x = jnp.concatenate([image, guide, 2.0 * opacity - 1.0, *more, parts], axis=-1)
        for index, features in enumerate(self.features):
            x = leaky(conv3(features, name=f"conv{index}")(x))
        by_mesh, by_point, by_other_side, behind = jnp.split(guide, (4, 8, 12), axis=-1)
        opacity = opacity[..., 0]
        colours = [image, by_mesh[..., :3], by_point[..., :3], by_other_side[..., :3], behind]
        shown = [
            jnp.ones_like(opacity),
            nn.relu(by_mesh[..., 3]),
            opacity * by_point[..., 3],
            opacity * by_other_side[..., 3],
            1.0 - opacity,
        ]
        if nearby is not None:
            colours.append(nearby[..., :3])
            shown.append(opacity)
        # The same for all people: how light or dark they are is left to the shares and the correction.
        colours.append(nn.Dense(3, name="paint", kernel_init=paint_of_parts)(parts))
        shown.append(parts[..., (0, 2, 3)].sum(-1))
        count = len(shown)
        x = conv3(count + 3, name="mix", init=nn.initializers.normal(0.01))(x)
        shares = nn.softmax(x[..., :count], axis=-1) * jnp.stack(shown, axis=-1)
        shares = shares / (shares.sum(-1, keepdims=True) + 1e-6)
        return jnp.sum(shares[..., None, :] * jnp.stack(colours, axis=-1), axis=-1) + x[..., count:]


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
          mesh: (B, S, S, 2) `render.guide.mesh_relief`, or None without photo features.
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
        """`SourceFeatures.photo`. The relief's depth is a correction of the mesh's."""
        if mesh is None:
            raise ValueError("mesh: photo_features need the fitted mesh's relief, got None")
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
          trust: (K, L, L) how well each shows each texel of the xy-plane (`render.fusion.trust_photo`).
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

        shown: (P, photo_features + 9) of `render.guide.look_up_features`, for a model that has them.
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
        of_relief = (NEARBY_CHANNELS,) if width else ()
        seen = (3, GUIDE_CHANNELS, 1, PART_CHANNELS, *of_relief)
        self.refine(*(jnp.zeros((1, 8, 8, channels)) for channels in seen))
        return planes
