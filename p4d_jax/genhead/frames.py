"""What the head model says of the frames that GenHead is trained on: meshes, masks, correspondence maps.

No part of it has a gradient. B samples of all devices, S image size, R rays a side.
"""

from __future__ import annotations

from flax import struct

from p4d_jax.data.samples import Portrait
from p4d_jax.genhead.parts import HeadParts, correspondence_map, pose_straight_parts
from p4d_jax.genhead.training import GenHeadTraining
from p4d_jax.genhead.view import RasterizedHead, rasterize_head
from p4d_jax.head.model import HeadModel
from p4d_jax.train.adversarial import LabelledInput, real_input
from p4d_jax.train.devices import on_devices
from p4d_jax.types import Array, FrameParams


@struct.dataclass
class Frames:
    """A batch (B,) of frames to generate.

    Attributes:
      params: the camera carries the head's whole rotation.
      rasterized: the posed heads as the cameras see them.
    """

    params: FrameParams
    rasterized: RasterizedHead

    @property
    def label(self) -> Array:
        """(B, 25) camera labels."""
        return self.params.camera.to_label()


@struct.dataclass
class Reals:
    """A batch (B,) of real pictures and their correspondence maps (B, S, S, 3)."""

    portrait: Portrait
    correspondence: Array

    @property
    def label(self) -> Array:
        """(B, 25) camera labels."""
        return self.portrait.params.camera.to_label()

    def for_discriminator(self, resolution: int) -> LabelledInput:
        """What D sees of them where G renders `resolution` rays a side."""
        portrait = self.portrait
        inputs = real_input(portrait.image, portrait.mask, self.correspondence, resolution)
        return LabelledInput(inputs, self.label)


def rasterize_frames(
    training: GenHeadTraining, resolution: int, head: HeadModel, parts: HeadParts, params: FrameParams
) -> Frames:
    """Poses and rasterises frames (B,), necks straight."""

    def one(head: HeadModel, parts: HeadParts, params: FrameParams) -> RasterizedHead:
        posed = pose_straight_parts(head, params.shape, params)
        return rasterize_head(parts, posed, params.camera, training.genhead.config.image_size, resolution)

    return Frames(params, on_devices(training.mesh, one, head, parts)(params))


def rasterize_reals(
    training: GenHeadTraining, head: HeadModel, parts: HeadParts, portrait: Portrait
) -> Reals:
    """Rasterises the correspondence maps of real pictures."""

    def one(head: HeadModel, parts: HeadParts, params: FrameParams) -> Array:
        posed = pose_straight_parts(head, params.shape, params)
        return correspondence_map(parts, posed, params.camera, training.genhead.config.image_size)

    return Reals(portrait, on_devices(training.mesh, one, head, parts)(portrait.params))
