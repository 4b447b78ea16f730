"""The page: python -m p4d_jax.main --config=configs/serve.py, then open the address that it prints."""

from ml_collections import ConfigDict

from p4d_jax.jobs.settings import ServeSettings
from p4d_jax.settings import to_config


def get_config() -> ConfigDict:
    return to_config(ServeSettings())
