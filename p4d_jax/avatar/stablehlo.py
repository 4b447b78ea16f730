"""An avatar's two programs as StableHLO, weights included, which run with jax alone, without this package.

    encode = jax.export.deserialize(bytearray(Path("encode.stablehlo").read_bytes()))
    frame = jax.export.deserialize(bytearray(Path("frame.stablehlo").read_bytes()))
    source = jax.jit(encode.call, compiler_options=OPTIONS)(image, alpha, known, params)
    image, alpha, depth = jax.jit(frame.call, compiler_options=OPTIONS)(source, params)

Shapes, float32: image (S, S, 3) in [-1, 1], the photo's crop; alpha (S, S, 1) in [0, 1], the person in it;
known (S, S, 1) in [0, 1], where the crop is photo; params (437,), `FrameParams.to_vector`; of a frame image
(S, S, 3) in [-1, 1], alpha and depth (R, R) of `Frame`. `source` is a tuple of arrays. OPTIONS are those of
`train.devices.CPU_OPTIONS` on a CPU, with which an avatar draws, and {} elsewhere; without them pictures are
as good, but rounded differently, and take longer.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
from jax import export

from p4d_jax.avatar.avatar import Avatar
from p4d_jax.types import FRAME_VECTOR_SIZE, Array, FrameParams

ENCODE, FRAME = "encode.stablehlo", "frame.stablehlo"


def write_stablehlo(folder: str | Path, avatar: Avatar) -> dict[str, int]:
    """Writes `ENCODE` and `FRAME` into a folder; returns their sizes in bytes.

    Encoding is the network's, of any photo of the avatar's size; what personalisation changed is in both.

    Raises:
      UserError: The network sees motion in pictures, so parameters alone make no frame.
    """
    folder, size = Path(folder), avatar.size
    number = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    photo = number(size, size, 3), number(size, size, 1), number(size, size, 1), number(FRAME_VECTOR_SIZE)
    encode, frame = programs(avatar)
    source = jax.eval_shape(encode, *photo)
    sizes = {}
    for name, program, inputs in ((ENCODE, encode, photo), (FRAME, frame, (source, photo[-1]))):
        content = export.export(jax.jit(program))(*inputs).serialize()
        (folder / name).write_bytes(content)
        sizes[name] = len(content)
    return sizes


def programs(avatar: Avatar):
    """The two functions of the file's docstring, of the model and the settings of an avatar."""
    parts = lambda made: (made.source, made.params, made.motion)
    layout = jax.tree.structure(parts(avatar))

    def encode(image: Array, alpha: Array, known: Array, params: Array) -> tuple[Array, ...]:
        made = Avatar.encode(
            avatar.model,
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

    def frame(source: tuple[Array, ...], params: Array) -> tuple[Array, Array, Array]:
        encoded, own, motion = jax.tree.unflatten(layout, source)
        shown = avatar.replace(source=encoded, params=own, motion=motion)
        seen = shown.render(FrameParams.from_vector(params))
        return seen.image, seen.alpha, seen.depth

    return encode, frame
