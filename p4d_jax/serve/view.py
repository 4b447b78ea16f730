"""What a browser asks to see: `View`, read from its message and applied to a frame's parameters.

Sliders are differences: at 0 the face is as the photo, or the driver, has it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax.avatar.avatar import Avatar
from p4d_jax.errors import UserError
from p4d_jax.geometry import orbit
from p4d_jax.head.actions import ARKIT
from p4d_jax.types import Array, FrameParams

# Slider -> its share of each action's amount.
ACTIONS = {
    "smile": {"mouthSmileLeft": 1.0, "mouthSmileRight": 1.0, "cheekSquintLeft": 0.4, "cheekSquintRight": 0.4},
    "mouth": {"jawOpen": 0.8},
    "blink_left": {"eyeBlinkLeft": 1.0},
    "blink_right": {"eyeBlinkRight": 1.0},
    "brows": {
        "browInnerUp": 1.0,
        "browOuterUpLeft": 1.0,
        "browOuterUpRight": 1.0,
        "browDownLeft": -1.0,
        "browDownRight": -1.0,
    },
}
MOVED = tuple(sorted({name for shares in ACTIONS.values() for name in shares}))
PICTURES = ("photo", "depth", "mesh", "alpha")
MOVERS = ("rest", "film", "live")  # what moves the head beneath the sliders
MOST_GAZE, MOST_TURN, MOST_ORBIT = np.deg2rad((30.0, 20.0)), np.deg2rad(40.0), np.deg2rad((60.0, 30.0))


@dataclass(frozen=True)
class View:
    """One picture that is asked for.

    Attributes:
      number: The browser's count of what it asked for, which comes back with the picture.
      mover: What moves the head: nothing, the film, or the last picture of the webcam.
      time: Seconds into the film.
      picture: What is shown: the photo's looks, depth, the head model's mesh, or alpha.
      coarse: Whether it is asked in the middle of a movement: half as many pixels a side.
      orbit_x, orbit_y: How far the camera goes about the head, -1 to 1: to the person's left, and down.
      turn_x, turn_y, tilt: How far the neck turns, -1 to 1: to the person's left, down, to the left shoulder.
      gaze_x, gaze_y: Where the eyes go, -1 to 1: to the person's left, and up.
      smile, brows: From -1 to 1.
      mouth, blink_left, blink_right: From 0 to 1.
    """

    number: int = 0
    mover: str = "rest"
    time: float = 0.0
    picture: str = "photo"
    coarse: bool = False
    orbit_x: float = 0.0
    orbit_y: float = 0.0
    turn_x: float = 0.0
    turn_y: float = 0.0
    tilt: float = 0.0
    gaze_x: float = 0.0
    gaze_y: float = 0.0
    smile: float = 0.0
    brows: float = 0.0
    mouth: float = 0.0
    blink_left: float = 0.0
    blink_right: float = 0.0

    @classmethod
    def read(cls, message: Mapping) -> View:
        """A browser's message; numbers out of their range go to its end.

        Raises:
          UserError: A field is not known, or has a value of another kind.
        """
        known = {field.name: field.default for field in fields(cls)}
        values = {}
        for name, value in message.items():
            if name not in known:
                raise UserError(f"view: no field {name!r}")
            kind = type(known[name])
            is_number = type(value) in (int, float) and math.isfinite(value)
            if kind is float and is_number:
                values[name] = float(np.clip(value, *((0, 1e6) if name == "time" else (-1, 1))))
            elif kind is not float and type(value) is kind and (kind is not int or 0 <= value < 2**53):
                values[name] = value
            else:
                raise UserError(f"view: {name}={str(value)[:40]!r}: expected {kind.__name__}")
        view = cls(**values)
        if view.picture not in PICTURES or view.mover not in MOVERS:
            raise UserError(f"view: no picture {view.picture!r} of a mover {view.mover!r}")
        return view

    @property
    def amounts(self) -> dict[str, float]:
        """What the sliders add to ARKit's actions; those that they leave alone are not in it."""
        added: dict[str, float] = {}
        for slider, shares in ACTIONS.items():
            if amount := getattr(self, slider):
                added |= {name: added.get(name, 0.0) + share * amount for name, share in shares.items()}
        return added

    @property
    def moves_face(self) -> bool:
        """Whether a slider changes expression or gaze."""
        return bool(self.amounts or self.gaze_x or self.gaze_y)


def apply_view(avatar: Avatar, frame: FrameParams, view: View) -> FrameParams:
    """A frame's parameters with a view's sliders and camera."""
    if view.moves_face and set(ARKIT) <= set(avatar.model.head.expression_names):
        amounts = view.amounts
        added = np.array([amounts.get(name, 0.0) for name in MOVED], np.float32)
        gaze = MOST_GAZE * (view.gaze_x, view.gaze_y) if view.gaze_x or view.gaze_y else None
        frame = _act(avatar, frame, added, gaze)
    if view.orbit_x or view.orbit_y or view.turn_x or view.turn_y or view.tilt:
        turn = MOST_TURN * np.array([view.turn_y, view.turn_x, view.tilt])
        frame = _turn(frame, turn, *(MOST_ORBIT * (view.orbit_x, view.orbit_y)))
    return frame


@jax.jit
def _act(avatar: Avatar, frame: FrameParams, added: Array, gaze: Array | None) -> FrameParams:
    names = avatar.model.head.expression_names
    before = frame.expression[np.array([names.index(name) for name in MOVED])]
    after = jnp.where(added == 0, before, jnp.clip(before + added, 0.0, 1.0))
    looks = None if gaze is None else jnp.stack([frame.eyes[1], -frame.eyes[0]]) + gaze
    return avatar.act(frame, dict(zip(MOVED, after, strict=True)), looks)


@jax.jit
def _turn(frame: FrameParams, turn: Array, yaw: Array, pitch: Array) -> FrameParams:
    pose = frame.pose.at[:3].add(turn)
    return frame.replace(pose=pose, camera=orbit(frame.camera, yaw, pitch))
