"""The losses of a training: a registry of functions, and the table that says which count, and when.

A room registers each of its losses under a name, with what it reads:

    LOSSES = LossRegistry()

    @LOSSES.add("depth", reads=("depth",))
    def depth_loss(...) -> Array: ...

A config gives a name a `train.config.Term`: its weight, and the images from and up to which it counts. A new
loss is one such function and one such term. What the names in `reads` stand for, and what a loss is called
with, is the room's affair.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import jax.numpy as jnp

from p4d_jax.train.config import Term, Terms
from p4d_jax.types import Array


def weight_at(term: Term, images: Array) -> Array | float:
    """The weight of a term that is active after so many images, () of a program."""
    if not term.fades:
        return term.weight
    return term.weight * jnp.clip((term.last - images) / (term.last - term.first), 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Loss:
    """A registered loss.

    Attributes:
      value: gives the () unweighted loss of a batch.
      reads: names of what it must know.
      lazy: it is a regulariser with a step of its own every few steps.
    """

    value: Callable[..., Array]
    reads: tuple[str, ...] = ()
    lazy: bool = False


class LossRegistry(dict[str, Loss]):
    """The losses of one training by name."""

    def add(self, name: str, reads: tuple[str, ...] = (), lazy: bool = False) -> Callable:
        """Registers the function below it; see `Loss`."""

        def register(value: Callable[..., Array]) -> Callable[..., Array]:
            if name in self:
                raise ValueError(f"name: there is a loss {name!r} already")
            self[name] = Loss(value, reads, lazy)
            return value

        return register

    def reads_of(self, names: Iterable[str]) -> set[str]:
        """All that some losses read."""
        return {read for name in names for read in self[name].reads}

    def check_names(self, terms: Terms) -> None:
        """Raises a ValueError for a term that no loss has the name of."""
        for name, _ in terms:
            if name not in self:
                raise ValueError(f"terms: no loss {name!r}; there are {', '.join(self)}")
