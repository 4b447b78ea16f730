"""What all avatars of one set of weights share: network, weights, head model, source of motion vectors."""

from __future__ import annotations

from pathlib import Path

from flax import struct

from p4d_jax import assets
from p4d_jax.avatar.motion_source import MotionSource, ParameterMotion, load_motion_source
from p4d_jax.errors import UserError
from p4d_jax.head.expression_field import CanonicalFrame, build_canonical_frame
from p4d_jax.head.model import HeadModel
from p4d_jax.reconstructor.config import ReconstructorConfig
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.reconstructor.weights import load_reconstructor


@struct.dataclass
class AvatarModel:
    """A network with its weights, and the head model that it moves.

    Attributes:
      network: Psi.
      variables: Its parameters and buffers.
      head: The head model of all parameters.
      frame: The head model's constants that lifting and deformation share.
      motion_source: What makes the motion vectors that the network takes.
    """

    network: Reconstructor = struct.field(pytree_node=False)
    variables: dict
    head: HeadModel
    frame: CanonicalFrame
    motion_source: MotionSource

    @classmethod
    def create(
        cls,
        network: Reconstructor,
        variables: dict,
        head: HeadModel,
        motion_source: MotionSource | None = None,
    ) -> AvatarModel:
        """Builds the head model's constants once.

        Args:
          motion_source: None takes the parameters' own motion vectors.

        Raises:
          UserError: The network takes motion vectors of another length than the source makes.
        """
        source = motion_source or ParameterMotion()
        if source.size != network.config.motion_size:
            raise UserError(
                f"motion_source: this network takes motion vectors of {network.config.motion_size} numbers,"
                f" {type(source).__name__} makes {source.size}; give the motion source that the network was"
                " trained with"
            )
        frame = build_canonical_frame(head, network.config.lifted_size)
        return cls(network, variables, head, frame, source)

    @classmethod
    def load(
        cls,
        weights: str | Path = "reenact_demo",
        head: str | Path | HeadModel = "openhead",
        motion_encoder: str | Path | None = None,
    ) -> AvatarModel:
        """Reads weights, head model and, for a network that takes what it sees, the motion encoder.

        Args:
          weights: The name of embedded weights, an exported file, or a folder of a converted network.
          head: The name of an embedded head model, its file, or the model itself.
          motion_encoder: The folder of a converted motion encoder; None looks beside the network's folder.

        Raises:
          UserError: One of them is not there, or holds something else.
        """
        if not isinstance(head, HeadModel):
            head = assets.head_model(str(head))
        path = assets.weights(weights)
        network, variables = load_reconstructor(path)
        source = load_motion_source(network.config, path, motion_encoder)
        return cls.create(network, variables, head, source)

    @property
    def config(self) -> ReconstructorConfig:
        """Sizes of the network."""
        return self.network.config

    @property
    def resolution(self) -> int:
        """Rays a side that give the size of picture which the network was made for."""
        return self.config.image_size // 2 ** len(self.config.superresolution_channels)
