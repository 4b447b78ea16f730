"""One head from five sides, and with five expressions, as one picture.

python examples/02_turn_and_express.py me.jpg
"""

import sys

import numpy as np

import p4d_jax as p4d

EXPRESSIONS = [{}, {"jawOpen": 0.7}, {"eyeBlinkLeft": 1.0}, {"mouthSmileLeft": 1.0}, {"browInnerUp": 1.0}]


def main(photo="astronaut", sheet="sheet.png", **options):
    avatar = p4d.Avatar.from_photo(photo, **options)
    cameras = [p4d.orbit(avatar.params.camera, np.deg2rad(yaw)) for yaw in (-30, -15, 0, 15, 30)]
    turned = [avatar.render(camera=camera).picture for camera in cameras]
    moved = [avatar.render(expression=expression).picture for expression in EXPRESSIONS]
    p4d.save_picture(sheet, np.concatenate([np.concatenate(row, axis=1) for row in (turned, moved)]))
    print(sheet)


if __name__ == "__main__":
    main(*sys.argv[1:])
