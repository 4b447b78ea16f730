"""Cases of the networks of losses and evaluation: motion, identity, perceptual distance."""

from __future__ import annotations

import re
from collections.abc import Callable

import jax
import numpy as np

from p4d_jax.convert.mapping import convert_state
from p4d_jax.convert.parity.fixtures import Case
from p4d_jax.convert.perception import NETWORKS
from p4d_jax.networks.arcface import IResNet
from p4d_jax.networks.lpips import LPIPS
from p4d_jax.networks.motion_encoder import MotionEncoder


def _variables(name: str, state: dict[str, np.ndarray]) -> dict:
    network = NETWORKS[name]
    return convert_state(state, network.rules, network.init_shapes(), name).variables


def _nhwc(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 2, 3, 1)


def motion_encoder(case: Case) -> dict[str, np.ndarray]:
    """PD-FGC's motion encoder."""
    image = _nhwc(case.image("image", (1, 3, 224, 224)))
    found = jax.jit(MotionEncoder().apply)(_variables("motion", case.state), image)
    return {name: np.asarray(getattr(found, name)) for name in ("headpose", "eye", "emotion", "mouth")}


def arcface(case: Case) -> dict[str, np.ndarray]:
    """IResNet-18."""
    image = _nhwc(case.inputs["image"])
    return {"embedding": np.asarray(jax.jit(IResNet().apply)(_variables("arcface18", case.state), image))}


def lpips_vgg(case: Case) -> dict[str, np.ndarray]:
    """LPIPS of VGG-16."""
    # The state lists each channel weight twice, by different numbers here: the later list is what was loaded.
    state = {key: value for key, value in case.state.items() if not re.match(r"lin\d", key)}
    state = {re.sub(r"^lins\.", "lin", key): value for key, value in state.items()}
    a, b = _nhwc(case.inputs["a"]), _nhwc(case.inputs["b"])
    distance = jax.jit(LPIPS().apply)(_variables("lpips_vgg", state), a, b)
    return {"distance": np.asarray(distance)[:, None, None, None]}


# Case name -> our outputs by name, in the reference's layouts.
CASES: dict[str, Callable[[Case], dict[str, np.ndarray]]] = {
    "arcface": arcface,
    "lpips_vgg": lpips_vgg,
    "motion_encoder": motion_encoder,
}
