"""Where GenHead's pictures come from: a registry of data sources.

A source is a function `f(settings, training) -> PortraitSource`, registered in `SOURCES`: real pictures with
their parameters, and frames to generate from the same distribution, both by number. B pictures of all
processes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from p4d_jax.data.photos import Photos, numbered_photos, numbered_samples, straightened
from p4d_jax.data.portraits import IMAGES, open_portraits
from p4d_jax.data.samples import Portrait
from p4d_jax.errors import UserError
from p4d_jax.genhead.training import GenHeadTraining
from p4d_jax.openheads.config import OpenHeadsSettings
from p4d_jax.openheads.people import random_identity, random_portrait_params
from p4d_jax.openheads.portraits import portraits_in_scene
from p4d_jax.openheads.scene import prepare_scene
from p4d_jax.train.devices import gather_batch, own_rows, replicate, replicated, split
from p4d_jax.train.numbered_stream import NumberedStream
from p4d_jax.train.report import announce
from p4d_jax.types import SHAPE_SIZE, Array, FrameParams, VectorParts


@dataclasses.dataclass(frozen=True)
class PortraitSettings:
    """What a source is told of a run.

    Attributes:
      batch: B, a multiple of the devices.
      seed: Of all that is drawn, and of the order of what is read.
      folder: Of photos, or in which `portrait_images` lies.
      mirror: Whether photos show flipped as well.
      readers: Threads that read from disk; each reads a batch, and so many are kept ready.
      damaged: Photos that may be left out because they are damaged.
      openheads: How OpenHeads are drawn.
    """

    batch: int
    seed: int = 0
    folder: str = ""
    mirror: bool = True
    readers: int = 1
    damaged: int = 0
    openheads: OpenHeadsSettings = dataclasses.field(default_factory=OpenHeadsSettings)


@dataclasses.dataclass(frozen=True)
class PortraitSource:
    """Pictures and frames, split over the devices; all depends on the seed and the number alone.

    Attributes:
      draw_real: number -> real pictures (B,).
      draw_params: number -> frames (B,) to generate, from the distribution of the real ones.
      shapes: count -> (count, 300) identities of the head, to show what G makes of them.
      waited: Seconds that pictures were waited for so far.
    """

    draw_real: Callable[[int], Portrait]
    draw_params: Callable[[int], FrameParams]
    shapes: Callable[[int], Array]
    waited: Callable[[], float] = lambda: 0.0


SOURCES: dict[str, Callable[[PortraitSettings, GenHeadTraining], PortraitSource]] = {}


def source(f: Callable) -> Callable:
    """Registers the function below it under its name."""
    SOURCES[f.__name__] = f
    return f


def open_source(name: str, settings: PortraitSettings, training: GenHeadTraining) -> PortraitSource:
    """The source of that name; any other name is a folder of photos."""
    if name in SOURCES:
        return SOURCES[name](settings, training)
    return photos(dataclasses.replace(settings, folder=name), training)


@source
def openheads(settings: PortraitSettings, training: GenHeadTraining) -> PortraitSource:
    """New OpenHeads for every number."""
    size, ranges = training.genhead.config.image_size, settings.openheads
    shares, whole = split(training.mesh).spec, replicated(training.mesh).spec
    scene, key = prepare_scene(training.head), jax.random.key(settings.seed)

    def spread(f: Callable) -> Callable:
        on_device = jax.shard_map(
            f, mesh=training.mesh, in_specs=(whole, shares), out_specs=shares, check_vma=False
        )
        return jax.jit(
            lambda scene, key: on_device(
                scene, jax.random.split(jax.random.wrap_key_data(key), settings.batch)
            )
        )

    def frame(scene, key: Array) -> FrameParams:
        keys = jax.random.split(key, 3)
        identity = random_identity(keys[0], scene, ranges)
        return random_portrait_params(keys[1], keys[2], scene, identity.shape, ranges)

    everywhere = replicate(scene, training.mesh)
    reals = spread(lambda scene, keys: portraits_in_scene(scene, keys, size, ranges))
    frames = spread(lambda scene, keys: jax.vmap(lambda k: frame(scene, k))(keys))
    key_real, key_frames = jax.random.split(key)

    def numbered(draw: Callable, key: Array, number: int):
        data = np.asarray(jax.random.key_data(jax.random.fold_in(key, number)))
        return draw(everywhere, data)  # on the host: of all processes the same

    def shapes(count: int) -> Array:
        keys = jax.random.split(jax.random.fold_in(key, 1), count)
        return jax.vmap(lambda k: random_identity(k, scene, OpenHeadsSettings()).shape)(keys)

    return PortraitSource(
        functools.partial(numbered, reals, key_real), functools.partial(numbered, frames, key_frames), shapes
    )


@source
def photos(settings: PortraitSettings, training: GenHeadTraining) -> PortraitSource:
    """Photos of a folder or a record set (`data.portraits`).

    Frames to generate are those of its photos in another order.
    """
    if settings.readers < 1:
        raise UserError(f"readers={settings.readers}: expected at least 1")
    size = training.genhead.config.image_size
    bent = open_portraits(settings.folder, IMAGES, training.head, size, settings.mirror, settings.damaged)
    found = straightened(bent, training.head)
    announce(f"{settings.folder}: {found.summary()}")
    draw_real, draw_params = photo_draws(
        found, training.mesh, settings.batch, settings.seed, settings.readers
    )
    return PortraitSource(
        draw_real,
        draw_params,
        lambda count: jnp.resize(found.frames[:count, VectorParts.SHAPE], (count, SHAPE_SIZE)),
        draw_real.waited,
    )


def photo_draws(
    photos: Photos, mesh: Mesh, batch: int, seed: int, readers: int
) -> tuple[PhotoStream, Callable[[int], FrameParams]]:
    """`draw_real` and `draw_params` of a `PortraitSource`.

    No picture is read for frames.

    Args:
      batch: B, a multiple of the mesh's devices.
      seed: of both orders.
      readers: see `NumberedStream`.
    """
    rows = own_rows(batch, mesh)
    numbered = numbered_samples(len(photos), batch, 2 * seed + 1)
    convert = jax.jit(FrameParams.from_vector, out_shardings=split(mesh))

    def draw_params(number: int) -> FrameParams:
        return convert(gather_batch(photos.frames[numbered[number][rows]], mesh))

    return PhotoStream(photos, mesh, batch, 2 * seed, readers), draw_params


class PhotoStream:
    """number -> `Portrait` (B,), split over the mesh; quick where numbers follow one another.

    Pictures lie on the devices as bytes until they are asked for.
    """

    def __init__(self, photos: Photos, mesh: Mesh, batch: int, seed: int, readers: int):
        """readers: see `NumberedStream`."""
        numbered = numbered_photos(photos, batch, seed, own_rows(batch, mesh))
        self._stream = NumberedStream(numbered, mesh, readers)
        self._convert = jax.jit(as_portrait, out_shardings=split(mesh))

    def __call__(self, number: int) -> Portrait:
        return self._convert(self._stream(number))

    def waited(self) -> float:
        """Seconds that pictures were waited for so far."""
        return self._stream.waited


def as_portrait(stored: dict[str, jax.Array]) -> Portrait:
    """Bytes of `numbered_photos` as a `Portrait` (B,) in [-1, 1] and [0, 1]."""
    image, mask = stored["image"] / np.float32(127.5) - 1, stored["mask"] / np.float32(255)
    return Portrait(image, mask, FrameParams.from_vector(stored["frames"]))
