"""Programs that JAX compiles: how many, for how long, and which of them the cache on disk had.

Said by JAX's own events (`jax.monitoring`), so that every program counts, also an operation outside of any
`jit`, which is a program too. On some CPUs JAX silently rejects every program that it has cached: then none
is read, however often a job is run.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import jax

COMPILED, LOWERED = (
    "/jax/core/compile/backend_compile_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
)
READ, READING = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_retrieval_time_sec"


@dataclasses.dataclass
class ProgramCount:
    """Programs that were made ready to run.

    Attributes:
      programs: How many.
      from_cache: Of these, how many were read from the cache on disk; all others were compiled.
      lowering, compiling, reading: Seconds in which they were lowered, compiled, and read from the cache; of
        programs that several threads make at a time, the sum.
    """

    programs: int = 0
    from_cache: int = 0
    lowering: float = 0.0
    compiling: float = 0.0
    reading: float = 0.0

    def report(self) -> dict:
        """For a report."""
        return {
            "made": self.programs,
            "compiled": self.programs - self.from_cache,
            "read_from_cache": self.from_cache,
            "seconds_lowering": round(self.lowering, 2),
            "seconds_compiling": round(self.compiling, 2),
            "seconds_reading": round(self.reading, 2),
        }

    def __str__(self) -> str:
        return (
            f"{self.programs} programs: {self.programs - self.from_cache} compiled in {self.compiling:.1f} s,"
            f" {self.from_cache} read from the cache in {self.reading:.1f} s"
        )


@contextmanager
def count_programs() -> Iterator[ProgramCount]:
    """Counts all programs of this process, until the block ends."""
    count, lock = ProgramCount(), threading.Lock()

    def on_event(name: str, **_) -> None:
        if name == READ:
            with lock:
                count.from_cache += 1

    def on_duration(name: str, seconds: float, **_) -> None:
        with lock:
            if name == COMPILED:  # which includes the reading
                count.programs += 1
                count.compiling += seconds
            elif name == READING:
                count.reading += seconds
                count.compiling -= seconds
            elif name == LOWERED:
                count.lowering += seconds

    jax.monitoring.register_event_listener(on_event)
    jax.monitoring.register_event_duration_secs_listener(on_duration)
    try:
        yield count
    finally:
        jax.monitoring.unregister_event_listener(on_event)
        jax.monitoring.unregister_event_duration_listener(on_duration)
