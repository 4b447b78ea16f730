"""Checks our modules against reference cases, number by number.

    python -m p4d_jax.convert.check_parity --fixtures=DIR [NAME ...]

DIR holds NAME.json and NAME.npz, in the format of `parity/fixtures.py`; without names all of them.
Weights and inputs are made from each case's seed, mapped by the importer's own rules and run in float32. A
line an output: case, output, max |ours - reference| / max |reference|. Exit code 1 if one exceeds 1e-4 (of
the rasterizer's masks: 0.5 % of pixels), 2 for a case that is not known.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from p4d_jax.convert.parity import genhead, geometry, perception, reconstructor
from p4d_jax.convert.parity.fixtures import Case, load_case
from p4d_jax.errors import UserError, nearest

TOLERANCE = 1e-4
CASES: dict[str, Callable[[Case], dict[str, np.ndarray]]] = {
    **geometry.CASES,
    **reconstructor.CASES,
    **genhead.CASES,
    **perception.CASES,
}


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
        results = [check_case(name, arguments.fixtures) for name in names]
    except UserError as error:
        print(f"check_parity: {error}", file=sys.stderr)
        return 2
    return 0 if all(results) else 1


def case_names(folder: Path) -> list[str]:
    """The cases of a folder, in alphabetical order."""
    names = sorted(path.stem for path in folder.glob("*.npz"))
    if not names:
        raise UserError(f"--fixtures={folder}: no case (NAME.json and NAME.npz) in that folder")
    return names


def check_case(name: str, folder: Path) -> bool:
    """Prints a line an output of one case; True if all are within bounds."""
    case = load_case(name, folder)
    ours, good = CASES[name](case), True
    for output in case.outputs:
        error = case.error(output, ours[output])
        good &= error <= TOLERANCE
        print(
            f"{name:22} {output:18} {error:9.2e} {'' if error <= TOLERANCE else 'EXCEEDS'}".rstrip(),
            flush=True,
        )
    return good


if __name__ == "__main__":
    sys.exit(main())
