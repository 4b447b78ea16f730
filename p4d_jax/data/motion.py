"""Motion of a head: random draws for training, and motion files.

Expressions are driven by ARKit's 52 facial actions; a head whose expression basis names its components
after them (OpenHead) takes the coefficients as they are. jawOpen also turns the jaw joint, eyeLook* the eye
joints. Rotations are axis-angle in radians: jaw x positive opens, eye x positive looks down, eye y positive
looks to the head's left (+x).

A motion file (`save_motion`, `load_motion`) is an .npz without pickled objects:
  format    the string "p4d_jax.motion.1"
  head      name of the head model whose expression basis the coefficients speak of, e.g. "openhead"
  fps       float32, frames a second
  names     (E,) strings, names of the leading expression coefficients, or empty
  frames    (T, 437) float32, `FrameParams.to_vector` of each frame: camera 25 (the head's rotation is
            carried by the camera), shape 300, expression 100, pose 6, eyes 6
  edges     optional, (T + 1,) float64, seconds: frame i is shown from edge i to edge i + 1; without them
            frames follow each other evenly, fps a second
  motion_vectors  optional, (T, M) float32: what a motion encoder (PD-FGC: M = 548) saw in the pictures;
            without pictures a model that was trained with that encoder can be driven by them alone
The bundled clip embedded/motion_talk.npz is written by `python -m tools.bake_motion_clip`.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from p4d_jax.data.dice import Dice
from p4d_jax.errors import UserError
from p4d_jax.head.actions import ARKIT, Motion, compose_motion
from p4d_jax.npz import read_npz
from p4d_jax.types import FRAME_VECTOR_SIZE, Array, FrameParams

MOTION_FORMAT = "p4d_jax.motion.1"

# Mouth shapes of speech and faces of feeling. A name without a side means both sides.
VISEMES = {
    "rest": {},
    "aa": {"jawOpen": 0.62, "mouthLowerDown": 0.35, "mouthUpperUp": 0.15},
    "ee": {
        "jawOpen": 0.18,
        "mouthStretch": 0.45,
        "mouthSmile": 0.25,
        "mouthLowerDown": 0.35,
        "mouthUpperUp": 0.2,
    },
    "oh": {"jawOpen": 0.42, "mouthFunnel": 0.65},
    "oo": {"jawOpen": 0.14, "mouthPucker": 0.75, "mouthFunnel": 0.2},
    "mm": {"mouthPress": 0.5, "mouthRollLower": 0.25, "mouthRollUpper": 0.25},
    "ff": {"jawOpen": 0.08, "mouthRollLower": 0.55, "mouthUpperUp": 0.3},
    "th": {"jawOpen": 0.24, "mouthLowerDown": 0.3, "mouthUpperUp": 0.1},
    "ss": {"jawOpen": 0.08, "mouthStretch": 0.3, "mouthLowerDown": 0.4, "mouthUpperUp": 0.25},
}
FEELINGS = {
    "neutral": {},
    "smile": {"mouthSmile": 0.8, "cheekSquint": 0.5, "eyeSquint": 0.35, "mouthUpperUp": 0.15},
    "laugh": {
        "mouthSmile": 0.95,
        "cheekSquint": 0.8,
        "eyeSquint": 0.6,
        "jawOpen": 0.4,
        "mouthUpperUp": 0.4,
        "mouthLowerDown": 0.3,
    },
    "surprise": {"browInnerUp": 0.9, "browOuterUp": 0.8, "eyeWide": 0.8, "jawOpen": 0.45},
    "anger": {"browDown": 0.9, "eyeSquint": 0.4, "noseSneer": 0.5, "mouthPress": 0.4, "mouthFrown": 0.4},
    "sadness": {"browInnerUp": 0.8, "mouthFrown": 0.7, "mouthShrugLower": 0.5},
    "disgust": {"noseSneer": 0.9, "mouthUpperUp": 0.5, "browDown": 0.5, "eyeSquint": 0.4},
    "doubt": {"mouthShrugLower": 0.6, "mouthShrugUpper": 0.3, "browOuterUpLeft": 0.6, "browDownRight": 0.4},
    "pout": {"mouthPucker": 0.6, "browInnerUp": 0.3},
    "puff": {"cheekPuff": 0.8, "mouthPress": 0.3},
}


def actions_table(shapes: dict[str, dict[str, float]]) -> np.ndarray:
    """(len(shapes), 52) coefficients in `ARKIT` order; a name without a side fills both sides."""
    table = np.zeros((len(shapes), len(ARKIT)), np.float32)
    for row, shape in zip(table, shapes.values(), strict=True):
        for name, value in shape.items():
            hits = [i for i, known in enumerate(ARKIT) if known in (name, name + "Left", name + "Right")]
            if not hits:
                raise ValueError(f"shapes: unknown facial action '{name}'; known are ARKit's 52, `ARKIT`")
            row[hits] = value
    return table


def random_motion(key: Array, frames: int, names: tuple[str, ...], closed_eyes: float = 0.0) -> Motion:
    """Independent motions of one person, (frames, ...): speech, feelings, blinks, brows, gaze, jaw, neck.

    Args:
      frames: Number of frames.
      names: Names of the head's expression components.
      closed_eyes: Probability that both eyes of a frame are shut, whatever else is drawn; all else stays as
        it was drawn.
    """
    keys = jax.random.split(key, frames)
    actions, gaze, neck = jax.vmap(_random_actions)(keys)
    if closed_eyes:
        shut = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1)))(keys) < closed_eyes
        actions = jnp.where(shut[:, None], shut_eyes(actions), actions)
    return compose_motion(actions, gaze, neck, names)


def shut_eyes(actions: Array) -> Array:
    """Actions (..., 52) with both lids down: no eye wide, and squints as small as in a blink."""
    place = lambda name: jnp.array([ARKIT.index(name + side) for side in ("Left", "Right")])
    actions = actions.at[..., place("eyeBlink")].set(1.0).at[..., place("eyeWide")].set(0.0)
    return actions.at[..., place("eyeSquint")].multiply(0.2)


def _random_actions(key: Array) -> tuple[Array, Array, Array]:
    """One frame: actions (52,), gaze (2,), neck (3,)."""
    dice, count = Dice(key, 200), len(ARKIT)
    visemes, feelings = jnp.asarray(actions_table(VISEMES)), jnp.asarray(actions_table(FEELINGS))
    pair = dice.uniform(0, len(VISEMES), (2,)).astype(jnp.int32)
    blend = dice.uniform()
    speech = visemes[pair[0]] * blend + visemes[pair[1]] * (1 - blend)
    speech *= dice.uniform(0.3, 1.3)
    feeling = feelings[dice.uniform(0, len(FEELINGS)).astype(jnp.int32)]
    feeling = feeling * dice.uniform(0.0, 1.15)
    loose = dice.uniform(0.0, 1.0, (count,)) ** 1.5 * (dice.uniform(0.0, 1.0, (count,)) < 0.06)
    talks = dice.chance(0.65)
    actions = speech * talks + feeling * (1.0 - 0.35 * talks) + 0.8 * loose
    actions *= 1.0 + 0.12 * dice.normal((count,))  # faces are a little asymmetric
    lids = dice.uniform(0.0, 1.0, (3,))
    close = jnp.where(lids[0] < 0.14, 1.0, jnp.where(lids[0] < 0.42, lids[1], 0.12 * lids[1]))
    sides = jnp.where(
        lids[2] < 0.04, jnp.array([1.0, 0.1]), jnp.where(lids[2] > 0.96, jnp.array([0.1, 1.0]), 1.0)
    )
    blinks = jnp.array([ARKIT.index("eyeBlinkLeft"), ARKIT.index("eyeBlinkRight")])
    squints = jnp.array([ARKIT.index("eyeSquintLeft"), ARKIT.index("eyeSquintRight")])
    wides = jnp.array([ARKIT.index("eyeWideLeft"), ARKIT.index("eyeWideRight")])
    closed = close * sides
    actions = actions.at[blinks].set(closed)
    actions = actions.at[wides].multiply(1 - closed).at[squints].multiply(1 - 0.8 * closed)
    actions = actions.at[ARKIT.index("mouthClose")].set(0.0).at[ARKIT.index("tongueOut")].multiply(0.3)
    gaze = dice.normal((2,), 2.0) * jnp.array([0.20, 0.12])
    turned = dice.chance(0.25)
    neck = turned * dice.normal((3,), 2.0) * jnp.array([0.10, 0.14, 0.07])
    return jnp.clip(actions, 0.0, 1.0), gaze, neck


def save_motion(
    path: str | Path,
    params: FrameParams,
    fps: float,
    head: str,
    names: tuple[str, ...] = (),
    motion_vectors: Array | np.ndarray | None = None,
    edges: np.ndarray | None = None,
) -> None:
    """Writes a motion file; the format is in the file's docstring.

    Args:
      path: of the file.
      params: one leading axis (T,).
      fps: frames a second.
      head: name of the head model that the expression coefficients are of.
      names: of the leading expression coefficients.
      motion_vectors: (T, M) of a motion encoder, or None.
      edges: (T + 1,) seconds at which frames appear, and the last one ends; None: evenly.
    """
    frames = np.asarray(params.to_vector(), np.float32)
    more = {}
    if motion_vectors is not None:
        more["motion_vectors"] = np.asarray(motion_vectors, np.float32)
        if more["motion_vectors"].ndim != 2 or len(more["motion_vectors"]) != len(frames):
            shape = more["motion_vectors"].shape
            raise ValueError(
                f"motion_vectors: expected one vector for each of {len(frames)} frames, got {shape}"
            )
    if edges is not None:
        if np.shape(edges) != (len(frames) + 1,):
            raise ValueError(f"edges: expected {len(frames) + 1} seconds, got shape {np.shape(edges)}")
        more["edges"] = np.asarray(edges, np.float64)
    np.savez_compressed(
        path,
        format=np.array(MOTION_FORMAT),
        head=np.array(head),
        fps=np.float32(fps),
        names=np.array(names, dtype=np.str_),
        frames=frames,
        **more,
    )


@struct.dataclass
class MotionFile:
    """A motion file's contents.

    Attributes:
      params: leading axis (T,).
      fps, head, names: the header.
      motion_vectors: (T, M) of a motion encoder, or None.
      edges: (T + 1,) seconds at which frames appear, and the last one ends, or None.
    """

    params: FrameParams
    fps: float = struct.field(pytree_node=False)
    head: str = struct.field(pytree_node=False)
    names: tuple[str, ...] = struct.field(pytree_node=False)
    motion_vectors: Array | None = None
    edges: np.ndarray | None = None


def motion_for_head(motion: MotionFile, names: tuple[str, ...]) -> MotionFile:
    """The same motion with expression coefficients in the order of another head's `expression_names`."""
    if not motion.names or tuple(names[: len(motion.names)]) == motion.names:
        return motion
    places = {name: i for i, name in enumerate(names)}
    missing = [name for name in motion.names if name not in places]
    if missing:
        raise ValueError(
            f"names: the head lacks the expression components {missing[:4]} that the motion uses"
        )
    expression = np.asarray(motion.params.expression)
    moved = np.zeros_like(expression)
    moved[..., [places[name] for name in motion.names]] = expression[..., : len(motion.names)]
    return motion.replace(params=motion.params.replace(expression=moved), names=tuple(names))


def load_motion(path: str | Path) -> MotionFile:
    """Reads and checks a motion file.

    Raises:
      UserError: it is missing, damaged, or not what `save_motion` writes.
    """
    names = ("format", "head", "fps", "names", "frames")
    content = read_npz(path, "a motion file", names, others=("motion_vectors", "edges"))
    if str(content["format"]) != MOTION_FORMAT:
        raise UserError(f"motion: {path} has format '{content['format']}', expected '{MOTION_FORMAT}'")
    return _checked(path, content)


def _checked(path: Path, content: dict[str, np.ndarray]) -> MotionFile:
    frames, fps = content["frames"], content["fps"]
    if (
        frames.ndim != 2
        or frames.shape[1] != FRAME_VECTOR_SIZE
        or len(frames) == 0
        or frames.dtype.kind != "f"
    ):
        raise UserError(
            f"motion: {path} has frames of shape {frames.shape} and type {frames.dtype},"
            f" expected floats (T >= 1, {FRAME_VECTOR_SIZE})"
        )
    if not np.isfinite(frames.astype(np.float32)).all():
        raise UserError(f"motion: {path} has frames with numbers beyond float32")
    if fps.shape != () or fps.dtype.kind not in "fiu" or not 1.0 <= float(fps) <= 1000.0:
        raise UserError(f"motion: {path} has fps {fps}, expected one number in [1, 1000]")
    vectors = content.get("motion_vectors")
    if vectors is not None:
        if vectors.ndim != 2 or len(vectors) != len(frames) or vectors.dtype.kind != "f":
            raise UserError(
                f"motion: {path} has motion_vectors of shape {vectors.shape} and type {vectors.dtype},"
                f" expected floats ({len(frames)}, M)"
            )
        vectors = vectors.astype(np.float32)
    edges = content.get("edges")
    if edges is not None and (
        edges.shape != (len(frames) + 1,) or edges.dtype.kind != "f" or (np.diff(edges) <= 0).any()
    ):
        raise UserError(f"motion: {path} has edges that are not {len(frames) + 1} ascending seconds")
    params = FrameParams.from_vector(frames.astype(np.float32))
    if content["names"].ndim != 1 or len(content["names"]) > 100:
        raise UserError(f"motion: {path} has names of shape {content['names'].shape}, expected (E <= 100,)")
    names = tuple(str(name) for name in content["names"])
    return MotionFile(params, float(fps), str(content["head"]), names, vectors, edges)
