"""The textured mesh that stands for views the photo does not show."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_head import synthetic_head

from p4d_jax.avatar.personalise import textured_view
from p4d_jax.geometry import look_at_camera, orbit, project
from p4d_jax.head.skinning import canonical_vertices

SIZE = 64


@pytest.fixture(scope="module")
def scene():
    """A mesh, its camera, and a photo whose colours are a smooth function of the pixel."""
    head = synthetic_head()
    y, x = jnp.meshgrid(*(jnp.linspace(-1, 1, SIZE),) * 2, indexing="ij")
    photo = jnp.stack([x, y, x * y], -1)
    return canonical_vertices(head), head.faces, look_at_camera(0.1, 0.05, 4.0), photo


@jax.jit
def view(photo, posed, faces, source, camera):
    return textured_view(photo, posed, faces, source, camera, SIZE)


def test_own_view_shows_the_photo(scene):
    posed, faces, camera, photo = scene
    colours, weight, mask = view(photo, posed, faces, camera, camera)
    known = np.asarray(weight[..., 0] > 0)
    assert known.mean() > 0.05
    assert (np.asarray(mask[..., 0])[known] == 1).all()
    np.testing.assert_allclose(np.asarray(colours)[known], np.asarray(photo)[known], atol=2e-3)


def test_other_view_shows_no_surface_that_the_photo_hides(scene):
    posed, faces, camera, photo = scene
    behind = orbit(camera, np.pi)
    _, weight, mask = view(photo, posed, faces, camera, behind)
    assert float(mask.sum()) > 0
    assert float(weight.sum()) <= 0.01 * float(mask.sum())
    near = orbit(camera, 0.3)
    _, weight, mask = view(photo, posed, faces, camera, near)
    assert 0.4 < float(weight.sum() / mask.sum()) < 1.0


def test_orbit_keeps_the_origin_and_the_distance(scene):
    camera = scene[2]
    turned = orbit(camera, 0.5)
    origin = jnp.zeros((1, 3))
    np.testing.assert_allclose(project(camera, origin)[0], project(turned, origin)[0], atol=1e-5)
    distance = [float(jnp.linalg.norm(c.cam2world[:3, 3])) for c in (camera, turned)]
    assert distance[0] == pytest.approx(distance[1], rel=1e-6)
