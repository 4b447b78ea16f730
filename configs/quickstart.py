"""The first run: a public-domain portrait of Eileen Collins (NASA), and a bundled clip of motion."""

from ml_collections import ConfigDict

from configs import reenact


def get_config() -> ConfigDict:
    return reenact.get_config()
