"""Sets of OpenHeads people to measure on: those that training could have drawn, and others.

'held_out' draws from training's distribution, with keys that training does not use. 'other' draws people that
training never shows: a strong coloured lamp from below or the side, hair dyed in any colour, spotted skin,
painted lips, shifted exposure and white balance. What a model learnt of faces, rather than of the pictures it
was given, holds on both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from p4d_jax.data.dice import Dice
from p4d_jax.errors import UserError, nearest
from p4d_jax.openheads.config import OpenHeadsSettings
from p4d_jax.openheads.light import Light, spherical_harmonics
from p4d_jax.openheads.people import Identity
from p4d_jax.types import Array


def keep_identity(key: Array, identity: Identity) -> Identity:
    """The person as drawn."""
    return identity


def estrange_identity(key: Array, identity: Identity) -> Identity:
    """The same head shape with looks and light that `random_identity` does not draw."""
    dice = Dice(key, 40)
    look, surroundings = identity.appearance, identity.surroundings
    dye = 0.02 + 0.55 * dice.uniform(0.0, 1.0, (3,)) ** 2
    hair = look.hair.replace(root=dye * 0.8, tip=dye * dice.uniform(0.8, 1.6), shine=dice.uniform(0.1, 0.3))
    look = look.replace(
        hair=hair,
        brow_color=dye * dice.uniform(0.3, 0.8),
        beard_color=dye * dice.uniform(0.5, 1.0),
        lip_color=dice.uniform(0.1, 2.4, (3,)),
        mottle=dice.uniform(1.8, 3.0),
        freckles=dice.uniform(0.3, 1.0),
        blemish=dice.uniform(0.8, 1.5),
        under_eye=dice.uniform(0.6, 1.2),
    )
    surroundings = surroundings.replace(light=_add_lamp(dice, surroundings.light))
    return identity.replace(appearance=look, surroundings=surroundings)


def _add_lamp(dice: Dice, light: Light) -> Light:
    """Most of the light comes from one coloured lamp, below or beside the face; it takes the fill's place."""
    yaw, lift = 1.3 * (2.0 * dice.uniform() - 1.0), dice.uniform(-0.9, -0.3)
    towards = jnp.stack([jnp.sin(yaw) * jnp.cos(lift), jnp.sin(lift), jnp.cos(yaw) * jnp.cos(lift)])
    color = 0.9 * dice.uniform(0.15, 1.2, (3,))
    lamp = spherical_harmonics(towards) * jnp.array([1.0] + [0.95] * 3 + [0.85] * 5)
    return Light(
        harmonics=0.5 * light.harmonics + jnp.pi * lamp[:, None] * color,
        directions=light.directions.at[1].set(towards),
        colors=(0.5 * light.colors).at[1].set(color),
        ambient=0.5 * light.ambient,
    )


@dataclasses.dataclass(frozen=True)
class PeopleSet:
    """One distribution of people.

    Attributes:
      settings: Ranges of what is drawn.
      change: (key, identity) -> identity, after `random_identity`.
    """

    settings: OpenHeadsSettings
    change: Callable[[Array, Identity], Identity]


SETS = {
    "held_out": PeopleSet(OpenHeadsSettings(), keep_identity),
    "other": PeopleSet(OpenHeadsSettings(domain_shift=1.0), estrange_identity),
}


def people_set(name: str) -> PeopleSet:
    """The set of that name. Raises `UserError` for another."""
    if name not in SETS:
        raise UserError(f"set {name!r} is not one of {', '.join(SETS)}{nearest(name, tuple(SETS))}")
    return SETS[name]
