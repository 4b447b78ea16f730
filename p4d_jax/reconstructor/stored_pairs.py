"""Pairs that are read from disk: how such a source is asked, and the source `p4d_heads`.

Pair `row` of batch `number` depends on the seed and these two alone: which sample it is
(`photos.sample_order`), and which of its motions and views. So a run goes on from its step, and every process
reads its own rows. What is read stays as it is stored (bytes, float16) until it is on the devices, where
`PairSource.convert` makes `HeadPair`s of it. Of a sample's M x V views three are kept.

Source: docs/concepts/training.md. Letters: B pairs of a batch, of all processes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import jax
import numpy as np

from p4d_jax.data.photos import sample_order
from p4d_jax.data.samples import HeadPair
from p4d_jax.errors import UserError
from p4d_jax.genhead.p4d_heads import decode_fields, heads_set
from p4d_jax.reconstructor.pairs import pair_of_views, static_pairs
from p4d_jax.types import Array

# Fields of the target's view, `face_mask` made of the correspondence map aside.
TARGET = ("image", "params", "opacity", "depth", "features", "points", "plane_features")
KINDS = {True: "static", False: "dynamic"}  # of p4d_heads, by whether a pair is static


class PairSource(Protocol):
    """Pairs on disk.

    Attributes:
      count: B.
    """

    count: int

    def read(self, number: int, row: int) -> dict:
        """What is stored of one pair of a batch, a pytree of NumPy arrays: a pure function."""

    def convert(self, stored: dict) -> HeadPair:
        """Batches (B, ...) of what `read` gives -> (B,); traced by JAX."""


def numbered_pairs(source: PairSource, rows: np.ndarray):
    """A `grain.MapDataset`: number -> what is stored of the given rows of that batch, (n, ...)."""
    import grain

    def read(number: int) -> dict:
        return jax.tree.map(lambda *x: np.stack(x), *(source.read(number, int(row)) for row in rows))

    return grain.MapDataset.range(2**32).map(read)


def stored_shapes(source: PairSource) -> dict:
    """Shapes and types of a batch of what is stored, by the look of one pair."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((source.count, *np.shape(x)), x.dtype), source.read(0, 0)
    )


def dice(seed: int, number: int, row: int) -> np.random.Generator:
    """Random numbers of one pair."""
    return np.random.default_rng((seed % 2**32, number, row))


# p4d_heads --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class StoredHeads:
    """Pairs of the data set `p4d_heads`, a `PairSource`. Static pairs come from its static kind.

    Attributes:
      heads: records by kind, of the kinds that are needed.
      orders: of each kind, the endless order of its samples.
      static: (B,) bool, which rows are static.
      seed: of the choice of motions and views.
    """

    heads: dict[str, Sequence]
    orders: dict[str, Sequence]
    static: np.ndarray
    seed: int

    @property
    def count(self) -> int:
        return len(self.static)

    def summary(self) -> str:
        """How much there is, in words."""
        return " and ".join(f"{len(heads)} {kind} samples" for kind, heads in self.heads.items())

    def read(self, number: int, row: int) -> dict:
        """Views of one sample: source, target, driving; its background; whether the pair is static."""
        static = self.static[row]
        kind, alike = KINDS[bool(static)], self.static == static
        place = number * int(alike.sum()) + int(alike[:row].sum())
        record = self.heads[kind][self.orders[kind][place]]
        views = choose_views(dice(self.seed, number, row), *record["image"].shape[:2], bool(static))
        source, target, driving = (
            {name: record[name][view] for name in names}
            for view, names in zip(views, (("image", "params"), TARGET, ("image", "params")), strict=True)
        )
        target["face_mask"] = (record["correspondence"][views[1]] != 0).any(-1, keepdims=True)
        return {
            "source": source,
            "target": target,
            "driving": driving,
            "background": record["background"],
            "static": static,
        }

    def convert(self, stored: dict) -> HeadPair:
        """See `PairSource`."""
        return jax.vmap(pair_of_stored)(stored)


View = tuple[int, int]  # of a sample: motion, view


def choose_views(
    dice: np.random.Generator, motions: int, views: int, static: bool
) -> tuple[View, View, View]:
    """Source, target and driving picture among a sample's M motions and V views.

    Static: one motion from two sides, the target its own driving picture. Dynamic: two motions, the driving
    picture shows the target's from another side, if there is one.
    """
    if static:
        motion, (first, second) = int(dice.integers(motions)), dice.permutation(views)[:2].tolist()
        return (motion, first), (motion, second), (motion, second)
    before, after = dice.permutation(motions)[:2].tolist()
    sides = dice.permutation(views).tolist()
    return (before, int(dice.integers(views))), (after, sides[0]), (after, sides[-1])


def pair_of_stored(stored: dict[str, dict[str, Array] | Array]) -> HeadPair:
    """One pair of what `StoredHeads.read` gives."""
    source, target, driving = (decode_fields(stored[part]) for part in ("source", "target", "driving"))
    background = decode_fields({"background": stored["background"]})["background"]
    return pair_of_views(source, target, driving, background, stored["static"])


def open_stored_heads(
    folder: str | Path, head: str, size: int, count: int, static_share: float, seed: int
) -> StoredHeads:
    """Opens the kinds of `p4d_heads` that are needed.

    Args:
      folder: in which `p4d_heads/` lies.
      head: name or file of the model's head, as it was told to the job `synthesize`.
      size: S of the model.
      count: B.
      static_share: of the pairs.
      seed: of orders and choices.

    Raises:
      UserError: a kind is missing, has too few motions or views, pictures of another size or of another
        head, or its records are of another form than the other kind's.
    """
    static = np.asarray(static_pairs(count, static_share))
    kinds = [KINDS[kind] for kind in (False, True) if (static == kind).any()]
    heads = {kind: heads_set(folder, kind).open() for kind in kinds}
    for kind, records in heads.items():
        check_heads(f"{folder}: p4d_heads/{kind}", records, kind, size)
        made_with = heads_set(folder, kind).recipe().get("head", head)
        if Path(made_with).name != Path(head).name:
            raise UserError(
                f"{folder}: p4d_heads/{kind} was made with the head {made_with!r}, the head is {head!r}"
            )
    orders = {
        kind: sample_order(len(records), 2 * seed + number)
        for number, (kind, records) in enumerate(heads.items())
    }
    source = StoredHeads(heads, orders, static, seed)
    forms = [
        jax.tree.map(lambda x: (x.shape, str(x.dtype)), source.read(0, int((static == kind).argmax())))
        for kind in np.unique(static)
    ]
    for name in TARGET if len(forms) == 2 else ():
        found = [form["target"][name] for form in forms]
        if found[0] != found[1]:
            raise UserError(
                f"{folder}: {name} of a view is {found[0]} in p4d_heads/dynamic, {found[1]} in"
                " p4d_heads/static; synthesize both with the same settings"
            )
    return source


def check_heads(where: str, records: Sequence, kind: str, size: int) -> None:
    """Raises a UserError unless pairs of a kind can be made of the records."""
    motions, views, found = records[0]["image"].shape[:3]
    if kind == "static" and views < 2:
        raise UserError(f"{where}: {views} view of a motion; a static pair needs two")
    if kind == "dynamic" and motions < 2:
        raise UserError(f"{where}: {motions} motion of a sample; a dynamic pair needs two")
    if found != size:
        raise UserError(f"{where}: pictures of {found}², the model takes {size}²")
