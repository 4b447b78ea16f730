"""Times D_neck at full size on this machine's device and prints the figures as one JSON object.

    python benchmarks/neck_field.py

Per frame, the field is built once on its grids, 24^3 + 8^3 points against a decimated mesh, and read at every
sample of every ray. The mesh is a sphere of about as many triangles as FLAME's decimated one (1394).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from p4d_jax.geometry import axis_angle_to_matrix
from p4d_jax.head.deformation import apply_neck_field, build_neck_field

_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed runs; the fastest counts.")
_RESOLUTION = flags.DEFINE_integer("resolution", 128, "Rays a side.")
_SAMPLES = flags.DEFINE_integer("samples", 96, "Samples a ray.")


def sphere(rings: int, around: int) -> tuple[np.ndarray, np.ndarray]:
    """An ellipsoid of a head's size: vertices (v, 3), world units, and 2 * (rings - 1) * around triangles."""
    polar = np.linspace(0, np.pi, rings + 1)[1:-1, None]
    azimuth = np.linspace(0, 2 * np.pi, around, endpoint=False)[None]
    ring = np.stack(
        np.broadcast_arrays(np.sin(polar) * np.cos(azimuth), np.cos(polar), np.sin(polar) * np.sin(azimuth)),
        -1,
    )
    vertices = np.concatenate([ring.reshape(-1, 3), [[0, 1, 0], [0, -1, 0]]])
    top, bottom = len(vertices) - 2, len(vertices) - 1
    index = np.arange((rings - 1) * around).reshape(rings - 1, around)
    after = np.roll(index, -1, axis=1)
    quads = [index[:-1], after[:-1], after[1:]], [index[:-1], after[1:], index[1:]]
    faces = [np.stack(corners, -1).reshape(-1, 3) for corners in quads]
    faces.append(np.stack([np.full(around, top), after[0], index[0]], -1))
    faces.append(np.stack([np.full(around, bottom), index[-1], after[-1]], -1))
    return (vertices * [0.3, 0.42, 0.35]).astype(np.float32), np.concatenate(faces).astype(np.int32)


def measure(function: Callable, *arguments: jax.Array, repeats: int) -> tuple[dict, jax.Array]:
    """Figures of one compiled function, and its result.

    CPU seconds are of all threads together; on a machine that others use, they say more than the clock does.
    """
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    compile_seconds = time.perf_counter() - start
    clock, cpu = [], []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        result = jax.block_until_ready(compiled(*arguments))
        clock.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    figures = {
        "seconds": round(min(clock), 4),
        "cpu_seconds": round(min(cpu), 4),
        "compile_seconds": round(compile_seconds, 2),
        "temporary_mib": round(compiled.memory_analysis().temp_size_in_bytes / 2**20, 1),
    }
    return figures, result


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    straight, faces = sphere(18, 41)
    posed = straight @ axis_angle_to_matrix(jnp.array([0.1, 0.4, 0.0])).T
    count = _RESOLUTION.value**2 * _SAMPLES.value
    points = jax.random.uniform(jax.random.key(0), (count, 3), minval=-0.65, maxval=0.65)
    build, field = measure(build_neck_field, posed, straight, faces, repeats=_REPEATS.value)
    apply, _ = measure(apply_neck_field, field, points, repeats=_REPEATS.value)
    report = {
        "device": jax.devices()[0].device_kind,
        "faces": len(faces),
        "points": count,
        "build": build,
        "apply": apply,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    app.run(main)
