"""The paper's training of GenHead at 512², batch 32, all at the paper's value but the data: --config.data."""

from ml_collections import ConfigDict

from p4d_jax.jobs.settings import TrainGenHeadSettings
from p4d_jax.settings import to_config


def get_config() -> ConfigDict:
    return to_config(TrainGenHeadSettings(name="genhead_ffhq512"))
