"""A photo moves as somebody else does.

python examples/01_photo_to_film.py me.jpg clip.mp4
"""

import sys

import p4d_jax as p4d


def main(photo="astronaut", driving="motion_talk", film="film.mp4", max_frames=72, **options):
    avatar = p4d.Avatar.from_photo(photo, **options)
    motion = p4d.Motion.open(driving, max_frames=max_frames)
    p4d.save_video(film, (frame.picture for frame in avatar.drive(motion)), motion.fps, motion.edges)
    print(f"{film}: {len(motion)} frames")


if __name__ == "__main__":
    main(*sys.argv[1:])
