"""Where the motion vector of a frame comes from.

Psi takes a vector of M numbers for the source and one for each driving frame. Models of this package take
the head's own parameters (flame_motion, M = 109: `ParameterMotion`); the released ones take what PD-FGC's
encoder sees in the frame's picture (M = 548: `EncoderMotion`). Who drives a model calls `motion_of_frame`,
which need not know which of the two it is:

    motion = load_motion_source(reconstructor.config, weights)
    of_source = motion_of_frame(motion, head, source.params, picture=to_image(source.crop, 512))
    of_driving = motion_of_frame(motion, head, frame, picture=picture)  # or vector=, or parameters alone

A picture is (S, S, 3) in [-1, 1] and shows what the camera of its parameters sees.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import struct

from p4d_jax.errors import UserError, nearest
from p4d_jax.head.landmarks import project_landmarks
from p4d_jax.head.model import HeadModel
from p4d_jax.networks.motion_encoder import MotionEncoder, portrait_motion
from p4d_jax.reconstructor.config import ReconstructorConfig
from p4d_jax.reconstructor.field import posed_vertices
from p4d_jax.reconstructor.weights import reconstructor_folder
from p4d_jax.train.network_folder import load_converted, read_about
from p4d_jax.types import MOTION_SIZE, Array, FrameParams

# What about.json of a reconstructor calls its source of motion vectors, and of how many numbers they are.
PARAMETERS, PDFGC = "parameters", "pdfgc"
PDFGC_SIZE = 548
ENCODER_NETWORK = "motion"  # what `convert` calls PD-FGC's encoder, and the folder that it writes


class MotionSource(Protocol):
    """Makes motion vectors of frames.

    Attributes:
      name: `PARAMETERS` or `PDFGC`.
      size: M, the numbers of a vector.
    """

    name: str
    size: int

    def of_params(self, params: FrameParams) -> Array | None:
        """(M,) the vector of a frame of which only the parameters are known; None if a picture is needed."""
        ...

    def of_picture(self, picture: Array, params: FrameParams, head: HeadModel) -> Array:
        """(M,) the vector of a frame.

        Args:
          picture: (S, S, 3) in [-1, 1], what `params.camera` sees.
          params: what was fitted to the picture, with the shape of the person in it.
          head: the head model that the parameters belong to.
        """
        ...


@struct.dataclass
class ParameterMotion:
    """The head's own parameters: expression, jaw and eyes. Pictures are not looked at."""

    name: str = struct.field(pytree_node=False, default=PARAMETERS)
    size: int = struct.field(pytree_node=False, default=MOTION_SIZE)

    def of_params(self, params: FrameParams) -> Array:
        return params.motion()

    def of_picture(self, picture: Array, params: FrameParams, head: HeadModel) -> Array:
        return params.motion()


@struct.dataclass
class EncoderMotion:
    """What PD-FGC's encoder sees in the aligned crop of a picture, of whose fitted head the landmarks are.

    Attributes:
      variables: of the encoder.
      encoder: the module.
    """

    variables: dict
    encoder: MotionEncoder = struct.field(pytree_node=False, default=MotionEncoder())
    name: str = struct.field(pytree_node=False, default=PDFGC)

    @property
    def size(self) -> int:
        return self.encoder.eye + self.encoder.emotion + self.encoder.hidden

    def of_params(self, params: FrameParams) -> None:
        return None

    def of_picture(self, picture: Array, params: FrameParams, head: HeadModel) -> Array:
        if picture.ndim != 3 or picture.shape[0] != picture.shape[1] or picture.shape[2] != 3:
            raise ValueError(f"picture: expected (S, S, 3) in [-1, 1], got {picture.shape}")
        return _see(self.encoder, self.variables, jnp.asarray(picture, jnp.float32), params, head)


@functools.partial(jax.jit, static_argnums=0)
def _see(encoder: MotionEncoder, variables: dict, picture: Array, params: FrameParams, head: HeadModel):
    posed = posed_vertices(head, params.shape, params)
    landmarks = project_landmarks(head, posed, params.neck, params.camera) * picture.shape[0]
    return portrait_motion(encoder, variables, picture, landmarks)


def motion_of_frame(
    motion: MotionSource,
    head: HeadModel,
    params: FrameParams,
    *,
    picture: Array | None = None,
    vector: Array | None = None,
) -> Array:
    """(M,) the motion vector of one frame, of whatever is known of it.

    Args:
      motion: of the model that is driven.
      head, params: the head in the frame.
      picture: (S, S, 3) in [-1, 1], what `params.camera` sees, if there is one.
      vector: (M,) the frame's vector, if it came with one; goes before the picture, and is not looked at
        where the parameters suffice.

    Raises:
      UserError: the model needs a picture or a vector and there is neither, or the vector has another length.
    """
    own = motion.of_params(params)
    if own is not None:
        return own
    if vector is not None:
        if vector.shape != (motion.size,):
            raise UserError(
                f"vector: shape {vector.shape}, where this model takes the ({motion.size},) of {motion.name}"
            )
        return jnp.asarray(vector, jnp.float32)
    if picture is None:
        raise UserError(
            f"this model takes the {motion.size} numbers that its motion encoder sees in a picture, and here"
            " are parameters alone; drive it by a film or photo, or by a motion with motion_vectors"
        )
    return motion.of_picture(picture, params, head)


def motion_source_name(config: ReconstructorConfig, weights: str | Path | None = None) -> str:
    """Which source a model's motion vectors come from: as its about.json says, or else by their length.

    Args:
      config: of the model.
      weights: folder that `convert` wrote, if it comes from one; a file's path says nothing.

    Raises:
      UserError: it is none that is known.
    """
    folder = weights is not None and Path(weights).expanduser().is_dir()
    about = read_about(reconstructor_folder(Path(weights).expanduser())) if folder else {}
    by_size = {MOTION_SIZE: PARAMETERS, PDFGC_SIZE: PDFGC}.get(config.motion_size)
    name = about.get("motion_source", by_size)
    if name is None:
        raise UserError(
            f"motion_size={config.motion_size}: no source of such motion vectors is known; {PARAMETERS} have"
            f" {MOTION_SIZE} numbers and {PDFGC} {PDFGC_SIZE}"
        )
    if name not in (PARAMETERS, PDFGC):
        known = (PARAMETERS, PDFGC)
        raise UserError(f"{weights}: motion_source {name!r} is not one of {known}{nearest(str(name), known)}")
    return name


def load_motion_source(
    config: ReconstructorConfig,
    weights: str | Path | None = None,
    motion_encoder: str | Path | None = None,
) -> MotionSource:
    """The source of a model's motion vectors.

    Args:
      config: of the model.
      weights: the file or folder that the model was loaded from. Where a folder names PD-FGC, its encoder is
        looked for beside that folder, where one run of `convert` puts the networks of one command.
      motion_encoder: folder of the encoder that `convert` wrote, to be taken instead.

    Raises:
      UserError: the source is not known, or its encoder is not there; the message tells how to convert it.
    """
    if motion_source_name(config, weights) == PARAMETERS:
        source: MotionSource = ParameterMotion()
    else:
        network = load_converted(find_encoder(weights, motion_encoder))
        if network.name != ENCODER_NETWORK:
            raise UserError(
                f"motion_encoder: {str(motion_encoder)!r} holds the network {network.name!r},"
                f" not {ENCODER_NETWORK!r}"
            )
        source = EncoderMotion(jax.device_put(network.variables), MotionEncoder(**network.config))
    if source.size != config.motion_size:
        raise UserError(
            f"motion_size={config.motion_size}: this model takes another length of motion vectors than the"
            f" {source.size} of {source.name}"
        )
    return source


def find_encoder(weights: str | Path | None, motion_encoder: str | Path | None) -> Path:
    """The folder of PD-FGC's encoder: the one given, or the one beside the reconstructor's.

    Raises:
      UserError: there is none.
    """
    if motion_encoder:
        folder = Path(motion_encoder).expanduser()
        if not folder.is_dir():
            raise UserError(f"motion_encoder: no folder {str(folder)!r}; {_how_to_convert(folder.parent)}")
        return folder
    path = Path(weights or "").expanduser()
    folder = reconstructor_folder(path) if weights and path.is_dir() else path
    beside = folder.absolute().parent
    if weights is None or not (beside / ENCODER_NETWORK).is_dir():
        where = f"there is none beside {str(weights)!r}" if weights is not None else "none is given"
        raise UserError(
            f"motion_encoder: this model's motion vectors are made by PD-FGC's encoder, and {where};"
            f" {_how_to_convert(beside)}"
        )
    return beside / ENCODER_NETWORK


def _how_to_convert(workdir: Path) -> str:
    return (
        "the job convert makes it of the file motion_model.pth into the folder"
        f" {str(workdir / ENCODER_NETWORK)!r} (docs/howto/convert.md)"
    )
