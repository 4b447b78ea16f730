"""How a driving frame moves the points of a ray to where the tri-plane holds them: observed -> canonical.

A model's config names one of two fields: 'neck', D_neck of docs/concepts/deformation.md, which straightens
the neck and leaves the rest of the motion to the tri-plane, or 'expression', by which the head model undoes
the expression too (`head.expression_field`). Both are pytrees, and the type of a field says how it is
applied.
"""

from __future__ import annotations

from p4d_jax.head.deformation import NeckField, apply_neck_field, build_neck_field, decimate
from p4d_jax.head.expression_field import (
    CanonicalFrame,
    ExpressionField,
    apply_expression_field,
    build_expression_field,
)
from p4d_jax.reconstructor.config import ReconstructorConfig
from p4d_jax.types import BOX_WARP, Array, Camera

Deformation = NeckField | ExpressionField

# World units of a ray that are marched: the released models take the whole box, and 'expression' models only
# as much as every head fits in.
DEPTH_EXTENT = {"neck": BOX_WARP, "expression": 1.1}

FIELD_SIZE = 128  # side of the raster in which 'expression' sees the mesh


def build_field(
    config: ReconstructorConfig,
    frame: CanonicalFrame,
    posed: Array,
    straight: Array,
    neck: Array,
    camera: Camera,
) -> Deformation:
    """The field of one frame that a model's config asks for.

    Args:
      config: of the model; `deformation` is read.
      frame: constants of the head model.
      posed: (V, 3) mesh with the frame's expression, pose and gaze, world.
      straight: (V, 3) the same without the neck's rotation.
      neck: (3,) that rotation, axis-angle.
      camera: of the rays that will be marched ('expression' sees the mesh along them).
    """
    if config.deformation == "neck":
        small = [
            decimate(mesh, frame.decimated_triangles, frame.decimated_barycentric)
            for mesh in (posed, straight)
        ]
        return build_neck_field(*small, frame.decimated_faces, BOX_WARP)
    return build_expression_field(frame, posed, neck, camera, FIELD_SIZE)


def apply_field(field: Deformation, points: Array) -> Array:
    """Observed points (N, S, 3), S on each of N rays, in the space of the tri-plane. No gradient."""
    if isinstance(field, NeckField):
        return apply_neck_field(field, points.reshape(-1, 3)).reshape(points.shape)
    return apply_expression_field(field, points)
