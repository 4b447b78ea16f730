"""The first run: a public-domain portrait of Eileen Collins (NASA), and a bundled clip of motion."""

from ml_collections import ConfigDict

from . import reenact


def get_config() -> ConfigDict:
    config = reenact.get_config()
    config.personalise_steps = 0  # compiling its steps takes longer than the film
    return config
