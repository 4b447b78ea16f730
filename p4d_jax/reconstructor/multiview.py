"""Pseudo views: what a frozen static model says of the sides that a film does not show.

Source: docs/concepts/training.md, Eq. 8.9 and 8.10.

Real films show a head from one side at a time. The static model Psi_3d, which reconstructs and does not
reenact, turns a film's frame into other views, for two ends:

- motion: with a probability, the motion vector of the driving frame is taken from such a view, so that it
  cannot carry the view (only where motion is seen in pictures);
- appearance: every few steps Psi's picture from a random side, without background, is compared with
  Psi_3d's of the driving frame.

Psi_3d makes heads with shut eyes a little larger than those with open ones; its box is scaled by how far the
eyes are open. Source: Portrait4D-v2 (arXiv 2403.13570).
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from p4d_jax.data.samples import HeadPair
from p4d_jax.genhead.config import SynthesisSettings
from p4d_jax.genhead.synthesis import look_at_cameras
from p4d_jax.head.landmarks import landmarks70
from p4d_jax.head.model import HeadModel
from p4d_jax.head.skinning import posed_vertices
from p4d_jax.reconstructor.forward import Rendered, render_samples
from p4d_jax.reconstructor.samples import build_samples, over_black, resize_to
from p4d_jax.reconstructor.step import TrainingHooks
from p4d_jax.reconstructor.training import Constants, ReconstructorTraining
from p4d_jax.train.devices import jit_batch, jit_update
from p4d_jax.train.flops import Work
from p4d_jax.train.state import TrainState, descend, stream_key, stream_keys
from p4d_jax.types import Array, Camera, FrameParams

LIDS = ((37, 41), (38, 40), (43, 47), (44, 46))  # iBUG numbers, from 0: upper and lower lid
CORNERS = ((36, 39), (42, 45))


@dataclasses.dataclass(frozen=True)
class PseudoViews:
    """The static model and how it is used.

    Attributes:
      training: Psi_3d, with the settings of the trained Psi's views.
      every: steps between the comparisons from a random side; 0 makes none.
      weight: of the comparison.
      motion_share: probability that a motion vector is seen in a pseudo view.
      cameras: ranges of the random sides.
    """

    training: ReconstructorTraining
    every: int = 4
    weight: float = 1.0
    motion_share: float = 0.9
    cameras: SynthesisSettings = dataclasses.field(default_factory=SynthesisSettings)


def box_scale(head: HeadModel, shape: Array, params: FrameParams) -> Array:
    """() by how much Psi_3d's box is scaled for a frame: clip(0.97 + 0.1 r, 0.97, 1), r the eyes' opening.

    r is the lids' distance over the eyes' width, in 3D.
    """
    points = landmarks70(head, posed_vertices(head, shape, params), 0.0)
    gap = lambda pairs: jnp.stack([jnp.linalg.norm(points[a] - points[b]) for a, b in pairs]).mean()
    return jnp.clip(0.97 + 0.1 * gap(LIDS) / gap(CORNERS), 0.97, 1.0)


def turned(pairs: HeadPair, cameras: Camera, straight: bool) -> FrameParams:
    """The targets' parameters (B,) before other cameras; `straight`: with the neck's rotation undone."""
    params = pairs.params.replace(camera=cameras)
    return params.replace(pose=params.pose.at[:, :3].set(0.0)) if straight else params


def static_pairs_of(pairs: HeadPair, params: FrameParams) -> HeadPair:
    """Psi_3d's pairs: the driving frame is the source, its own motion is shown in another view."""
    return HeadPair(
        pairs.image, pairs.params.replace(shape=pairs.source_params.shape), pairs.image, params, pairs.mask,
        jnp.zeros_like(pairs.scale), face_mask=pairs.face_mask,
    )  # fmt: skip


def look_from_elsewhere(
    views: PseudoViews,
    resolution: int,
    static: Constants,
    variables: dict,
    pairs: HeadPair,
    params: FrameParams,
    keys: Array,
) -> Rendered:
    """Psi_3d's views of the driving frames under other parameters. No gradient."""
    scales = jax.vmap(functools.partial(box_scale, static.head))(pairs.source_params.shape, pairs.params)
    samples = build_samples(views.training, resolution, False, static, static_pairs_of(pairs, params), keys)
    # At scale 0 a motion has no effect: any numbers will do.
    still = jnp.zeros((len(keys), views.training.reconstructor.config.motion_size))
    samples = samples.replace(motion_source=still, motion_driving=still, box_scale=scales)
    return jax.lax.stop_gradient(render_samples(views.training, variables, samples, None))


def pseudo_driving(
    views: PseudoViews,
    resolution: int,
    state: TrainState,
    static: Constants,
    variables: dict,
    pairs: HeadPair,
) -> HeadPair:
    """Pairs (B,) whose driving pictures are, with probability `motion_share`, Psi_3d's of the target."""
    # A motion encoder looks at whole pictures.
    whole = dataclasses.replace(views.training.config, crop=0)
    views = dataclasses.replace(views, training=dataclasses.replace(views.training, config=whole))
    count = pairs.scale.shape[0]
    cameras = look_at_cameras(stream_key(state, "cameras of pseudo driving"), count, views.cameras)
    params, keys = turned(pairs, cameras, straight=False), stream_keys(state, "pseudo driving", count)
    seen = look_from_elsewhere(views, resolution, static, variables, pairs, params, keys)
    chosen = jax.random.uniform(stream_key(state, "share of pseudo driving"), (count,)) < views.motion_share

    def pick(new, old):
        return jax.tree.map(lambda a, b: jnp.where(chosen.reshape(-1, *(1,) * (a.ndim - 1)), a, b), new, old)

    return pairs.replace(driving=pick(seen.image, pairs.image), driving_params=pick(params, pairs.params))


def multiview_update(
    training: ReconstructorTraining,
    views: PseudoViews,
    resolution: int,
    state: TrainState,
    rate: Array,
    constants: Constants,
    static: Constants,
    variables: dict,
    pairs: HeadPair,
) -> tuple[TrainState, dict[str, Array]]:
    """Psi's step on looking like Psi_3d from a random side, `every` times as heavy.

    Args:
      constants, static: of Psi and of Psi_3d. variables: Psi_3d's.
    """
    # Data: the pairs from a random side, and what Psi_3d makes of them there.
    count = pairs.scale.shape[0]
    cameras = look_at_cameras(stream_key(state, "cameras of multiview"), count, views.cameras)
    params, keys = turned(pairs, cameras, straight=True), stream_keys(state, "multiview", count)
    seen = look_from_elsewhere(views, resolution, static, variables, pairs, params, keys)
    targets = without_background(seen)
    samples = build_samples(
        training, resolution, False, constants, pairs.replace(params=params, depth=None), keys
    )

    # Forward, loss, gradients, update.
    def objective(params):
        out = render_samples(training, {"params": params, "buffers": state.buffers}, samples, None)
        loss = views.weight * constants.loss_networks.perceptual(without_background(out), targets)
        return views.every * loss, loss

    gradients, loss = jax.grad(objective, has_aux=True)(state.params)
    params, optimizer = descend(training.optimizer, rate, gradients, state.params, state.optimizer)
    return state.replace(params=params, optimizer=optimizer), {"multiview": loss}


def without_background(out: Rendered) -> Array:
    """(B, kc, kc, 3) pictures, black where the head is not."""
    size = out.image.shape[1]
    return over_black(out.image, jax.vmap(lambda x: resize_to(x, size))(out.opacity))


def pseudo_view_hooks(
    training: ReconstructorTraining, views: PseudoViews, static: Constants, variables: dict, work: Work
) -> TrainingHooks:
    """What v2 adds to `reconstructor.step.build_step`.

    Args:
      static, variables: Psi_3d's arrays, on every device.
      work: what counts the programs' arithmetic.
    """
    driving = jit_batch(training.mesh, work, pseudo_driving, "views", "resolution")
    update = jit_update(training.mesh, work, multiview_update, "training", "views", "resolution")

    def describe(resolution: int, state: TrainState, pairs: HeadPair) -> HeadPair:
        return driving(views, resolution, state, static, variables, pairs)

    def regularise(resolution: int, state: TrainState, rate: Array, constants: Constants, pairs: HeadPair):
        return update(training, views, resolution, state, rate, constants, static, variables, pairs)

    seen = training.motion_encoder is not None and views.motion_share > 0
    return TrainingHooks(describe if seen else None, regularise if views.every else None, views.every)
