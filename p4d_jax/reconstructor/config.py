"""Sizes of the reconstructor Psi; the defaults are the paper's."""

from __future__ import annotations

import dataclasses


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
      source_lifting: also give the source image resampled into the canonical frame (`reconstructor.texture`):
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
        behind the relief it lies (`texture.look_up_features`; pixelNeRF, arXiv 2012.02190), so that
        shapes of hair and shoulders need not pass through the tri-plane. 0: none. Needs deformation
        'expression'; not in the paper.
      fusion_heads: heads of the attention by which several photos become one source (`nn.photo_attention`);
        0: they are mixed by how well each shows a place, which needs no training. Not in the paper.
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
