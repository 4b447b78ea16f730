"""Checks the shapes that signatures say, `Float[Array, "samples 3"]`, at every call while tests run.

The rooms below import jaxtyping for type checkers alone: who uses the package neither has it nor pays for it.
Here a finder wraps their functions as soon as a module is loaded, so that whoever imports a function gets the
checked one. A name of an axis means one size throughout a call, of arguments and of what comes back.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import inspect
import re
import sys
import typing
from collections.abc import Callable

import jax
import jaxtyping
import numpy as np

CHECKED = frozenset(
    f"p4d_jax.{name}"
    for name in (
        "geometry.cameras", "geometry.meshes", "geometry.rotations", "geometry.similarity",
        "head.deformation", "head.skinning", "imaging.resizing", "imaging.sampling",
        "render.raster", "render.rays", "render.triplane", "render.volume",
    )
)  # fmt: skip
KINDS = ("Bool", "Float", "Int", "Num", "Shaped")
# NumPy's arrays may be given wherever JAX's may.
NAMES = {"Array": jax.Array | np.ndarray, **{kind: getattr(jaxtyping, kind) for kind in KINDS}}


class ShapeError(TypeError):
    """A value is not of the shape or the kind that a signature says."""


def checked(function: Callable) -> Callable:
    """The function, which checks what it is given and what it returns; itself where it says no shapes."""
    hints = {
        name: hint
        for name, hint in typing.get_type_hints(function, localns=NAMES).items()
        if re.search(rf"({'|'.join(KINDS)})\[Array", function.__annotations__[name])
    }
    if not hints:
        return function
    signature, written = inspect.signature(function), function.__annotations__

    def check(name: str, value, hint) -> None:
        if typing.get_origin(hint) is tuple:
            for index, (part, of_part) in enumerate(zip(value, typing.get_args(hint), strict=True)):
                check(f"{name}[{index}]", part, of_part)
        # One by one: a union's own check looks at the class alone.
        elif not any(isinstance(value, kind) for kind in typing.get_args(hint) or (hint,)):
            expected = written[name.split("[")[0]]
            kind, shape = getattr(value, "dtype", type(value)), getattr(value, "shape", "")
            raise ShapeError(f"{function.__name__}: {name} is {kind} {shape}, expected {expected}")

    def check_arguments(args: tuple, kwargs: dict) -> None:
        given = signature.bind(*args, **kwargs).arguments
        # Axes that are another's and one more come after it.
        later = lambda name: bool(re.search("[+-]1", written[name]))
        for name in sorted((name for name in given if name in hints), key=later):
            check(name, given[name], hints[name])

    def named(message: str) -> bool:
        return not signature.parameters.keys().isdisjoint(message.split(":")[0].split(", "))

    @functools.wraps(function)
    def call(*args, **kwargs):
        with jaxtyping.jaxtyped("context"):
            try:
                result = function(*args, **kwargs)
            except Exception as error:
                # Where the function itself names the argument that is wrong, that is the message.
                if not (isinstance(error, ValueError) and named(str(error))):
                    check_arguments(args, kwargs)
                raise
            check_arguments(args, kwargs)
            if "return" in hints:
                check("return", result, hints["return"])
        return result

    return call


class ShapeChecks(importlib.abc.MetaPathFinder):
    """Finds the modules of `CHECKED` as ever, and checks their functions' calls."""

    def find_spec(self, name, path, target=None):
        if name not in CHECKED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        load = spec.loader.exec_module

        def load_checked(module) -> None:
            load(module)
            for key, value in list(vars(module).items()):
                if inspect.isfunction(value) and value.__module__ == name:
                    setattr(module, key, checked(value))

        spec.loader.exec_module = load_checked
        return spec


def install() -> None:
    """To be called before the package is imported."""
    assert not CHECKED & sys.modules.keys()
    sys.meta_path.insert(0, ShapeChecks())
