"""Where Psi's pairs come from: a registry of data sources, and the mixture of them that makes a batch.

A source is a function `f(settings, head, mesh, count) -> DrawnPairs | PairSource`, registered in `SOURCES`:
pairs that the devices draw, or pairs that are read from disk. A config says how many of each batch are its.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from p4d_jax import assets
from p4d_jax.data.samples import HeadPair
from p4d_jax.errors import UserError
from p4d_jax.genhead.config import SynthesisSettings
from p4d_jax.genhead.parts import build_head_parts
from p4d_jax.genhead.synthesis import openheads_sources, synthesize
from p4d_jax.genhead.weights import load_genhead
from p4d_jax.head.model import HeadModel
from p4d_jax.openheads.config import OpenHeadsSettings
from p4d_jax.openheads.scene import prepare_scene
from p4d_jax.reconstructor.film_pairs import open_films
from p4d_jax.reconstructor.pairs import join_pairs, openheads_pair, pair_of_synthetic, static_pairs
from p4d_jax.reconstructor.stored_pairs import PairSource, numbered_pairs, open_stored_heads, stored_shapes
from p4d_jax.train.devices import on_devices, own_rows, samples_at_once, split
from p4d_jax.train.numbered_stream import NumberedStream
from p4d_jax.train.report import announce
from p4d_jax.types import Array


@dataclasses.dataclass(frozen=True)
class PairSettings:
    """What the sources are told of a run.

    Attributes:
      size: S, side of the pictures.
      seed: Of all that is drawn, and of the order of what is read.
      head: Name or file of the head model.
      static_share: Share of the pairs that show one motion from two sides.
      readers: Threads that read from disk; each reads a batch, and so many are kept ready.
      photos: Of a person that make one source.
      openheads: How OpenHeads are drawn.
      genhead: Weights of the GenHead that makes synthetic people.
      genhead_resolution: Its rays a side.
      genhead_samples: Its coarse and fine samples a ray.
      stored: Folder in which `p4d_heads` is stored.
      real_films: Folder of films, or in which `portrait_clips` lies.
      mirror: Whether films show flipped as well.
      damaged: Frames of films that may be left out because they are damaged.
    """

    size: int
    seed: int = 0
    head: str = "openhead"
    static_share: float = 0.5
    readers: int = 1
    photos: int = 1
    openheads: OpenHeadsSettings = dataclasses.field(default_factory=OpenHeadsSettings)
    genhead: str = ""
    genhead_resolution: int = 64
    genhead_samples: tuple[int, int] = (48, 48)
    stored: str = ""
    real_films: str = ""
    mirror: bool = True
    damaged: int = 0


@dataclasses.dataclass(frozen=True)
class DrawnPairs:
    """Pairs that the devices draw.

    Attributes:
      draw: (raw keys (n, 2), which are static (n,)) -> pairs (n,), each device its own.
      count: n, of a batch.
    """

    draw: Callable[[tuple[Array, Array]], HeadPair]
    count: int


Source = DrawnPairs | PairSource
SOURCES: dict[str, Callable[[PairSettings, HeadModel, Mesh, int], Source]] = {}
ONE_PHOTO = {"genhead", "stored", "real_films"}  # sources that know a single photo of a person


def source(f: Callable) -> Callable:
    """Registers the function below it under its name."""
    SOURCES[f.__name__] = f
    return f


# Drawn on the devices ---------------------------------------------------------------------------------------


@source
def openheads(settings: PairSettings, head: HeadModel, mesh: Mesh, count: int) -> DrawnPairs:
    """Rendered OpenHeads."""
    return DrawnPairs(draw_openheads(settings, head, mesh), count)


@source
def films(settings: PairSettings, head: HeadModel, mesh: Mesh, count: int) -> DrawnPairs:
    """OpenHeads before one camera each, as real films are."""
    return DrawnPairs(draw_openheads(settings, head, mesh, one_camera=True), count)


def draw_openheads(settings: PairSettings, head: HeadModel, mesh: Mesh, one_camera: bool = False) -> Callable:
    """`DrawnPairs.draw` of OpenHeads."""

    def one(scene, sample: tuple) -> HeadPair:
        key, static = sample
        return openheads_pair(
            scene, jax.random.wrap_key_data(key), static, resolution=settings.size,
            settings=settings.openheads, one_camera=one_camera, photos=settings.photos,
        )  # fmt: skip

    return on_devices(mesh, one, prepare_scene(head), at_once=samples_at_once())


@source
def genhead(settings: PairSettings, head: HeadModel, mesh: Mesh, count: int) -> DrawnPairs:
    """A GenHead's synthetic people: of M = 2 motions, V = 2 views each."""
    network, variables = load_genhead(assets.weights(settings.genhead))
    if (size := network.config.image_size) != settings.size:
        raise UserError(
            f"genhead={settings.genhead!r} makes pictures of {size}², the model takes {settings.size}²"
        )
    synthesis = SynthesisSettings(
        motions=2, views=2, resolution=settings.genhead_resolution, samples=settings.genhead_samples
    )
    sources, parts = openheads_sources(head, settings.openheads), build_head_parts(head)

    def one(variables: dict, head: HeadModel, parts, sample: tuple) -> HeadPair:
        key, static = sample
        key = jax.random.wrap_key_data(key)
        return pair_of_synthetic(synthesize(network, variables, head, parts, key, synthesis, sources), static)

    return DrawnPairs(on_devices(mesh, one, variables, head, parts, at_once=1), count)


# Read from disk ---------------------------------------------------------------------------------------------


@source
def stored(settings: PairSettings, head: HeadModel, mesh: Mesh, count: int) -> PairSource:
    """Samples of a GenHead that the job synthesize has stored."""
    folder = named_folder(settings, "stored")
    found = open_stored_heads(
        folder, settings.head, settings.size, count, settings.static_share, settings.seed
    )
    announce(f"{folder}: {found.summary()}")
    return found


@source
def real_films(settings: PairSettings, head: HeadModel, mesh: Mesh, count: int) -> PairSource:
    """Frames of real films."""
    folder = named_folder(settings, "real_films")
    found = open_films(folder, head, settings.size, settings.mirror, settings.damaged, count, settings.seed)
    announce(f"{folder}: {found.summary()}")
    return found


def named_folder(settings: PairSettings, field: str) -> str:
    """The folder that a source on disk is read from."""
    if settings.readers < 1:
        raise UserError(f"readers={settings.readers}: expected at least 1")
    if not getattr(settings, field):
        raise UserError(
            f"{field}='': name the folder of this source;"
            ' docs/howto/train_psi.md, "Data of a training", tells what is in it'
        )
    return getattr(settings, field)


# The mixture ------------------------------------------------------------------------------------------------


class PairMixture:
    """Pairs of every step: number -> `HeadPair` (B,), split over the devices.

    Some sources draw on the devices, others are read from disk; one program makes a batch of all. A source's
    pairs depend on the seed, the number and their place in the batch alone.
    """

    def __init__(self, settings: PairSettings, sources: list[Source], mesh: Mesh):
        self.drawn = [s for s in sources if isinstance(s, DrawnPairs)]
        self.read = [s for s in sources if not isinstance(s, DrawnPairs)]
        self.static_share, self.key = (
            settings.static_share,
            jax.random.fold_in(jax.random.key(settings.seed), 1),
        )
        self.streams = [
            NumberedStream(numbered_pairs(s, own_rows(s.count, mesh)), mesh, settings.readers)
            for s in self.read
        ]
        self.join = jax.jit(self.trace, out_shardings=split(mesh))

    def trace(self, number: Array, stored: list[dict]) -> HeadPair:
        """The batch of a number, given what was read for it."""
        parts = []
        for place, drawn in enumerate(self.drawn):
            key = jax.random.fold_in(jax.random.fold_in(self.key, place), number)
            keys = jax.random.key_data(jax.random.split(key, drawn.count))
            parts.append(drawn.draw((keys, static_pairs(drawn.count, self.static_share))))
        parts += [read.convert(found) for read, found in zip(self.read, stored, strict=True)]
        return join_pairs(parts)

    def __call__(self, number: int) -> HeadPair:
        return self.join(np.uint32(number), [stream(number) for stream in self.streams])

    def waited(self) -> float:
        """Seconds that batches were waited for so far."""
        return sum(stream.waited for stream in self.streams)

    @functools.cached_property
    def shapes(self) -> HeadPair:
        """Shapes of a batch: what its pairs know."""
        stored = [stored_shapes(read) for read in self.read]
        return jax.eval_shape(self.trace, jax.ShapeDtypeStruct((), jnp.uint32), stored)


def open_mixture(
    settings: PairSettings, counts: Mapping[str, int], head: HeadModel, mesh: Mesh
) -> PairMixture:
    """The mixture of so many pairs of each source.

    Raises:
      UserError: there is no such source, its data cannot be used, or a number does not divide.
    """
    if unknown := sorted(set(counts) - set(SOURCES)):
        raise UserError(f"data: no source {unknown[0]!r}; there are {', '.join(SOURCES)}")
    if any(count % mesh.size for count in counts.values()):
        raise UserError(f"data={dict(counts)}: each number is a multiple of the {mesh.size} devices")
    names = sorted(name for name, count in counts.items() if count)
    if settings.photos < 1 or (settings.photos > 1 and ONE_PHOTO & set(names)):
        raise UserError(
            f"photos={settings.photos}: at least 1, and exactly 1 with {', '.join(sorted(ONE_PHOTO))}"
        )
    return PairMixture(settings, [SOURCES[name](settings, head, mesh, counts[name]) for name in names], mesh)
