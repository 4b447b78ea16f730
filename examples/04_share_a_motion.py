"""A clip's motion without the clip: it can be shared without showing anybody's face.

python examples/04_share_a_motion.py clip.mp4 clip.npz
"""

import sys

import p4d_jax as p4d


def main(clip="motion_talk", file="shared.npz", max_frames=240):
    motion = p4d.Motion.open(clip, max_frames=max_frames)
    motion.save(file)
    again = p4d.Motion.load(file)
    print(f"{file}: {len(again)} frames at {again.fps:.3g} frames a second, of the head {again.head!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
