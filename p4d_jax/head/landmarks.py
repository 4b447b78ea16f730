"""Landmarks of a posed head: fixed barycentric points of the mesh, the contour chosen by the head's yaw.

`landmarks70`: the 68 iBUG points (0..16 the face contour) and the two eye centres (68 the head's right eye,
69 its left, as a picture shows them from left to right and as ArcFace's crop wants them). A jaw-line point
that a person marks in an image is the silhouette, not a fixed place of the skin, so the contour has one set
of 17 points a degree of yaw (FLAME's dynamic landmarks, rows -39..39).

Yaw, in degrees: the head's rotation about y relative to the camera, positive when the head, seen from the
camera, turns towards its own left (its face normal then points to the viewer's right, +x of the camera). Its
row is round(yaw) + 39. Source: FLAME / RingNet's dynamic contour; docs/concepts/head.md, 2.2.
"""

from __future__ import annotations

import jax.numpy as jnp

from p4d_jax.geometry import axis_angle_to_matrix, exact_products, project
from p4d_jax.head.model import HeadModel
from p4d_jax.types import Array, Camera

YAW_LIMIT = 39  # degrees: rows of the contour table on either side of the frontal one
CONTOUR = 17  # iBUG points 0..16


@exact_products
def barycentric_points(vertices: Array, triangles: Array, barycentric: Array) -> Array:
    """Points (N, 3) on the mesh: vertices (V, 3), triangles (N, 3) of vertex indices, weights (N, 3)."""
    return jnp.einsum("nka,nk->na", vertices[triangles], barycentric)


def landmarks70(model: HeadModel, vertices: Array, yaw: Array | float) -> Array:
    """The 68 iBUG landmarks and the two eye centres of a posed head.

    Args:
      model: The head model.
      vertices: (V, 3) posed vertices, any units.
      yaw: Yaw of the head in degrees, see the file's docstring; beyond +-39 the last row is kept.

    Returns:
      (70, 3) in the units of `vertices`.
    """
    _require(model.landmark_triangles.shape[0] == 68, model, "the 68 landmarks")
    _require(model.contour_triangles.shape[0] == 2 * YAW_LIMIT + 1, model, "the contour landmarks")
    static = barycentric_points(vertices, model.landmark_triangles, model.landmark_barycentric)
    row = jnp.clip(jnp.round(yaw), -YAW_LIMIT, YAW_LIMIT).astype(jnp.int32) + YAW_LIMIT
    contour = barycentric_points(vertices, model.contour_triangles[row], model.contour_barycentric[row])
    return jnp.concatenate([contour, static[CONTOUR:], eye_centres(model, vertices)])


@exact_products
def project_landmarks(model: HeadModel, vertices: Array, neck: Array, camera: Camera) -> Array:
    """(70, 2) `landmarks70` in a picture; the contour is that which the camera sees.

    Args:
      vertices: (V, 3) of the posed head, world.
      neck: (3,) axis-angle, radians.
      camera: The camera of the picture.

    Returns:
      Image coordinates: u to the right and v down, the image is [0, 1]^2.
    """
    facing = axis_angle_to_matrix(neck)[:, 2] @ camera.cam2world[:3, :3]
    yaw = jnp.rad2deg(jnp.arctan2(facing[0], facing[2]))
    return project(camera, landmarks70(model, vertices, yaw))[0]


def eye_centres(model: HeadModel, vertices: Array) -> Array:
    """(2, 3): the middle of the right and of the left eyeball's bounding box.

    The box, and not the mean, because an eyeball's mesh is denser at the iris.
    """
    centres = []
    for region in ("right_eyeball", "left_eyeball"):
        _require(region in model.regions, model, f"the region {region}")
        ball = vertices[model.regions[region]]
        centres.append(0.5 * (ball.min(axis=0) + ball.max(axis=0)))
    return jnp.stack(centres)


def mediapipe_landmarks(model: HeadModel, vertices: Array) -> Array:
    """Those of MediaPipe's 468 points that the mesh defines, (M, 3); which: `HeadModel.mediapipe_indices`."""
    _require(model.mediapipe_indices.shape[0] > 0, model, "the MediaPipe landmarks")
    return barycentric_points(vertices, model.mediapipe_triangles, model.mediapipe_barycentric)


def _require(present: bool, model: HeadModel, what: str) -> None:
    if not present:
        raise ValueError(
            f"model: the head '{model.name}' carries no embedding of {what}; load it with its landmark"
            " and mask files (convert.flame.load_flame), or use the embedded head 'openhead'"
        )
