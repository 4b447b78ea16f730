"""`HeadModel`: the one data schema of every parametric head, FLAME and OpenHead alike.

V vertices, F triangles, joints root, neck, jaw, left eye, right eye (FLAME's order). Lengths are in metres
in FLAME's frame (y up, face towards +z); `skinning.head_vertices` brings vertices to the world (times
`WORLD_SCALE`, origin at the canonical neck joint; docs/concepts/conventions.md, 1.1). Source: FLAME (SIGGRAPH
Asia 2017), docs/concepts/head.md, 2.1.
"""

from __future__ import annotations

from flax import struct

from p4d_jax.types import Array

ROOT, NECK, JAW, LEFT_EYE, RIGHT_EYE = range(5)
PARENTS = (-1, 0, 1, 1, 1)
WORLD_SCALE = 3.0
CANONICAL_JAW = 0.3  # radians about x: the canonical mesh opens its mouth so that its inside has a place
NEIGHBOURS = 10

# Vertex regions that every head asset has; OpenHead has more (scalp, ears, teeth, tongue, ...).
REGIONS = ("face", "left_eyeball", "right_eyeball", "lips", "eyelids", "without_inner_mouth")


@struct.dataclass
class HeadModel:
    """Arrays of a FLAME-shaped head.

    Attributes:
      template: (V, 3) mean head, metres.
      shape_basis: (V, 3, S) identity offsets, S <= 300, unit variance coefficients.
      expression_basis: (V, 3, E) expression offsets, E <= 100.
      pose_basis: (V, 3, 36) pose correctives on R - I of the four non-root joints, row-major.
      joint_regressor: (5, V) joints from shaped vertices.
      skinning_weights: (V, 5) rows sum to one.
      faces: (F, 3) int32, counter-clockwise seen from outside.
      origin: (3,) the neck joint of the canonical mesh, metres: the world's origin.
      landmark_triangles, landmark_barycentric: (68, 3) int32 vertex indices and weights, iBUG order.
      contour_triangles, contour_barycentric: (79, 17, 3) contour points for the head's yaw in degrees,
        row k for yaw k - 39.
      mediapipe_indices: (M,) int32 which of MediaPipe's 468 points are defined on this mesh.
      mediapipe_triangles, mediapipe_barycentric: (M, 3).
      regions: name -> int32 vertex indices; at least `REGIONS`.
      neighbours: (V, 10) int32 the vertex itself and its ring, padded with V (a point at infinity).
      decimated_faces: (f, 3) int32 triangles of the decimated mesh.
      decimated_triangles, decimated_barycentric: (v, 3) each decimated vertex on the full mesh.
      uv: (V, 2) texture coordinates in [0, 1] (OpenHead), or zeros.
      name: which head this is ('openhead', 'flame2020', ...).
      expression_names: one name a component, or empty.
    """

    template: Array
    shape_basis: Array
    expression_basis: Array
    pose_basis: Array
    joint_regressor: Array
    skinning_weights: Array
    faces: Array
    origin: Array
    landmark_triangles: Array
    landmark_barycentric: Array
    contour_triangles: Array
    contour_barycentric: Array
    mediapipe_indices: Array
    mediapipe_triangles: Array
    mediapipe_barycentric: Array
    regions: dict[str, Array]
    neighbours: Array
    decimated_faces: Array
    decimated_triangles: Array
    decimated_barycentric: Array
    uv: Array
    name: str = struct.field(pytree_node=False, default="")
    expression_names: tuple[str, ...] = struct.field(pytree_node=False, default=())
