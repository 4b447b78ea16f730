"""Time and peak memory of converting a state of full size: read, mapped, written as a checkpoint.

    python -m benchmarks.convert_full_size KEYS.json FOLDER

KEYS.json holds [key, shape] of every tensor of a network. Per format (pickle, legacy, zip) FOLDER gets a file
of normal numbers of this size, made with torch in its own process; then a fresh process converts it by the
job `convert`, with a table that gives every key its own variable, and prints a line: size of the file,
seconds, and the peak of its resident memory (of the whole process, JAX and Orbax included).
"""

from __future__ import annotations

import json
import pickle
import resource
import subprocess
import sys
import time
from pathlib import Path

FORMATS = ("pickle", "legacy", "zip")


def make(keys: list, kind: str, path: Path) -> None:
    """Writes a state; 'pickle' is {'G_ema': its tensors} with a file per storage, as StyleGAN's."""
    import torch

    generator = torch.Generator().manual_seed(0)
    state = {key: torch.randn(shape, generator=generator) for key, shape in keys}
    if kind == "pickle":
        with open(path, "wb") as file:
            pickle.dump({"G_ema": state}, file, protocol=4)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")


def convert(keys: list, kind: str, path: Path) -> None:
    """Converts it and prints the line."""
    started = time.perf_counter()
    import jax
    import numpy as np
    from ml_collections import ConfigDict

    from configs.convert import get_config
    from p4d_jax.convert.mapping import NetworkImport, Rule, conv, dense, same
    from p4d_jax.jobs import convert as job

    layouts = {4: conv, 2: dense}
    rules, shapes = [], {}
    for key, shape in keys:
        layout, name = layouts.get(len(shape), same), key.replace(".", "_")
        rules.append(Rule(key.replace(".", r"\."), f"params/{name}", layout))
        turned = layout(np.broadcast_to(np.float32(0), shape)).shape
        shapes[name] = jax.ShapeDtypeStruct(turned, np.float32)
    network = NetworkImport(rules, lambda: {"params": shapes}, {"benchmark": True}, (keys[0][0],))
    job.known_networks = lambda: {"benchmark": network}
    config: ConfigDict = get_config()
    config.source = str(path)
    job.run(config, path.parent / "converted")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = path.stat().st_size / 2**20
    seconds = time.perf_counter() - started
    print(
        f"{kind:7} file {size:.0f} MiB, {seconds:.1f} s, peak {peak:.0f} MiB = {peak / size:.2f} x the file"
    )


def main() -> None:
    keys_file, folder = Path(sys.argv[1]), Path(sys.argv[2])
    keys = json.loads(keys_file.read_text())
    if len(sys.argv) == 5:
        kind = sys.argv[4]
        {"make": make, "convert": convert}[sys.argv[3]](keys, kind, folder / f"{kind}.bin")
        return
    folder.mkdir(parents=True, exist_ok=True)
    for kind in FORMATS:
        for step in ("make", "convert"):
            command = [sys.executable, "-m", "benchmarks.convert_full_size", *sys.argv[1:], step, kind]
            subprocess.run(command, check=True)
        (folder / f"{kind}.bin").unlink()


if __name__ == "__main__":
    main()
