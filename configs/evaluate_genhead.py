"""Measures a GenHead: control by the head model, and consistency over views."""

from ml_collections import ConfigDict

from configs.base import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.job = "evaluate_genhead"
    config.weights = "genhead_demo"  # an embedded name, or a path
    config.resolution = 0  # rays a side; 0 is what the weights were trained with
    config.samples = 24  # coarse, and as many fine, samples a ray
    config.truncation_psi = 0.95  # of the codes, as in the synthesis of data
    config.samples_of_control = 256
    config.heads_of_consistency = 64
    return config
