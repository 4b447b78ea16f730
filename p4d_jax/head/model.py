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
      template: (V, 3) vertices of the mean head, metres.
      shape_basis: (V, 3, S) offsets of the identity components, S <= 300; coefficients have unit variance.
      expression_basis: (V, 3, E) offsets of the expression components, E <= 100.
      pose_basis: (V, 3, 36) offsets of the pose correctives: R - I of the four joints below the root,
        row-major.
      joint_regressor: (5, V) weights that give the joints from the shaped vertices.
      skinning_weights: (V, 5) weight of each joint for each vertex; rows sum to one.
      faces: (F, 3) int32 triangles, counter-clockwise seen from outside.
      origin: (3,) neck joint of the canonical mesh, metres; it is the world's origin.
      landmark_triangles, landmark_barycentric: (68, 3) int32 vertex indices and weights of the landmarks, in
        iBUG's order.
      contour_triangles, contour_barycentric: (79, 17, 3) the same of the contour's landmarks for each yaw of
        the head: row k is for k - 39 degrees.
      mediapipe_indices: (M,) int32 numbers of those of MediaPipe's 468 points that this mesh defines.
      mediapipe_triangles, mediapipe_barycentric: (M, 3) int32 vertex indices and weights of these points.
      regions: Name of a region -> int32 vertex indices; at least `REGIONS`.
      neighbours: (V, 10) int32 the vertex itself and its ring, padded with V, which stands for infinity.
      decimated_faces: (f, 3) int32 triangles of the decimated mesh.
      decimated_triangles, decimated_barycentric: (v, 3) vertex indices and weights that place each decimated
        vertex on the full mesh.
      uv: (V, 2) texture coordinates in [0, 1] (OpenHead), or zeros.
      name: Name of the head model, for example 'openhead' or 'flame2020'.
      expression_names: Name of each expression component, or empty.
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
