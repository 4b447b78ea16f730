"""`GenHeadRenderer`: a GenHead with its weights and the head model that it moves, in one object."""

from __future__ import annotations

from flax import struct

from p4d_jax import assets
from p4d_jax.errors import UserError
from p4d_jax.genhead.config import SynthesisSettings
from p4d_jax.genhead.model import GenHead
from p4d_jax.genhead.parts import HeadParts, build_head_parts
from p4d_jax.genhead.synthesis import (
    Sources,
    SyntheticHead,
    SyntheticIdentity,
    draw_identity,
    synthesize_many,
)
from p4d_jax.genhead.view import GenHeadView, make_identities, show_frame
from p4d_jax.genhead.weights import load_genhead
from p4d_jax.head.model import HeadModel
from p4d_jax.train.weights import read_about
from p4d_jax.types import Array, FrameParams

RELEASED_RESOLUTION = 64  # rays a side in the training of the released weights, which do not tell


@struct.dataclass
class GenHeadRenderer:
    """Makes identities, views of them, and samples of training data.

    Attributes:
      genhead: The generator.
      variables: Its parameters and buffers.
      head: The head model whose shape and motion the pictures follow.
      parts: Constants of the head model's eyes, mouth and rest, from `build_head_parts`.
      trained_resolution: Rays a side with which the weights were trained.
    """

    genhead: GenHead = struct.field(pytree_node=False)
    variables: dict
    head: HeadModel
    parts: HeadParts
    trained_resolution: int = struct.field(pytree_node=False, default=RELEASED_RESOLUTION)

    def make_identities(
        self,
        latent: Array,
        label: Array,
        shape: Array,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> tuple[Array, Array]:
        """Makes tri-planes (B, 2, 3, P, P, C) and backgrounds (B, b, b, F) of B identities.

        Args:
          latent: (B, Z) codes, standard normal.
          label: (B, 25) labels of the cameras that condition the identities.
          shape: (B, 300) shapes of the head model.
          truncation_psi: Share of a style's distance from the mean style that is kept; 1 keeps all.
          truncation_cutoff: Number of layers that are truncated; None truncates all.
        """
        return make_identities(
            self.genhead, self.variables, latent, label, shape, truncation_psi, truncation_cutoff
        )

    def draw_identity(self, key: Array, sources: Sources, settings: SynthesisSettings) -> SyntheticIdentity:
        """Draws one identity from a key, of the distribution of the sources."""
        return draw_identity(self.genhead, self.variables, key, sources, settings)

    def show(
        self, planes: Array, background: Array, frame: FrameParams, resolution: int, samples: tuple[int, int]
    ) -> GenHeadView:
        """Renders one frame of one identity, its neck straight, without randomness.

        Args:
          planes: (2, 3, P, P, C) tri-planes of the identity.
          background: (b, b, F) background of the identity.
          frame: Shape, expression, pose, gaze and camera of the picture.
          resolution: Rays a side.
          samples: Coarse and fine samples a ray.
        """
        return show_frame(
            self.genhead, self.variables, self.head, self.parts, planes, background, frame,
            resolution=resolution, samples=samples,
        )  # fmt: skip

    def synthesize(self, keys: Array, settings: SynthesisSettings, sources: Sources) -> SyntheticHead:
        """Makes a sample a key, leading axis (B,)."""
        return synthesize_many(self.genhead, self.variables, self.head, self.parts, keys, settings, sources)


def open_renderer(weights: str, head: str) -> GenHeadRenderer:
    """Reads weights and head model, each given by the name of an embedded one or by a path.

    Raises:
      UserError: There is no such file, or it holds something else.
    """
    model, path = assets.head_model(head), assets.weights(weights)
    try:
        genhead, variables = load_genhead(path)
    except ValueError as error:
        raise UserError(f"weights={weights!r}: {error}") from error
    resolution = about_weights(weights).get("resolution", RELEASED_RESOLUTION)
    return GenHeadRenderer(genhead, variables, model, build_head_parts(model), resolution)


def about_weights(weights: str) -> dict:
    """Reads what exported weights tell of themselves: command, steps, ...; converted ones tell nothing."""
    path = assets.weights(weights)
    return {} if path.is_dir() else read_about(path)
