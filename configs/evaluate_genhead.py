"""Measures a GenHead: control by the head model, and consistency over views."""

from ml_collections import ConfigDict

from p4d_jax.jobs.settings import EvaluateGenHeadSettings
from p4d_jax.settings import to_config


def get_config() -> ConfigDict:
    return to_config(EvaluateGenHeadSettings())
