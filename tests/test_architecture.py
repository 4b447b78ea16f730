"""The order of the rooms, read from the imports of every module: docs/architecture.md draws it."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "p4d_jax"
LEVELS = (  # from the top; an arrow runs down, or sideways where that makes no circle
    {"__init__", "main", "jobs", "serve", "settings"},
    {"evaluation", "avatar", "convert"},
    {"reconstructor", "genhead"},
    {"train", "capture", "data", "openheads", "networks"},
    {"assets"},
    {"render", "head", "nn"},
    {"imaging", "geometry"},
    {"npz"},
    {"types", "errors"},
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
TREES = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> set[str]:
    """Full names of what a module imports, wherever in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: import by the full name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def arrows() -> dict[tuple[str, str], set[str]]:
    """(room, room that it imports) -> where."""
    found: dict[tuple[str, str], set[str]] = {}
    for path, tree in TREES.items():
        for name in imported(tree):
            package, *rest = name.split(".")
            if package == "p4d_jax" and rest and rest[0] in LEVEL and rest[0] != room_of(path):
                found.setdefault((room_of(path), rest[0]), set()).add(f"{path.name}: {name}")
    return found


def test_every_room_has_its_place():
    assert {room_of(path) for path in TREES} <= LEVEL.keys()


def test_arrows_run_down_and_never_in_a_circle():
    found = arrows()
    up = {arrow: where for arrow, where in found.items() if LEVEL[arrow[0]] > LEVEL[arrow[1]]}
    assert not up
    rooms = graphlib.TopologicalSorter()
    for room, below in found:
        rooms.add(room, below)
    rooms.prepare()  # raises CycleError


@pytest.mark.parametrize("room, never", [("render", {"networks", "reconstructor", "genhead", "nn"})])
def test_rendering_knows_no_network(room, never):
    assert not {arrow: where for arrow, where in arrows().items() if arrow[0] == room and arrow[1] in never}


def test_lower_rooms_speak_of_their_arguments():
    """No string below the jobs, messages or docstrings, names a flag or a field of a config file."""
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {node.value[:60]!r}"
        for path, tree in TREES.items()
        if LEVEL[room_of(path)] > 0
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if "--config" in node.value or node.value.startswith("config.")
    ]
    assert not found


def test_no_source_that_the_repository_lacks():
    assert not [path for path in TREES if "SPEC" in path.read_text()]
