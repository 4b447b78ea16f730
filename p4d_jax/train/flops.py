"""The arithmetic of a run's programs, and the rate at which its devices could do it.

Counted are matrix products and convolutions, two operations a multiplication and addition, as papers count
model FLOPs (PaLM, arXiv 2204.02311, appendix B); unlike there, what rematerialisation computes again counts
again. XLA's own count has the body of a loop once, this one as often as it runs.
"""

from __future__ import annotations

import functools
import inspect
import math
import statistics
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

# Rows of the product that is timed: large enough for a device's full rate, small enough for a CPU's patience.
CPU_ROWS, ACCELERATOR_ROWS = 1024, 8192


class Work:
    """What the programs of a run have computed so far.

    Attributes:
      done: FLOPs of all calls.
      rate: FLOPs a second that all devices together could do; 0: unknown.
    """

    def __init__(self, rate: float = 0.0):
        self.done, self.rate = 0.0, rate

    def counted(self, program: Callable, function: Callable, static: tuple[str, ...]) -> Callable:
        """The program, with each call counted.

        Args:
          program: `jax.jit` of `function`, called by position, with arguments of the same shapes wherever the
            static ones are the same.
          static: names of the static ones.
        """
        names = list(inspect.signature(function).parameters)
        places = [names.index(name) for name in static]
        found: dict[tuple, float] = {}

        @functools.wraps(function)
        def call(*args):
            known = tuple(args[place] for place in places)
            if known not in found:  # the call that follows finds this trace in JAX's cache
                found[known] = count_flops(program.trace(*args).jaxpr)
            self.done += found[known]
            return program(*args)

        return call


def count_flops(jaxpr: ClosedJaxpr | Jaxpr) -> float:
    """FLOPs of the products and convolutions of a program, on all devices.

    Of a branch the costlier side counts; of a loop whose turns are not known, one turn.
    """
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    total = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            sizes = equation.invars[0].aval.shape
            total += 2.0 * equation.outvars[0].aval.size * math.prod(sizes[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            # A picture that is spread out by zeros has only one pixel in `dilation` that is multiplied.
            kernel, dilation = equation.invars[1].aval, math.prod(params["lhs_dilation"])
            features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
            total += 2.0 * equation.outvars[0].aval.size * kernel.size / features / dilation
        else:
            inner = [count_flops(part) for part in inner_jaxprs(params)]
            if name == "scan":
                inner = [params["length"] * x for x in inner]
            elif name == "cond":
                inner = [max(inner)]
            elif name == "shard_map":
                inner = [params["mesh"].size * x for x in inner]
            total += sum(inner)
    return total


def inner_jaxprs(params: dict) -> Iterator[ClosedJaxpr | Jaxpr]:
    """The programs within an operation."""
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, ClosedJaxpr | Jaxpr):
                yield part


def measure_rate(devices: int = 1, dtype: jnp.dtype = jnp.float32) -> float:
    """FLOPs a second of matrix products on so many devices like this process's first: the median of five.

    Args:
      dtype: of the numbers that are multiplied, with JAX's default precision.
    """
    rows = CPU_ROWS if jax.default_backend() == "cpu" else ACCELERATOR_ROWS
    matrix, product = jnp.ones((rows, rows), dtype), jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return devices * 2.0 * rows**3 / statistics.median(seconds)
