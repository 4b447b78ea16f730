"""Losses in float64: finite differences against reverse mode, for scripts that run by themselves.

Imported first, before the package: float32 is made to mean float64, since geometry and losses ask for float32
by name. What is compiled runs a few times only: it is not optimised.
"""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

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


def compare(losses, params, key, epsilon: float = 1e-6, still=lambda name: ()) -> dict:
    """Central difference and reverse-mode slope of each loss along one direction.

    still: name of a loss -> names of parameters, at the top of the tree, that do not move for it.
    """
    names = sorted(jax.eval_shape(losses, params))
    whole = direction(params, key)

    def stacked(params):
        found = losses(params)  # once: it takes seconds to trace
        return jnp.stack([found[name] for name in names])

    @jax.jit
    def evaluate(params, along):
        """(n,) values and slopes: one program, with one forward pass and all backward passes side by side."""
        values, pull = jax.vjp(stacked, params)
        (gradients,) = jax.vmap(pull)(jnp.eye(len(names)))
        products = jax.tree.map(
            lambda g, d: jnp.sum((g * d).reshape(len(names), -1), axis=1), gradients, along
        )
        return values, sum(jax.tree.leaves(products))

    result = {}
    for held in {still(name) for name in names}:
        along = whole | {part: jax.tree.map(jnp.zeros_like, whole[part]) for part in held} if held else whole
        above, slopes, below = (
            evaluate(jax.tree.map(lambda p, d, step=step: p + step * d, params, along), along)
            for step in (epsilon, 0.0, -epsilon)
        )
        differences = (above[0] - below[0]) / (2 * epsilon)
        for name, difference, slope in zip(names, differences, slopes[1], strict=True):
            if still(name) == held:
                result[name] = [float(difference), float(slope)]
    return result
