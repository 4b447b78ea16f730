"""`UserError`: what the user can put right, said in one line.

`main.py` prints its message without a traceback and exits with code 2. Everything else that is raised is
our fault and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """An input that cannot be used. The message names it, its value, what was expected and the way out."""


class Preempted(Exception):
    """A run was asked to end, and has saved its state: the same command goes on with it.

    Its exit code is that of sysexits.h for a temporary failure: launchers may try again.
    """

    EXIT_CODE = 75


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the name closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def find_named(registry: Mapping[str, T], names: Iterable[str], kind: str) -> dict[str, T]:
    """Those of a registry that have these names.

    kind: What one of them is called.

    Raises:
      UserError: There is no such one.
    """
    for name in (names := list(names)):
        if name not in registry:
            known = ", ".join(registry)
            raise UserError(f"no {kind} {name!r}{nearest(name, registry)}; there are {known}")
    return {name: registry[name] for name in names}


def printable(text: str) -> str:
    """Text that may come from a file or a path, with everything that a terminal would obey escaped."""
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped)
