"""The released models end to end at full size: files -> convert -> reenact, checked frame by frame.

    python -m benchmarks.released_end_to_end DIR [--frames=4] [--heads=openhead,flame]

Files in the released format, of full size and with seeded weights (Portrait4D-v2, PD-FGC, and a head model in
FLAME's files; see `benchmarks.released_files`), are written to DIR and converted by the commands that a user
gives. Then, for each head, a film of the astronaut, driven by pictures, is made by the job `reenact`; every
frame of it must equal what `Avatar.render` makes of the same frame. A line a step: seconds, and the largest
memory of a step so far. Exit code 1 if a frame differs. It needs torch, 4 GB of disk, and some minutes.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import imageio.v2 as imageio
import jax
import numpy as np
from PIL import Image

SAMPLES = 16  # coarse samples a ray, and as many fine ones: `reenact`'s own
ROOT = Path(__file__).parents[1]


def main(argv: list[str] | None = None) -> int:
    """Runs one command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--heads", default="openhead,flame")
    parser.add_argument("--make", action="store_true", help="only write the files")
    arguments = parser.parse_args(argv)
    folder = arguments.folder
    if arguments.make:
        make_files(folder, arguments.frames)
        return 0
    if not (folder / "frames").is_dir():
        command("make", [sys.executable, "-m", "benchmarks.released_end_to_end", str(folder), "--make",
                         f"--frames={arguments.frames}"])  # fmt: skip
    if not (folder / "weights").is_dir():
        convert_files(folder)
    good = True
    for name in arguments.heads.split(","):
        head = "openhead" if name == "openhead" else str(folder / "weights/flame/head.npz")
        job(
            f"reenact, {name}",
            "reenact",
            folder / f"film_{name}",
            weights=folder / "weights/portrait4d-v2",
            head=head,
            driving=folder / "frames",
            personalise_steps=0,
            exports="",
            panel=512,
            stills=arguments.frames,
            max_frames=arguments.frames,
        )
        good &= check_film(folder, name, head, arguments.frames)
    return 0 if good else 1


def make_files(folder: Path, frames: int) -> None:
    """The released files, and pictures that drive: the astronaut's face, shifted and mirrored."""
    from benchmarks.released_files import full_size_state, write_checkpoint, write_flame_like, write_pickle
    from p4d_jax import assets

    folder.mkdir(parents=True, exist_ok=True)
    write_pickle(folder / "portrait4d-v2-vfhq512.pkl", full_size_state("reconstructor"))
    write_checkpoint(folder / "motion_model.pth", full_size_state("motion_encoder"))
    write_flame_like(folder / "FLAME")
    (folder / "frames").mkdir()
    photo = assets.photo("astronaut")
    for index in range(frames):
        face = photo[: 320 + 8 * index, 60 - 8 * index : 380]
        Image.fromarray(face[:, ::-1] if index % 2 else face).save(folder / f"frames/{index}.png")


def convert_files(folder: Path) -> None:
    """All files by one command, as a user gives it."""
    from benchmarks.released_files import HEAD_FILES, HEAD_FLAGS

    sources = ("portrait4d-v2-vfhq512.pkl", "motion_model.pth", "FLAME/generic_model.pkl")
    files = {flag: folder / "FLAME" / HEAD_FILES[flag] for flag in HEAD_FLAGS}
    names = ",".join(str(folder / name) for name in sources)
    job("convert", "convert", folder / "weights", source=names, **files)


def job(said: str, name: str, workdir: Path, **fields) -> None:
    """Runs a job as a command of its own."""
    flags = [f"--config.{field}={value}" for field, value in fields.items()]
    run = [sys.executable, "-m", "p4d_jax.main", f"--config={ROOT}/configs/{name}.py", f"--workdir={workdir}"]
    command(said, [*run, *flags])


def command(said: str, arguments: list[str]) -> None:
    """Runs a command and prints its line."""
    start = time.perf_counter()
    subprocess.run(arguments, check=True, cwd=ROOT)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"{said:20} {time.perf_counter() - start:6.1f} s, largest so far {peak:.1f} GiB", flush=True)


def check_film(folder: Path, name: str, head: str, frames: int) -> bool:
    """Whether every still of a film is the picture that `Avatar.render` makes of that frame."""
    import p4d_jax as p4d
    from p4d_jax.avatar.motion_source import motion_of_frame
    from p4d_jax.imaging.writing import to_image

    model = p4d.AvatarModel.load(folder / "weights/portrait4d-v2", head)
    avatar = p4d.Avatar.from_photo("astronaut", weights=model, personalise=0, samples=(SAMPLES, SAMPLES))
    motion = p4d.Motion.open(folder / "frames", model.head, max_frames=frames)
    moved, worst = avatar.retarget(motion.params), 0
    for index, picture in enumerate(motion.pictures):
        vector = motion_of_frame(
            model.motion_source, model.head, motion[index], picture=to_image(picture, 512)
        )
        frame = avatar.render(jax.tree.map(lambda x, i=index: x[i], moved), motion=vector)
        still = imageio.imread(folder / f"film_{name}" / f"frame_{index:04d}.png")[:, -512:]
        if frame.picture.shape != (512, 512, 3):
            raise ValueError(f"picture: expected (512, 512, 3), got {frame.picture.shape}")
        difference = np.abs(still.astype(int) - frame.picture.astype(int))
        worst = max(worst, int(difference.max()))
        print(f"{name}, frame {index}: largest difference {difference.max()} of 255", flush=True)
    return worst == 0


if __name__ == "__main__":
    sys.exit(main())
