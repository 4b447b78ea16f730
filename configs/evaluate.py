"""Measures a reconstructor on held-out synthetic people."""

from ml_collections import ConfigDict

from configs.base import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.job = "evaluate"
    config.weights = "reenact_demo"  # of the reconstructor: an embedded name, or a path
    config.identities = 64  # people that training never saw
    config.resolution = 64  # rays a side
    config.samples = 16  # coarse, and as many fine, samples a ray
    return config
