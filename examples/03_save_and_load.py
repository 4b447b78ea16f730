"""An avatar is one file: made once, it renders the same bits wherever it is loaded.

python examples/03_save_and_load.py me.jpg me.avatar
"""

import sys

import p4d_jax as p4d


def main(photo="astronaut", file="me.avatar", picture="loaded.png", **options):
    avatar = p4d.Avatar.from_photo(photo, **options)
    avatar.save(file)
    loaded = p4d.load_avatar(file)
    frame = loaded.render(gaze=(0.3, 0.1), background=False)
    assert (frame.picture == avatar.render(gaze=(0.3, 0.1), background=False).picture).all()
    p4d.save_picture(picture, frame.rgba)
    print(file, picture)


if __name__ == "__main__":
    main(*sys.argv[1:])
