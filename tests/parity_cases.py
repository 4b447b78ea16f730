"""The reference cases that the tests carry, under tests/parity."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from p4d_jax.convert import mapping
from p4d_jax.convert.parity.fixtures import Case, draw_image
from p4d_jax.convert.parity.fixtures import load_case as load_case_from

FOLDER = Path(__file__).parent / "parity"

__all__ = ["FOLDER", "Case", "changed", "draw_image", "keep_views", "load_case"]


def load_case(name: str) -> Case:
    """The case `name` of the tests' own."""
    return load_case_from(name, FOLDER)


def changed(module: ModuleType, **changes) -> ModuleType:
    """A module with other functions in it, for those who hold it; the module itself stays as it is."""
    copy = ModuleType(module.__name__)
    copy.__dict__.update(vars(module), **changes)
    return copy


def keep_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are one number, seen in the right shape, stay so: a whole reconstructor's are 0.9 GB."""
    monkeypatch.setattr(mapping, "np", changed(np, asarray=lambda value, *_, **__: value))
