"""Measures a reconstructor on held-out synthetic people, and on real photos."""

from ml_collections import ConfigDict

from configs.base import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.job = "evaluate"
    config.weights = "reenact_demo"  # of the reconstructor: an embedded name, or a path
    # Who
    config.sets = "held_out"  # of people, with commas: 'held_out', training's kind; 'other', another kind
    config.identities = 64  # people of each set
    config.photos = "astronaut"  # real photos, with commas: paths, or the example 'astronaut'; '' for none
    # How
    config.resolution = 0  # rays a side; 0: what the model was made for
    config.samples = 16  # coarse, and as many fine, samples a ray
    config.film_frames = 6  # of each person's film, whose flicker is measured; 0: no films
    config.lpips = ""  # folder of lpips_vgg or lpips_alex from the job convert; '': LPIPS is not measured
    config.arcface = ""  # folder of arcface50 or arcface18; '': identity by colours
    return config
