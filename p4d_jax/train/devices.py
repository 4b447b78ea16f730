"""The one place that builds the device mesh. One axis, 'data': parameters are on every device, batches are
split. The same program runs on a CPU cut into several host devices, on GPUs and on a TPU pod.

With several processes (`train.processes`) the mesh spans the devices of all of them, and what a program takes
and gives are global arrays: each process holds the part on its own devices. Here is how they are made from,
and read back as, what one process has.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from p4d_jax.train.flops import Work
from p4d_jax.train.processes import agreed, meet

DATA_AXIS = "data"
# On a CPU, XLA's library for small networks takes products with what follows them well, but convolutions and
# sums on one core alone.
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}
# Compiled in a quarter of the time, these run several times slower.
ONCE_OPTIONS = CPU_OPTIONS | {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 0}
Tree = TypeVar("Tree")


def host_device_flag(count: int) -> str:
    """The XLA flag that cuts the host's CPU into `count` devices; must be set before JAX starts."""
    return f"--xla_force_host_platform_device_count={count}"


def compiler_options() -> dict[str, str]:
    """XLA's options with which programs run fastest on this backend, as far as this XLA knows them."""
    return known_options(tuple(CPU_OPTIONS.items()))


def known_options(wanted: tuple[tuple[str, object], ...]) -> dict[str, object]:
    """Options for a CPU that its XLA knows, which differ from version to version; none for others."""
    if jax.default_backend() != "cpu":
        return {}
    return {name: value for name, value in wanted if is_known(name, value)}


@functools.cache
def is_known(name: str, value: object) -> bool:
    """Whether this XLA has an option."""
    try:
        jax.jit(lambda x: x, compiler_options={name: value}).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def fast_jit(function: Callable, *, options: dict[str, object] = CPU_OPTIONS, **kwargs) -> Callable:
    """`jax.jit(function, **kwargs)` with options for a CPU; part of another program's trace, without.

    The backend is asked for at the first call. What is returned has another function, `prepare`, which
    compiles the program, in any thread, for arguments of which only shapes and types count.
    """
    plain = jax.jit(function, **kwargs)

    @functools.cache
    def alone() -> Callable:
        return jax.jit(function, compiler_options=known_options(tuple(options.items())), **kwargs)

    @functools.wraps(function)
    def call(*args, **named):
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((args, named)))
        return (plain if traced else alone())(*args, **named)

    call.prepare = lambda *args, **named: alone().lower(*args, **named).compile()
    return call


def once_jit(function: Callable, **kwargs) -> Callable:
    """`fast_jit` of what runs a few times: compiled in a quarter of the time, and several times slower."""
    return fast_jit(function, options=ONCE_OPTIONS, **kwargs)


def build_mesh(devices: int = 0) -> Mesh:
    """A mesh over `devices` devices, for 0 over all of them, those of other processes included."""
    available = jax.devices()
    if devices and jax.process_count() > 1:
        raise ValueError(f"devices: with {jax.process_count()} processes the mesh takes all, not {devices}")
    if devices > len(available):
        raise ValueError(
            f"devices: asked for {devices}, JAX sees {len(available)} ({available[0].platform});"
            f" on a CPU start with XLA_FLAGS={host_device_flag(devices)}"
        )
    mesh = Mesh(np.asarray(available[: devices or len(available)]), (DATA_AXIS,))
    if jax.process_count() > 1:
        introduce_devices(mesh)
    return mesh


def introduce_devices(mesh: Mesh) -> None:
    """The first sums over the mesh and over the processes: their devices connect while all are here."""
    meet("the mesh is built")
    ones = gather_batch(np.ones(jax.local_device_count()), mesh)
    total = jax.jit(jnp.sum, out_shardings=replicated(mesh))(ones)
    assert agreed(float(total)) == mesh.size


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of parameters."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The sharding of batches: the leading axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """Arrays that every process has alike, as global arrays on every device; no data crosses hosts."""

    def one(value):
        value = np.asarray(value)
        return jax.make_array_from_process_local_data(replicated(mesh), value, value.shape)

    return jax.tree.map(one, tree)


def own_rows(batch: int, mesh: Mesh) -> np.ndarray:
    """Which rows of a global batch, split over the mesh, lie on this process's devices, in order."""
    slices = split(mesh).addressable_devices_indices_map((batch,)).values()
    return np.unique(np.concatenate([np.arange(batch)[index] for index in slices]))


def gather_batch(tree: Tree, mesh: Mesh) -> Tree:
    """One global batch of what each process has loaded; no data crosses hosts.

    Args:
      tree: this process's share, leading axis (n,): n is the same everywhere and a multiple of the number of
        its devices in the mesh.

    Returns:
      Arrays with leading axis (n * processes,), split over the mesh: process 0's share first.
    """
    one = lambda value: jax.make_array_from_process_local_data(split(mesh), np.asarray(value))
    return jax.tree.map(one, tree)


def on_devices(mesh: Mesh, f: Callable, *shared, at_once: int = 0) -> Callable:
    """`f(*shared, one sample)` for a batch, each device its own samples: of `mesh.size` equal shares.

    Args:
      f: of one sample, a pytree.
      shared: pytrees that every device has alike.
      at_once: samples that a device treats side by side; 0: all of its own.

    Returns:
      A function from a batch (B, ...) to the batch of results.
    """
    whole, shares = PartitionSpec(), PartitionSpec(DATA_AXIS)

    def on_device(batch, *shared):
        one = lambda sample: f(*shared, sample)
        return jax.lax.map(one, batch, batch_size=at_once) if at_once else jax.vmap(one)(batch)

    spread = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(shares, *(whole,) * len(shared)),
        out_specs=shares,
        check_vma=False,
    )
    return lambda batch: spread(batch, *shared)


def samples_at_once() -> int:
    """`at_once` of work that is geometry: on a CPU one sample after the other, elsewhere all.

    Dot products of a batch round otherwise than those of one sample, so that a sample's numbers would depend
    on how many its device has beside it. D_neck shows that: rounding decides which of two equally near
    triangles carries a point. XLA promises no equal bits even so; the tests compare them.
    """
    return 1 if jax.default_backend() == "cpu" else 0


def local(tree: Tree) -> Tree:
    """This process's own copy of replicated arrays, on its first device: to compute with it alone."""

    def one(value):
        if not value.is_fully_replicated:
            raise ValueError(f"tree: an array of shape {value.shape} is not replicated: {value.sharding}")
        return value.addressable_data(0)

    return jax.tree.map(one, tree)


def first_share(tree: Tree) -> Tree:
    """Of arrays that are split over the mesh, the part on this process's first device."""
    return jax.tree.map(lambda value: value.addressable_data(0), tree)


def filled_like(array: jax.Array, value: float) -> jax.Array:
    """An array of the same shape, type and sharding with every element `value`, the same on all processes."""
    data = np.full(array.shape, value, array.dtype)
    return jax.make_array_from_callback(array.shape, array.sharding, lambda index: data[index])


# Programs -------------------------------------------------------------------------------------------------


def jit_update(mesh: Mesh, work: Work, f: Callable, *static: str, results=None) -> Callable:
    """A program from a state, its argument `state`, which it takes the place of, to the next.

    Args:
      work: what counts its arithmetic.
      static: names of arguments that a program is compiled for anew.
      results: shardings of what it gives; None: every device has all of it.
    """
    shardings = replicated(mesh) if results is None else results
    program = jax.jit(f, static_argnames=static, donate_argnames="state", out_shardings=shardings)
    return work.counted(program, f, static)


def jit_batch(mesh: Mesh, work: Work, f: Callable, *static: str) -> Callable:
    """A program that gives a batch, split over the devices; see `jit_update`."""
    return work.counted(jax.jit(f, static_argnames=static, out_shardings=split(mesh)), f, static)
