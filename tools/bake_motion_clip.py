"""Writes the bundled motion clip: three seconds of a head that turns, nods, talks, blinks and smiles.

    python -m tools.bake_motion_clip [OUTPUT.npz]

72 frames at 24 frames a second, neutral at both ends so that it loops. Everything is a sum of smooth bumps
at hand-set times (seconds); nothing is random, nothing was captured from a person.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from p4d_jax.data.motion import FEELINGS, VISEMES, actions_table, save_motion
from p4d_jax.geometry import look_at_camera
from p4d_jax.head.actions import ARKIT, compose_motion
from p4d_jax.types import CAMERA_PIVOT, CAMERA_RADIUS, SHAPE_SIZE, FrameParams

FRAMES, FPS = 72, 24.0
EMBEDDED = Path(__file__).parent.parent / "embedded" / "motion_talk.npz"

# (time in seconds, value): held smooth between; head angles in degrees, left and up positive.
_YAW = ((0.0, 0), (0.30, 0), (0.85, 25), (1.10, 23), (1.75, -25), (1.95, -23), (2.50, 0), (3.0, 0))
_NOD = ((0.0, 0), (0.6, 3), (1.4, -2), (2.10, 0), (2.32, -11), (2.54, 4), (2.75, 0), (3.0, 0))
_TILT = ((0.0, 0), (0.9, 4), (1.8, -5), (2.4, 0), (3.0, 0))
_GLANCE_SIDE = (
    (0.0, 0),
    (0.12, 0),
    (0.20, 9),
    (0.45, 9),
    (0.55, -6),
    (1.25, -6),
    (1.33, 7),
    (2.2, 7),
    (2.3, 0),
    (3, 0),
)
_GLANCE_UP = (
    (0.0, 0),
    (1.0, 0),
    (1.10, 6),
    (1.30, 6),
    (1.42, 0),
    (2.1, 0),
    (2.3, 7),
    (2.55, -2),
    (2.7, 0),
    (3, 0),
)
_SMILE = ((0.0, 0), (1.80, 0), (2.15, 0.95), (2.55, 0.95), (2.95, 0), (3.0, 0))
_BROWS = ((0.0, 0), (0.35, 0), (0.50, 0.7), (0.80, 0.1), (1.30, 0.1), (1.42, 0.6), (1.7, 0), (3.0, 0))
_BLINKS = (0.54, 1.83)  # closed at these times
_SPEECH = (
    (0.22, "mm"), (0.36, "aa"), (0.50, "ss"), (0.62, "ee"), (0.76, "th"), (0.90, "oh"), (1.02, "mm"),
    (1.14, "aa"), (1.28, "ff"), (1.38, "oo"), (1.52, "th"), (1.64, "ee"), (1.76, "mm"), (1.90, "aa"),
)  # fmt: skip


def _curve(keys: tuple[tuple[float, float], ...], time: np.ndarray) -> np.ndarray:
    """Value at each time: smooth steps between neighbouring keys, at rest on every key."""
    times, values = np.array(keys, float).T
    place = np.clip(np.searchsorted(times, time, side="right") - 1, 0, len(times) - 2)
    t = np.clip((time - times[place]) / (times[place + 1] - times[place]), 0, 1)
    return values[place] + (values[place + 1] - values[place]) * t**3 * (10 - 15 * t + 6 * t * t)


def _speech(time: np.ndarray) -> np.ndarray:
    """(T, 52): mouth shapes flow into each other, a syllable about every quarter of a second."""
    table = dict(zip(VISEMES, actions_table(VISEMES), strict=True))
    total = np.zeros((len(time), len(ARKIT)))
    for center, name in _SPEECH:
        total += np.exp(-(((time - center) / 0.085) ** 2))[:, None] * table[name]
    return total


def _blinks(time: np.ndarray) -> np.ndarray:
    """(T,) lids shut fast, open slower; nearest frame fully shut."""
    total = np.zeros(len(time))
    for center in _BLINKS:
        since = time - np.round(center * FPS) / FPS
        shut = np.where(since < 0, 1 + since / 0.105, 1 - since / 0.165)
        total = np.maximum(total, np.clip(shut, 0, 1))
    return total * total * (3 - 2 * total)


def talking_clip() -> FrameParams:
    """The bundled motion, leading axis (72,): expression in `ARKIT` order, zero shape, default camera."""
    time = np.arange(FRAMES) / FPS
    yaw, nod, tilt = (np.radians(_curve(keys, time)) for keys in (_YAW, _NOD, _TILT))
    smile = actions_table({"smile": FEELINGS["smile"]})
    brows = actions_table({"brows": {"browInnerUp": 0.8, "browOuterUp": 0.7}})
    actions = _speech(time) + _curve(_SMILE, time)[:, None] * smile + _curve(_BROWS, time)[:, None] * brows
    for side in ("Left", "Right"):
        actions[:, ARKIT.index("eyeBlink" + side)] = _blinks(time)
        actions[:, ARKIT.index("eyeSquint" + side)] *= 1 - _blinks(time)
    # The eyes stay with the viewer for part of a turn, and glance about.
    gaze = np.stack(
        [
            np.radians(_curve(_GLANCE_SIDE, time)) - 0.35 * yaw,
            np.radians(_curve(_GLANCE_UP, time)) - 0.3 * nod,
        ],
        -1,
    )
    actions = jnp.asarray(np.clip(actions, 0, 1), jnp.float32)
    motion = compose_motion(actions, jnp.asarray(gaze, jnp.float32), jnp.zeros((FRAMES, 3)), tuple(ARKIT))
    # A head that looks up is seen from below; `look_at_camera` measures pitch by the elevation's sine.
    pitch = -np.sin(nod) * np.pi / 2
    camera = look_at_camera(yaw, pitch, np.full(FRAMES, CAMERA_RADIUS), tilt, CAMERA_PIVOT)
    return FrameParams(camera, jnp.zeros((FRAMES, SHAPE_SIZE)), motion.expression, motion.pose, motion.eyes)


if __name__ == "__main__":
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else EMBEDDED
    save_motion(output, talking_clip(), FPS, "openhead", tuple(ARKIT))
    print(f"wrote {output}")
