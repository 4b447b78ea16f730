"""The static model at the size of `reenact_demo`: every pair static, cross-attention silent."""

from ml_collections import ConfigDict

from . import reenact_demo


def get_config() -> ConfigDict:
    config = reenact_demo.get_config()
    config.name = "reenact_static_demo"
    config.static_share = 1.0
    return config
