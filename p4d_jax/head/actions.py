"""ARKit's 52 facial actions as a head's expression, jaw and gaze.

A head whose expression basis names its components after them (OpenHead) takes the coefficients as they are.
jawOpen also turns the jaw joint, eyeLook* the eye joints. Rotations are axis-angle in radians: jaw x positive
opens, eye x positive looks down, eye y positive looks to the head's left (+x).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import struct

from p4d_jax.types import EXPRESSION_SIZE, Array

JAW_OPEN, JAW_SIDE = 0.36, 0.08  # radians of jaw rotation at jawOpen = 1, at jawLeft = 1
GAZE_SIDE, GAZE_UP, GAZE_DOWN = 0.55, 0.40, 0.50  # radians of eye rotation at eyeLook* = 1

ARKIT = [
    "eyeBlinkLeft",
    "eyeLookDownLeft",
    "eyeLookInLeft",
    "eyeLookOutLeft",
    "eyeLookUpLeft",
    "eyeSquintLeft",
    "eyeWideLeft",
    "eyeBlinkRight",
    "eyeLookDownRight",
    "eyeLookInRight",
    "eyeLookOutRight",
    "eyeLookUpRight",
    "eyeSquintRight",
    "eyeWideRight",
    "jawForward",
    "jawLeft",
    "jawRight",
    "jawOpen",
    "mouthClose",
    "mouthFunnel",
    "mouthPucker",
    "mouthLeft",
    "mouthRight",
    "mouthSmileLeft",
    "mouthSmileRight",
    "mouthFrownLeft",
    "mouthFrownRight",
    "mouthDimpleLeft",
    "mouthDimpleRight",
    "mouthStretchLeft",
    "mouthStretchRight",
    "mouthRollLower",
    "mouthRollUpper",
    "mouthShrugLower",
    "mouthShrugUpper",
    "mouthPressLeft",
    "mouthPressRight",
    "mouthLowerDownLeft",
    "mouthLowerDownRight",
    "mouthUpperUpLeft",
    "mouthUpperUpRight",
    "browDownLeft",
    "browDownRight",
    "browInnerUp",
    "browOuterUpLeft",
    "browOuterUpRight",
    "cheekPuff",
    "cheekSquintLeft",
    "cheekSquintRight",
    "noseSneerLeft",
    "noseSneerRight",
    "tongueOut",
]


@struct.dataclass
class Motion:
    """The part of a head's parameters that moves: expression (..., 100), pose (..., 6), eyes (..., 6)."""

    expression: Array
    pose: Array
    eyes: Array


def action_columns(names: tuple[str, ...]) -> np.ndarray:
    """(52,) where each ARKit action is among a head's expression names."""
    places = {name: i for i, name in enumerate(names)}
    missing = [name for name in ARKIT if name not in places]
    if missing:
        raise ValueError(
            f"names: the head's expression basis lacks ARKit's {missing[:4]} ({len(missing)} of 52);"
            " random motion needs a head such as the embedded 'openhead'"
        )
    return np.array([places[name] for name in ARKIT])


def compose_motion(actions: Array, gaze: Array, neck: Array, names: tuple[str, ...]) -> Motion:
    """ARKit actions, gaze and neck -> motion parameters.

    Args:
      actions: (..., 52) coefficients of the actions in [0, 1], in `ARKIT`'s order; eyeLook* are overwritten
        by the gaze.
      gaze: (..., 2) direction of both eyes in radians, to the head's left and up.
      neck: (..., 3) rotation of the neck, axis-angle in radians.
      names: Names of the head's expression components.
    """
    left, up = gaze[..., 0], gaze[..., 1]
    look = {
        "eyeLookOutLeft": left / GAZE_SIDE,
        "eyeLookInRight": left / GAZE_SIDE,
        "eyeLookInLeft": -left / GAZE_SIDE,
        "eyeLookOutRight": -left / GAZE_SIDE,
        "eyeLookUpLeft": up / GAZE_UP,
        "eyeLookUpRight": up / GAZE_UP,
        "eyeLookDownLeft": -up / GAZE_DOWN,
        "eyeLookDownRight": -up / GAZE_DOWN,
    }
    for name, value in look.items():
        actions = actions.at[..., ARKIT.index(name)].set(jnp.clip(value, 0.0, 1.0))
    batch = actions.shape[:-1]
    expression = jnp.zeros((*batch, EXPRESSION_SIZE)).at[..., action_columns(names)].set(actions)
    zero = jnp.zeros(batch)
    side = actions[..., ARKIT.index("jawLeft")] - actions[..., ARKIT.index("jawRight")]
    jaw = jnp.stack([JAW_OPEN * actions[..., ARKIT.index("jawOpen")], JAW_SIDE * side, zero], -1)
    eye = jnp.stack([-up, left, zero], -1)
    return Motion(expression, jnp.concatenate([neck, jaw], -1), jnp.concatenate([eye, eye], -1))
