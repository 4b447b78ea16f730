"""Brings a photo to life: --config.source=me.jpg --config.driving=clip.mp4."""

from ml_collections import ConfigDict

from p4d_jax.jobs.settings import ReenactSettings
from p4d_jax.settings import to_config


def get_config() -> ConfigDict:
    return to_config(ReenactSettings())
