"""Whether a head is one body seen from all sides: the depth of one view, compared with that of another.

As in StyleSDF (Or-El et al. 2022, arXiv 2112.11427), the surface that one view shows is compared with the one
that another shows; here ray by ray, and only where the head model's mesh is seen by both.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from p4d_jax.geometry import project
from p4d_jax.render.raster import Raster
from p4d_jax.render.rays import generate_rays
from p4d_jax.types import Array, Camera

SOLID = 0.9  # opacity from which a ray counts
SAME_PLACE = 0.03  # world units between places of the mesh that count as the same


@dataclass(frozen=True)
class Surface:
    """What one view shows of a head.

    Attributes:
      depth: (R, R) distance along the ray, world units.
      opacity: (R, R) in [0, 1].
      mesh: The head model's mesh as that camera sees it, R x R.
    """

    depth: Array
    opacity: Array
    mesh: Raster


def reprojected_depth_error(surfaces: tuple[Surface, Surface], cameras: tuple[Camera, Camera]) -> np.ndarray:
    """(N,) differences of depth between the first view's points and what the second has there, world units.

    Of rays that both views show as solid, and where both see the same place of the mesh.
    """
    first, second = surfaces
    origins, directions = (np.asarray(x) for x in generate_rays(cameras[0], first.depth.shape[0]))

    def reproject(depths: tuple, other_mask) -> tuple[np.ndarray, np.ndarray]:
        """How far the first depth's points (R R,) lie behind the second depth, and where there is one."""
        resolution = len(depths[0])
        points = origins + np.asarray(depths[0]).reshape(-1, 1) * directions
        at = np.floor(np.asarray(project(cameras[1], jnp.asarray(points))[0]) * resolution).astype(int)
        column, row = np.clip(at, 0, resolution - 1).T
        there = ((at >= 0) & (at < resolution)).all(1) & np.asarray(other_mask)[row, column]
        reached = np.linalg.norm(points - np.asarray(cameras[1].cam2world[:3, 3]), axis=1)
        return reached - np.asarray(depths[1])[row, column], there

    hidden, seen = reproject((first.mesh.depth, second.mesh.depth), second.mesh.mask)
    difference, solid = reproject((first.depth, second.depth), second.opacity > SOLID)
    chosen = seen & (np.abs(hidden) < SAME_PLACE) & np.asarray(first.mesh.mask).ravel()
    chosen &= solid & (np.asarray(first.opacity).ravel() > SOLID)
    return np.abs(difference[chosen])
