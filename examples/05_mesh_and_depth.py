"""The head as a coloured triangle mesh, and the distance of each pixel.

python examples/05_mesh_and_depth.py me.jpg
"""

import sys

import numpy as np

import p4d_jax as p4d


def main(photo="astronaut", mesh="head.ply", depth="depth.npy", resolution=128, **options):
    avatar = p4d.Avatar.from_photo(photo, **options)
    surface = avatar.mesh(resolution)
    p4d.write_ply(mesh, surface)
    frame = avatar.render()
    np.save(depth, np.where(frame.alpha > 0.5, frame.depth, np.nan))
    print(f"{mesh}: {len(surface.vertices)} vertices; {depth}: {frame.depth.shape}")


if __name__ == "__main__":
    main(*sys.argv[1:])
