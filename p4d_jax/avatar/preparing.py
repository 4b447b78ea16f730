"""An avatar's programs are compiled before there is an avatar: while its photo is captured, say.

Compiling takes most of a first run, and shapes are known before the photo is: on a machine with several cores
what would be waited for is compiled beside what has to be done first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import jax

from p4d_jax.avatar.avatar import _animate, _render_posed, usual_size
from p4d_jax.avatar.encode import encode_photo
from p4d_jax.avatar.model import AvatarModel
from p4d_jax.reconstructor.field import driven_meshes
from p4d_jax.types import EXPRESSION_SIZE, SHAPE_SIZE, Camera, FrameParams, shaped

Task = Callable[[], object]


@contextmanager
def in_background(tasks: Sequence[Task], threads: int = 2) -> Iterator[Callable[[], None]]:
    """Runs tasks in threads while the block runs; gives a function that waits for them.

    At the block's end nobody waits: what has not begun is left out.
    """
    pool = ThreadPoolExecutor(threads)
    futures = [pool.submit(task) for task in tasks]

    def wait() -> None:
        for future in futures:
            future.result()

    try:
        yield wait
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def avatar_programs(
    model: AvatarModel, *, size: int | None = None, samples: tuple[int, int] = (16, 16)
) -> list[Task]:
    """What compiles the programs of an avatar of one photo, and of its frames; each may run in any thread.

    model, size, samples: As `Avatar.from_captures` will be given them.
    """
    size = size or usual_size(model)
    camera = Camera(shaped(4, 4), shaped(3, 3))
    frame = FrameParams(camera, shaped(SHAPE_SIZE), shaped(EXPRESSION_SIZE), shaped(6), shaped(6))
    motion = shaped(model.config.motion_size)
    photo = (model, shaped(size, size, 3), frame, motion, shaped(size, size, 1), shaped(size, size, 1))

    def render() -> None:
        source = jax.eval_shape(encode_photo, *photo)
        texture = source.texture
        if model.config.refinement_features:
            texture = texture.replace(detail=shaped(size, size, 6))
        source = source.replace(texture=texture)
        planes = jax.eval_shape(_animate, model, source, motion)
        meshes = jax.eval_shape(driven_meshes, model.head, frame.shape, frame)
        _render_posed.prepare(
            model, planes, texture, source.features.background, meshes, frame,
            resolution=model.resolution, samples=samples,
        )  # fmt: skip

    def animate() -> None:
        driven_meshes.lower(model.head, frame.shape, frame).compile()
        source = jax.eval_shape(encode_photo, *photo)
        if model.config.refinement_features:
            source = source.replace(texture=source.texture.replace(detail=shaped(size, size, 6)))
        _animate.prepare(model, source, motion)

    return [render, partial(encode_photo.prepare, *photo), animate]
