"""Signatures' shapes are checked while tests run: a wrong one fails, whatever would have come of it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shape_checks import CHECKED, ShapeError

from p4d_jax import geometry
from p4d_jax.geometry import look_at_camera, project
from p4d_jax.imaging.sampling import sample_or_zero
from p4d_jax.render import volume
from p4d_jax.render.rays import rays_through


def test_axes_of_one_name_have_one_size():
    assert volume.importance_depths(jnp.arange(6.0), jnp.ones(5), np.float32([0.5])).shape == (1,)
    with pytest.raises(ShapeError, match="march_rays: features is float32 \\(5, 2\\)"):
        volume.march_rays(jnp.zeros(4), jnp.zeros((5, 2)), jnp.arange(4.0))
    with pytest.raises(ShapeError, match="sample_or_zero: row"):
        sample_or_zero(jnp.zeros((2, 2, 1)), jnp.zeros(3), jnp.zeros(1))  # would be broadcast


def test_shapes_are_checked_inside_programs_and_where_functions_are_imported_from_a_room():
    camera = look_at_camera(0.0, 0.0, 4.0)
    with pytest.raises(ShapeError, match="points"):
        jax.eval_shape(project, camera, jnp.zeros((5, 2)))
    with pytest.raises(ShapeError, match="uv"):
        jax.eval_shape(rays_through, camera, jnp.zeros((5, 3)))
    assert geometry.project is project


def test_numbers_of_another_kind_are_refused():
    with pytest.raises(ShapeError, match="optical_depths is int32"):
        volume.compute_alpha_weights(jnp.arange(3))


@pytest.mark.parametrize("name", sorted(CHECKED))
def test_every_checked_room_says_shapes(name):
    module = __import__(name, fromlist=["_"])
    said = [str(getattr(value, "__annotations__", "")) for value in vars(module).values()]
    assert any(re.search(r"(Float|Int|Num|Shaped)\[Array", one) for one in said)
