"""Settings: frozen dataclasses, and the `ml_collections.ConfigDict` that a config file returns.

A dataclass says of each field its type, its default and, in the `Attributes:` of its docstring, what it
means. `to_config` makes the `ConfigDict` that config files change and the command line overrides;
`from_config` reads it back, with every value checked; `describe` lists its fields for `--help`. A field may
be a bool, a number, a text, a tuple of these, one of them or None, settings of a lower room, or a dict of
them by name. A dataclass in a dict is a row of a table: in a config a tuple, whose end may be left out.

Imports no JAX.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any, TypeVar

from ml_collections import ConfigDict, FieldReference

from p4d_jax.errors import UserError, nearest

T = TypeVar("T")
WIDTH = 110  # columns of `--help`
WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", type(None): "None"}


def part(default: Any, without: tuple[str, ...] = ()) -> Any:
    """A field whose default is other settings, or a dict.

    Args:
      without: names of fields of these settings that are none of the config's: the job fills them in.
    """
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default))
    return dataclasses.field(default=default, metadata={"without": without})


def to_config(settings: Any) -> ConfigDict:
    """The config of an instance of settings: nested as they are, with every field."""
    return ConfigDict(_entries(settings))


def _entries(settings: Any, without: tuple[str, ...] = ()) -> dict[str, Any]:
    hints, entries = typing.get_type_hints(type(settings)), {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name in without:
            continue
        if dataclasses.is_dataclass(value):
            value = _entries(value, field.metadata.get("without", ()))
        elif isinstance(value, dict):
            value = {name: _row(entry) for name, entry in value.items()}
        elif isinstance(hints[field.name], types.UnionType):
            value = FieldReference(value, field_type=object)  # whose command line takes None as well
        entries[field.name] = value
    return entries


def _row(entry: Any) -> Any:
    """A dataclass as the tuple of its fields, but those at the end that have their default."""
    if not dataclasses.is_dataclass(entry):
        return entry
    fields = list(dataclasses.fields(entry))
    while fields and getattr(entry, fields[-1].name) == fields[-1].default:
        fields.pop()
    return tuple(getattr(entry, field.name) for field in fields)


def from_config(cls: type[T], config: ConfigDict, path: str = "config") -> T:
    """The settings that a config describes; fields that it lacks keep their default.

    Args:
      path: of `config` in the whole config, for messages.

    Raises:
      UserError: a field is unknown, of another type, or has a value that the settings refuse.
    """
    hints = typing.get_type_hints(cls)
    if unknown := sorted(set(config) - set(hints)):
        raise UserError(f"{path}.{unknown[0]}: there is no such field{nearest(unknown[0], hints)}")
    values = {name: _read(hints[name], config[name], f"{path}.{name}") for name in hints if name in config}
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(f"{path}.{error}") from error


def _read(hint: Any, value: Any, path: str) -> Any:
    """A value as its annotation wants it."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, ConfigDict | dict):
        return from_config(hint, value, path)
    if origin is dict and isinstance(value, ConfigDict | dict):
        return {name: _read(inner[1], value[name], f"{path}.{name}") for name in sorted(value)}
    try:
        return _plain(hint, value)
    except TypeError:
        raise UserError(f"{path}={value!r}: expected {describe_type(hint)}") from None
    except ValueError as error:
        raise UserError(f"{path}={value!r}: {error}") from error


def _plain(hint: Any, value: Any) -> Any:
    """A plain value or a row as its annotation wants it; a TypeError where it is something else."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None else _plain(inner[0], value)
    if dataclasses.is_dataclass(hint) and isinstance(value, tuple | list):
        hints = typing.get_type_hints(hint).values()
        return hint(
            *(_plain(one, item) for one, item in zip(hints, value, strict=False)), *value[len(hints) :]
        )
    if origin is tuple and isinstance(value, tuple | list):
        wanted = (inner[0],) * len(value) if inner[-1] is Ellipsis else inner
        if len(wanted) == len(value):
            return tuple(_plain(one, item) for one, item in zip(wanted, value, strict=True))
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is hint:
        return value
    raise TypeError


def describe_type(hint: Any) -> str:
    """The values of an annotation in words, as in 'a tuple of 2: a number, a number'."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return " or ".join(map(describe_type, inner))
    if origin is tuple and inner[-1] is Ellipsis:
        return f"a tuple, each {describe_type(inner[0])}"
    if origin is tuple:
        return f"a tuple of {len(inner)}: {', '.join(map(describe_type, inner))}"
    if dataclasses.is_dataclass(hint):
        return f"({', '.join(field.name for field in dataclasses.fields(hint))})"
    return WORDS[hint]


def comments(cls: type) -> dict[str, str]:
    """What the docstring of settings, and of those they extend, says of each field."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        _, _, text = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")
        for name, said in re.findall(r"^ {2}(\w+): (.*(?:\n {4}.*)*)", text, re.MULTILINE):
            found[name] = " ".join(said.split())
    return found


@dataclasses.dataclass(frozen=True)
class Line:
    """One field of a config: its dotted name, its value, what its settings say of it; '' in a dict."""

    name: str
    value: Any
    comment: str


def describe(cls: type, config: ConfigDict, prefix: str = "") -> Iterator[Line]:
    """The fields of a config in the order of its settings; those of nested ones behind their own line."""
    said, hints = comments(cls), typing.get_type_hints(cls)
    for name in (name for name in hints if name in config):
        value = config[name]
        yield Line(prefix + name, value, said.get(name, ""))
        if dataclasses.is_dataclass(hints[name]):
            yield from describe(hints[name], value, f"{prefix}{name}.")
        elif isinstance(value, ConfigDict):
            yield from (Line(f"{prefix}{name}.{key}", value[key], "") for key in value)


def help_text(cls: type, config: ConfigDict) -> str:
    """All fields of a config, as they are given on a command line, each with its value and its comment."""
    lines = []
    for line in describe(cls, config):
        nested = isinstance(line.value, ConfigDict)
        lines.append(f"\n{line.name}:" if nested else f"  --config.{line.name}={line.value!r}")
        lines += textwrap.wrap(
            line.comment, WIDTH, initial_indent="  " if nested else "      ", subsequent_indent="      "
        )
    return "\n".join(lines)
