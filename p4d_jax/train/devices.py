"""The one place that builds the device mesh. One axis, 'data': parameters are on every device, batches are
split. The same program runs on a CPU cut into several host devices, on GPUs and on a TPU pod."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"


def host_device_flag(count: int) -> str:
    """The XLA flag that cuts the host's CPU into `count` devices; must be set before JAX starts."""
    return f"--xla_force_host_platform_device_count={count}"


def build_mesh(devices: int = 0) -> Mesh:
    """A mesh over `devices` local devices, all of them for 0."""
    available = jax.devices()
    if devices > len(available):
        raise ValueError(
            f"devices: asked for {devices}, JAX sees {len(available)} ({available[0].platform});"
            f" on a CPU start with XLA_FLAGS={host_device_flag(devices)}"
        )
    return Mesh(np.asarray(available[: devices or len(available)]), (DATA_AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of parameters."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The sharding of batches: the leading axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))
