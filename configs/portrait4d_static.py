"""The static model: `portrait4d` with every pair static, its cross-attention silent (SPEC section 8)."""

from ml_collections import ConfigDict

from . import portrait4d


def get_config() -> ConfigDict:
    config = portrait4d.get_config()
    config.name = "portrait4d_static"
    config.static_share = 1.0
    return config
