"""Losses in float64: finite differences against reverse mode, for scripts that run by themselves.

Imported first, before the package: float32 is made to mean float64, since geometry and losses ask for float32
by name.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # compiles sooner

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_platforms", "cpu")
import jax.numpy as jnp  # noqa: E402

jnp.float32 = jnp.float64


def double(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def direction(tree, key):
    """A random direction of the shape of `tree`, of unit length."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    length = jnp.sqrt(sum(jnp.sum(x**2) for x in drawn))
    return jax.tree.unflatten(structure, [x / length for x in drawn])


def compare(losses, params, key, epsilon: float = 1e-6) -> dict:
    """Central difference and reverse-mode slope of each loss along one direction."""
    along = direction(params, key)
    move = lambda step: jax.tree.map(lambda p, d: p + step * d, params, along)  # noqa: E731
    values = jax.jit(losses)
    above, below = values(move(epsilon)), values(move(-epsilon))
    names = sorted(above)

    @jax.jit
    def slope(params, chosen):
        """Of the losses that `chosen` (n,) weighs: one program for all of them."""
        total = lambda params: sum(w * losses(params)[name] for w, name in zip(chosen, names, strict=True))  # noqa: E731
        products = jax.tree.map(lambda g, d: jnp.sum(g * d), jax.grad(total)(params), along)
        return sum(jax.tree.leaves(products))

    return {
        name: [float(above[name] - below[name]) / (2 * epsilon), float(slope(params, chosen))]
        for name, chosen in zip(names, jnp.eye(len(names)), strict=True)
    }
