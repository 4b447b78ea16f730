"""Checks our modules against reference cases, number by number.

    python -m p4d_jax.convert.check_parity --fixtures=DIR [NAME ...]

DIR holds NAME.json and NAME.npz, in the format of `parity/fixtures.py`; without names all of them.
Weights and inputs are made from each case's seed, mapped by the importer's own rules and run in float32. A
line an output: case, output, the figure and what it is. That is the relative error, max |ours - reference| /
max |reference|, bound 1e-4, or of the rasterizer the share of pixels that differ by more than that, bound
0.5 %. A case that cannot be read or that breaks is a line on stderr, and the others go on. Exit code 1 if a
figure exceeds its bound, 2 for a case that is not known, cannot be read or breaks.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from p4d_jax.convert.parity import genhead, geometry, perception, reconstructor
from p4d_jax.convert.parity.fixtures import TOLERANCE, Case, load_case
from p4d_jax.errors import UserError, nearest

CASES: dict[str, Callable[[Case], dict[str, np.ndarray]]] = {
    **geometry.CASES,
    **reconstructor.CASES,
    **genhead.CASES,
    **perception.CASES,
}


@dataclass(frozen=True)
class Measure:
    """How far an output is from the reference, and how far it may be.

    Attributes:
      name: of the figure, in the printed line.
      bound: the largest figure that passes.
      of: (case, output, our array) -> the figure.
    """

    name: str
    bound: float
    of: Callable[[Case, str, np.ndarray], float]


RELATIVE_ERROR = Measure("relative error", TOLERANCE, Case.error)
# Where a pixel centre lies on an edge, rounding decides who sees it.
SHARE_OF_PIXELS = Measure("share of pixels", 5e-3, Case.share_of_pixels)
MEASURES = {"rasterizer": SHARE_OF_PIXELS}  # all other cases: the relative error


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="p4d_jax.convert.check_parity", description=__doc__.split("\n")[0])
    parser.add_argument("--fixtures", required=True, type=Path, help="folder of NAME.json and NAME.npz")
    parser.add_argument("names", nargs="*", help="cases; all of the folder when none is given")
    arguments = parser.parse_args(argv)
    try:
        names = arguments.names or case_names(arguments.fixtures)
        for name in names:
            if name not in CASES:
                raise UserError(f"case {name!r} is not known{nearest(name, list(CASES))}")
    except UserError as error:
        print(f"check_parity: {error}", file=sys.stderr)
        return 2
    return max(run_case(name, arguments.fixtures) for name in names)


def run_case(name: str, folder: Path) -> int:
    """Checks one case; its exit code. Whatever breaks a case is said here, and breaks no other."""
    try:
        return 0 if check_case(name, folder) else 1
    except UserError as error:
        print(f"check_parity: {error}", file=sys.stderr, flush=True)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        where = f"{Path(place.filename).name}:{place.lineno}"
        print(f"check_parity: case {name!r} breaks ({reason}; {where})", file=sys.stderr, flush=True)
    return 2


def case_names(folder: Path) -> list[str]:
    """The cases of a folder, in alphabetical order."""
    names = sorted(path.stem for path in folder.glob("*.npz"))
    if not names:
        raise UserError(f"--fixtures={folder}: no case (NAME.json and NAME.npz) in that folder")
    return names


def check_case(name: str, folder: Path) -> bool:
    """Prints a line an output of one case; True if all are within bounds."""
    case, measure, good = load_case(name, folder), MEASURES.get(name, RELATIVE_ERROR), True
    with jax.default_matmul_precision("float32"):
        ours = CASES[name](case)
    for output in case.outputs:
        if output not in ours:
            raise UserError(f"case {name!r}: output {output!r} is not known{nearest(output, list(ours))}")
        figure = measure.of(case, output, ours[output])
        within = figure <= measure.bound
        good &= within
        print(f"{name:22} {output:18} {figure:9.2e} {measure.name}{'' if within else ' EXCEEDS'}", flush=True)
    return good


if __name__ == "__main__":
    sys.exit(main())
