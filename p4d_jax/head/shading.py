"""A head model as a shaded picture of clay, for motions that come without pictures."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax.geometry import exact_products, vertex_normals
from p4d_jax.head.model import HeadModel
from p4d_jax.head.skinning import posed_vertices
from p4d_jax.render.raster import interpolate, rasterize
from p4d_jax.types import Array, FrameParams

CLAY = (0.72, 0.70, 0.68)
PAINT = {
    "lips": (0.72, 0.48, 0.46),
    "left_eyeball": (0.97, 0.97, 0.97),
    "right_eyeball": (0.97, 0.97, 0.97),
    "teeth": (0.95, 0.93, 0.88),
    "tongue": (0.75, 0.42, 0.42),
}


def vertex_paint(head: HeadModel) -> np.ndarray:
    """(V, 3) clay, with lips, eyeballs, teeth and tongue in their own colours; irises on the eyes' axes."""
    vertices = np.asarray(head.template)
    paint = np.tile(np.float32(CLAY), (len(vertices), 1))
    for name, color in PAINT.items():
        if name in head.regions:
            paint[np.asarray(head.regions[name])] = color
    for name in ("left_eyeball", "right_eyeball"):
        ball = np.asarray(head.regions[name])
        middle = (vertices[ball].max(0) + vertices[ball].min(0)) / 2
        radius = (vertices[ball, 2].max() - vertices[ball, 2].min()) / 2
        off_axis = np.linalg.norm(vertices[ball, :2] - middle[:2], axis=-1) / radius
        paint[ball[(off_axis < 0.36) & (vertices[ball, 2] > middle[2])]] = (0.25, 0.22, 0.20)
    return paint


@functools.partial(jax.jit, static_argnames="resolution")
@exact_products
def shade_head(head: HeadModel, paint: Array, frame: FrameParams, resolution: int) -> Array:
    """The mesh of one frame's parameters, lit from the camera and above: (R, R, 3) in [-1, 1]."""
    posed = posed_vertices(head, frame.shape, frame)
    normals = vertex_normals(posed, head.faces)
    towards = frame.camera.cam2world[:3, :3] @ jnp.array([0.3, 0.5, 0.8]) / jnp.sqrt(0.98)
    light = 0.35 + 0.65 * jnp.clip(normals @ towards, 0.0, 1.0)
    raster = rasterize(posed, head.faces, frame.camera, resolution, False)
    colors = interpolate(raster, paint * light[:, None])
    return jnp.where(raster.mask[..., None], 2.0 * colors - 1.0, -0.75)
