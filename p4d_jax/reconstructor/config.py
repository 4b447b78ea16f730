"""Settings of the reconstructor Psi: its sizes, the loss table's lines and its training steps.

The defaults are the paper's. Imports no JAX: command lines are read with it.
"""

from __future__ import annotations

import dataclasses

from p4d_jax.train.config import StepSettings


@dataclasses.dataclass(frozen=True)
class ReconstructorConfig:
    """Sizes of Psi. The defaults are the released model's (225 M parameters).

    Attributes:
      image_size: S, side of the source image in pixels, a multiple of 16.
      global_widths: Channels of the four stages of E_global's ResNet.
      global_depths: Blocks of each of these stages.
      pyramid_features: Channels of E_global's atrous pyramid.
      pyramid_rates: Dilations of the pyramid's branches.
      detail_features: Output channels of E_detail's five convolutions.
      motion_size: Length of the motion vector (548 PD-FGC, 109 flame_motion).
      motion_hidden: Width of the layers that map the motion vector to tokens.
      motion_grid: Side of the square grid of motion tokens.
      token_dim: Width of the tokens of the transformers Phi_de and Phi_re.
      token_heads: Attention heads of both transformers.
      blocks_de: Blocks of Phi_de, which takes the source's motion out of the head.
      blocks_re: Blocks of Phi_re, which gives it the driving motion.
      canonical_features: Channels of the three convolutions after Phi_re.
      plane_token_dim: Width of the tokens of G_T, which makes the tri-plane.
      plane_heads: Attention heads of G_T.
      plane_reduction: Factor by which G_T's attention coarsens keys and values.
      plane_stride: Side of the patches that become G_T's tokens.
      plane_convs_before: Channels of G_T's convolutions before its transformer block.
      plane_convs_after: Channels of those after it.
      plane_channels: C, channels of each of the three planes.
      plane_upsample: 1 as in the paper; 2 doubles the planes' side by pixel shuffle.
      background_widths: Channels of the four levels of the background's U-Net.
      background_size: Side that the background's input is resized to; its output has the same side.
      decoder_hidden: Width of the field decoder's hidden layer.
      feature_channels: F, channels of the feature images.
      superresolution_size: Side to which the first synthesis block's input is resized; 0: any side goes in
        as it is.
      superresolution_channels: Channels of each synthesis block; each doubles the side.
      superresolution_clamp: Bound of the blocks' activations, or None; the released weights grew up with it.
      style_dim: Length of the stored style `w_avg`.
      source_lifting: Also give the source image resampled into the canonical frame (`reconstructor.texture`):
        fitted parameters say where every texel of the xy-plane is in the photo, so that input and output
        are aligned and a small network learns quickly. Adds a learned mean tri-plane. Not in the paper.
      lifted_size: Side of that lifted image, a multiple of `image_size`.
      deformation: 'neck' (paper: the motion reaches the planes through cross-attention alone) or
        'expression' (points are moved by the head model to its canonical expression before the planes are
        read; cross-attention adds what the mesh cannot say). Not in the paper.
      refinement_features: Hidden channels of the convolutions that mix the rendered picture with the photo
        seen at the rendered surface (`GuidedRefinement`); empty: none. Needs source_lifting and
        deformation 'expression'. Not in the paper.
      refinement_scale: Factor by which the picture is enlarged before that; the source is then given as
        large.
      photo_features: Channels of the photo's pixel features, which a U-Net makes from photo and fitted mesh
        with depth and alpha of the whole person. Each point of the field also
        sees those of the pixel that it projects to in the photo, and how far behind that depth it lies
        (`texture.look_up_features`; pixelNeRF, arXiv 2012.02190), so that shapes of hair and shoulders need
        not pass through the tri-plane. 0: none. Needs deformation 'expression'; not in the paper.
      photo_widths: Channels of the four levels of that U-Net.
      fusion_heads: Heads of the attention by which several photos become one source (`nn.photo_attention`);
        0: they are mixed by how well each shows a place, which needs no training. Not in the paper.
      dtype: Number type of the layers, 'float32' or 'bfloat16'. Parameters, transformer tokens between
        blocks, planes, field decoder, background and images are float32 in both.
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


@dataclasses.dataclass(frozen=True)
class StepConfig(StepSettings):
    """What the training steps of Psi do, beside `StepSettings`. The defaults are the paper's.

    Attributes:
      crop: c, side of the crop of rays that is rendered; 0 renders whole views.
      face_weight: Weight in L_re of the parametric head's pixels over the others; ours, 0 in the paper.
      feature_weight: Weight on top of that for pixels around its eyes and mouth; ours, 0 in the paper.
      motion_rate: Learning rate of the cross-attentions and of the motions' mapping, a multiple of the other
        layers' (v2: 2.5).
      trained: Parts of Psi that learn, by their names in `Reconstructor.setup`, and the others stand still;
        () is all.
    """

    crop: int = 0
    face_weight: float = 0.0
    feature_weight: float = 0.0
    motion_rate: float = 1.0
    trained: tuple[str, ...] = ()

    def __post_init__(self):
        if any(self.crop > resolution for _, resolution in self.stages):
            raise ValueError(f"crop: {self.crop} is larger than a stage's resolution")
