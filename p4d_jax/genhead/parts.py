"""The part-wise head: eyes and mouth in one tri-plane, all else in another, fused along each ray.

- `HeadParts`: constants of one head model: which vertices and triangles belong to which part.
- `PosedParts`: its meshes in one frame, and the field that straightens the neck.
- `PartMasks`: where one camera sees the eyeballs and the inside of the mouth.
- Fusion: densities and features of the two branches at points -> those of the head.

Nothing here has a gradient with respect to the head's geometry. One head; `vmap` for many. Letters: P points,
V vertices, S image size, R rays a side, F features. World units, camera and image axes of
docs/concepts/conventions.md. Source: Portrait4D (arXiv 2311.18729, section 4.1 and appendix),
docs/concepts/deformation.md and genhead.md.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from p4d_jax.head.deformation import (
    NeckField,
    PartField,
    apply_neck_field,
    build_neck_field,
    decimate,
    part_field,
)
from p4d_jax.head.model import HeadModel
from p4d_jax.head.skinning import canonical_vertices, head_vertices
from p4d_jax.imaging.resizing import resize_antialiased
from p4d_jax.nn.stylegan2 import blur2d
from p4d_jax.render.raster import interpolate, rasterize
from p4d_jax.types import BOX_WARP, Array, Camera, FrameParams

CORRESPONDENCE_SCALE = 0.6  # world units that are 1 in the correspondence map
EYE_SHIFT = 0.5  # by which the eyeballs' z is lowered there, so that gaze and lids stand out
TRAINED_RESOLUTION = 64  # R at which GenHead is trained
OPENING = 7  # pixels: smaller specks vanish from the full-size mouth mask
EYE_BLUR, MOUTH_BLUR = 1.0, 2.0  # pixels, of the full-size masks

Branch = tuple[Array, Array]  # raw densities (P, 1) and features (P, F)
Fusion = Callable[[Branch, Branch, "PointMasks"], Branch]


@struct.dataclass
class HeadParts:
    """Constants of one head model.

    Attributes:
      canonical: (V, 3) the canonical mesh.
      colors: (V, 3) what the correspondence map shows of each vertex.
      head_vertices: (n,) those that the head branch's field follows: all but eyeballs and mouth cavity.
      front: (f, 3) triangles of the face without its eyeballs.
      eyeballs: (f, 3) triangles of both eyeballs.
      outside: (f, 3) triangles of all but the inside of the mouth.
      backdrop: (f, 3) what is behind the open mouth: its cavity; for a head without one, the decimated mesh,
        whose vertices are counted after the full mesh's.
    """

    canonical: Array
    colors: Array
    head_vertices: Array
    front: Array
    eyeballs: Array
    outside: Array
    backdrop: Array


@struct.dataclass
class PosedParts:
    """The head of one frame.

    Attributes:
      full: (V, 3) the mesh as it is seen.
      decimated: (v, 3) the decimated mesh as it is seen.
      straight: (V, 3) the mesh with the neck straight.
      without_expression: (V, 3) the same without expression and gaze.
      neck: D_neck of this pose; None where the neck is straight, and nothing is to do.
    """

    full: Array
    decimated: Array
    straight: Array
    without_expression: Array
    neck: NeckField | None


@struct.dataclass
class PartMasks:
    """Where one view shows the parts.

    Attributes:
      eye: (R, R) in [0, 1], eyeballs that the face does not cover.
      mouth: (R, R) in [0, 1], the inside of the mouth.
    """

    eye: Array
    mouth: Array


def build_head_parts(head: HeadModel) -> HeadParts:
    """Sorts vertices and triangles, once a head model.

    FLAME's region `face` is the front of the head and its mouth has no cavity. OpenHead calls the front
    `front` (its `face` holds the eye sockets, which would hide every eyeball) and has an `inner_mouth`.
    """
    regions = {name: np.asarray(index) for name, index in head.regions.items()}
    faces, count = np.asarray(head.faces), len(head.template)
    eyeballs = np.concatenate([regions["left_eyeball"], regions["right_eyeball"]])
    cavity = regions.get("inner_mouth", np.zeros(0, np.int64))
    within = lambda index: faces[np.isin(faces, index).all(1)]
    backdrop = (
        faces[np.isin(faces, cavity).any(1)] if cavity.size else np.asarray(head.decimated_faces) + count
    )
    canonical = canonical_vertices(head)
    colors = canonical / CORRESPONDENCE_SCALE
    integer = lambda array: jnp.asarray(array, jnp.int32)
    return HeadParts(
        canonical=canonical,
        colors=colors.at[eyeballs, 2].add(-EYE_SHIFT),
        head_vertices=integer(np.setdiff1d(np.arange(count), np.concatenate([eyeballs, cavity]))),
        front=integer(within(regions.get("front", regions["face"]))),
        eyeballs=integer(within(eyeballs)),
        outside=integer(within(regions["without_inner_mouth"])),
        backdrop=integer(backdrop),
    )


def pose_parts(head: HeadModel, shape: Array, params: FrameParams, box_warp: float = BOX_WARP) -> PosedParts:
    """The head of identity `shape` with one frame's expression, pose and gaze."""
    bent, level = params.pose, params.pose.at[:3].set(0)
    full = head_vertices(head, shape, params.expression, bent, params.eyes)
    straight = head_vertices(head, shape, params.expression, level, params.eyes)
    at_rest = head_vertices(
        head, shape, jnp.zeros_like(params.expression), level, jnp.zeros_like(params.eyes)
    )
    decimated = [
        decimate(mesh, head.decimated_triangles, head.decimated_barycentric) for mesh in (full, straight)
    ]
    neck = build_neck_field(*decimated, head.decimated_faces, box_warp)
    return lax.stop_gradient(PosedParts(full, decimated[0], straight, at_rest, neck))


def pose_straight_parts(head: HeadModel, shape: Array, params: FrameParams) -> PosedParts:
    """`pose_parts` with the neck straight, whatever the frame says: the camera carries the head's rotation.

    How GenHead is trained (docs/concepts/genhead.md); without D_neck a pose costs a hundredth.
    """
    level = params.pose.at[:3].set(0)
    straight = head_vertices(head, shape, params.expression, level, params.eyes)
    at_rest = head_vertices(
        head, shape, jnp.zeros_like(params.expression), level, jnp.zeros_like(params.eyes)
    )
    decimated = decimate(straight, head.decimated_triangles, head.decimated_barycentric)
    return lax.stop_gradient(PosedParts(straight, decimated, straight, at_rest, None))


def canonical_points(head: HeadModel, parts: HeadParts, posed: PosedParts, points: Array) -> PartField:
    """Observed points (P, 3) -> their canonical points in each part: D_neck, then the part-wise field."""
    regions = {
        "face": parts.head_vertices,
        "left_eyeball": head.regions["left_eyeball"],
        "right_eyeball": head.regions["right_eyeball"],
        "lips": head.regions["lips"],
    }
    straight = points if posed.neck is None else apply_neck_field(posed.neck, points)
    return part_field(
        straight, parts.canonical, posed.straight, posed.without_expression, head.neighbours, regions
    )


# What a camera sees ---------------------------------------------------------------------------------------


def rasterize_part_masks(parts: HeadParts, posed: PosedParts, camera: Camera, size: int) -> PartMasks:
    """The masks at image size (S, S), each pixel 0 or 1."""

    def seen(vertices: Array, triangles: Array, cull_back_faces: bool = True) -> Array:
        return rasterize(vertices, triangles, camera, size, cull_back_faces).mask.astype(jnp.float32)

    eye = seen(posed.full, parts.eyeballs) * (1 - seen(posed.full, parts.front))
    both = jnp.concatenate([posed.full, posed.decimated])
    mouth = seen(both, parts.backdrop, False) * (1 - seen(posed.full, parts.outside))
    return PartMasks(eye, mouth)


def resize_masks(masks: PartMasks, resolution: int) -> PartMasks:
    """The masks of (S, S) at R rays a side."""
    return jax.tree.map(lambda mask: resize_antialiased(mask[..., None], resolution)[..., 0], masks)


def soften_masks(masks: PartMasks) -> PartMasks:
    """The masks of (S, S) for as many rays as pixels: blurred, the mouth's without specks.

    The mouth's also holds what a head rendered at `TRAINED_RESOLUTION` had for mouth.
    """
    window, strides = (OPENING, OPENING), (1, 1)
    mouth = lax.reduce_window(masks.mouth, jnp.inf, lax.min, window, strides, "SAME")
    mouth = lax.reduce_window(mouth, -jnp.inf, lax.max, window, strides, "SAME")
    coarse = resize_masks(resize_masks(masks, TRAINED_RESOLUTION), masks.mouth.shape[0])
    blur = lambda mask, sigma: blur2d(mask[..., None], sigma)[..., 0]
    return PartMasks(
        eye=blur(masks.eye, EYE_BLUR), mouth=jnp.minimum(blur(mouth, MOUTH_BLUR) + coarse.mouth, 1)
    )


def correspondence_map(parts: HeadParts, posed: PosedParts, camera: Camera, size: int) -> Array:
    """(S, S, 3) canonical coordinates of the face and eyeballs that each pixel sees, 0 where it sees neither.

    Coordinates are divided by `CORRESPONDENCE_SCALE`, and the eyeballs' z lowered by `EYE_SHIFT`.
    """
    triangles = jnp.concatenate([parts.front, parts.eyeballs])
    raster = rasterize(posed.full, triangles, camera, size)
    return interpolate(raster, parts.colors)


# Fusion ---------------------------------------------------------------------------------------------------


@struct.dataclass
class PointMasks:
    """What fusion knows of P points.

    Attributes:
      eye, mouth: (P, 1) masks of each point's ray.
      in_eye_box: (P, 1) 1 inside the boxes around the eyeballs, else 0.
    """

    eye: Array
    mouth: Array
    in_eye_box: Array

    @property
    def share(self) -> Array:
        """(P, 1) share of the branch T_p: eyes in their boxes, and the mouth."""
        return self.eye * self.in_eye_box + self.mouth


def gate_part_density(density: Array, at: PointMasks) -> Array:
    """T_p's raw densities (P, 1), which count only inside the eye boxes and the mouth mask."""
    return density * (at.in_eye_box + at.mouth)


def fuse_by_masks(parts: Branch, head: Branch, at: PointMasks) -> Branch:
    """Raw densities and features of T_p, gated, and T_h, mixed by T_p's share: for R up to 64."""
    mix = lambda part, rest: at.share * part + (1 - at.share) * rest
    return mix(parts[0], head[0]), mix(parts[1], head[1])


def fuse_by_density(parts: Branch, head: Branch, at: PointMasks) -> Branch:
    """For R above 64: inside the mouth mask raw densities add and features mix by the densities' softmax."""
    density, features = fuse_by_masks(parts, head, at)
    weight = jax.nn.sigmoid(parts[0] - head[0])  # the softmax of two
    inside = at.mouth > 0
    return (
        jnp.where(inside, parts[0] + head[0], density),
        jnp.where(inside, weight * parts[1] + (1 - weight) * head[1], features),
    )
