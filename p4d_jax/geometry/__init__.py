"""Rotations, cameras, meshes and similarities of the plane, in float32 on every device."""

from p4d_jax.geometry.cameras import (
    camera_for_bent_neck,
    intrinsics_from_fov,
    look_at_camera,
    orbit,
    project,
    world_to_camera,
)
from p4d_jax.geometry.meshes import vertex_normals
from p4d_jax.geometry.precision import divide_by_one, dot_in_order, exact_products, round_product
from p4d_jax.geometry.rotations import axis_angle_to_matrix, matrix_to_axis_angle, unit
from p4d_jax.geometry.similarity import (
    arcface_transform,
    fit_similarity,
    invert_affine,
    motion_transform,
)

__all__ = [
    "arcface_transform",
    "axis_angle_to_matrix",
    "camera_for_bent_neck",
    "divide_by_one",
    "dot_in_order",
    "exact_products",
    "fit_similarity",
    "intrinsics_from_fov",
    "invert_affine",
    "look_at_camera",
    "matrix_to_axis_angle",
    "motion_transform",
    "orbit",
    "project",
    "round_product",
    "unit",
    "vertex_normals",
    "world_to_camera",
]
