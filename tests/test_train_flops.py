"""The arithmetic that training logs, beside the counts that one can do by hand and XLA's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p4d_jax.train.devices import build_mesh, jit_update, on_devices, replicate
from p4d_jax.train.flops import Work, count_flops, measure_rate


def flops_of(function, *shapes) -> float:
    """Of a function of arrays of such shapes."""
    return count_flops(jax.jit(function).trace(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)).jaxpr)


def test_products_count_two_operations_a_multiplication():
    assert flops_of(jnp.matmul, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    assert flops_of(lambda a, b: jnp.einsum("bik,bjk->bij", a, b), (4, 3, 5), (4, 7, 5)) == 2 * 4 * 3 * 5 * 7
    assert flops_of(jnp.sin, (9, 9)) == 0


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_and_their_gradients_count_as_xla_does(stride, groups):
    """Without padding, at whose border XLA leaves out what is multiplied by zeros."""

    def convolved(image, kernel):
        return jax.lax.conv_general_dilated(
            image, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )  # fmt: skip

    shapes = (2, 17, 17, 4), (3, 3, 4 // groups, 6)
    arrays = [jnp.ones(shape) for shape in shapes]
    size = convolved(*arrays).shape[1]
    assert flops_of(convolved, *shapes) == 2 * 2 * size**2 * 6 * 9 * 4 / groups
    # Of a gradient twice as much, but for what lies beyond the border.
    whole = flops_of(jax.grad(lambda *both: (convolved(*both) ** 2).sum(), argnums=(0, 1)), *shapes)
    assert whole == pytest.approx(3 * flops_of(convolved, *shapes), rel=0.35)


def test_loops_count_as_often_as_they_turn_and_branches_as_their_costlier_side(rng):
    square = lambda x: x @ x
    loop = lambda x: jax.lax.fori_loop(0, 7, lambda _, x: square(x), x)
    assert flops_of(loop, (4, 4)) == 7 * 2 * 4**3
    assert flops_of(jax.checkpoint(loop), (4, 4)) == 7 * 2 * 4**3
    assert flops_of(jax.vmap(loop), (3, 4, 4)) == 3 * 7 * 2 * 4**3
    assert flops_of(lambda x: jax.lax.cond(x[0, 0] > 0, square, lambda x: x, x), (4, 4)) == 2 * 4**3


def test_what_devices_share_counts_once():
    mesh = build_mesh()
    batch, weights = (2 * mesh.size, 3), (3, 5)
    spread = lambda x, w: on_devices(mesh, lambda w, row: row @ w, w)(x)
    assert flops_of(spread, batch, weights) == 2 * np.prod(batch) * weights[1]


def test_work_adds_up_the_calls_and_traces_each_program_once():
    traced = []

    def update(turns, state, matrix):
        traced.append(turns)
        return functools.reduce(lambda x, _: x @ matrix, range(turns), state)

    work = Work(1e9)
    mesh = build_mesh()
    program = jit_update(mesh, work, update, "turns")
    state, matrix = replicate((jnp.ones((4, 4)), jnp.eye(4)), mesh)
    for turns in (1, 3, 1, 3):
        state = program(turns, state, matrix)
    assert work.done == (1 + 3 + 1 + 3) * 2 * 4**3
    assert traced == [1, 3]
    np.testing.assert_array_equal(state, 1.0)


def test_the_rate_is_one_of_products():
    """Of something between a slow core and the fastest device of today."""
    assert 1e8 < measure_rate() < 1e16
    assert 4e8 < measure_rate(devices=4, dtype=jnp.bfloat16) < 4e16
