"""An avatar's two programs as StableHLO, which run with jax alone, without this package, and their weights.

    read = lambda name: jax.export.deserialize(bytearray(Path(name).read_bytes())).call
    file = np.load("weights.npz")
    weights = tuple(file[f"arr_{number}"] for number in range(len(file.files)))
    source = jax.jit(read("encode.stablehlo"), compiler_options=OPTIONS)(weights, image, alpha, known, params)
    image, alpha, depth = jax.jit(read("frame.stablehlo"), compiler_options=OPTIONS)(weights, source, params)

Shapes, float32: image (S, S, 3) in [-1, 1], the photo's crop; alpha (S, S, 1) in [0, 1], the person in it;
known (S, S, 1) in [0, 1], where the crop is photo; params (437,), `FrameParams.to_vector`; of a frame image
(S, S, 3) in [-1, 1], alpha and depth (R, R) of `Frame`. `source` is a tuple of arrays. OPTIONS are those of
`train.devices.CPU_OPTIONS` on a CPU, with which an avatar draws, and {} elsewhere; without them pictures are
as good, but rounded differently, and take longer. Weights within the programs would be rounded differently,
too, since XLA computes beforehand what it can.
"""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
from jax import export

from p4d_jax.avatar.avatar import Avatar
from p4d_jax.types import FRAME_VECTOR_SIZE, Array, FrameParams, shaped

ENCODE, FRAME, WEIGHTS = "encode.stablehlo", "frame.stablehlo", "weights.npz"


def write_stablehlo(folder: str | Path, avatar: Avatar) -> dict[str, int]:
    """Writes `ENCODE`, `FRAME` and `WEIGHTS` into a folder; returns their sizes in bytes.

    Encoding is the network's, of any photo of the avatar's size; what personalisation changed is in both.

    Raises:
      UserError: The network sees motion in pictures, so parameters alone make no frame.
    """
    folder, size = Path(folder), avatar.size
    photo = shaped(size, size, 3), shaped(size, size, 1), shaped(size, size, 1), shaped(FRAME_VECTOR_SIZE)
    encode, frame, weights = programs(avatar)
    source = jax.eval_shape(encode, weights, *photo)
    for name, program, inputs in ((ENCODE, encode, photo), (FRAME, frame, (source, photo[-1]))):
        content = export.export(jax.jit(program, keep_unused=True))(weights, *inputs).serialize()
        (folder / name).write_bytes(content)
    np.savez(folder / WEIGHTS, *weights)
    return {name: (folder / name).stat().st_size for name in (ENCODE, FRAME, WEIGHTS)}


def programs(avatar: Avatar):
    """The two functions of the file's docstring, with an avatar's settings, and its weights, a tuple."""
    weights, model_layout = jax.tree.flatten((avatar.model, avatar.plane_offset))
    parts = lambda made: (made.source, made.params, made.motion)
    layout = jax.tree.structure(parts(avatar))

    def encode(weights: tuple, image: Array, alpha: Array, known: Array, params: Array) -> tuple[Array, ...]:
        model, _ = jax.tree.unflatten(model_layout, weights)
        made = Avatar.encode(
            model,
            image[None],
            jax.tree.map(lambda x: x[None], FrameParams.from_vector(params)),
            alphas=alpha[None],
            known=known[None],
            photo=avatar.photo,
            alpha=alpha[..., 0],
            resolution=avatar.resolution,
            samples=avatar.samples,
        )
        return tuple(jax.tree.leaves(parts(made)))

    def frame(weights: tuple, source: tuple[Array, ...], params: Array) -> tuple[Array, Array, Array]:
        model, plane_offset = jax.tree.unflatten(model_layout, weights)
        encoded, own, motion = jax.tree.unflatten(layout, source)
        shown = avatar.replace(
            model=model, plane_offset=plane_offset, source=encoded, params=own, motion=motion
        )
        seen = shown.render(FrameParams.from_vector(params))
        return seen.image, seen.alpha, seen.depth

    return encode, frame, tuple(weights)
