"""The losses of GenHead: one small function each, its weight and its span in the config.

A loss is `f(training, made) -> ()`, the mean over a batch, registered in `LOSSES` with the fields of
`Generated` that it reads. It counts in every step that knows them: `logits` only where G meets D, `target`
and `code` only where real pictures are given back. `made.key` is its own. A lazy one, a regulariser, has a
step of its own.

Letters: B batch, S image size, R rays a side, P plane size, C plane channels. Images in [-1, 1]. Source:
docs/concepts/genhead.md, Eq. 5.5 to 5.8; what is ours is said to be.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import struct

from p4d_jax.genhead.forward import Codes, labelled_fakes
from p4d_jax.genhead.frames import Frames, Reals
from p4d_jax.genhead.latent_encoder import kl_divergence
from p4d_jax.genhead.model import HEAD, PARTS
from p4d_jax.genhead.parts import (
    CORRESPONDENCE_SCALE,
    EYE_SHIFT,
    HeadParts,
    canonical_points,
    pose_straight_parts,
)
from p4d_jax.genhead.training import GenHeadTraining
from p4d_jax.genhead.view import GenHeadView
from p4d_jax.geometry import vertex_normals
from p4d_jax.head.landmarks import project_landmarks
from p4d_jax.head.model import HeadModel
from p4d_jax.imaging.resizing import resize_antialiased
from p4d_jax.render.triplane import sample_planes
from p4d_jax.train import adversarial, losses
from p4d_jax.train.devices import on_devices
from p4d_jax.train.loss_table import LossRegistry, weight_at
from p4d_jax.train.state import TrainState, stream_key
from p4d_jax.types import BOX_WARP, Array, Camera, FrameParams

EYES_AND_MOUTH, FACE = 6.0, 2.0  # weights of their pixels in a reconstruction, beside 1
SURFACE_POINTS = 512
SURFACE_DEPTH = (0.01, 0.06)  # world units under the skin
SURFACE_DENSITY = 6.0  # raw

LOSSES = LossRegistry()


@struct.dataclass
class RealTargets:
    """Real pictures that are to be given back.

    Attributes:
      reals: the pictures (B,).
      weights: (B, S, S, 1) of their pixels.
    """

    reals: Reals
    weights: Array


@struct.dataclass
class Generated:
    """What G made of a batch, and all else that a loss may read; None where a step does not know it.

    Attributes:
      variables: G's.
      codes: that the batch is made from.
      params: (B,) of the frames that it shows.
      frames: what the head model says of them.
      views: (B,) of the batch.
      logits: (B, 1) of D.
      target: the pictures that are to be given back.
      code: mean and log variance (B, Z) of the encoder's codes.
      key: typed, of a loss's own random numbers.
    """

    variables: dict
    codes: Codes
    params: FrameParams
    frames: Frames | None = None
    views: GenHeadView | None = None
    logits: Array | None = None
    target: RealTargets | None = None
    code: tuple[Array, Array] | None = None
    key: Array | None = None

    @property
    def resolution(self) -> int:
        """R."""
        return self.views.image.shape[1]


def weighted_losses(
    training: GenHeadTraining, active: tuple[str, ...], state: TrainState, step: str, made: Generated
) -> dict[str, Array]:
    """The weighted losses that are active and read nothing that is unknown, by name.

    Args:
      step: its name, which tells its random numbers from those of other steps.
    """
    known = lambda loss: not loss.lazy and all(getattr(made, name) is not None for name in loss.reads)
    images = state.images(made.codes.ws.shape[0])
    return {
        name: weight_at(training.config.term(name), images)
        * LOSSES[name].value(training, made.replace(key=stream_key(state, f"{name} loss, {step}")))
        for name in active
        if known(LOSSES[name])
    }


# G against D ----------------------------------------------------------------------------------------------


@LOSSES.add("generator", reads=("logits",))
def generator_loss(training: GenHeadTraining, made: Generated) -> Array:
    """The logistic loss of G."""
    return adversarial.generator_loss(made.logits)


# Parts: what keeps eyes and mouth in their own branch, and solid ------------------------------------------


def head_branch_loss(part: str, training: GenHeadTraining, made: Generated) -> Array:
    """The head branch's density inside a part's mask."""
    terms = made.views.terms
    density = {"eye": terms.head_in_eyes, "mouth": terms.head_in_mouth}[part]
    return (density * getattr(made.views.masks, part)).mean()


def distortion_loss(part: str, training: GenHeadTraining, made: Generated) -> Array:
    """How far apart a ray's weights lie inside a part's mask."""
    return (made.views.terms.distortion * getattr(made.views.masks, part)).mean()


def background_loss(part: str, training: GenHeadTraining, made: Generated) -> Array:
    """The background that shows through inside a part's mask."""
    return ((1 - made.views.opacity) * getattr(made.views.masks, part)).mean()


for _part in ("eye", "mouth"):
    LOSSES.add(f"{_part}_head", reads=("views",))(functools.partial(head_branch_loss, _part))
    LOSSES.add(f"{_part}_distortion", reads=("views",))(functools.partial(distortion_loss, _part))
    LOSSES.add(f"{_part}_background", reads=("views",))(functools.partial(background_loss, _part))


# Density --------------------------------------------------------------------------------------------------


def branch_densities(
    training: GenHeadTraining, variables: dict, planes: Array, branch: int, points: Array
) -> Array:
    """Raw densities (P, 1) of one branch of planes (2, 3, P, P, C) at its canonical points (P, 3)."""
    features = sample_planes(planes[branch], points, BOX_WARP)
    return training.genhead.apply(variables, features, method="decode")[0]


@LOSSES.add("density", lazy=True)
def density_loss(training: GenHeadTraining, made: Generated) -> Array:
    """The mean over both branches of how much density differs between points and points near by."""
    config, count = training.config, made.codes.ws.shape[0]
    planes = training.genhead.apply(made.variables, made.codes.ws, method="planes")
    at_key, moved_key = jax.random.split(made.key)
    points = jax.random.uniform(at_key, (count, config.density_points, 3), minval=-1.0, maxval=1.0)
    moved = points + config.density_distance * BOX_WARP * jax.random.normal(moved_key, points.shape)

    def one(decoder: dict, head: HeadModel, parts: HeadParts, sample: tuple) -> Array:
        planes, params, points, moved = sample
        posed = pose_straight_parts(head, params.shape, params)
        places = canonical_points(head, parts, posed, jnp.concatenate([points, moved]))
        differences = []
        for branch, at in ((PARTS, places.eyes), (HEAD, places.head)):
            densities = branch_densities(training, decoder, planes, branch, at)
            differences.append(losses.density_difference(*jnp.split(densities, 2)))
        return jnp.stack(differences).mean()

    decoder = {"params": {"decoder": made.variables["params"]["decoder"]}}
    spread = on_devices(training.mesh, one, decoder, training.head, training.parts)
    return spread((planes, made.params, points, moved)).mean()


@LOSSES.add("surface", reads=("views",))
def surface_loss(training: GenHeadTraining, made: Generated) -> Array:
    """How far the head branch is from solid under the skin of the canonical mesh: ours."""
    planes = training.genhead.apply(made.variables, made.codes.ws, method="planes")
    pick_key, depth_key = jax.random.split(made.key)
    canonical, faces = training.parts.canonical, training.head.faces
    picked = jax.random.choice(pick_key, training.parts.head_vertices, (SURFACE_POINTS,))
    low, high = SURFACE_DEPTH
    depth = jax.random.uniform(depth_key, (SURFACE_POINTS, 1), minval=low, maxval=high)
    points = canonical[picked] - depth * vertex_normals(canonical, faces)[picked]

    def densities(planes: Array) -> Array:
        return branch_densities(training, made.variables, planes, HEAD, points)

    return jax.nn.softplus(SURFACE_DENSITY - jax.vmap(densities)(planes)).mean()


# Real pictures, given back: ours --------------------------------------------------------------------------


@LOSSES.add("reconstruction", reads=("target",))
def reconstruction_loss(training: GenHeadTraining, made: Generated) -> Array:
    """The picture."""
    image = made.target.reals.portrait.image
    return jax.vmap(losses.reconstruction)(made.views.image_sr, image, made.target.weights).mean()


@LOSSES.add("reconstruction_raw", reads=("target",))
def raw_loss(training: GenHeadTraining, made: Generated) -> Array:
    """The volume renderer's colours."""
    raw = made.target.reals.for_discriminator(made.resolution).inputs.raw
    weights = resize_antialiased(made.target.weights, made.resolution)
    return jax.vmap(losses.reconstruction)(made.views.image, raw, weights).mean()


@LOSSES.add("reconstruction_mask", reads=("target",))
def mask_loss(training: GenHeadTraining, made: Generated) -> Array:
    """The opacity, as D would see it."""
    true = made.target.reals.for_discriminator(made.resolution).inputs.segmentation
    return jnp.abs(labelled_fakes(made.views, made.frames).inputs.segmentation - true).mean()


@LOSSES.add("kl", reads=("code",))
def kl_loss(training: GenHeadTraining, made: Generated) -> Array:
    """The nats of the encoder's codes beside the standard normal distribution."""
    return kl_divergence(*made.code).mean()


@LOSSES.add("skin", reads=("target",))
def skin_loss(training: GenHeadTraining, made: Generated) -> Array:
    """How far what the tri-planes hold is from a real picture, where it shows the head model's surface."""
    planes = training.genhead.apply(made.variables, made.codes.ws, method="planes")
    used = {"params": {"decoder": made.variables["params"]["decoder"]}}

    def one(used: dict, batch: tuple) -> Array:
        planes, correspondence, image, weight = batch
        colors, shown = skin_colors(training, used, planes, correspondence)
        return losses.reconstruction(jnp.where(shown, colors, image), image, weight * shown)

    reals = made.target.reals
    batch = (planes, reals.correspondence, reals.portrait.image, made.target.weights)
    return on_devices(training.mesh, one, used)(batch).mean()


def skin_colors(
    training: GenHeadTraining, variables: dict, planes: Array, correspondence: Array
) -> tuple[Array, Array]:
    """What tri-planes hold where a view shows the head model's surface.

    Args:
      planes: (2, 3, P, P, C).
      correspondence: (S, S, 3) of the view.

    Returns:
      (S, S, 3) colours in [-1, 1], and (S, S, 1) whether the surface is seen there.
    """
    # The eyeballs' z is lowered below all of OpenHead's face; of FLAME's that was not checked.
    eyes = correspondence[..., 2:] < 0
    shift = jnp.array([0.0, 0.0, EYE_SHIFT])
    points = CORRESPONDENCE_SCALE * (correspondence + eyes * shift).reshape(-1, 3)

    def held_by(branch: int) -> Array:
        features = sample_planes(planes[branch], points, BOX_WARP)
        colors = training.genhead.apply(variables, features, method="decode")[1][:, :3]
        return colors.reshape(correspondence.shape)

    colors = jnp.where(eyes, held_by(PARTS), held_by(HEAD))
    return 2 * colors - 1, jnp.any(correspondence != 0, axis=-1, keepdims=True)


def reconstruction_targets(training: GenHeadTraining, real: Reals, frames: Frames) -> RealTargets:
    """Real pictures with their pixels' weights: more on the face, most around its eyes and mouth.

    Args:
      frames: what the head model says of the real pictures' parameters.
    """

    def around(mesh: Array, camera: Camera) -> Array:
        landmarks = project_landmarks(training.head, mesh, jnp.zeros(3), camera)
        return losses.around_features(landmarks, training.genhead.config.image_size)

    face = jnp.any(real.correspondence != 0, axis=-1, keepdims=True)
    near = jax.vmap(around)(frames.rasterized.posed.straight, frames.params.camera)
    return RealTargets(real, 1 + FACE * face + EYES_AND_MOUTH * near)
