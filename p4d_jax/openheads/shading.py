"""A posed OpenHead with hair and clothes as a lit surface, and the picture of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from p4d_jax.geometry import axis_angle_to_matrix, exact_products, vertex_normals
from p4d_jax.head.actions import Motion
from p4d_jax.head.mouth import tooth_pattern
from p4d_jax.head.skinning import head_joints, head_vertices
from p4d_jax.openheads import bust, hair
from p4d_jax.openheads.appearance import (
    CLOTH,
    EYE,
    HAIR,
    MOUTH,
    TEETH,
    Appearance,
    cloth_albedo,
    cloth_edge,
    eye_albedo,
    hair_albedo,
    sample_noise,
    sample_paint,
    skin_albedo,
    skin_tone,
)
from p4d_jax.openheads.light import (
    cosine_transfer,
    highlights,
    irradiance,
)
from p4d_jax.openheads.people import Identity
from p4d_jax.openheads.scene import OpenHeadsScene
from p4d_jax.render.raster import interpolate, rasterize
from p4d_jax.render.rays import generate_rays
from p4d_jax.types import Array, Camera

# ------------------------------------------------------------------------------------------- geometry


@struct.dataclass
class Surface:
    """Posed render mesh with everything that is interpolated over it; N vertices.

    Attributes:
      vertices: (N, 3) world. coordinates: (N, 3) where noise and maps are read. normals: (N, 3).
      light: (N, 3) irradiance. extra: (N, 5) occlusion, beard, azimuth, elevation, way below the neck's rim.
    """

    vertices: Array
    coordinates: Array
    normals: Array
    light: Array
    extra: Array


@exact_products
def build_surface(scene: OpenHeadsScene, identity: Identity, motion: Motion) -> Surface:
    """Poses head, hair and bust of one frame and lights them."""
    look = identity.appearance
    head = head_vertices(scene.head, identity.shape, motion.expression, motion.pose, motion.eyes)
    joint = head_joints(scene.head, identity.shape, motion.expression, motion.pose, motion.eyes)[1]
    turn = axis_angle_to_matrix(motion.pose[:3])
    upright = (head - joint) @ turn + joint
    center = scene.center_weights @ upright + scene.center_offset

    def noise(points):
        return sample_noise(points)[..., 0] * 0.7

    bound = jnp.einsum("nk,nka->na", scene.hair_weight, upright[scene.hair_index])
    shell, strands = hair.grow_hair(look.hair, bound, center, noise)
    height = jnp.clip((shell[:, 1:2] - joint[1]) / 0.3 + 1.0, 0.0, 1.0)  # the ends lie on the shoulders
    shell = shell + height * ((shell - joint) @ turn.T + joint - shell)
    neck = jnp.einsum("nk,nka->na", scene.neck_weight, head[scene.neck_index])
    torso, cloth = bust.build_bust(neck, identity.build)
    head_count, hair_count = len(head), len(shell)
    normals = vertex_normals(jnp.concatenate([head, shell, torso]), scene.faces)
    grown = look.beard * scene.beard * (1.0 + 0.15 * noise(scene.rest * 40.0 + look.seed))
    azimuth = bust.rim_azimuth(scene.rest, scene.neck_middle)
    grown += 0.012 * jnp.clip(cloth_edge(look, azimuth, scene.way) / 0.01, 0.0, 1.0)
    vertices = jnp.concatenate([head + normals[:head_count] * grown[:, None], shell, torso])
    light, occlusion = _light_vertices(scene, identity, normals, head_count, hair_count)
    pad = jnp.zeros(len(vertices) - head_count)
    extra = jnp.stack(
        [
            occlusion,
            jnp.concatenate([scene.beard, pad]),
            jnp.concatenate([scene.angles[:, 0], pad]),
            jnp.concatenate([scene.angles[:, 1], pad]),
            jnp.concatenate([scene.way, jnp.zeros(hair_count), cloth[:, 1]]),
        ],
        -1,
    )
    return Surface(vertices, jnp.concatenate([scene.coordinates, strands, cloth]), normals, light, extra)


@exact_products
def _light_vertices(scene: OpenHeadsScene, identity: Identity, normals: Array, heads: int, hairs: int):
    """Irradiance (N, 3) and occlusion (N,) of head, hair and bust vertices."""
    look, light = identity.appearance, identity.surroundings.light
    lobes = cosine_transfer(normals)
    moved = scene.occlusion[:, None] * (lobes[:heads] - scene.normals_transfer)
    reach = scene.angles[:, 1] - hair.hairline(look.hair, scene.angles[:, 0])
    cover = jnp.clip(
        hair.thickness(look.hair, scene.angles[:, 0], scene.angles[:, 1] + 0.12) * 25.0, 0.0, 1.0
    )
    shade = 1.0 - 0.45 * cover * jnp.clip(reach / 0.3 + 1.2, 0.0, 1.0)
    sky = scene.occlusion * shade
    skin = irradiance(scene.transfer + moved[:, None], light) * shade[:, None]
    bounce = skin_tone(look.melanin, look.haemoglobin + 0.4, look.carotene)
    skin += ((1.0 - sky) * 0.28)[:, None] * bounce * light.ambient
    rest = irradiance(jnp.broadcast_to(lobes[heads:, None], (len(lobes) - heads, 3, 9)), light)
    hair_light, bust_light = 0.85 * rest[:hairs], rest[hairs:].reshape(bust.ROWS, bust.AZIMUTHS, 3)
    # The bust takes the neck's light where they meet, so that the seam does not show.
    neck = jnp.einsum("nk,nka->na", scene.neck_weight, skin[scene.neck_index])
    away = jnp.clip(jnp.asarray(bust.SHARES, jnp.float32) / 0.4, 0.0, 1.0)[:, None, None]
    bust_light = (neck + (bust_light - neck) * away).reshape(-1, 3)
    occlusion = jnp.concatenate([sky, jnp.full(hairs, 0.85), jnp.full(len(bust_light), 0.6)])
    return jnp.concatenate([skin, hair_light, bust_light]), occlusion


# -------------------------------------------------------------------------------------------- shading


def shade(scene: OpenHeadsScene, identity: Identity, surface: Surface, camera: Camera, size: int):
    """Linear colour (size, size, 3), mask, face mask (size, size) and depth of one frame."""
    look, light = identity.appearance, identity.surroundings.light
    raster = rasterize(surface.vertices, scene.faces, camera, size, False)
    packed = jnp.concatenate([surface.coordinates, surface.normals, surface.light, surface.extra], -1)
    value = interpolate(raster, packed)
    coordinates, normals, lit, extra = jnp.split(value, (3, 6, 9), axis=-1)
    material = jnp.where(raster.mask, scene.materials[jnp.maximum(raster.face_index, 0)], -1)
    _, rays = generate_rays(camera, size)
    view = -rays.reshape(size, size, 3)
    normals = normals * jax.lax.rsqrt(jnp.sum(normals**2, -1, keepdims=True) + 1e-8)
    inner = jnp.sum(normals * view, -1) < -0.15  # the inside of a hair curtain or collar
    normals = jnp.where(inner[..., None], -normals, normals)
    albedo, gloss, shininess, normals, dim = _materials(scene, look, material, coordinates, extra, normals)
    dim = dim * jnp.where(inner & (material == HAIR), 0.3, 1.0)
    facing = jnp.clip(jnp.sum(normals * view, -1), 0.0, 1.0)
    fresnel = (1.0 - facing) ** 4
    shine = (
        highlights(normals, view, light, shininess)
        * (gloss * (1.0 + 6.0 * fresnel * (material != HAIR)) * extra[..., 0] ** 2)[..., None]
    )
    shine += light.ambient * (0.6 * gloss * fresnel * extra[..., 0])[..., None]
    color = (albedo * lit + shine) * dim[..., None]
    face = raster.mask & (material != HAIR) & (material != CLOTH)
    return jnp.where(raster.mask[..., None], color, 0.0), raster.mask, face, raster.depth


def _materials(scene: OpenHeadsScene, look: Appearance, material, coordinates, extra, normals):
    """Albedo, highlight strength, shininess, normals and dimming a pixel."""
    is_hair, is_eye, is_cloth = material == HAIR, material == EYE, material == CLOTH
    scales = jnp.array([[7.0, 7.0, 7.0], [30.0, 30.0, 30.0], [95.0, 95.0, 95.0]])
    strands = jnp.array([[7.0, 7.0, 3.0], [28.0, 28.0, 4.0], [80.0, 80.0, 7.0]])
    scale = jnp.where(is_hair[None, ..., None], strands[:, None, None], scales[:, None, None])
    octave = 7.0 * jnp.arange(3.0)[:, None, None, None]
    noise = sample_noise(coordinates * scale + look.seed + octave)
    front = (extra[..., 0] > 0) & (coordinates[..., 2] > 0.02)
    paint = sample_paint(scene.paint, scene.bounds, coordinates)
    far = jnp.array([-1.0, 1.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    paint = jnp.where(front[..., None], paint, far)
    skin = skin_albedo(look, coordinates, extra[..., 2:4], extra[..., 1], paint, noise)
    edge = cloth_edge(look, bust.rim_azimuth(coordinates, scene.neck_middle), extra[..., 4])
    cloth = cloth_albedo(look, coordinates.at[..., 1].set(extra[..., 4]), edge, noise)
    chest = skin_tone(
        look.melanin + 0.02 * noise[0][..., 0], look.haemoglobin + 0.03 * noise[0][..., 1], look.carotene
    )
    clothed = jnp.clip(edge / 0.006 + 0.5, 0.0, 1.0)[..., None]
    cloth, skin = chest + (cloth - chest) * clothed, skin + (cloth - skin) * clothed
    local = coordinates * jax.lax.rsqrt(jnp.sum(coordinates**2, -1, keepdims=True) + 1e-8)
    eye, _ = eye_albedo(look, local, noise[1])
    strand = hair_albedo(look, coordinates[..., 2], noise)
    gum = skin_tone(jnp.float32(0.3), jnp.float32(1.2), jnp.float32(0.2)) * 0.55
    crown, shade = tooth_pattern(coordinates)
    teeth = gum + (look.teeth * shade[..., None] - gum) * crown[..., None]
    albedo = skin
    for kind, color in ((EYE, eye), (TEETH, teeth), (MOUTH, gum), (HAIR, strand), (CLOTH, cloth)):
        albedo = jnp.where((material == kind)[..., None], color, albedo)
    wet = jnp.exp(-(((paint[..., 0] - 0.012) / 0.012) ** 2))
    oily = look.oil * (0.010 + 0.006 * paint[..., 4] + 0.010 * wet) * (1.0 + 0.25 * noise[1][..., 3])
    oily = oily * (1.0 - 0.7 * jnp.clip(extra[..., 1] * (look.stubble + 20 * look.beard), 0, 1))
    gloss = jnp.where(
        is_eye, 0.035, jnp.where(is_hair, look.hair.shine * 0.12, jnp.where(is_cloth, 0.004, oily))
    )
    gloss = jnp.where((material == TEETH) | (material == MOUTH), 0.015, gloss)
    shininess = jnp.where(is_eye, 260.0, jnp.where(is_hair, 14.0, look.shininess))
    rough = 0.22 * noise[1][..., 1:] + 0.16 * noise[2][..., 1:]
    normals = normals + jnp.where(is_hair[..., None], rough, 0.0)
    normals = normals * jax.lax.rsqrt(jnp.sum(normals**2, -1, keepdims=True) + 1e-8)
    inside = (material == MOUTH) | (material == TEETH)
    dim = jnp.where(inside, 0.25 + 0.75 * jnp.sqrt(extra[..., 0]), 1.0)
    return albedo, jnp.maximum(gloss, 0.0), shininess, normals, dim
