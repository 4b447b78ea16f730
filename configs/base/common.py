"""What every config starts from."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.job = ""  # the module of p4d_jax.jobs to run
    config.seed = 0  # of every random choice
    config.head = "openhead"  # head model: an embedded name, or the path of an .npz
    return config
