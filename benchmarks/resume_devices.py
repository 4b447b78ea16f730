"""Does a run that is taken from one number of devices to another see the same data, and learn the same?

    python -m benchmarks.resume_devices

A small training on a folder of photos, sixteen a step, four steps on each of 1, 2, 4, 8, 16 and 1 forced CPU
devices, always in one workdir; and the same 24 steps on one device. Prints of each part whether its batches
are those of the run on one device, in their order and to the bit, and the largest relative difference of its
losses. Exit code 1 if a batch differs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

DEVICES, STEPS, BATCH, SIZE, PHOTOS = (1, 2, 4, 8, 16, 1), 4, 16, 16, 37


def write_folder(folder: Path) -> None:
    """Photos of random pixels, all seen by one camera."""
    import jax.numpy as jnp
    import numpy as np

    from p4d_jax import assets
    from p4d_jax.data.photos import Photo, write_photos
    from p4d_jax.geometry import look_at_camera
    from p4d_jax.types import FrameParams

    dice, head = np.random.default_rng(0), assets.head_model()
    camera = look_at_camera(0.0, 0.0, 4.0)
    photos = []
    for number in range(PHOTOS):
        shape = jnp.zeros(300).at[0].set(number / PHOTOS)
        params = FrameParams(camera, shape, jnp.zeros(100), jnp.zeros(6), jnp.zeros(6))
        pixels = dice.integers(0, 256, (SIZE, SIZE, 4)).astype(np.uint8)
        frame = np.asarray(params.to_vector())
        photos.append(Photo(f"{number:03d}", pixels[..., :3], pixels[..., 3], frame))
    write_photos(folder, photos, head.name, head.expression_names)


def train_part(folder: str, workdir: str, steps: str) -> None:
    """The training, from where the workdir is to so many steps; its metrics tell what it saw."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from p4d_jax import assets
    from p4d_jax.data.photos import open_photos
    from p4d_jax.genhead.sources import PhotoStream
    from p4d_jax.train import journal
    from p4d_jax.train.config import LoopConfig
    from p4d_jax.train.devices import build_mesh, replicate
    from p4d_jax.train.loop import train
    from p4d_jax.train.state import build_optimizer, create_state

    mesh = build_mesh()
    draw = PhotoStream(open_photos(folder, assets.head_model(), SIZE), mesh, BATCH, 0, 2)
    optimizer = build_optimizer(0.9, 0.99, 1e-8, 1.0)
    state = create_state(
        {"params": {"w": jnp.zeros((SIZE, SIZE, 3))}}, optimizer, jax.random.key_data(jax.random.key(0))
    )

    @jax.jit
    def update(state, rate, portraits):
        error = lambda params: jnp.mean((jnp.tanh(params["w"]) - portraits.image) ** 2)
        loss, gradient = jax.value_and_grad(error)(state.params)
        moves, moments = optimizer.update(gradient, state.optimizer, state.params)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, moves)
        new = state.replace(step=state.step + 1, params=params, average=params, optimizer=moments)
        return new, {"loss": loss}

    def step(state, rate):
        portraits = draw(int(state.step))
        seen = b"".join(np.asarray(x).tobytes() for x in (portraits.image, portraits.params.shape))
        state, report = update(state, rate, portraits)
        return state, report | {"batch": zlib.crc32(seen) % 2**20}  # of the log's nine digits

    journal.open_events = lambda workdir: journal.NoEvents()  # tensorflow takes seconds to import
    train(
        LoopConfig(steps=int(steps), peak_rate=0.05, final_share=1.0, log_every=1, grid_every=10**9),
        Path(workdir), replicate(state, mesh), step, lambda state: np.zeros((8, 8, 3), np.uint8),
        lambda state, path: np.savez(path, **state.average), waited=draw.waited,
    )  # fmt: skip


def run_part(folder: Path, workdir: Path, devices: int, steps: int) -> None:
    """`train_part` in a process of so many devices."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, "-m", "benchmarks.resume_devices", folder, workdir, steps]
    subprocess.run(list(map(str, command)), env=environment, stdout=subprocess.DEVNULL, check=True)


def log_of(workdir: Path) -> dict[int, dict]:
    """The logged steps by their number."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line for line in lines if "loss" in line}


def main() -> int:
    if sys.argv[1:]:
        train_part(*sys.argv[1:])
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder, alone, moved = (Path(name) / part for part in ("photos", "alone", "moved"))
        write_folder(folder)
        run_part(folder, alone, 1, STEPS * len(DEVICES))
        for part, devices in enumerate(DEVICES):
            run_part(folder, moved, devices, STEPS * (part + 1))
        expected, found, same = log_of(alone), log_of(moved), True
        for part, devices in enumerate(DEVICES):
            steps = range(STEPS * part + 1, STEPS * (part + 1) + 1)
            equal = all(found[step]["batch"] == expected[step]["batch"] for step in steps)
            off = max(abs(found[step]["loss"] / expected[step]["loss"] - 1) for step in steps)
            same &= equal
            print(
                f"steps {steps[0]} to {steps[-1]} on {devices} devices: batches"
                f" {'equal to the bit' if equal else 'DIFFER'}, losses differ by {off:.1e} at most",
                flush=True,
            )
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
