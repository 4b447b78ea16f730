"""OpenHeads: endless synthetic portraits of a parametric head, rendered on the device.

An identity is a shape, an appearance (openheads_appearance), a haircut (openheads_hair), a bust
(openheads_bust); a scene is light (openheads_light), background and sensor. `make_clip` draws all of them
from one key; `render_openheads` shows one identity from any camera in any expression: the truth for novel
views. Shading is deferred: light and geometry a vertex, colour and noise a pixel. Domain randomisation
follows Wood et al., "Fake It Till You Make It" (ICCV 2021). Colours are linear until the sensor.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from p4d_jax.data import openheads_bust as bust
from p4d_jax.data import openheads_hair as hair
from p4d_jax.data.dice import Dice
from p4d_jax.data.motion import Motion, random_motion
from p4d_jax.data.openheads_appearance import (
    CLOTH,
    EYE,
    HAIR,
    MOUTH,
    SKIN,
    TEETH,
    Appearance,
    cloth_albedo,
    cloth_edge,
    eye_albedo,
    hair_albedo,
    paint_maps,
    random_appearance,
    sample_noise,
    sample_paint,
    skin_albedo,
    skin_tone,
)
from p4d_jax.data.openheads_light import (
    Light,
    bake_transfer,
    cosine_transfer,
    highlights,
    irradiance,
    random_light,
)
from p4d_jax.data.samples import HeadClip, Portrait
from p4d_jax.geometry import axis_angle_to_matrix, exact_products, look_at_camera
from p4d_jax.head.landmarks import landmarks70
from p4d_jax.head.model import HeadModel
from p4d_jax.head.skinning import head_joints, head_vertices
from p4d_jax.render.raster import interpolate, rasterize
from p4d_jax.render.rays import generate_rays
from p4d_jax.types import SHAPE_SIZE, Array, Camera, FrameParams

MOUTH_LIGHT = {"inner_mouth": 0.25, "tongue": 0.5, "teeth": 0.8}  # share of the light outside, at the lips
MOUTH_RIM = 0.05  # world units behind the lips that get all of it
MOUTH_REACH = 0.06  # world units in which it falls to a third


@dataclasses.dataclass(frozen=True)
class OpenHeadsSettings:
    """What is drawn, and how widely. Hashable: a static argument of the jitted functions.

    Attributes:
      supersample: samples a pixel and axis; 1 is fastest, 2 for smooth edges.
      shape_scale: standard deviation of the shape coefficients; they are cut at two deviations.
      yaw, pitch, roll: the head's rotation, radians: standard deviation and largest value of a cut normal.
      radius: smallest and largest distance of the camera.
      pivot: largest offset of the point the camera looks at, around (0, 0, 0.09), each axis.
      noise: largest standard deviation of the sensor's noise, of the full range.
      blur: largest standard deviation of the lens blur, pixels.
      domain_shift: 0 draws the training distribution; above, light and tone wander off by this share.
      yaw_balance: probability that a frame's yaw is drawn evenly from its whole range, largest value to
        largest value, in the place of the cut normal: profiles come as often as fronts. Ours.
      closed_eyes: probability that a frame's eyes are both shut, beside those that the motion shuts. Ours.
      sharp_backgrounds: probability of a background in focus: edges, stripes, people-coloured shapes. Ours.
    """

    supersample: int = 1
    shape_scale: float = 0.9
    yaw: tuple[float, float] = (0.36, 0.8)
    pitch: tuple[float, float] = (0.20, 0.42)
    roll: tuple[float, float] = (0.10, 0.25)
    radius: tuple[float, float] = (3.65, 4.45)
    pivot: float = 0.03
    noise: float = 0.02
    blur: float = 0.7
    domain_shift: float = 0.0
    yaw_balance: float = 0.0
    closed_eyes: float = 0.0
    sharp_backgrounds: float = 0.0

    def __post_init__(self):
        for name in ("yaw_balance", "closed_eyes", "sharp_backgrounds"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}: expected a probability in [0, 1], got {getattr(self, name)}")


@struct.dataclass
class Stage:
    """What all identities on one head model share, computed once by `prepare_stage`.

    Attributes:
      head: the model.
      faces: (F, 3) rendered triangles: head, then hair shell, then bust. materials: (F,).
      rest: (V, 3) rest vertices, world units; eyeballs: unit vectors in the eye's frame.
      normals_transfer: (V, 9) unshadowed transfer of the rest mesh. transfer: (V, 3, 9) with shadows.
      occlusion: (V,) share of the sky each rest vertex sees.
      angles: (V, 2) azimuth and elevation about the skull's centre. beard: (V,) where a beard grows.
      paint, bounds: front maps, see `sample_paint`.
      center_weights: (V,) mean of these vertices is the skull's centre, shifted by center_offset (3,).
      hair_index, hair_weight: bound shell. neck_index, neck_weight: bound bust.
      neck_middle: (3,) of the rim. way: (V,) minus the distance to the rim.
    """

    head: HeadModel
    faces: Array
    materials: Array
    rest: Array
    coordinates: Array
    normals_transfer: Array
    transfer: Array
    occlusion: Array
    angles: Array
    beard: Array
    paint: Array
    bounds: Array
    center_weights: Array
    center_offset: Array
    hair_index: Array
    hair_weight: Array
    neck_index: Array
    neck_weight: Array
    neck_middle: Array
    way: Array


@struct.dataclass
class Scene:
    """Light, background and camera electronics of one clip.

    Attributes:
      light: in the head's world.
      background_key: draws the picture behind.
      exposure: scalar; white_balance: (3,); contrast: scalar exponent; noise, blur: of the sensor.
    """

    light: Light
    background_key: Array
    exposure: Array
    white_balance: Array
    contrast: Array
    noise: Array
    blur: Array


@struct.dataclass
class Identity:
    """One person in one place: shape (300,), appearance, bust build (4,), scene."""

    shape: Array
    appearance: Appearance
    build: Array
    scene: Scene


@struct.dataclass
class Portraits:
    """Renderings of an identity, leading axis frames; fields as in `HeadClip`."""

    image: Array
    mask: Array
    face_mask: Array
    depth: Array
    background: Array


# ------------------------------------------------------------------------------------------- the stage


def vertex_normals(vertices: Array, faces: Array) -> Array:
    """Area-weighted unit normals, (V, 3)."""
    corners = vertices[faces]
    normal = jnp.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = jnp.zeros_like(vertices)
    for corner in range(3):
        total = total.at[faces[:, corner]].add(normal)
    return total * jax.lax.rsqrt(jnp.sum(total**2, -1, keepdims=True) + 1e-20)


@functools.cache
def _stages() -> dict[int, Stage]:
    return {}


def prepare_stage(head: HeadModel) -> Stage:
    """The stage of a head model; computed once a process and model (a few seconds), then remembered."""
    known = _stages().get(id(head.template))
    if known is None:
        with jax.ensure_compile_time_eval():
            known = _stages()[id(head.template)] = _build_stage(head)
    return known


def _build_stage(head: HeadModel) -> Stage:
    faces, materials = _head_faces(head)
    skin_faces = faces[materials == SKIN]
    rest, normals, marks = (np.asarray(value) for value in _rest_mesh(head, jnp.asarray(faces)))
    center, center_weights, center_offset = _skull_center(head, rest, skin_faces)
    ears = _members(head, "ears") | _members(head, "left_ear") | _members(head, "right_ear")
    bare = skin_faces[~ears[skin_faces].any(1)]
    hair_index, hair_weight = hair.bind_shell(rest, bare, center)
    neck_index, neck_weight, middle = bust.bind_bust(rest, np.asarray(head.faces))
    rim = np.einsum("nk,nka->na", neck_weight, rest[neck_index])
    bounds = np.array([-0.32, marks[8, 1] - 0.08, 0.32, marks[19, 1] + 0.2], np.float32)
    transfer = _diffuse_transfer(bake_transfer(rest, normals, faces), skin_faces)
    transfer = _open_mouth_transfer(head, rest, transfer, cosine_transfer(normals))
    offset = rest - center
    angles = np.stack(
        [
            np.arctan2(offset[:, 0], offset[:, 2]),
            np.arctan2(offset[:, 1], np.hypot(offset[:, 0], offset[:, 2])),
        ],
        -1,
    )
    parts = [(faces, materials)]
    start = len(rest)
    for grid, material in ((hair.shell_faces(), HAIR), (bust.bust_faces(), CLOTH)):
        parts.append((grid + start, np.full(len(grid), material, np.int32)))
        start += grid.max() + 1
    arrays = dict(
        faces=np.concatenate([part[0] for part in parts]).astype(np.int32),
        materials=np.concatenate([part[1] for part in parts]).astype(np.int32),
        rest=rest,
        coordinates=_coordinates(head, rest),
        normals_transfer=cosine_transfer(normals),
        transfer=transfer,
        occlusion=np.clip(transfer[:, 1, 0] / 0.282095, 0.0, 1.0),
        angles=angles,
        beard=_beard_map(rest, marks, center),
        paint=paint_maps(marks, bounds),
        bounds=bounds,
        center_weights=center_weights,
        center_offset=center_offset,
        hair_index=hair_index,
        hair_weight=hair_weight,
        neck_index=neck_index,
        neck_middle=middle,
        way=bust.way_to_rim(rest, rim, middle),
        neck_weight=neck_weight,
    )
    return Stage(
        head=head,
        **{
            name: jnp.asarray(value, jnp.int32 if np.asarray(value).dtype.kind == "i" else jnp.float32)
            for name, value in arrays.items()
        },
    )


@jax.jit
def _rest_mesh(head: HeadModel, faces: Array) -> tuple[Array, Array, Array]:
    """Vertices (V, 3) and normals (V, 3) of the mean head at rest, its 68 landmarks (68, 3)."""
    zeros = jnp.zeros(SHAPE_SIZE)
    rest = head_vertices(head, zeros, zeros, jnp.zeros(6), jnp.zeros(6))
    return rest, vertex_normals(rest, faces), landmarks70(head, rest, 0.0)[:68]


def _members(head: HeadModel, region: str) -> np.ndarray:
    """(V,) bool, all False where the head has no such region."""
    member = np.zeros(head.template.shape[0], bool)
    if region in head.regions:
        member[np.asarray(head.regions[region])] = True
    return member


def _head_faces(head: HeadModel) -> tuple[np.ndarray, np.ndarray]:
    """Rendered triangles of the head, lashes left out, and their materials."""
    faces = np.asarray(head.faces)
    eyes = _members(head, "left_eyeball") | _members(head, "right_eyeball")
    teeth = _members(head, "teeth")
    inside = ~_members(head, "without_inner_mouth") & ~eyes
    lashes = _members(head, "lashes") | _members(head, "eyelashes")
    material = np.full(len(faces), SKIN, np.int32)
    material[inside[faces].any(1)] = MOUTH
    material[teeth[faces].all(1)] = TEETH
    material[eyes[faces].all(1)] = EYE
    keep = ~lashes[faces].any(1)
    return faces[keep], material[keep]


def _coordinates(head: HeadModel, rest: np.ndarray) -> np.ndarray:
    """Rest positions, but on eyeballs the unit vector from the ball's centre."""
    coordinates = rest.copy()
    for region in ("left_eyeball", "right_eyeball"):
        ball = np.asarray(head.regions[region])
        away = rest[ball] - 0.5 * (rest[ball].min(0) + rest[ball].max(0))
        coordinates[ball] = away / np.linalg.norm(away, axis=-1, keepdims=True)
    return coordinates


def _skull_center(head: HeadModel, rest: np.ndarray, skin: np.ndarray):
    """Centre (3,) at eye height in the middle of the skull, as a weighted mean of vertices and an offset."""
    eyes = _members(head, "left_eyeball") | _members(head, "right_eyeball")
    height = rest[eyes, 1].mean() + 0.03
    skull = np.zeros(len(rest), bool)
    skull[np.unique(skin)] = True
    skull &= rest[:, 1] > height + 0.05
    box = rest[skull]
    center = np.array([0.0, height, 0.5 * (box[:, 2].min() + box[:, 2].max())])
    weights = skull / skull.sum()
    return center, weights, center - weights @ rest


def _diffuse_transfer(transfer: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """(V, 9) -> (V, 3, 9): shadows spread further in red than in blue."""
    edges = np.concatenate([skin[:, [0, 1]], skin[:, [1, 2]], skin[:, [2, 0]]])
    edges = np.concatenate([edges, edges[:, ::-1]])
    degree = np.bincount(edges[:, 0], minlength=len(transfer))[:, None]

    def smooth(values):
        total = np.zeros_like(values)
        np.add.at(total, edges[:, 0], values[edges[:, 1]])
        return np.where(degree > 0, 0.5 * values + 0.5 * total / np.maximum(degree, 1), values)

    levels = [transfer]
    for _ in range(4):
        levels.append(smooth(levels[-1]))
    return np.stack([levels[4], levels[2], levels[1]], 1)


def _open_mouth_transfer(head: HeadModel, rest: np.ndarray, transfer: np.ndarray, free: np.ndarray):
    """The transfer (V, 3, 9) with light in the mouth, which the mesh at rest keeps shut and dark.

    The share of unshadowed light (V, 9) that teeth and tongue get falls with their distance behind the lips.
    """
    lips = rest[_members(head, "lips"), 2].max()
    depth = np.maximum(0.0, lips - rest[:, 2] - MOUTH_RIM)
    result = np.asarray(transfer).copy()
    for region, share in MOUTH_LIGHT.items():
        inside = _members(head, region)
        lit = share * np.exp(-depth[inside] / MOUTH_REACH)
        result[inside] = lit[:, None, None] * np.asarray(free)[inside][:, None]
    return result


def _beard_map(rest: np.ndarray, marks: np.ndarray, center: np.ndarray) -> np.ndarray:
    """(V,) in [0, 1]: cheeks below the line from ear to mouth, chin, and the upper throat."""
    reach = np.abs(rest[:, 0]) / max(np.abs(marks[:17, 0]).max(), 1e-6)
    mouth, chin = 0.5 * (marks[48, 1] + marks[54, 1]), marks[8, 1]
    ear = mouth + 1.1 * (marks[27, 1] - marks[33, 1])
    line = mouth + 0.01 + (ear - mouth) * np.clip((reach - 0.45) / 0.5, 0, 1) ** 1.5
    upper = np.clip((line - rest[:, 1]) / 0.03 + 0.5, 0, 1)
    lower = np.clip((rest[:, 1] - (chin - 0.06)) / 0.05, 0, 1)
    front = np.clip((rest[:, 2] - center[2] - 0.02) / 0.05, 0, 1)
    return upper * lower * front


# ------------------------------------------------------------------------------------- drawing at random


def random_identity(key: Array, stage: Stage, settings: OpenHeadsSettings) -> Identity:
    """Draws a person and a place."""
    keys = jax.random.split(key, 4)
    return Identity(
        shape=random_shape(keys[0], stage.head.shape_basis.shape[-1], settings),
        appearance=random_appearance(keys[1]),
        build=jax.random.truncated_normal(keys[2], -2.0, 2.0, (4,)),
        scene=random_scene(keys[3], settings),
    )


def random_shape(key: Array, size: int, settings: OpenHeadsSettings) -> Array:
    """Draws an identity (300,) of a head whose shape basis has `size` components."""
    shape = settings.shape_scale * jax.random.truncated_normal(key, -2.0, 2.0, (size,))
    return jnp.zeros(SHAPE_SIZE).at[:size].set(shape)


def random_scene(key: Array, settings: OpenHeadsSettings) -> Scene:
    """Draws light, background, exposure and sensor."""
    key, background_key, light_key = jax.random.split(key, 3)
    dice = Dice(key, 12)
    shift = settings.domain_shift * dice.normal((4,))
    return Scene(
        light=random_light(light_key),
        background_key=background_key,
        exposure=jnp.exp(0.22 * dice.normal() + 0.3 * shift[0]),
        white_balance=jnp.exp(0.05 * dice.normal((3,)) + 0.15 * shift[1:]),
        contrast=dice.uniform(0.9, 1.18),
        noise=settings.noise * dice.uniform() ** 2,
        blur=settings.blur * dice.uniform(),
    )


def random_cameras(key: Array, frames: int, settings: OpenHeadsSettings) -> Camera:
    """Draws `frames` cameras; they carry the head's rotation. Leading axis (frames,)."""
    keys = jax.random.split(key, 5)

    def cut_normal(key, spread):
        return spread[0] * jax.random.truncated_normal(
            key, -spread[1] / spread[0], spread[1] / spread[0], (frames,)
        )

    yaw = cut_normal(keys[0], settings.yaw)
    if settings.yaw_balance:  # from keys of its own, so that all other draws stay what they are
        chance_key, yaw_key = jax.random.split(jax.random.fold_in(keys[0], 1))
        even = jax.random.uniform(yaw_key, (frames,), minval=-settings.yaw[1], maxval=settings.yaw[1])
        yaw = jnp.where(jax.random.uniform(chance_key, (frames,)) < settings.yaw_balance, even, yaw)
    jitter = jax.random.uniform(keys[4], (frames, 3), minval=-settings.pivot, maxval=settings.pivot)
    return look_at_camera(
        yaw=yaw,
        pitch=cut_normal(keys[1], settings.pitch),
        roll=cut_normal(keys[2], settings.roll),
        radius=jax.random.uniform(keys[3], (frames,), minval=settings.radius[0], maxval=settings.radius[1]),
        pivot=jitter + jnp.array([0.0, 0.0, 0.09]),
    )


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
def build_surface(stage: Stage, identity: Identity, motion: Motion) -> Surface:
    """Poses head, hair and bust of one frame and lights them."""
    look = identity.appearance
    head = head_vertices(stage.head, identity.shape, motion.expression, motion.pose, motion.eyes)
    joint = head_joints(stage.head, identity.shape, motion.expression, motion.pose, motion.eyes)[1]
    turn = axis_angle_to_matrix(motion.pose[:3])
    upright = (head - joint) @ turn + joint
    center = stage.center_weights @ upright + stage.center_offset

    def noise(points):
        return sample_noise(points)[..., 0] * 0.7

    bound = jnp.einsum("nk,nka->na", stage.hair_weight, upright[stage.hair_index])
    shell, strands = hair.grow_hair(look.hair, bound, center, noise)
    height = jnp.clip((shell[:, 1:2] - joint[1]) / 0.3 + 1.0, 0.0, 1.0)  # the ends lie on the shoulders
    shell = shell + height * ((shell - joint) @ turn.T + joint - shell)
    neck = jnp.einsum("nk,nka->na", stage.neck_weight, head[stage.neck_index])
    torso, cloth = bust.build_bust(neck, identity.build)
    head_count, hair_count = len(head), len(shell)
    normals = vertex_normals(jnp.concatenate([head, shell, torso]), stage.faces)
    grown = look.beard * stage.beard * (1.0 + 0.15 * noise(stage.rest * 40.0 + look.seed))
    azimuth = bust.rim_azimuth(stage.rest, stage.neck_middle)
    grown += 0.012 * jnp.clip(cloth_edge(look, azimuth, stage.way) / 0.01, 0.0, 1.0)
    vertices = jnp.concatenate([head + normals[:head_count] * grown[:, None], shell, torso])
    light, occlusion = _light_vertices(stage, identity, normals, head_count, hair_count)
    pad = jnp.zeros(len(vertices) - head_count)
    extra = jnp.stack(
        [
            occlusion,
            jnp.concatenate([stage.beard, pad]),
            jnp.concatenate([stage.angles[:, 0], pad]),
            jnp.concatenate([stage.angles[:, 1], pad]),
            jnp.concatenate([stage.way, jnp.zeros(hair_count), cloth[:, 1]]),
        ],
        -1,
    )
    return Surface(vertices, jnp.concatenate([stage.coordinates, strands, cloth]), normals, light, extra)


@exact_products
def _light_vertices(stage: Stage, identity: Identity, normals: Array, heads: int, hairs: int):
    """Irradiance (N, 3) and occlusion (N,) of head, hair and bust vertices."""
    look, light = identity.appearance, identity.scene.light
    lobes = cosine_transfer(normals)
    moved = stage.occlusion[:, None] * (lobes[:heads] - stage.normals_transfer)
    reach = stage.angles[:, 1] - hair.hairline(look.hair, stage.angles[:, 0])
    cover = jnp.clip(
        hair.thickness(look.hair, stage.angles[:, 0], stage.angles[:, 1] + 0.12) * 25.0, 0.0, 1.0
    )
    shade = 1.0 - 0.45 * cover * jnp.clip(reach / 0.3 + 1.2, 0.0, 1.0)
    sky = stage.occlusion * shade
    skin = irradiance(stage.transfer + moved[:, None], light) * shade[:, None]
    bounce = skin_tone(look.melanin, look.haemoglobin + 0.4, look.carotene)
    skin += ((1.0 - sky) * 0.28)[:, None] * bounce * light.ambient
    rest = irradiance(jnp.broadcast_to(lobes[heads:, None], (len(lobes) - heads, 3, 9)), light)
    hair_light, bust_light = 0.85 * rest[:hairs], rest[hairs:].reshape(bust.ROWS, bust.AZIMUTHS, 3)
    # The bust takes the neck's light where they meet, so that the seam does not show.
    neck = jnp.einsum("nk,nka->na", stage.neck_weight, skin[stage.neck_index])
    away = jnp.clip(jnp.asarray(bust.SHARES, jnp.float32) / 0.4, 0.0, 1.0)[:, None, None]
    bust_light = (neck + (bust_light - neck) * away).reshape(-1, 3)
    occlusion = jnp.concatenate([sky, jnp.full(hairs, 0.85), jnp.full(len(bust_light), 0.6)])
    return jnp.concatenate([skin, hair_light, bust_light]), occlusion


# -------------------------------------------------------------------------------------------- shading


def shade(stage: Stage, identity: Identity, surface: Surface, camera: Camera, size: int):
    """Linear colour (size, size, 3), mask, face mask (size, size) and depth of one frame."""
    look, light = identity.appearance, identity.scene.light
    raster = rasterize(surface.vertices, stage.faces, camera, size, False)
    packed = jnp.concatenate([surface.coordinates, surface.normals, surface.light, surface.extra], -1)
    value = interpolate(raster, packed)
    coordinates, normals, lit, extra = jnp.split(value, (3, 6, 9), axis=-1)
    material = jnp.where(raster.mask, stage.materials[jnp.maximum(raster.face_index, 0)], -1)
    _, rays = generate_rays(camera, size)
    view = -rays.reshape(size, size, 3)
    normals = normals * jax.lax.rsqrt(jnp.sum(normals**2, -1, keepdims=True) + 1e-8)
    inner = jnp.sum(normals * view, -1) < -0.15  # the inside of a hair curtain or collar
    normals = jnp.where(inner[..., None], -normals, normals)
    albedo, gloss, shininess, normals, dim = _materials(stage, look, material, coordinates, extra, normals)
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


def _materials(stage: Stage, look: Appearance, material, coordinates, extra, normals):
    """Albedo, highlight strength, shininess, normals and dimming a pixel."""
    is_hair, is_eye, is_cloth = material == HAIR, material == EYE, material == CLOTH
    scales = jnp.array([[7.0, 7.0, 7.0], [30.0, 30.0, 30.0], [95.0, 95.0, 95.0]])
    strands = jnp.array([[7.0, 7.0, 3.0], [28.0, 28.0, 4.0], [80.0, 80.0, 7.0]])
    scale = jnp.where(is_hair[None, ..., None], strands[:, None, None], scales[:, None, None])
    octave = 7.0 * jnp.arange(3.0)[:, None, None, None]
    noise = sample_noise(coordinates * scale + look.seed + octave)
    front = (extra[..., 0] > 0) & (coordinates[..., 2] > 0.02)
    paint = sample_paint(stage.paint, stage.bounds, coordinates)
    far = jnp.array([-1.0, 1.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    paint = jnp.where(front[..., None], paint, far)
    skin = skin_albedo(look, coordinates, extra[..., 2:4], extra[..., 1], paint, noise)
    edge = cloth_edge(look, bust.rim_azimuth(coordinates, stage.neck_middle), extra[..., 4])
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
    albedo = skin
    for kind, color in ((EYE, eye), (TEETH, look.teeth), (MOUTH, gum), (HAIR, strand), (CLOTH, cloth)):
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


# ------------------------------------------------------------------------------- background and sensor


@exact_products
def paint_background(key: Array, size: int) -> Array:
    """A blurred room, wall, landscape or lights: linear colour (size, size, 3)."""
    dice = Dice(key, 112)
    axis = (jnp.arange(size) + 0.5) / size * 2.0 - 1.0
    y, x = jnp.meshgrid(-axis, axis, indexing="ij")
    base = dice.uniform(0.05, 0.85, (2, 3)) ** 2
    grey = dice.uniform() ** 0.35
    base = base + grey * (base.mean(-1, keepdims=True) - base)
    angle = dice.uniform(0.0, 6.3)
    t = jax.nn.sigmoid((x * jnp.cos(angle) + y * jnp.sin(angle)) * dice.uniform(0.3, 3.0))
    color = _lerp(base[0], base[1], t)
    plain = dice.chance(0.3)
    place = dice.uniform(0.0, 32.0, (3,))
    octaves = jnp.array([1.2, 2.7, 6.0])[:, None, None, None]
    points = jnp.stack([x, y, jnp.zeros_like(x)], -1) * octaves + place
    field = jnp.einsum("o,oyxc->yxc", jnp.array([0.6, 0.35, 0.15]), sample_noise(points))
    field = 0.85 * field[..., 3:] + 0.3 * (1.0 - 0.8 * grey) * field[..., :3]
    color = color * jnp.exp(field * dice.uniform(0.0, 0.8) * (1 - 0.8 * plain))
    boxes = dice.uniform(0.0, 1.0, (5, 8))
    for box in boxes:
        soft = 0.02 + 0.25 * box[0] ** 2
        inside = jax.nn.sigmoid((0.1 + 0.5 * box[1] - jnp.abs(x - 2.4 * box[2] + 1.2)) / soft)
        inside *= jax.nn.sigmoid((0.1 + 0.8 * box[3] - jnp.abs(y - 2.4 * box[4] + 1.2)) / soft)
        tint = 1.1 * box[5:] ** 2
        tint = tint + grey * (tint.mean() - tint)
        color = _lerp(color, tint, inside * 0.8 * (1 - plain) * (box[7] > 0.25))
    discs = dice.uniform(0.0, 1.0, (6, 7))
    bokeh = dice.chance(0.25)
    for disc in discs:
        away = jnp.hypot(x - 2.4 * disc[0] + 1.2, y - 2.4 * disc[1] + 1.2)
        glow = jax.nn.sigmoid((0.05 + 0.2 * disc[2] - away) / 0.015)
        color += 0.5 * bokeh * glow[..., None] * disc[3:6] * disc[6]
    return color


@exact_products
def paint_sharp_background(key: Array, size: int) -> Array:
    """What stands behind people in photos that are in focus all through: linear colour (size, size, 3).

    Patches with hard edges, stripes, boxes and ellipses, some as dark as hair or of a skin's colour, and fine
    grain; told apart from a person by their shape alone.
    """
    dice = Dice(key, 200)
    axis = (jnp.arange(size) + 0.5) / size * 2.0 - 1.0
    y, x = jnp.meshgrid(-axis, axis, indexing="ij")
    skin = jnp.array([0.5, 0.25, 0.15])
    tints, grey = dice.uniform(0.0, 1.0, (18, 3)) ** 2, dice.uniform() ** 0.35
    tints = tints + grey * (tints.mean(-1, keepdims=True) - tints)
    like_people = dice.uniform(0.0, 1.0, (18, 2))
    tints = jnp.where(like_people[:, :1] < 0.3, skin * (0.1 + 1.4 * like_people[:, 1:]), tints)
    place, octaves = dice.uniform(0.0, 32.0, (3,)), jnp.array([1.5, 4.0, 11.0, 30.0])[:, None, None, None]
    field = sample_noise(jnp.stack([x, y, jnp.zeros_like(x)], -1) * octaves + place)
    edge = jnp.exp(dice.uniform(0.0, 4.5, (3,)))
    color = _lerp(tints[0], tints[1], jax.nn.sigmoid(edge[0] * (field[0, ..., 0] + 0.5 * field[1, ..., 0])))
    angle, bend = dice.uniform(0.0, 3.1), dice.uniform(0.0, 0.3)
    along = x * jnp.cos(angle) + y * jnp.sin(angle) + bend * field[0, ..., 1]
    stripes = jax.nn.sigmoid(edge[1] * jnp.sin(along * jnp.exp(dice.uniform(1.0, 3.7))))
    color = _lerp(color, tints[2], stripes * dice.chance(0.4))
    shapes = dice.uniform(0.0, 1.0, (12, 6))
    for index, (shape, tint) in enumerate(zip(shapes, tints[3:15], strict=True)):
        right, up = (
            (x - 2.4 * shape[0] + 1.2) / (0.05 + 0.4 * shape[1]),
            (y - 2.4 * shape[2] + 1.2) / (0.05 + 0.8 * shape[3]),
        )
        away = jnp.hypot(right, up) if index % 2 else jnp.maximum(jnp.abs(right), jnp.abs(up))
        color = _lerp(color, tint, jax.nn.sigmoid(40.0 * shape[4] * (1.0 - away)) * (shape[5] > 0.4))
    grain = jnp.einsum("o,oyx->yx", dice.uniform(0.0, 0.6, (3,)) ** 3, field[1:, ..., 3])
    return color * jnp.exp(grain)[..., None]


def _lerp(a: Array, b: Array, share: Array) -> Array:
    return a + (b - a) * share[..., None]


def develop(color: Array, scene: Scene) -> Array:
    """Linear colour -> [0, 1] display values: exposure, white balance, a soft shoulder, the sRGB curve."""
    color = jnp.maximum(color * scene.exposure * scene.white_balance, 1e-5)
    color = jnp.where(color > 0.7, 0.7 + 0.3 * jnp.tanh((color - 0.7) / 0.3), color)
    display = jnp.where(color < 0.0031308, 12.92 * color, 1.055 * color ** (1 / 2.4) - 0.055)
    return display**scene.contrast


def _blur(image: Array, sigma: Array) -> Array:
    """3 x 3 separable Gaussian of a small sigma in pixels, edges replicated; image (S, S, C)."""
    side = jnp.exp(-0.5 / jnp.maximum(sigma, 1e-3) ** 2)
    for axis in (0, 1):
        pad = [(1, 1) if i == axis else (0, 0) for i in range(3)]
        grown = jnp.pad(image, pad, mode="edge")
        low = jax.lax.slice_in_dim(grown, 0, image.shape[axis], axis=axis)
        high = jax.lax.slice_in_dim(grown, 2, image.shape[axis] + 2, axis=axis)
        image = (image + side * (low + high)) / (1 + 2 * side)
    return image


def _shrink(image: Array, factor: int) -> Array:
    """Mean over factor x factor blocks of (S, S, C)."""
    size = image.shape[0] // factor
    return image.reshape(size, factor, size, factor, -1).mean((1, 3))


def _render_frame(stage, identity, motion, camera, noise_key, background, resolution, settings):
    """One portrait: image, mask, face mask, depth of (S, S, C)."""
    factor = settings.supersample
    surface = build_surface(stage, identity, motion)
    color, mask, face, depth = shade(stage, identity, surface, camera, resolution * factor)
    scene = identity.scene
    mask, face = mask[..., None].astype(jnp.float32), face[..., None].astype(jnp.float32)
    # Composited in display values, as a lens blurs, so that the background is the same picture everywhere.
    front = _shrink(develop(color, scene) * mask, factor)
    depth = _shrink(depth[..., None], factor) / jnp.maximum(_shrink(mask, factor), 1e-6)
    present = _shrink(mask, factor)
    depth = jnp.where(present > 0, depth, 0.0)
    stacked = _blur(jnp.concatenate([front, present, _shrink(face, factor)], -1), scene.blur)
    front, soft, face = stacked[..., :3], stacked[..., 3:4], stacked[..., 4:]
    image = front + (1.0 - soft) * background
    image += scene.noise * jax.random.normal(noise_key, image.shape)
    return jnp.clip(image, 0.0, 1.0) * 2.0 - 1.0, soft, face, depth


def _render(
    stage, identity, params: FrameParams, key, resolution: int, settings: OpenHeadsSettings
) -> Portraits:
    scene = identity.scene
    background = paint_background(scene.background_key, resolution)
    if settings.sharp_backgrounds:
        key_of_chance, key_of_sharp = jax.random.split(jax.random.fold_in(scene.background_key, 1))
        is_sharp = jax.random.bernoulli(key_of_chance, settings.sharp_backgrounds)
        background = jnp.where(is_sharp, paint_sharp_background(key_of_sharp, resolution), background)
    background = jnp.clip(develop(background, scene), 0.0, 1.0)
    frames = params.expression.shape[0]

    def one(frame):
        motion, camera, noise_key = frame
        return _render_frame(stage, identity, motion, camera, noise_key, background, resolution, settings)

    motion = Motion(params.expression, params.pose, params.eyes)
    frames = (motion, params.camera, jax.random.split(key, frames))
    image, mask, face, depth = jax.lax.map(one, frames) if _on_cpu() else jax.vmap(one)(frames)
    return Portraits(image, mask, face, depth, background * 2.0 - 1.0)


def _on_cpu() -> bool:
    """One frame after another keeps a CPU's caches warm; accelerators want them side by side."""
    return jax.default_backend() == "cpu"


@functools.partial(jax.jit, static_argnames=("resolution", "settings"))
def render_stage(
    stage: Stage,
    identity: Identity,
    params: FrameParams,
    key: Array,
    resolution: int,
    settings: OpenHeadsSettings,
) -> Portraits:
    """`render_openheads` on a prepared stage, for use inside other compiled programs."""
    return _render(stage, identity, params, key, resolution, settings)


def render_openheads(
    head: HeadModel,
    identity: Identity,
    params: FrameParams,
    key: Array,
    resolution: int = 128,
    settings: OpenHeadsSettings = OpenHeadsSettings(),
) -> Portraits:
    """Shows one identity in any frames: the truth for novel views and other expressions.

    Args:
      head: the model.
      identity: from `random_identity` or `clip_identity`; its shape is used, not `params.shape`.
      params: frames, leading axis (F,).
      key: sensor noise.
      resolution: pixels a side.
      settings: supersampling and sensor.
    """
    return render_stage(prepare_stage(head), identity, params, key, resolution, settings)


# ---------------------------------------------------------------------------------------------- clips


def clip_identity(head: HeadModel, key: Array, settings: OpenHeadsSettings = OpenHeadsSettings()) -> Identity:
    """The identity that `make_clip` draws from the same key."""
    return random_identity(jax.random.split(key, 4)[0], prepare_stage(head), settings)


def clip_on_stage(
    stage: Stage, key: Array, frames: int, resolution: int, settings: OpenHeadsSettings
) -> HeadClip:
    """`make_clip` on a prepared stage: a pure function, for use inside other compiled programs."""
    keys = jax.random.split(key, 4)
    identity = random_identity(keys[0], stage, settings)
    motion = random_motion(keys[1], frames, stage.head.expression_names, settings.closed_eyes)
    camera = random_cameras(keys[2], frames, settings)
    shape = jnp.broadcast_to(identity.shape, (frames, SHAPE_SIZE))
    params = FrameParams(camera, shape, motion.expression, motion.pose, motion.eyes)
    shown = _render(stage, identity, params, keys[3], resolution, settings)
    return HeadClip(shown.image, shown.mask, shown.face_mask, shown.depth, shown.background, params)


@functools.partial(jax.jit, static_argnames=("frames", "resolution", "settings"))
def clips_on_stage(
    stage: Stage, keys: Array, frames: int, resolution: int, settings: OpenHeadsSettings
) -> HeadClip:
    """`make_clips` on a prepared stage."""

    def one(key):
        return clip_on_stage(stage, key, frames, resolution, settings)

    return jax.lax.map(one, keys) if _on_cpu() else jax.vmap(one)(keys)


def make_clips(
    head: HeadModel,
    keys: Array,
    frames: int,
    resolution: int = 128,
    settings: OpenHeadsSettings = OpenHeadsSettings(),
) -> HeadClip:
    """One clip a key: `HeadClip` with leading axis (N,), the same as N calls of `make_clip`.

    Args:
      head: a head whose expression basis names ARKit's actions (the embedded 'openhead').
      keys: (N,) typed or (N, 2) raw random keys.
      frames: frames a clip. resolution: pixels a side.
      settings: ranges.
    """
    if frames < 1 or resolution < 8:
        raise ValueError(f"frames, resolution: got {frames}, {resolution}; expected at least 1 and 8")
    return clips_on_stage(prepare_stage(head), keys, frames, resolution, settings)


def make_clip(
    head: HeadModel,
    key: Array,
    frames: int,
    resolution: int = 128,
    settings: OpenHeadsSettings = OpenHeadsSettings(),
) -> HeadClip:
    """A clip of one random identity, all from one key: see `make_clips`."""
    clips = make_clips(head, key[None], frames, resolution, settings)
    return jax.tree.map(lambda value: value[0], clips)


@functools.partial(jax.jit, static_argnames=("resolution", "settings"))
def portraits_on_stage(stage: Stage, keys: Array, resolution: int, settings: OpenHeadsSettings) -> Portrait:
    """One picture of one person for each key; necks are straight and cameras carry the heads' rotations."""

    def one(key: Array) -> Portrait:
        keys = jax.random.split(key, 4)
        identity = random_identity(keys[0], stage, settings)
        params = random_portrait_params(keys[1], keys[2], stage, identity.shape, settings)
        shown = _render(
            stage, identity, jax.tree.map(lambda x: x[None], params), keys[3], resolution, settings
        )
        return Portrait(shown.image[0], shown.mask[0], params)

    return jax.lax.map(one, keys) if _on_cpu() else jax.vmap(one)(keys)


def random_portrait_params(
    motion_key: Array, camera_key: Array, stage: Stage, shape: Array, settings: OpenHeadsSettings
) -> FrameParams:
    """A motion with a straight neck and a camera for one person of `shape` (300,)."""
    motion = random_motion(motion_key, 1, stage.head.expression_names, settings.closed_eyes)
    camera, motion = jax.tree.map(lambda x: x[0], (random_cameras(camera_key, 1, settings), motion))
    return FrameParams(camera, shape, motion.expression, motion.pose.at[:3].set(0), motion.eyes)
