"""What does not change in a training of Psi: its networks, its optimizer, the arrays that no step moves."""

from __future__ import annotations

import dataclasses

import jax
import optax
from flax import struct, traverse_util
from jax.sharding import Mesh

from p4d_jax import assets
from p4d_jax.genhead.parts import HeadParts
from p4d_jax.head.expression_field import CanonicalFrame
from p4d_jax.head.model import HeadModel
from p4d_jax.networks.arcface import IResNet
from p4d_jax.networks.lpips import LPIPS
from p4d_jax.networks.motion_encoder import MotionEncoder
from p4d_jax.reconstructor.config import ReconstructorConfig, StepConfig
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.reconstructor.weights import load_reconstructor
from p4d_jax.train import losses
from p4d_jax.train.adversarial import Adversary
from p4d_jax.train.state import FROZEN, build_optimizer, init_variables
from p4d_jax.types import Array, shaped


def psi_optimizer(
    config: StepConfig, beta1: float, beta2: float, epsilon: float, clip_norm: float
) -> optax.GradientTransformation:
    """Adam for Psi: the motion's layers with their own rate, parts that are not `trained` standing still."""

    def label(path: tuple) -> str:
        if config.trained and path[0].key not in config.trained:
            return FROZEN
        return "motion" if of_motion(path) else "others"

    rates = {"motion": config.motion_rate, "others": 1.0}
    return build_optimizer(beta1, beta2, epsilon, clip_norm, rates, label)


def of_motion(path: tuple) -> bool:
    """Whether a parameter's path leads into a cross-attention or into the motion's mapping."""
    return any(part.key in ("attn2", "motion") for part in path)


@dataclasses.dataclass(frozen=True)
class ReconstructorTraining:
    """What does not change in a run: networks, settings, devices.

    Attributes:
      motion_encoder: makes motion vectors from pictures; None: the parameters' own (`flame_motion`).
      adversary: the discriminator, where a term is adversarial.
    """

    reconstructor: Reconstructor
    config: StepConfig
    mesh: Mesh
    optimizer: optax.GradientTransformation
    motion_encoder: MotionEncoder | None = None
    adversary: Adversary | None = None


@struct.dataclass
class LossNetworks:
    """Networks that others trained, which losses ask; frozen.

    Attributes:
      lpips, lpips_variables: the perceptual distance; None: `train.losses.structure` stands for it.
      arcface, arcface_variables: face identity, or None.
    """

    lpips: LPIPS | None = struct.field(pytree_node=False, default=None)
    lpips_variables: dict | None = None
    arcface: IResNet | None = struct.field(pytree_node=False, default=None)
    arcface_variables: dict | None = None

    def perceptual(self, image: Array, target: Array, weights: Array | None = None) -> Array:
        """() mean distance of images (B, H, W, 3); LPIPS, which looks at whole pictures, takes no weights."""
        if self.lpips is None:
            return jax.vmap(losses.structure)(image, target, weights).mean()
        return self.lpips.apply(self.lpips_variables, image, target).mean()

    def reconstruction(self, image: Array, target: Array, weights: Array | None = None) -> Array:
        """() L_re at one place: L1 and perceptual distance, under weights (B, H, W, 1)."""
        return jax.vmap(losses.l1)(image, target, weights).mean() + self.perceptual(image, target, weights)


@struct.dataclass
class Constants:
    """Arrays that no step changes: the head model, its constants, and what others trained.

    Attributes:
      parts: of the head, for the correspondence map; None where nothing is adversarial.
      motion_variables: of the motion encoder.
      shape_errors: (300, S), or None. Psi is given each pair's shape with this times normal numbers added, as
        the fit of a photo would be off.
    """

    head: HeadModel
    frame: CanonicalFrame
    parts: HeadParts | None = None
    loss_networks: LossNetworks = LossNetworks()
    motion_variables: dict | None = None
    shape_errors: Array | None = None


# How a run begins -------------------------------------------------------------------------------------------


def initial_variables(reconstructor: Reconstructor, key: Array) -> dict:
    """Random parameters of the model's shapes."""
    c = reconstructor.config
    image, motion = shaped(1, c.image_size, c.image_size, 3), shaped(1, c.motion_size)
    lifted = shaped(1, c.lifted_size, c.lifted_size, 4) if c.source_lifting else None
    return init_variables(reconstructor, key, image, motion, motion, lifted)


def grow_variables(start: str, model: ReconstructorConfig, variables: dict) -> dict:
    """The weights of a file as a model's variables; a file without photo features leaves those new.

    As their layers of the decoder begin at zero, such a model's field begins where the file's stands, with
    the density that the relief adds. Its refinement sees more than the file's, whose first and last layers
    do not fit and are left out.

    Args:
      start: name or path of the weights.
      variables: a new model's.

    Raises:
      ValueError: they are of another model.
    """
    started, loaded = load_reconstructor(assets.weights(start))
    without = dataclasses.replace(model, photo_features=0, photo_widths=started.config.photo_widths)
    if started.config not in (model, without):
        raise ValueError(f"start={start!r} holds a model of other sizes than this one")
    new, old = (traverse_util.flatten_dict(x) for x in (variables, loaded))
    if not started.config.photo_features:
        old = {path: value for path, value in old.items() if value.shape == new[path].shape}
    elif unlike := sorted(path for path in new if path not in old or old[path].shape != new[path].shape):
        name = "/".join(unlike[0][1:])
        raise ValueError(f"start={start!r} was made by other code: its {name} does not fit the model")
    return traverse_util.unflatten_dict(new | old)


def check_trained(config: StepConfig, variables: dict) -> None:
    """Raises a ValueError if a part that is to be trained is none of the model's."""
    if unknown := sorted(set(config.trained) - set(variables["params"])):
        raise ValueError(
            f"trained: the model has no part {unknown[0]!r}; there are"
            f" {', '.join(sorted(variables['params']))}"
        )
