"""Measures a reconstructor on held-out synthetic people, and on real photos."""

from ml_collections import ConfigDict

from p4d_jax.jobs.settings import EvaluateSettings
from p4d_jax.settings import to_config


def get_config() -> ConfigDict:
    return to_config(EvaluateSettings())
