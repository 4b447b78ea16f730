"""Released files into ours: --config.source=portrait4d-v2-vfhq512.pkl,motion_model.pth."""

from ml_collections import ConfigDict

from p4d_jax.jobs.settings import ConvertSettings
from p4d_jax.settings import to_config


def get_config() -> ConfigDict:
    return to_config(ConvertSettings())
