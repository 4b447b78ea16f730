"""Settings of GenHead: sizes of its networks, its training steps, and the synthesis of data with it.

The defaults are the paper's. Imports no JAX: command lines are read with it.
"""

from __future__ import annotations

import dataclasses

from p4d_jax.train.config import StepSettings, Term, Terms


@dataclasses.dataclass(frozen=True)
class GenHeadConfig:
    """Sizes of GenHead. The defaults are the released model's.

    Attributes:
      latent_size: Length of the code z, and of the background's z'.
      style_size: W, length of a style.
      shape_size: Identity coefficients that condition the mapping, after the camera's 25 numbers.
      plane_size: P, side of each tri-plane.
      plane_channels: C, channels of each of the three planes.
      mapping_layers: Layers of the tri-planes' mapping network.
      channel_base: Channels of the tri-planes' synthesis network, times the resolution
        (`nn.stylegan2.block_channels`).
      channel_max: Largest number of channels of that network.
      background_size: b, side of the background.
      background_mapping_layers: Layers of the background's mapping network.
      background_channel_base: Channels of the background's synthesis network, times the resolution.
      background_channel_max: Largest number of channels of that network.
      background_clamp: Bound of that network's activations, or None.
      decoder_hidden: Width of the field decoder's hidden layer.
      feature_channels: F, channels of the feature images.
      superresolution_size: Side to which feature images are resized first.
      superresolution_channels: Channels of the synthesis blocks that double it.
      superresolution_clamp: Bound of their activations, or None.
    """

    latent_size: int = 512
    style_size: int = 512
    shape_size: int = 300
    plane_size: int = 256
    plane_channels: int = 32
    mapping_layers: int = 2
    channel_base: int = 32768
    channel_max: int = 512
    background_size: int = 64
    background_mapping_layers: int = 8
    background_channel_base: int = 16384
    background_channel_max: int = 512
    background_clamp: float | None = 256.0
    decoder_hidden: int = 64
    feature_channels: int = 32
    superresolution_size: int = 128
    superresolution_channels: tuple[int, ...] = (256, 128)
    superresolution_clamp: float | None = 256.0

    @property
    def image_size(self) -> int:
        """S, side of the final image."""
        return self.superresolution_size * 2 ** len(self.superresolution_channels)

    def to_dict(self) -> dict:
        """A JSON-able dict; inverse of `from_dict`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> GenHeadConfig:
        """From `to_dict` (lists become tuples). Unknown fields raise."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown fields of GenHeadConfig: {unknown}; known: {sorted(known)}")
        return cls(**{k: tuple(v) if isinstance(v, list | tuple) else v for k, v in values.items()})


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """Sizes of the discriminator. The defaults are the released model's.

    Attributes:
      image_size: S, side of the pictures, a power of two from 8 on.
      channel_base: Channels of a block, times its resolution (`nn.stylegan2.block_channels`).
      channel_max: Largest number of channels.
      mapping_layers: Layers of the network that maps the camera.
      group_size: Images in a group of `minibatch_stddev`.
      clamp: Bound of the activations, or None.
    """

    image_size: int = 512
    channel_base: int = 32768
    channel_max: int = 512
    mapping_layers: int = 8
    group_size: int = 2
    clamp: float | None = 256.0

    def to_dict(self) -> dict:
        """A JSON-able dict; `DiscriminatorConfig(**values)` is its inverse."""
        return dataclasses.asdict(self)


PAPER_TERMS: Terms = (
    ("generator", Term(1.0)),
    *((f"{part}_head", Term(10.0)) for part in ("eye", "mouth")),
    *((f"{part}_distortion", Term(100.0)) for part in ("eye", "mouth")),
    *((f"{part}_background", Term(100.0)) for part in ("eye", "mouth")),
    ("density", Term(0.25)),
)
# Terms of the step that gives real pictures back; where none of them counts, there is no such step.
RECONSTRUCTION = ("reconstruction", "reconstruction_raw", "reconstruction_mask", "skin", "kl")


@dataclasses.dataclass(frozen=True)
class GenHeadStepConfig(StepSettings):
    """What the training steps of GenHead do, beside `StepSettings`. The defaults are the paper's.

    Attributes:
      terms: The table of losses: (name, Term) of `genhead.losses.LOSSES`. Terms of `RECONSTRUCTION` are of a
        step of its own, in which a `LatentEncoder` finds codes of real pictures and G gives them back; ours,
        none in the paper.
      density_every: Steps between two density regularisers.
      generator_rate: Learning rate of G's Adam, before the correction for lazy regularisation; a multiple of
        the run's.
      discriminator_rate: The same of D's.
      blur: Standard deviation, in pixels, of the blur of pictures before D at the start.
      reconstruction_every: Steps between two steps that give real pictures back, once D trains.
      reconstruction_images: Up to so many images that is the only step, and D does not train.
      swap: Probability at which G is conditioned on another sample's camera and shape, in the end.
      swap_images: Images over which that probability goes from 1 to `swap`.
      style_mixing: Probability at which the finer styles come from another code.
      reuse_fakes: Whether D is shown the pictures that G's step made, instead of new ones.
    """

    terms: Terms = PAPER_TERMS
    density_every: int = 4
    generator_rate: float = 0.0025
    discriminator_rate: float = 0.002
    blur: float = 10.0
    reconstruction_every: int = 1
    reconstruction_images: float = 0.0
    swap: float = 0.5
    swap_images: float = 1_000_000.0
    style_mixing: float = 0.0
    reuse_fakes: bool = False

    @property
    def reconstructs(self) -> bool:
        """Whether real pictures are given back at some time."""
        return any(name in RECONSTRUCTION for name in self.weighted())


@dataclasses.dataclass(frozen=True)
class SynthesisSettings:
    """What is drawn and how it is shown. Hashable: a static argument. The defaults are the paper's.

    Attributes:
      motions: M, motions of one identity; 1 makes static samples.
      views: V, views of each motion.
      resolution: R, rays a side.
      samples: Coarse and fine samples a ray.
      points: N, points of a view at which tri-plane features are read.
      truncation_psi: How far styles keep from their mean: 1 is the most varied, 0 the mean.
      truncation_cutoff: Styles, coarse ones first, that truncation draws to the mean.
      look_at_share: Share of the cameras that look from all around the front; the others come from the
        data's distribution.
      yaw: Largest yaw to either side of these look-at cameras, radians; the draw is uniform.
      pitch: The same of their pitch, and the middle of its range.
      roll: Largest roll to either side, radians.
      pivot: The point that they look at, world units.
      pivot_jitter: Largest offset from that point, on each axis.
      radius: Smallest and largest distance of these cameras from the world's origin.
      neck_share: Fraction of a motion's neck rotation applied at the neck joint; 0 leaves the head's pose to
        the camera, as GenHead was trained. Whatever the fraction, a drawn camera sees the head from the same
        side.
      views_at_once: Views rendered side by side; more is faster on an accelerator and takes more memory.
    """

    motions: int = 4
    views: int = 2
    resolution: int = 64
    samples: tuple[int, int] = (48, 48)
    points: int = 4000
    truncation_psi: float = 0.95
    truncation_cutoff: int = 14
    look_at_share: float = 0.5
    yaw: float = 0.78
    pitch: tuple[float, float] = (0.45, 0.2)
    roll: float = 0.25
    pivot: tuple[float, float, float] = (0.0, 0.0, 0.09)
    pivot_jitter: float = 0.03
    radius: tuple[float, float] = (3.65, 4.45)
    neck_share: float = 0.0
    views_at_once: int = 1
