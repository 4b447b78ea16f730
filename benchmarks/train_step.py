"""Images a second of a training, and the share of the devices' rate that its arithmetic takes.

    python -m benchmarks.train_step FOLDER [--configs=reenact_demo,genhead_demo_cpu] [--ticks=4] [--every=4]
        [FLAGS of p4d_jax.main, for all configs]

Runs each config as a command of its own, from the start, until so many ticks of `--every` steps are logged,
the first of which, with the compiling, is left out. Prints a line of JSON a config: images a second (median,
least, most), GFLOP an image of products and convolutions (`train.flops`), their share of the rate at which
the devices multiply matrices, seconds of the first step, the share of the time that steps waited for data,
and the process's peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
QUIET = {"loop.grid_every": 10**6, "loop.save_minutes": 10**6, "loop.minutes": 0.0, "loop.evaluate_every": 0}
OF_PSI = {"evaluate_people": 0, "loop.best": ""}


def run_training(folder: Path, name: str, ticks: int, every: int, flags: list[str]) -> dict:
    """The figures of one config's training."""
    workdir = folder / name
    shutil.rmtree(workdir, ignore_errors=True)  # else it would go on where it ended
    fields = QUIET | ({} if name.startswith("genhead") else OF_PSI)
    fields |= {"loop.steps": every * (ticks + 1), "loop.log_every": every}
    command = [sys.executable, "-m", "p4d_jax.main", f"--config=configs/{name}.py", f"--workdir={workdir}"]
    command += [f"--config.{field}={value}" for field, value in fields.items()]
    with open(folder / f"{name}.log", "w") as log:
        process = subprocess.Popen([*command, *flags], cwd=ROOT, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name}: the job failed, see {folder / f'{name}.log'}")
    ticked = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()][1:]
    spent = json.loads((workdir / "goodput.jsonl").read_text().splitlines()[-1])
    images = [tick["images_per_second"] for tick in ticked]
    return {
        "config": name,
        "images_per_second": statistics.median(images),
        "least_and_most": [min(images), max(images)],
        "gflop_an_image": statistics.median(tick["gflop_an_image"] for tick in ticked),
        "flops_utilisation": statistics.median(tick["flops_utilisation"] for tick in ticked),
        "seconds_of_first_step": spent["seconds_compile"],
        "share_waited_for_data": round(spent["seconds_data"] / spent["seconds"], 4),
        "peak_memory_gib": round(usage.ru_maxrss / 2**20, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--configs", default="reenact_demo,genhead_demo_cpu", help="with commas between them")
    parser.add_argument("--ticks", type=int, default=4)
    parser.add_argument("--every", type=int, default=4)
    options, flags = parser.parse_known_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name in options.configs.split(","):
        print(json.dumps(run_training(folder, name, options.ticks, options.every, flags)), flush=True)


if __name__ == "__main__":
    main()
