"""The reference cases that the tests carry, under tests/parity."""

from pathlib import Path

from p4d_jax.convert.parity.fixtures import Case, draw_image
from p4d_jax.convert.parity.fixtures import load_case as load_case_from

FOLDER = Path(__file__).parent / "parity"

__all__ = ["FOLDER", "Case", "draw_image", "load_case"]


def load_case(name: str) -> Case:
    """The case `name` of the tests' own."""
    return load_case_from(name, FOLDER)
