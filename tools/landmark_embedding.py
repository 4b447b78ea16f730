"""Where landmarks lie on a head mesh, found by the landmark network itself.

Heads of the model are rendered from a few directions, and MediaPipe's 468 points are projected back onto the
triangles under them. What the pictures agree on is kept, made symmetric and put back on the skin. Lids and
inner lips, where the mesh has a rim, are laid along it, so that they part when eye or mouth opens.

The first pictures are of heads painted simply (lips, brows, irises). The 68 landmarks come from these, and
say where OpenHeads paint brows and lips. MediaPipe's points come from portraits of OpenHeads then, on which
the network errs less. Metres, y up, face towards +z; V vertices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax.capture.landmarks import LANDMARKS, Landmarker
from p4d_jax.geometry import look_at_camera, vertex_normals
from p4d_jax.head.model import WORLD_SCALE, HeadModel
from p4d_jax.head.skinning import head_vertices
from p4d_jax.openheads.config import OpenHeadsSettings
from p4d_jax.openheads.people import random_identity
from p4d_jax.openheads.portraits import render_scene
from p4d_jax.openheads.scene import prepare_scene
from p4d_jax.render.raster import Raster, interpolate, rasterize
from p4d_jax.types import EXPRESSION_SIZE, FrameParams

SIZE = 512
RIM_SIZE = 1024
VIEWS = tuple((yaw, pitch) for yaw in (-0.3, -0.12, 0.12, 0.3) for pitch in (-0.12, 0.06))
AGREEMENT = 0.005  # metres: the median distance of the pictures' places from their middle
MIDLINE = 0.002  # metres: a landmark within is its own mirror image

# Rims of mouth and eyes, corner to corner in the order of growing x of the right eye and of the mouth.
UPPER_INNER_LIP = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
LOWER_INNER_LIP = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
RIGHT_UPPER_LID = (33, 246, 161, 160, 159, 158, 157, 173, 133)
RIGHT_LOWER_LID = (33, 7, 163, 144, 145, 153, 154, 155, 133)
LEFT_UPPER_LID = (362, 398, 384, 385, 386, 387, 388, 466, 263)
LEFT_LOWER_LID = (362, 382, 381, 380, 374, 373, 390, 249, 263)
# The rest of the points whose mirror images are known: the subject's right, then the subject's left.
RIGHT_SIDE = (61, 146, 91, 181, 84, 185, 40, 39, 37, 70, 63, 105, 66, 107, 46, 53, 52, 65, 55, 75, 97)
RIGHT_SIDE += (127, 234, 93, 132, 58, 136, 150, 176, 172, 149, 148, 162, 21, 54, 103, 67, 109)
LEFT_SIDE = (
    291,
    375,
    321,
    405,
    314,
    409,
    270,
    269,
    267,
    300,
    293,
    334,
    296,
    336,
    276,
    283,
    282,
    295,
    285,
    305,
    326,
)
LEFT_SIDE += (356, 454, 323, 361, 288, 365, 379, 400, 397, 378, 377, 389, 251, 284, 332, 297, 338)
OVAL = (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152)
OVAL += (148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)
# iBUG's 68 points among MediaPipe's 468
IBUG = (127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356)
IBUG += (70, 63, 105, 66, 107, 336, 296, 334, 293, 300, 168, 197, 5, 4, 75, 97, 2, 326, 305)
IBUG += (33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380)
IBUG += (61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87)


def paint(template: np.ndarray, regions: dict[str, np.ndarray]) -> np.ndarray:
    """(V, 3) colours in [0, 1] by which a landmark network knows a face."""
    colours = np.tile([0.80, 0.62, 0.52], (len(template), 1))
    colours[regions["lips"]] = [0.62, 0.28, 0.28]
    colours[regions["scalp"]] = [0.20, 0.14, 0.10]
    colours[regions["inner_mouth"]] = [0.25, 0.08, 0.08]
    for side in ("left", "right"):
        ball = regions[f"{side}_eyeball"]
        centre = template[ball].mean(0)
        away = template[ball] - centre
        forward = away[:, 2] / np.linalg.norm(away, axis=1)
        colours[ball] = np.where(forward[:, None] > 0.9, [0.15, 0.10, 0.08], [0.92, 0.92, 0.92])
        offset = template - centre
        outward = offset[:, 0] * np.sign(centre[0])
        # A brow: an arched band above the eye, where the actions browDown and browInnerUp move most.
        arch = 0.0185 - 6.0 * (outward - 0.004) ** 2
        brow = (np.abs(offset[:, 1] - arch) < 0.0045) & (outward > -0.019) & (outward < 0.027)
        colours[brow & (offset[:, 2] > -0.005)] = [0.25, 0.17, 0.12]
    return colours


Picture = tuple[Raster, np.ndarray]


def painted_pictures(
    people: list[np.ndarray], faces: np.ndarray, regions: dict[str, np.ndarray]
) -> Iterator[Picture]:
    """Each of `VIEWS` of people (V, 3): their raster, and the picture (SIZE, SIZE, 3) uint8."""
    light = jnp.array([0.3, 0.5, 0.8]) / jnp.linalg.norm(jnp.array([0.3, 0.5, 0.8]))
    for vertices in people:
        world = jnp.asarray(vertices * WORLD_SCALE, jnp.float32)
        smooth = vertex_normals(world, faces)
        colours = jnp.asarray(paint(vertices, regions))
        shaded = colours * (0.45 + 0.6 * jnp.clip(smooth @ light, 0, 1))[:, None]
        for yaw, pitch in VIEWS:
            raster = rasterize(world, jnp.asarray(faces), look_at_camera(yaw, pitch, 4.0), SIZE, True)
            image = interpolate(raster, shaded)
            image = jnp.where(raster.mask[..., None], image, jnp.array([0.55, 0.6, 0.65]))
            yield raster, np.asarray(jnp.clip(image, 0, 1) * 255).astype(np.uint8)


def portraits(head: HeadModel, people: int) -> Iterator[Picture]:
    """The same of people of OpenHeads with a neutral face."""
    scene, settings = prepare_scene(head), OpenHeadsSettings()
    for key in jax.random.split(jax.random.key(0), people):
        identity = random_identity(key, scene, settings)
        neutral = (jnp.zeros(EXPRESSION_SIZE), jnp.zeros(6), jnp.zeros(6))
        world = head_vertices(head, identity.shape, *neutral)
        for yaw, pitch in VIEWS:
            camera = look_at_camera(yaw, pitch, 4.0)
            frame = FrameParams(camera, identity.shape, *neutral)
            frame = jax.tree.map(lambda x: x[None], frame)
            image = render_scene(scene, identity, frame, key, SIZE, settings).image[0]
            picture = np.asarray(jnp.clip(image * 127.5 + 127.5, 0, 255)).astype(np.uint8)
            yield rasterize(world, head.faces, camera, SIZE, True), picture


def hits(pictures: Iterable[Picture]) -> tuple[np.ndarray, np.ndarray]:
    """Triangle (n, 468) and barycentric (n, 468, 3) under each landmark in the pictures that show a face."""
    landmarker, found, tried = Landmarker(), [], 0
    for raster, picture in pictures:
        tried += 1
        face = landmarker.detect(picture)
        if face is None:
            continue
        place = np.clip(face.points, 0, SIZE - 1)
        rows, columns = np.nonzero(np.asarray(raster.mask))
        nearest = [np.argmin((columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2) for x, y in place]
        row, column = rows[nearest], columns[nearest]
        found.append(
            (np.asarray(raster.face_index)[row, column], np.asarray(raster.barycentric)[row, column])
        )
    if len(found) < tried / 2:
        raise RuntimeError(f"the landmark network sees a face in only {len(found)} of {tried} pictures")
    return np.stack([f for f, _ in found]), np.stack([b for _, b in found])


def mirror_pairs(places: np.ndarray) -> np.ndarray:
    """(468,) each landmark's mirror image: known ones by name, others where both sides agree, else itself."""
    flipped = places * [-1.0, 1.0, 1.0]
    nearest = np.linalg.norm(flipped[:, None] - places[None], axis=-1).argmin(1)
    index = np.arange(LANDMARKS)
    pairs = np.where(nearest[nearest] == index, nearest, index)
    right = RIGHT_SIDE + RIGHT_UPPER_LID + RIGHT_LOWER_LID + UPPER_INNER_LIP + LOWER_INNER_LIP
    left = (
        LEFT_SIDE
        + LEFT_UPPER_LID[::-1]
        + LEFT_LOWER_LID[::-1]
        + UPPER_INNER_LIP[::-1]
        + LOWER_INNER_LIP[::-1]
    )
    pairs[list(right)], pairs[list(left)] = left, right
    return pairs


def nearest_on_triangles(places: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest triangle (n,) of corners (m, 3, 3) to each place (n, 3), and barycentric (n, 3) there."""
    chosen, weights = [], []
    for place in places:
        near = np.argsort(((corners.mean(1) - place) ** 2).sum(-1))[:60]
        share = _nearest_barycentric(place, corners[near])
        best = ((np.einsum("mk,mkc->mc", share, corners[near]) - place) ** 2).sum(-1).argmin()
        chosen.append(near[best])
        weights.append(share[best])
    return np.array(chosen), np.array(weights)


def _nearest_barycentric(place: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """(m, 3) barycentric of the point of each triangle (m, 3, 3) that is nearest to `place` (3,)."""
    options = []
    a, ab, ac = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    gram = np.stack([(ab * ab).sum(-1), (ab * ac).sum(-1), (ac * ac).sum(-1)], -1)
    d1, d2 = (ab * (place - a)).sum(-1), (ac * (place - a)).sum(-1)
    determinant = np.maximum(gram[:, 0] * gram[:, 2] - gram[:, 1] ** 2, 1e-18)
    v = (gram[:, 2] * d1 - gram[:, 1] * d2) / determinant
    w = (gram[:, 0] * d2 - gram[:, 1] * d1) / determinant
    inside = np.stack([1 - v - w, v, w], -1)
    inside[(inside < 0).any(-1)] = [1.0, 0.0, 0.0]
    options.append(inside)
    for first, second in ((0, 1), (1, 2), (2, 0)):
        edge = corners[:, second] - corners[:, first]
        along = ((place - corners[:, first]) * edge).sum(-1) / np.maximum((edge**2).sum(-1), 1e-18)
        on_edge = np.zeros((len(corners), 3))
        on_edge[:, second] = np.clip(along, 0, 1)
        on_edge[:, first] = 1 - on_edge[:, second]
        options.append(on_edge)
    options = np.stack(options)
    distance = ((np.einsum("omk,mkc->omc", options, corners) - place) ** 2).sum(-1)
    return options[distance.argmin(0), np.arange(len(corners))]


def visible_rim(
    vertices: np.ndarray, faces: np.ndarray, inside: np.ndarray, mirror: np.ndarray
) -> np.ndarray:
    """Skin vertices, and their mirror images, that border what is `inside` ((V,) bool) from the front."""
    world = jnp.asarray(vertices * WORLD_SCALE, jnp.float32)
    raster = rasterize(world, jnp.asarray(faces), look_at_camera(0.0, 0.0, 4.0), RIM_SIZE, True)
    face, share = np.asarray(raster.face_index), np.asarray(raster.barycentric)
    within = inside[faces].any(1)[face] & (face >= 0)
    beside = np.zeros_like(within)
    for axis in (0, 1):
        for step in (-1, 1):
            beside |= np.roll(within, step, axis)
    row, column = np.nonzero(beside & ~within & (face >= 0))
    rim = faces[face[row, column], share[row, column].argmax(-1)]
    return np.union1d(rim, mirror[rim])


def along_rim(
    vertices: np.ndarray, rim: np.ndarray, places: np.ndarray, lower: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (n, 3) and weights (n, 3) of landmarks laid along a rim from its least x to its greatest.

    Args:
      vertices: (V, 3), with eye or mouth open. rim: indices of one rim, corners included.
      places: (n, 3) the landmarks' rough places, corner to corner: their spacing in x is kept.
      lower: whether this is the lower lip or lid, whose edge is the upper one.
    """
    ordered = rim[np.argsort(vertices[rim, 0])]
    sign = 1.0 if lower else -1.0
    keep = []
    for index in ordered:
        near = np.abs(vertices[ordered, 0] - vertices[index, 0]) < 0.0012
        if sign * vertices[index, 1] >= (sign * vertices[ordered[near], 1]).max() - 2e-4:
            keep.append(index)
    line = np.unique(np.array([ordered[0], *keep, ordered[-1]]))
    line = line[np.argsort(vertices[line, 0])]
    x = vertices[line, 0]
    share = (places[:, 0] - places[0, 0]) / (places[-1, 0] - places[0, 0])
    target = x[0] + np.clip(share, 0, 1) * (x[-1] - x[0])
    left = np.clip(np.searchsorted(x, target, side="right") - 1, 0, len(x) - 2)
    weight = (target - x[left]) / np.maximum(x[left + 1] - x[left], 1e-9)
    corners = np.stack([line[left], line[left + 1], line[left + 1]], -1)
    return corners, np.stack([1 - weight, weight, np.zeros_like(weight)], -1)


def rims(
    template: np.ndarray, opened: np.ndarray, faces: np.ndarray, regions: dict[str, np.ndarray],
    jaw: np.ndarray, mirror: np.ndarray,
) -> list[tuple]:  # fmt: skip
    """(landmarks, vertices that show the rim, rim, is lower) of the inner lips and of the four lids."""
    member = lambda name: np.isin(np.arange(len(template)), regions[name])
    mouth = visible_rim(opened, faces, member("inner_mouth"), mirror)
    corners = mouth[[opened[mouth, 0].argmin(), opened[mouth, 0].argmax()]]
    found = [
        (UPPER_INNER_LIP, opened, np.union1d(mouth[jaw[mouth] < 0.5], corners), False),
        (LOWER_INNER_LIP, opened, np.union1d(mouth[jaw[mouth] >= 0.5], corners), True),
    ]
    eyes = visible_rim(template, faces, member("left_eyeball") | member("right_eyeball"), mirror)
    for upper, lower, sign in (
        (RIGHT_UPPER_LID, RIGHT_LOWER_LID, -1.0), (LEFT_UPPER_LID, LEFT_LOWER_LID, 1.0),
    ):  # fmt: skip
        rim = eyes[sign * template[eyes, 0] > 0]
        ends = rim[[template[rim, 0].argmin(), template[rim, 0].argmax()]]
        (x0, y0, _), (x1, y1, _) = template[ends]
        above = template[rim, 1] > y0 + (template[rim, 0] - x0) / (x1 - x0) * (y1 - y0)
        found.append((upper, template, np.union1d(rim[above], ends), False))
        found.append((lower, template, np.union1d(rim[~above], ends), True))
    return found


def contour_embedding(template: np.ndarray, static: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """(79, 17) vertices of the jaw line for the head's yaw in degrees, row k for yaw k - 39.

    On the side turned away from the camera the point is the silhouette's at the same height; on the other
    side, whose jaw is seen from the front, it stays on the jaw.
    """
    rows = np.tile(static, (79, 1))
    for row in range(79):
        yaw = np.radians(row - 39)
        across = template[:, 0] * np.cos(yaw) + template[:, 2] * np.sin(yaw)
        # A head that turns to its own left hides its left cheek, at the viewer's right: points 9..16.
        for index in range(9, 17) if yaw > 0 else range(8):
            level = np.abs(template[skin, 1] - template[static[index], 1]) < 0.005
            side = 1.0 if yaw > 0 else -1.0
            chosen = np.append(skin[level], static[index])
            if yaw != 0:
                rows[row, index] = chosen[np.argmax(side * across[chosen])]
    return rows


def embed_landmarks(
    pictures: Iterable[Picture], template: np.ndarray, opened: np.ndarray, faces: np.ndarray,
    regions: dict[str, np.ndarray], jaw: np.ndarray, mirror: np.ndarray,
) -> dict[str, jnp.ndarray]:  # fmt: skip
    """The landmark fields of a `HeadModel`.

    Args:
      pictures: of some heads, with their rasters.
      template: (V, 3) the mean head, which must be symmetric. opened: with its jaw open.
      faces: (F, 3). regions: see `bake_openhead.name_regions`. jaw: (V,) weights of the jaw joint.
      mirror: (V,) each vertex's mirror image.
    """
    triangle, weights = hits(pictures)
    places = np.einsum("nlk,nlkc->nlc", weights, template[faces[triangle]])
    middle = np.median(places, axis=0)
    agreed = np.median(np.linalg.norm(places - middle, axis=-1), axis=0) < AGREEMENT
    agreed[list(OVAL)] = False
    pairs = mirror_pairs(middle)
    known = (pairs != np.arange(LANDMARKS)) | (np.abs(middle[:, 0]) < MIDLINE)
    middle = np.where(known[:, None], 0.5 * (middle + middle[pairs] * [-1.0, 1.0, 1.0]), middle)
    agreed &= agreed[pairs]
    skin = faces[np.isin(faces, np.setdiff1d(regions["face"], regions["ears"])).all(1)]
    nearest, share = nearest_on_triangles(middle, template[skin])
    vertices = skin[nearest]
    for group, shape, rim, lower in rims(template, opened, faces, regions, jaw, mirror):
        group = list(group)
        vertices[group], share[group] = along_rim(shape, rim, middle[group], lower)
        agreed[group] = True
    static, static_share = vertices[list(IBUG)], share[list(IBUG)]
    corner = static[np.arange(17), static_share[:17].argmax(-1)]
    contour = contour_embedding(template, corner, np.setdiff1d(regions["front"], regions["neck"]))
    kept = np.flatnonzero(agreed)
    return {
        "landmark_triangles": jnp.asarray(static, jnp.int32),
        "landmark_barycentric": jnp.asarray(static_share, jnp.float32),
        "contour_triangles": jnp.asarray(np.repeat(contour[..., None], 3, -1), jnp.int32),
        "contour_barycentric": jnp.tile(jnp.array([1.0, 0.0, 0.0]), (79, 17, 1)),
        "mediapipe_indices": jnp.asarray(kept, jnp.int32),
        "mediapipe_triangles": jnp.asarray(vertices[kept], jnp.int32),
        "mediapipe_barycentric": jnp.asarray(share[kept], jnp.float32),
    }
