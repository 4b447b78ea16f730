"""The static model: `portrait4d` with every pair static, so that cross-attention is multiplied by 0.

Source: docs/concepts/training.md, 8.2.
"""

from ml_collections import ConfigDict

from . import portrait4d


def get_config() -> ConfigDict:
    config = portrait4d.get_config()
    config.name = "portrait4d_static"
    config.static_share = 1.0
    return config
