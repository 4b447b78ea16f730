"""Photo, film or folder to parameters: --config.source=me.jpg."""

from ml_collections import ConfigDict

from p4d_jax.jobs.settings import CaptureSettings
from p4d_jax.settings import to_config


def get_config() -> ConfigDict:
    return to_config(CaptureSettings())
