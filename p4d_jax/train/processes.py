"""The processes of one run: how they find each other, and what they have to agree on.

A run on many hosts is one program started once a host (or once a GPU): all processes take the same steps on
one mesh over all their devices. Process 0 is the primary one: it alone writes logs, pictures and exported
weights, and its clock is the run's clock. One plain process needs none of this: then nothing is set up, and
every function here is what it would be without it.
"""

from __future__ import annotations

import glob
import importlib.util
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from p4d_jax.errors import UserError

HEARTBEAT = 40  # seconds after which a process that is not heard of any more is taken for dead
PATIENCE = 1800  # seconds that a process waits for the slowest at a meeting
TOGETHER = "coordinator=HOST:PORT, processes=N and process=K (0 to N-1) go together"


def connect_processes(
    coordinator: str | None, processes: int | None, process: int | None, environment: Mapping[str, str]
) -> None:
    """Joins this process to the others of its run; must come before JAX looks for devices.

    Args:
      coordinator: 'HOST:PORT' where process 0 listens, the same for all processes.
      processes: how many there are; 1 is a plain process, whatever cluster it runs in.
      process: the number of this one, from 0.
      environment: where a cluster is looked for if none of the above is given, see `find_cluster`.

    Raises:
      UserError: the three do not fit together, or the others were not found.
    """
    check_flags(coordinator, processes, process)
    cluster = find_cluster(environment) if processes is None else None
    if processes == 1 or (processes is None and cluster is None):
        return
    if "JAX_CPU_COLLECTIVES_IMPLEMENTATION" not in environment:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # On CPUs each process must finish a program before the next: collectives that are in flight together
    # occupy all threads, in another order in each process, and wait for each other for ever.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if process:
        wait_for_coordinator(coordinator)
    try:
        jax.distributed.initialize(coordinator, processes, process, heartbeat_timeout_seconds=HEARTBEAT)
    except (RuntimeError, ValueError) as error:
        where = f"coordinator={coordinator}" if coordinator else f"{cluster} cluster"
        raise UserError(f"{where}: the processes of the run did not find each other: {error}") from error
    if cluster == "SLURM" and environment.get("SLURM_NTASKS") == environment.get("SLURM_STEP_NUM_NODES"):
        # JAX gives a task of SLURM one GPU; the only task of a node has all of them.
        jax.config.update("jax_cuda_visible_devices", "all")


def check_flags(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Raises a UserError unless the three are all absent, or all there and sound, or mean one process."""
    if processes is not None and processes < 1:
        raise UserError(f"processes={processes}: expected at least 1")
    count = processes or 1
    if process is not None and processes is not None and not 0 <= process < count:
        raise UserError(f"process={process}: with processes={count} it is one of 0 to {count - 1}")
    if processes == 1:
        return
    flags = {"coordinator": coordinator, "processes": processes, "process": process}
    missing = [name for name, value in flags.items() if value is None]
    if 0 < len(missing) < len(flags):
        verb = "is" if len(missing) == 1 else "are"
        raise UserError(f"{' and '.join(missing)} {verb} missing: {TOGETHER}")
    port = re.fullmatch(r"(?:\[[0-9a-fA-F:.]+\]|[^\s:/]+):(\d{1,5})", coordinator or "host:1")
    if not port or not 0 < int(port[1]) < 65536:
        raise UserError(f"coordinator={coordinator}: expected HOST:PORT of process 0, as in 10.0.0.1:8476")


def wait_for_coordinator(coordinator: str, patience: float = 300.0) -> None:
    """Waits until process 0 listens. JAX waits too, but aborts the process when it has waited in vain.

    Raises:
      UserError: nobody has listened for `patience` seconds.
    """
    host, port = coordinator.rsplit(":", 1)
    give_up = time.time() + patience
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.time() > give_up:
                raise UserError(
                    f"coordinator={coordinator}: nothing listens there after {patience:.0f} s ({error});"
                    " start process 0 on that host, or correct the address"
                ) from None
        time.sleep(0.2)


def find_cluster(environment: Mapping[str, str]) -> str | None:
    """The cluster that started this process and many others, or None: 'SLURM', 'Kubernetes' or 'TPU'.

    JAX itself asks the cluster for the rest: coordinator, number of processes, number of this one.

    Raises:
      UserError: it is Kubernetes, and the package that JAX asks it with is missing.
    """
    step_of_slurm = {"SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"}
    if step_of_slurm <= set(environment) and int(environment.get("SLURM_NTASKS", 1)) > 1:
        return "SLURM"
    if has_tpu(environment):
        return "TPU"
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= set(environment):
        if importlib.util.find_spec("kubernetes") is None:
            raise UserError(
                'an indexed job of Kubernetes: pip install "jax[k8s]", or give coordinator, processes and'
                " process (docs/howto/launch.md); processes=1 runs this process alone"
            )
        return "Kubernetes"
    return None


def has_tpu(environment: Mapping[str, str]) -> bool:
    """Whether JAX will run on a TPU of this host; such a host always belongs to a slice, if only of one."""
    wanted = environment.get("JAX_PLATFORMS", "tpu")
    chips = glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*")
    return "tpu" in wanted and bool(chips) and importlib.util.find_spec("libtpu") is not None


def meet(name: str) -> None:
    """Waits until every process is here; all must call, each name once.

    Unlike a computation over many devices this may last. The first of a group of devices may not: on a CPU,
    gloo gives up if another process comes half a minute later, still importing or compiling.
    """
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost  # heavy: only among several processes

        multihost.sync_global_processes(name, timeout=PATIENCE, processes=set(range(jax.process_count())))


def is_primary() -> bool:
    """Whether this process writes for all."""
    return jax.process_index() == 0


def agreed(value: float) -> float:
    """The primary process's value, on all of them; all must call. float32 with several processes."""
    if jax.process_count() == 1:
        return value
    return float(multihost_utils.broadcast_one_to_all(np.float32(value)))


def all_agree(yes: bool) -> bool:
    """Whether every process says yes; all must call."""
    if jax.process_count() == 1:
        return yes
    return bool(multihost_utils.process_allgather(np.asarray(yes)).all())


def check_shared(folder: Path, patience: float = 30.0) -> None:
    """Makes the folder, and makes sure that every process sees the primary's; all must call.

    Args:
      patience: seconds until what one host wrote must show on the others.

    Raises:
      UserError: on all processes, that some do not see it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if jax.process_count() == 1:
        return
    token = folder / f".shared_by_all_{int(agreed(time.time() % 1e6))}"
    if is_primary():
        token.touch()
    meet("the shared folder's token is there")
    give_up = time.time() + patience
    while not (seen := token.exists()) and time.time() < give_up:
        time.sleep(0.5)
    blind = np.flatnonzero(~multihost_utils.process_allgather(np.asarray(seen)))
    if is_primary():
        token.unlink()
    if blind.size:
        numbers = ", ".join(str(number) for number in blind)
        raise UserError(
            f"workdir={folder}: what process 0 writes there, process {numbers} cannot see;"
            " give a folder that all hosts share"
        )
