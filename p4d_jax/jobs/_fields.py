"""The rooms below speak of their arguments; here they become fields of a config."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from ml_collections import ConfigDict

from p4d_jax.capture.people import Person
from p4d_jax.errors import UserError, find_named

T = TypeVar("T")


@contextmanager
def fields_named(config: ConfigDict, section: str = "") -> Iterator[None]:
    """A ValueError that begins with an argument's name is the user's: with the name of the config's field.

    Args:
      config: the job's.
      section: of the config, whose fields the arguments are; '' is the whole.
    """
    try:
        yield
    except ValueError as error:  # a UserError is one too
        name = re.match(r"\w*", str(error))[0]
        known = name in (config[section] if section else config)
        prefix = f"config.{section}." if section else "config."
        raise UserError(f"{prefix if known else ''}{error}") from error


@contextmanager
def user_input(field: str) -> Iterator[None]:
    """A ValueError about a file that the user named is the user's to put right."""
    try:
        yield
    except ValueError as error:  # a UserError is one too
        raise UserError(f"config.{field}: {error}") from error


def parse_names(text: str) -> list[str]:
    """Names with commas between them; none for an empty text."""
    return [name.strip() for name in text.split(",") if name.strip()]


def named_in(registry: Mapping[str, T], text: str, field: str, kind: str) -> dict[str, T]:
    """`find_named` of the names that a field of the config holds, with commas between."""
    with user_input(field):
        return find_named(registry, parse_names(text), kind)


def check_ranges(config: object, ranges: Mapping[str, tuple[float, float]], section: str = "") -> None:
    """That fields of a config, or a section, lie between their least and largest values, which count too."""
    for field, (low, high) in ranges.items():
        if not low <= (value := getattr(config, field)) <= high:
            name = f"{section}.{field}" if section else field
            raise UserError(f"config.{name}={value}: expected a number from {low} to {high}")


def parse_people(text: str) -> dict[int, str]:
    """'2=b.mp4,3=motion_talk' is a name for each number."""
    people = {}
    for part in parse_names(text):
        number, _, name = (piece.strip() for piece in part.partition("="))
        if not number.isdecimal() or not name or int(number) in people:
            raise UserError(f"{part!r}: expected a number once and a driving for it, as in 2=clip.mp4")
        people[int(number)] = name
    return people


def parse_person(text: str) -> Person | None:
    """'' is nobody, '2' a number, '310,140' a point."""
    text = text.strip()
    if not text:
        return None
    if re.fullmatch(r"\d+", text):
        return int(text)
    if match := re.fullmatch(r"\(?([\d.]+)\s*[,x ]\s*([\d.]+)\)?", text):
        try:
            return float(match[1]), float(match[2])
        except ValueError:
            pass
    raise UserError(f"{text!r} is no person; expected a number from 1 at the left, or a point as 310,140")
