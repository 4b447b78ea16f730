"""Stages and peak memory of the job `reenact`, for films of several lengths.

    python -m benchmarks.film FOLDER [--frames=100,5000] [FLAGS of p4d_jax.main]

The motion that ships, played back and forth as often as it takes, drives the quickstart's photo at 256²; each
length is a command of its own. Prints a line of JSON a length: seconds of each stage, frames a second,
programs, and peak memory in MiB, also as a multiple of the first length's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from p4d_jax.avatar.motion import Motion
from p4d_jax.types import take

ROOT = Path(__file__).resolve().parent.parent


def save_long_motion(path: Path, frames: int) -> None:
    """The motion that ships, back and forth, as a file of so many frames."""
    motion = Motion.load("motion_talk")
    once = np.arange(len(motion))
    there_and_back = np.concatenate([once, once[-2:0:-1]])
    params = take(motion.params, np.resize(there_and_back, frames))
    Motion(params, motion.fps, motion.head, motion.names).save(path)


def run_job(folder: Path, frames: int, flags: list[str]) -> tuple[dict, float]:
    """The report of one run, and its peak memory in MiB."""
    motion = folder / f"motion_{frames}.npz"
    save_long_motion(motion, frames)
    command = [sys.executable, "-m", "p4d_jax.main", "quickstart", f"--workdir={folder / str(frames)}"]
    settings = [f"--driving={motion}", f"--max_frames={frames}", "--exports="]
    with open(folder / f"{frames}.log", "w") as log:
        process = subprocess.Popen([*command, *settings, *flags], cwd=ROOT, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{frames} frames: the job failed, see {folder / f'{frames}.log'}")
    return json.loads((folder / str(frames) / "report.json").read_text()), usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", default="100,5000", help="lengths, with commas between them")
    options, flags = parser.parse_known_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    first = None
    for frames in map(int, options.frames.split(",")):
        report, memory = run_job(folder, frames, flags)
        first = first or memory
        row = {
            "frames": frames,
            "seconds": report["seconds"],
            "frames_per_second": report["film"]["frames_rendered_per_second"],
            "programs": report["programs"],
            "peak_memory_mib": round(memory),
            "of_the_first": round(memory / first, 3),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
