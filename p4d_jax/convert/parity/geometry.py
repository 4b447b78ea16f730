"""Cases of geometry, rendering and the head model: functions without weights, given their inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax import geometry
from p4d_jax.convert.parity.fixtures import Case
from p4d_jax.errors import UserError
from p4d_jax.geometry.similarity import ARCFACE_SIZE
from p4d_jax.head import deformation
from p4d_jax.head.model import PARENTS, HeadModel
from p4d_jax.head.skinning import skin
from p4d_jax.imaging import affine
from p4d_jax.render import volume as rendering
from p4d_jax.render.raster import interpolate, rasterize
from p4d_jax.render.rays import generate_rays, pixel_centres
from p4d_jax.render.triplane import sample_planes
from p4d_jax.types import Array, Camera

Outputs = dict[str, np.ndarray]
RAY_RESOLUTION = 16
RASTER_RESOLUTION = 64
IMAGE_SIZE = 512
FIRST_EYE_VERTEX = 542  # of part_deformation's mesh: left eye, then right eye, to its end


def _arrays(case: Case) -> dict[str, Array]:
    """The case's inputs: indices int32, all else float32."""
    return {
        key: jnp.asarray(value, jnp.int32 if np.issubdtype(value.dtype, np.integer) else jnp.float32)
        for key, value in case.inputs.items()
    }


def lbs(case: Case) -> Outputs:
    """FLAME's linear blend skinning of a head given by its bases alone."""
    x = _arrays(case)
    if tuple(case.inputs["parents"]) != tuple(PARENTS):
        raise UserError(f"case 'lbs': parents {case.inputs['parents']}, where a head has {PARENTS}")
    vertices, coefficients = x["shapedirs"].shape[0], x["shapedirs"].shape[-1]
    identity = coefficients // 2  # the reference has one basis: any split will do
    empty = dict.fromkeys(field.name for field in dataclasses.fields(HeadModel))
    head = HeadModel(
        **empty
        | {
            "template": x["v_template"],
            "shape_basis": x["shapedirs"][..., :identity],
            "expression_basis": x["shapedirs"][..., identity:],
            "pose_basis": x["posedirs"].T.reshape(vertices, 3, -1),
            "joint_regressor": x["j_regressor"],
            "skinning_weights": x["weights"],
        }
    )

    def posed(betas: Array, pose: Array) -> tuple[Array, Array]:
        return skin(head, betas[:identity], betas[identity:], pose.reshape(-1, 3))

    skinned, joints = jax.jit(jax.vmap(posed))(x["betas"], x["pose"])
    return {"vertices": skinned, "joints": joints}


def rays(case: Case) -> Outputs:
    """Look-at cameras and their rays.

    The reference counts yaw from the x axis and pitch from the pole, and measures its field of view of 12
    degrees along the diagonal, with 1.414 for the root of two.
    """
    x = {key: value[:, 0] for key, value in _arrays(case).items()}
    diagonal = np.degrees(2 * np.arctan(1.414 / 2 * np.tan(np.radians(6))))
    camera = geometry.look_at_camera(
        x["yaw"] - np.pi / 2, np.pi / 2 - x["pitch"], x["radius"], x["roll"], (0.0, 0.0, 0.2), diagonal
    )
    origins, directions = jax.jit(jax.vmap(lambda one: generate_rays(one, RAY_RESOLUTION)))(camera)
    return {
        "cam2world": camera.cam2world,
        "intrinsics": camera.intrinsics,
        "origins": origins,
        "directions": directions,
    }


def volume(case: Case) -> Outputs:
    """Ray marching, importance sampling of the reference's weights, reading of tri-planes."""
    x = _arrays(case)
    march = jax.jit(jax.vmap(jax.vmap(rendering.march_rays)))(
        x["densities"][..., 0], x["colors"], x["depths"][..., 0]
    )
    rows = len(x["u"])
    weights = jnp.asarray(case.outputs["weights"]).reshape(rows, -1)
    fine = jax.jit(jax.vmap(rendering.importance_depths))(x["depths"].reshape(rows, -1), weights, x["u"])
    planes = x["planes"].transpose(0, 1, 3, 4, 2)
    return {
        "rgb": march.features,
        "depth": march.depth[..., None],
        "weights": march.weights[..., None],
        "background": march.transmittance[..., None],
        "fine_depths": fine.reshape(*x["depths"].shape[:2], -1, 1),
        "plane_features": jax.jit(jax.vmap(sample_planes))(planes, x["points"]),
    }


def rasterizer(case: Case) -> Outputs:
    """Masks, depths along the axis and interpolated features, with and without back faces.

    The reference's camera looks along +z: negating z makes it ours. Its depth is that along the axis.
    """
    x = _arrays(case)
    vertices = x["vertices"] * jnp.array([1.0, 1.0, -1.0])
    camera = Camera(jnp.eye(4), geometry.intrinsics_from_fov())
    from_centre = (pixel_centres(RASTER_RESOLUTION) - 0.5) / camera.intrinsics[0, 0]
    ray_length = jnp.sqrt(1 + jnp.sum(from_centre**2, -1)).reshape(RASTER_RESOLUTION, RASTER_RESOLUTION)
    outputs = {}
    for name, cull in (("cull", True), ("all", False)):
        raster = rasterize(vertices, x["faces"], camera, RASTER_RESOLUTION, cull)
        features = interpolate(raster, x["features"])
        outputs[f"mask_{name}"] = raster.mask[None, None].astype(jnp.float32)
        outputs[f"depth_{name}"] = (raster.depth / ray_length)[None, None]
        outputs[f"feature_{name}"] = features.transpose(2, 0, 1)[None]
    return outputs


def reference_mesh(vertices: Array) -> Array:
    """A mesh (V, 3) with the last bits that it has in the reference's D_neck.

    The cases give D_neck a mesh that stands for its own decimation: each vertex is the mean of one vertex of
    the full mesh, counted three times. Three thirds round, and which of two equally near triangles counts
    depends on the last bit (see `head.deformation`).
    """
    same = jnp.repeat(jnp.arange(len(vertices))[:, None], 3, axis=1)
    return deformation.decimate(vertices, same, jnp.full(same.shape, 1 / 3, jnp.float32))


def neck_deformation(case: Case) -> Outputs:
    """D_neck at points, and the surface field itself."""
    x = _arrays(case)
    posed, unposed = reference_mesh(x["posed"]), reference_mesh(x["unposed"])
    surface = jax.jit(deformation.surface_field)(x["points"][0], posed, unposed, x["faces"])
    neck = jax.jit(deformation.build_neck_field)(posed, unposed, x["faces"])
    return {
        "canonical": jax.jit(deformation.apply_neck_field)(neck, x["points"][0])[None],
        "surface_offset": surface.offset[None],
        "surface_sqdist": surface.squared_distance[None],
    }


def part_deformation(case: Case) -> Outputs:
    """The part-wise field. The reference keeps the root of the distances."""
    x = _arrays(case)
    vertices = len(x["canonical"])
    middle = FIRST_EYE_VERTEX + (vertices - FIRST_EYE_VERTEX) // 2
    regions = {
        "face": jnp.arange(FIRST_EYE_VERTEX),
        "left_eyeball": jnp.arange(FIRST_EYE_VERTEX, middle),
        "right_eyeball": jnp.arange(middle, vertices),
        "lips": x["lips"],
    }
    found = jax.jit(deformation.part_field)(
        x["points"][0], x["canonical"], x["full"], x["noexp"], x["neighbours"], regions
    )
    return {
        "head": found.head[None],
        "eye": found.eyes[None],
        "mouth": found.mouth[None],
        "dist_head": jnp.sqrt(found.head_distance)[None],
        "dist_eye": jnp.sqrt(found.eyes_distance)[None],
        "dist_mouth": jnp.sqrt(found.mouth_distance)[None],
        "inside_eye_box": found.in_eye_box[None].astype(jnp.float32),
    }


def alignment(case: Case) -> Outputs:
    """Similarities from landmarks, whose y is up, and the warp by the reference's own ArcFace transform.

    The image is white noise: through a transform with other last bits, as ours has, the warp would measure
    those.
    """
    landmarks = _arrays(case)["landmarks"] * jnp.array([1, -1]) + jnp.array([0, IMAGE_SIZE - 1])
    images = case.image("image", (len(landmarks), 3, IMAGE_SIZE, IMAGE_SIZE)).transpose(0, 2, 3, 1)
    warp = jax.jit(jax.vmap(lambda i, m: affine.warp_affine(i, m, ARCFACE_SIZE)))
    return {
        "arcface": jax.jit(jax.vmap(geometry.arcface_transform))(landmarks),
        "motion": jax.jit(jax.vmap(geometry.motion_transform))(landmarks),
        "warp": warp(images, case.outputs["arcface"]).transpose(0, 3, 1, 2),
    }


# Case name -> our outputs by name, in the reference's layouts.
CASES: dict[str, Callable[[Case], Outputs]] = {
    "lbs": lbs,
    "rays": rays,
    "volume": volume,
    "rasterizer": rasterizer,
    "neck_deformation": neck_deformation,
    "part_deformation": part_deformation,
    "alignment": alignment,
}
