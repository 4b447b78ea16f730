"""4D training data from a GenHead: --config.weights=DIR/weights.npz."""

from ml_collections import ConfigDict

from p4d_jax.jobs.settings import SynthesizeSettings
from p4d_jax.settings import to_config


def get_config() -> ConfigDict:
    return to_config(SynthesizeSettings())
