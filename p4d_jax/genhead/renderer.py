"""A GenHead with its weights and the head that it moves, as the jobs around it hold them."""

from __future__ import annotations

from flax import struct

from p4d_jax import assets
from p4d_jax.errors import UserError
from p4d_jax.genhead.model import GenHead
from p4d_jax.genhead.parts import HeadParts, build_head_parts
from p4d_jax.genhead.view import GenHeadView, make_identities, show_frame
from p4d_jax.genhead.weights import load_genhead
from p4d_jax.head.model import HeadModel
from p4d_jax.train.weights import read_about
from p4d_jax.types import Array, FrameParams

RELEASED_RESOLUTION = 64  # rays a side in the training of the released weights, which do not tell


@struct.dataclass
class GenHeadRenderer:
    """Makes identities, and views of them.

    Attributes:
      genhead, variables: The generator.
      head, parts: The head model and its parts.
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
        """Tri-planes and backgrounds (B, ...): see `genhead.view.make_identities`."""
        return make_identities(
            self.genhead, self.variables, latent, label, shape, truncation_psi, truncation_cutoff
        )

    def show(
        self, planes: Array, background: Array, frame: FrameParams, resolution: int, samples: tuple[int, int]
    ) -> GenHeadView:
        """One frame of one identity: see `genhead.view.show_frame`."""
        return show_frame(
            self.genhead, self.variables, self.head, self.parts, planes, background, frame,
            resolution=resolution, samples=samples,
        )  # fmt: skip


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
    """What exported weights tell of themselves: command, steps, resolution, ...; nothing, if converted."""
    path = assets.weights(weights)
    return {} if path.is_dir() else read_about(path)
