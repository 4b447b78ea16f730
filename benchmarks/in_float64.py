"""`p4d_jax.main` with everything computed in float64, for `training_devices`: its flags, Psi, on a CPU.

No config may say so, since geometry and losses ask for float32 by name: that name is made to mean float64
before the package is imported.
"""

import sys

import jax

jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp

jnp.float32 = jnp.float64

from p4d_jax import main as command_line
from p4d_jax.reconstructor.config import ReconstructorConfig


def compute_in_float64(config: ReconstructorConfig) -> None:
    """In the place of the check of `dtype`."""
    object.__setattr__(config, "dtype", "float64")


if __name__ == "__main__":
    ReconstructorConfig.__post_init__ = compute_in_float64
    sys.exit(command_line.main())
