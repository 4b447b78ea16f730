"""The paper's training of Psi at 512², batch 32, on a GenHead's data: every field is at the paper's value.

It needs a head model and networks that others trained: see docs/howto/convert.md for each folder's command.
"""

from ml_collections import ConfigDict

from p4d_jax.jobs.settings import TrainReenactSettings
from p4d_jax.settings import to_config


def get_config() -> ConfigDict:
    return to_config(TrainReenactSettings(name="portrait4d"))
