"""An avatar's head as a plain textured mesh that moves by morph targets and joints, for other programs.

The texture is an atlas of pictures of the avatar: its photo, itself with shut eyes, with an open mouth, and
from the sides. Each triangle is shown by the picture that sees it best. What no picture shows is drawn, as
eyeballs behind the lids and the mouth are, or has the colours of vertices nearby. Triangles at whose border
the picture changes have vertices of their own there, so that there are a few more than in the head model.

V vertices and F triangles of the head model, N vertices of the result, in metres, y up, the face towards +z.
uv are (N, 2) in [0, 1], (0, 0) the upper left corner, v down, as in glTF.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from scipy.spatial import KDTree

from p4d_jax.avatar.avatar import Avatar
from p4d_jax.geometry import axis_angle_to_matrix, orbit, unit, vertex_normals
from p4d_jax.head.actions import (
    ARKIT,
    GAZE_DOWN,
    GAZE_SIDE,
    GAZE_UP,
    JAW_OPEN,
    JAW_SIDE,
    action_columns,
)
from p4d_jax.head.model import LEFT_EYE, PARENTS, RIGHT_EYE, WORLD_SCALE, HeadModel
from p4d_jax.head.mouth import tooth_pattern
from p4d_jax.head.skinning import head_joints, head_vertices, posed_vertices
from p4d_jax.imaging.sampling import sample_image
from p4d_jax.reconstructor.several_photos import SourceTextures
from p4d_jax.reconstructor.texture import SURFACE_MARGIN, seen_by
from p4d_jax.render.raster import rasterize
from p4d_jax.types import Array, Camera, FrameParams

TILE = 512  # pixels a side of a picture of the atlas
COLUMNS = 4
SIDES = (35.0, -35.0, 70.0, -70.0)  # degrees of yaw of the pictures from other sides
# How much the own view counts more than others that see a triangle as well, and the others of its camera.
OWN, OWN_CAMERA = 3.0, 1.5
DEPTH_SIZE = 512  # pixels a side of the depth that tells what a view sees
SIDEWAYS = 0.12  # cosine between surface and line of sight below which a picture smears
NEARBY = 64  # vertices of whose colours that of a vertex nobody sees is a mean
TEETH_ALONG = 8.0  # teeth of a row to either side that the mouth's picture has a place for
EYE_ANGLE = np.pi / 2  # from an eye's axis to the rim of its picture


@dataclass(frozen=True)
class TexturedHead:
    """A textured mesh at rest: the avatar's identity, no expression, jaw and gaze straight.

    Attributes:
      vertices: (N, 3) float32.
      normals: (N, 3) float32.
      uv: (N, 2) float32.
      colors: (N, 3) uint8, sRGB, that multiply the texture: white but where no picture shows the head.
      faces: (F, 3) uint32, counter-clockwise seen from outside.
      texture: (H, W, 3) uint8.
      target_names: Name of each morph target.
      targets: (K, N, 3) float32, what each adds to the vertices.
      weights: (K,) of the targets in the photo.
      joints: (5, 3) places of root, neck, jaw, left eye and right eye.
      rotations: (5, 3) of the joints in the photo, axis-angle, beside what the targets do.
      skinning_weights: (N, 5), rows sum to one.
      camera: Of the photo, metres.
    """

    vertices: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    colors: np.ndarray
    faces: np.ndarray
    texture: np.ndarray
    target_names: tuple[str, ...]
    targets: np.ndarray
    weights: np.ndarray
    joints: np.ndarray
    rotations: np.ndarray
    skinning_weights: np.ndarray
    camera: Camera


@dataclass(frozen=True)
class View:
    """A picture (TILE, TILE, 3) uint8 of the head, the mesh (V, 3) and camera in it, how much it counts."""

    posed: Array
    camera: Camera
    picture: np.ndarray
    counts: float


def build_textured_head(avatar: Avatar) -> TexturedHead:
    """The textured head of an avatar."""
    head, params = avatar.model.head, avatar.params
    views = pictures_of(avatar)
    tiles = [view.picture for view in views]
    best = best_views(head, views)
    uv_of = [np.asarray(view_uv(view)) for view in views]
    for side, joint in (("left", LEFT_EYE), ("right", RIGHT_EYE)):
        eyeball = np.asarray(head.regions[f"{side}_eyeball"])
        picture, uv = eyeball_picture(avatar, eyeball, joint)
        best[np.isin(np.asarray(head.faces), eyeball).all(axis=1)] = len(tiles)
        tiles.append(picture)
        uv_of.append(uv)
    if avatar.model.frame.mouth is not None:
        picture, uv = mouth_picture(avatar)
        best[inner_mouth(head) & (best < 0)] = len(tiles)
        tiles.append(picture)
        uv_of.append(uv)
    shown = best >= 0
    colors = nearby_colors(head, views, best)
    tiles.append(np.full((TILE, TILE, 3), 255, np.uint8))
    uv_of.append(np.full((len(colors), 2), 0.5))
    best[~shown] = len(tiles) - 1
    rest, targets, rotations, names, weights = morph_targets(head, params)
    # One vertex for each pair of a vertex and the picture that shows it.
    faces = np.asarray(head.faces)
    pairs, corners = np.unique(faces + best[:, None] * len(rest), return_inverse=True)
    vertex, tile = pairs % len(rest), pairs // len(rest)
    rows = -(-len(tiles) // COLUMNS)
    colors = np.where((tile == len(tiles) - 1)[:, None], colors[vertex], 255)
    uv = np.stack(uv_of)[tile, vertex].clip(0, 1)
    uv = (uv + np.stack([tile % COLUMNS, tile // COLUMNS], axis=-1)) / [COLUMNS, rows]
    zero = jnp.zeros(6)
    joints = head_joints(head, params.shape, jnp.zeros_like(params.expression), zero, zero)
    normals = np.asarray(vertex_normals(jnp.asarray(rest), head.faces))
    camera = params.camera
    place = camera.cam2world.at[:3, 3].divide(WORLD_SCALE)
    return TexturedHead(
        vertices=np.float32(rest[vertex] / WORLD_SCALE),
        normals=np.float32(normals[vertex]),
        uv=np.float32(uv),
        colors=np.uint8(colors),
        faces=corners.reshape(faces.shape).astype(np.uint32),
        texture=atlas(tiles, rows),
        target_names=names,
        targets=np.float32(targets[:, vertex] / WORLD_SCALE),
        weights=np.float32(weights),
        joints=np.float32(joints) / WORLD_SCALE,
        rotations=rotations,
        skinning_weights=np.float32(np.asarray(head.skinning_weights)[vertex]),
        camera=camera.replace(cam2world=place),
    )


# Pictures --------------------------------------------------------------------------------------------------


def pictures_of(avatar: Avatar) -> list[View]:
    """The photo, and what the avatar shows of itself that the photo does not."""
    head, params = avatar.model.head, avatar.params

    def view(frame: FrameParams, camera: Camera, counts: float) -> View:
        picture = avatar.render(frame, camera=camera).picture
        posed = posed_vertices(head, params.shape, frame)
        return View(posed, camera, tile_of(picture), counts)

    own = View(posed_vertices(head, params.shape, params), params.camera, tile_of(avatar.photo), OWN)
    views = [own]
    if set(ARKIT) <= set(head.expression_names):
        shut = avatar.act(params, {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0})
        opened = avatar.act(params, {"jawOpen": 0.6})
        views += [view(frame, params.camera, OWN_CAMERA) for frame in (shut, opened)]
    return views + [view(params, orbit(params.camera, np.deg2rad(yaw)), 1.0) for yaw in SIDES]


def tile_of(picture: np.ndarray) -> np.ndarray:
    """A square picture as a tile of the atlas."""
    return np.asarray(Image.fromarray(np.asarray(picture)).resize((TILE, TILE), Image.Resampling.LANCZOS))


def atlas(tiles: list[np.ndarray], rows: int) -> np.ndarray:
    """Tiles row by row in one picture."""
    whole = np.zeros((rows * TILE, COLUMNS * TILE, 3), np.uint8)
    for number, tile in enumerate(tiles):
        y, x = TILE * (number // COLUMNS), TILE * (number % COLUMNS)
        whole[y : y + TILE, x : x + TILE] = tile
    return whole


def view_uv(view: View) -> Array:
    """(V, 2) where a view has the vertices."""
    return seen_by(view.camera, view.posed, jnp.zeros((1, 1)), 0.0)[0]


@jax.jit
def visibility(head: HeadModel, posed: Array, camera: Camera, open_faces: Array) -> Array:
    """(F,) in [0, 1]: how frontally a camera sees the triangles of a mesh (V, 3); 0 where one is hidden.

    open_faces: (F,) bool, of surfaces that have no inside, such as strips of teeth.
    """
    depth = rasterize(posed, head.faces, camera, DEPTH_SIZE, False).depth
    seen = jnp.sort(seen_by(camera, posed, depth, SURFACE_MARGIN)[1][head.faces], axis=1)
    seen = jnp.where(open_faces, seen[:, 1], seen[:, 0])  # lips always hide the roots of teeth
    corners = posed[head.faces]
    normals = unit(jnp.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    cosine = jnp.sum(normals * unit(camera.cam2world[:3, 3] - corners.mean(axis=1)), axis=-1)
    cosine = jnp.where(open_faces, jnp.abs(cosine), cosine)
    return seen * jnp.clip((cosine - SIDEWAYS) / (1.0 - SIDEWAYS), 0.0, 1.0)


def best_views(head: HeadModel, views: list[View]) -> np.ndarray:
    """(F,) number of the view that shows each triangle best, or -1 where none does."""
    inner = inner_mouth(head)
    scores = [view.counts * np.asarray(visibility(head, view.posed, view.camera, inner)) for view in views]
    return np.where(np.max(scores, axis=0) > 0.02, np.argmax(scores, axis=0), -1)


def nearby_colors(head: HeadModel, views: list[View], best: np.ndarray) -> np.ndarray:
    """(V, 3) in [0, 255]: of vertices that a view shows their colour, of the others that of those nearby.

    best: (F,) of `best_views`; larger numbers are of pictures that are no views.
    """
    faces, count = np.asarray(head.faces), len(head.template)
    total, weight = np.zeros((count, 3)), np.zeros(count)
    for number, view in enumerate(views):
        seen = np.unique(faces[best == number])
        if seen.size:
            pixels = jnp.asarray(view.picture, jnp.float32)
            total[seen] += np.asarray(sample_image(pixels, view_uv(view)[seen]))
            weight[seen] += 1
    skin = np.flatnonzero(weight)
    rest = np.asarray(head.template)
    colors = np.zeros((count, 3))
    colors[skin] = total[skin] / weight[skin, None]
    hidden = np.flatnonzero(weight == 0)
    if hidden.size and skin.size:
        distance, nearest = KDTree(rest[skin]).query(rest[hidden], k=min(NEARBY, len(skin)))
        near = 1 / (distance.reshape(len(hidden), -1) ** 2 + 1e-6)
        mean = np.einsum("nk,nkc->nc", near, colors[skin][nearest.reshape(len(hidden), -1)])
        colors[hidden] = mean / near.sum(axis=1, keepdims=True)
    return colors


def inner_mouth(head: HeadModel) -> np.ndarray:
    """(F,) bool, triangles behind the lips."""
    return np.isin(np.asarray(head.faces), np.asarray(head.regions.get("inner_mouth", ()))).all(axis=1)


def eyeball_picture(avatar: Avatar, eyeball: np.ndarray, joint: int) -> tuple[np.ndarray, np.ndarray]:
    """An eyeball seen along its axis, as an azimuthal map: (TILE, TILE, 3), and where it has vertices (V, 2).

    What the lids hide in the photo is filled by what the photo shows as far from the axis.

    Args:
      eyeball: Numbers of its vertices. joint: Of the eye.
    """
    head, params = avatar.model.head, avatar.params
    zero = jnp.zeros(6)
    still = jnp.zeros_like(params.expression)
    rest = np.asarray(head_vertices(head, params.shape, still, zero, zero))
    centre = np.asarray(head_joints(head, params.shape, still, zero, zero))[joint]
    direction = rest - centre
    direction /= np.linalg.norm(direction, axis=1, keepdims=True) + 1e-9
    angle = np.arccos(direction[:, 2].clip(-1, 1))
    radial = direction[:, :2] / (np.linalg.norm(direction[:, :2], axis=1, keepdims=True) + 1e-9)
    uv = 0.5 + 0.5 * (angle / EYE_ANGLE).clip(0, 1)[:, None] * radial * [1, -1]

    # Each pixel's place on the eyeball, in the photo's pose.
    ticks = (np.arange(TILE) + 0.5) / TILE * 2 - 1
    x, y = np.meshgrid(ticks, -ticks)
    from_axis = np.hypot(x, y)
    theta = from_axis * EYE_ANGLE
    sine = np.sin(theta) / np.maximum(from_axis, 1e-9)
    ray = np.stack([sine * x, sine * y, np.cos(theta)], axis=-1)
    posed = np.asarray(posed_vertices(head, params.shape, params))
    turn = np.asarray(axis_angle_to_matrix(params.neck)) @ np.asarray(
        axis_angle_to_matrix(params.eyes[:3] if joint == LEFT_EYE else params.eyes[3:])
    )
    middle = np.asarray(head_joints(head, params.shape, params.expression, params.pose, params.eyes))[joint]
    front = eyeball[angle[eyeball] < np.pi / 3]
    radius = np.median(np.linalg.norm(posed[front] - middle, axis=1))
    places = jnp.asarray(middle + radius * ray.reshape(-1, 3) @ turn.T, jnp.float32)
    depth = rasterize(jnp.asarray(posed), head.faces, params.camera, DEPTH_SIZE, False).depth
    where, seen = seen_by(params.camera, places, depth, SURFACE_MARGIN)
    photo = jnp.asarray(tile_of(avatar.photo), jnp.float32)
    colours = np.asarray(sample_image(photo, where))
    weight = np.asarray(seen) * (theta.reshape(-1) < 0.9 * np.pi / 2)
    # By rings about the axis; where a ring is hidden all round, the nearest that is not.
    ring = np.minimum((from_axis * 64).astype(int), 63).reshape(-1)
    total = np.stack([np.bincount(ring, weight * colours[:, k], 64) for k in range(3)], axis=-1)
    amount = np.bincount(ring, weight, 64)
    shown = np.flatnonzero(amount > 8)
    if not shown.size:
        shown, total, amount = np.arange(64), np.full((64, 3), 200.0), np.ones(64)
    profile = np.stack(
        [np.interp(np.arange(64), shown, (total[shown, k] / amount[shown])) for k in range(3)], axis=-1
    )
    weight = weight[:, None].clip(0, 1)
    filled = weight * colours + (1 - weight) * profile[ring]
    return np.uint8(filled.reshape(TILE, TILE, 3).clip(0, 255) + 0.5), uv


def mouth_picture(avatar: Avatar) -> tuple[np.ndarray, np.ndarray]:
    """Teeth, tongue and the mouth's dark: (TILE, TILE, 3), and where it has vertices (V, 2).

    From top to bottom, a quarter each: the upper row of teeth, the lower, tongue, cavity.
    """
    texture, mouth = avatar.source.texture, avatar.model.frame.mouth
    if isinstance(texture, SourceTextures):
        texture = jax.tree.map(lambda x: x[0], texture.textures)
    teeth, gum, tongue, cavity, _ = np.asarray(texture.mouth)
    quarter = TILE // 4
    along, height = np.meshgrid(
        ((np.arange(TILE) + 0.5) / TILE * 2 - 1) * TEETH_ALONG, (np.arange(quarter) + 0.5) / quarter
    )
    rows = []
    for lower in (0.0, 1.0):
        share, shade = tooth_pattern(jnp.stack([along, height, np.full_like(along, lower)], axis=-1))
        share, shade = np.asarray(share)[..., None], np.asarray(shade)[..., None]
        rows.append(gum + share * (shade * teeth - gum))
    rows += [np.broadcast_to(colour, (quarter, TILE, 3)) for colour in (tongue, cavity)]
    picture = np.uint8(np.concatenate(rows).clip(0, 1) * 255 + 0.5)
    tooth = np.asarray(mouth.tooth)
    is_tooth, is_tongue = np.asarray(mouth.teeth) > 0, np.asarray(mouth.tongue) > 0
    u = np.where(is_tooth, 0.5 + 0.5 * tooth[:, 0] / TEETH_ALONG, 0.5)
    on_row = 0.25 * (tooth[:, 2] + tooth[:, 1].clip(0.02, 0.98))
    v = np.where(is_tooth, on_row, np.where(is_tongue, 0.625, 0.875))
    return picture, np.stack([u, v], axis=-1)


# Motion ----------------------------------------------------------------------------------------------------


def morph_targets(
    head: HeadModel, params: FrameParams
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...], np.ndarray]:
    """What moves a head at rest.

    A target of an ARKit action does all that the action does: jawOpen also turns the jaw, eyeLook* an eye.

    Returns:
      rest (V, 3), targets (K, V, 3), world units; rotations (5, 3) of the joints in the photo beside what the
      targets do, radians; names and weights (K,) of the targets in the photo.
    """
    count = head.expression_basis.shape[-1]
    arkit = set(ARKIT) <= set(head.expression_names)
    names = tuple(ARKIT) if arkit else tuple(f"expression{index:03d}" for index in range(count))
    columns = action_columns(head.expression_names) if arkit else np.arange(count)
    turns = {name: joints_of_action(name) for name in names}
    expressions = np.zeros((len(names) + 1, params.expression.shape[-1]), np.float32)
    expressions[np.arange(len(names)) + 1, columns] = 1.0
    poses, eyes = np.zeros((len(names) + 1, 6), np.float32), np.zeros((len(names) + 1, 6), np.float32)
    for index, name in enumerate(names, start=1):
        poses[index, 3:], eyes[index] = turns[name][:3], turns[name][3:]
    one = lambda e, pose, eye: head_vertices(head, params.shape, e, pose, eye)
    meshes = np.asarray(jax.jit(jax.vmap(one))(*map(jnp.asarray, (expressions, poses, eyes))))
    weights = np.asarray(params.expression)[columns]
    done = sum(weight * turns[name] for weight, name in zip(weights, names, strict=True))
    left = np.concatenate([params.jaw, params.eyes]) - done
    rotations = np.concatenate([np.zeros(3), params.neck, left]).reshape(len(PARENTS), 3)
    return meshes[0], meshes[1:] - meshes[0], np.float32(rotations), names, weights


def joints_of_action(name: str) -> np.ndarray:
    """(9,) rotations of jaw, left eye and right eye, axis-angle in radians, of an ARKit action at 1."""
    turn = np.zeros(9)
    if name == "jawOpen":
        turn[0] = JAW_OPEN
    elif name in ("jawLeft", "jawRight"):
        turn[1] = JAW_SIDE if name == "jawLeft" else -JAW_SIDE
    elif name.startswith("eyeLook"):
        left = name.endswith("Left")
        look = name.removeprefix("eyeLook").removesuffix("Left").removesuffix("Right")
        outward = GAZE_SIDE if left else -GAZE_SIDE
        pitch, yaw = {
            "Up": (-GAZE_UP, 0.0),
            "Down": (GAZE_DOWN, 0.0),
            "Out": (0.0, outward),
            "In": (0.0, -outward),
        }[look]
        turn[3 if left else 6 :][:2] = pitch, yaw
    return turn
