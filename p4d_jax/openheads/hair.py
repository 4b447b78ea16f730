"""Hair of OpenHeads: a shell of static topology around the head, grown and cut by a handful of numbers.

The shell is a grid of azimuth x row: `DOME` rows of falling elevation over the skull, then `CURTAIN` rows
of falling height. Each grid point is bound to the skin that its ray from the skull's centre meets (ears
left out), so that it follows every identity. Where the thickness is negative the shell hides inside the
head: the hairline is where shell and skin cross. Angles: azimuth phi = 0 at the face, pi at the back;
elevation theta from the horizontal plane through the skull's centre; radians. Lengths in world units.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from p4d_jax.data.dice import Dice
from p4d_jax.geometry import exact_products
from p4d_jax.types import Array

AZIMUTHS, DOME, CURTAIN = 64, 13, 20
ROWS = DOME + CURTAIN
CURTAIN_STEP = 0.04

# The natural hairline: elevation in degrees over |azimuth| in degrees.
HAIRLINE_AZIMUTH = np.radians([0, 20, 38, 52, 64, 76, 84, 100, 118, 140, 180])
HAIRLINE = np.radians([34, 33, 31, 25, 9, -12, 2, 6, -26, -38, -43])
OPEN_HAIRLINE = np.radians([34, 33, 31, 27, 16, -86, -86, -86, -86, -86, -86])

# Styles: one row of numbers each; `HairStyle` names the columns.
_STYLES = {
    #              top    side   back  line  temple length hang fringe part  bun  curl  paint weight
    "bald": (-0.03, -0.03, -0.03, 0.0, 0.0, -0.4, 0.0, 0.0, 0.0, 0.0, 0.0, 0.15, 0.5),
    "buzz": (0.004, 0.002, 0.003, 0.0, 0.0, -0.4, 0.0, 0.0, 0.0, 0.0, 0.0, 0.85, 0.8),
    "crown": (-0.02, 0.022, 0.024, 0.30, 0.2, -0.4, 0.0, 0.0, 0.0, 0.0, 0.1, 0.45, 0.5),
    "crop": (0.034, 0.014, 0.020, 0.0, 0.0, -0.4, 0.0, 0.0, 0.0, 0.0, 0.25, 0.8, 1.6),
    "side part": (0.055, 0.022, 0.026, 0.0, 0.02, -0.4, 0.1, 0.10, 1.0, 0.0, 0.15, 0.8, 1.6),
    "quiff": (0.080, 0.018, 0.030, 0.04, 0.0, -0.4, 0.0, -0.05, 0.2, 0.0, 0.3, 0.8, 1.0),
    "mop": (0.065, 0.045, 0.050, 0.0, 0.0, -0.4, 0.3, 0.30, 0.3, 0.0, 0.5, 0.8, 1.0),
    "afro": (0.125, 0.095, 0.105, 0.0, 0.0, -0.4, 0.3, 0.0, 0.0, 0.0, 0.7, 0.9, 0.8),
    "bob": (0.048, 0.046, 0.060, 0.0, 0.0, -0.22, 0.9, 0.0, 0.7, 0.0, 0.2, 0.8, 1.2),
    "long": (0.042, 0.040, 0.060, 0.0, 0.0, -0.60, 0.9, 0.0, 0.8, 0.0, 0.2, 0.8, 1.8),
    "long curly": (0.072, 0.075, 0.090, 0.0, 0.0, -0.50, 1.0, 0.0, 0.5, 0.0, 0.7, 0.8, 1.0),
    "fringe": (0.046, 0.044, 0.060, 0.0, 0.0, -0.50, 0.9, 0.42, 0.0, 0.0, 0.15, 0.8, 1.0),
    "bun": (0.025, 0.014, 0.018, 0.0, 0.0, -0.4, 0.0, 0.0, 0.3, 0.13, 0.1, 0.9, 1.0),
}
_WEIGHTS = np.array([row[-1] for row in _STYLES.values()], np.float32)
_TABLE = np.array([row[:-1] for row in _STYLES.values()], np.float32)
LONG_STYLES = np.array([row[6] > 0.5 or row[9] > 0 for row in _STYLES.values()])
STYLE_NAMES = tuple(_STYLES)


@struct.dataclass
class HairStyle:
    """One haircut.

    Attributes:
      top, side, back: Thickness in world units; negative means bare skin.
      line, temple: How far the front and the temples recede, radians of elevation.
      length: World height of the lower end where hair hangs.
      hang: 0 hugs the neck, 1 falls straight down from the widest place.
      fringe: How far the hair comes down the forehead, radians.
      part: Depth of the parting. bun: Size of the knot. curl: Roughness of the surface.
      paint: Opacity of the hair colour on the skin below.
      part_side: Azimuth of the parting.
      pole: (3,) unit vector where the strands start.
      seed: (3,) offset into the noise volume.
      root, tip: (3,) linear colours. shine: highlight strength.
    """

    top: Array
    side: Array
    back: Array
    line: Array
    temple: Array
    length: Array
    hang: Array
    fringe: Array
    part: Array
    bun: Array
    curl: Array
    paint: Array
    part_side: Array
    pole: Array
    seed: Array
    root: Array
    tip: Array
    shine: Array


def random_hair_style(key: Array, masculine: Array, age: Array) -> HairStyle:
    """Draws a haircut.

    Args:
      masculine: Scalar in [0, 1]; hanging hair is rarer above 0.5, bare heads below.
      age: Scalar in [0, 1]; grey hair above about 0.6.
    """
    dice = Dice(key, 64)
    long = jnp.asarray(LONG_STYLES)
    bare = jnp.arange(len(_STYLES)) < 3
    weights = jnp.asarray(_WEIGHTS) * jnp.where(long, 1.15 - masculine, 1.0)
    weights *= jnp.where(bare, 0.05 + masculine, 0.3 + masculine * 0.7 + 0.3 * long)
    style = dice.choice(weights)
    row = jnp.asarray(_TABLE)[style]
    jitter = jnp.exp(0.25 * dice.normal((12,), 2.0))
    row = row * jitter.at[11].set(1.0)
    shift = dice.normal((6,), 2.0)
    pole = jnp.stack([0.35 * shift[2], jnp.ones(()), -0.45 + 0.3 * shift[3]])
    root, tip = _random_hair_color(dice, age)
    return HairStyle(
        top=row[0],
        side=row[1],
        back=row[2],
        line=row[3] + 0.05 * shift[0] + 0.12 * masculine * age,
        temple=row[4] + 0.06 * jnp.abs(shift[1]) * masculine,
        length=row[5],
        hang=jnp.minimum(row[6], 1.0),
        fringe=row[7],
        part=row[8],
        bun=row[9],
        curl=jnp.minimum(row[10], 1.0),
        paint=row[11],
        part_side=0.6 * shift[4],
        pole=pole / jnp.linalg.norm(pole),
        seed=dice.uniform(0.0, 32.0, (3,)),
        root=root,
        tip=tip,
        shine=dice.uniform(0.01, 0.12),
    )


def _random_hair_color(dice: Dice, age: Array) -> tuple[Array, Array]:
    """Root and tip colour, (3,) linear each: eumelanin and pheomelanin absorb, grey mixes in with age."""
    eumelanin = 3.4 * dice.uniform() ** 0.6
    pheomelanin = 1.3 * dice.uniform() ** 2.2
    absorb = eumelanin * jnp.array([0.85, 1.12, 1.45]) + pheomelanin * jnp.array([0.25, 0.85, 1.9])
    color = jnp.array([0.52, 0.43, 0.32]) * jnp.exp(-absorb) + 0.008
    grey = jax.nn.sigmoid((age - 0.72 + 0.2 * dice.normal()) * 14.0)
    color = color + grey * (jnp.array([0.45, 0.44, 0.43]) * dice.uniform(0.4, 1.0) - color)
    dyed = dice.chance(0.03)
    color = color + dyed * (0.4 * dice.uniform(0.0, 1.0, (3,)) ** 2 - color)
    return color * 0.75, color * (1.0 + 0.5 * dice.uniform())


def hairline(style: HairStyle, azimuth: Array) -> Array:
    """Elevation of the hair's edge at each azimuth in [-pi, pi]."""
    side = jnp.abs(azimuth)
    closed = jnp.interp(side, HAIRLINE_AZIMUTH, HAIRLINE)
    opened = jnp.interp(side, HAIRLINE_AZIMUTH, OPEN_HAIRLINE)
    front = jnp.exp(-((azimuth / 0.75) ** 2))
    temple = jnp.exp(-(((side - 0.75) / 0.3) ** 2))
    line = closed + (opened - closed) * jax.nn.sigmoid((style.hang - 0.5) * 12.0)
    return line + style.line * front + style.temple * temple - style.fringe * jnp.exp(-((side / 0.8) ** 4))


def thickness(style: HairStyle, azimuth: Array, elevation: Array) -> Array:
    """Thickness of the hair over the skin, negative below the hairline; same shape as the angles."""
    above = jnp.clip(0.5 + (elevation - 0.6) / 1.0, 0.0, 1.0)
    behind = jnp.clip((jnp.abs(azimuth) - 1.4) / 1.0, 0.0, 1.0)
    full = style.side + (style.back - style.side) * behind
    full = full + (style.top - full) * above * above * (3 - 2 * above)
    groove = jnp.exp(-((jnp.sin(azimuth - style.part_side) / 0.10) ** 2)) * (jnp.cos(azimuth) > 0)
    groove *= jnp.clip(jnp.cos(elevation) * 2.5, 0.0, 1.0)
    full = full * (1 - 0.55 * jnp.clip(style.part, 0, 1) * groove)
    # Lush hair rises from the forehead over a wider band than a crop does.
    edge = (elevation - hairline(style, azimuth)) / (0.12 + 2.0 * jnp.clip(full, 0.0, 0.1))
    ramp = jnp.clip(edge, -1.0, 1.0)
    covered = full * jnp.clip(ramp, 1e-6, 1.0) ** 0.6
    knot = jnp.cos(elevation - 0.75) * jnp.cos((jnp.abs(azimuth) - jnp.pi) * jnp.cos(elevation))
    covered += style.bun * jnp.exp(-jnp.clip(1 - knot, 0, 2) / 0.045) * (jnp.abs(azimuth) > 1.2)
    # Far below the hairline the shell dives to the axis, out of sight of an open mouth.
    return jnp.where(ramp > 0, covered, 0.06 * ramp - 0.5 * jnp.clip(-edge - 1.5, 0.0, 1.0))


def shell_faces() -> np.ndarray:
    """(faces, 3) of the grid, row-major vertices (row, azimuth), counter-clockwise from outside."""
    row, column = np.meshgrid(np.arange(ROWS - 1), np.arange(AZIMUTHS), indexing="ij")
    a = row * AZIMUTHS + column
    b = row * AZIMUTHS + (column + 1) % AZIMUTHS
    c, d = a + AZIMUTHS, b + AZIMUTHS
    first, second = np.stack([a, c, b], -1), np.stack([b, c, d], -1)
    # The top row is a single point: its first triangles have no area.
    return np.concatenate([first[1:].reshape(-1, 3), second.reshape(-1, 3)]).astype(np.int32)


def shell_azimuths() -> np.ndarray:
    """(AZIMUTHS,) in [-pi, pi)."""
    return (np.arange(AZIMUTHS) + 0.5) / AZIMUTHS * 2 * np.pi - np.pi


def shell_elevations() -> np.ndarray:
    """(DOME,) from the pole to the horizon; dense where hairlines run."""
    return np.radians(np.linspace(90.0, 0.0, DOME, endpoint=False))


def bind_shell(vertices: np.ndarray, faces: np.ndarray, center: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each grid ray leaves the skin: vertex indices (ROWS*AZIMUTHS, 6) and weights.

    Rays of the dome start at the centre, those of the curtain on the vertical axis below it. A ray that
    meets no skin takes its neighbours' in the row (ears are cut out), or the row above (below the neck).

    Args:
      vertices: (V, 3) world units. faces: (F, 3) skin without ears and inner mouth. center: (3,).
    """
    azimuth = shell_azimuths()
    index = np.zeros((ROWS, AZIMUTHS, 6), np.int32)
    weight = np.zeros((ROWS, AZIMUTHS, 6), np.float32)
    hit = np.zeros((ROWS, AZIMUTHS), bool)
    for row in range(ROWS):
        lift = shell_elevations()[row] if row < DOME else 0.0
        start = center - [0.0, CURTAIN_STEP * max(row - DOME, 0), 0.0]
        directions = np.stack(
            [np.sin(azimuth) * np.cos(lift), np.full(AZIMUTHS, np.sin(lift)), np.cos(azimuth) * np.cos(lift)],
            -1,
        )
        near = faces[_crossed(vertices[faces] - start, lift)]
        if not len(near):
            continue
        found, corner, barycentric = _last_hits(start, directions, vertices[near])
        hit[row] = found
        index[row, :, :3], weight[row, :, :3] = near[corner], barycentric * found[:, None]
    for row in range(ROWS):
        _fill_row(row, hit, index, weight)
    return index.reshape(-1, 6), weight.reshape(-1, 6)


def _crossed(corners: np.ndarray, lift: float, margin: float = 0.05) -> np.ndarray:
    """Which triangles (F, 3, 3) around the origin the cone of rays of this elevation can meet."""
    elevation = np.arctan2(corners[..., 1], np.hypot(corners[..., 0], corners[..., 2]))
    return (elevation.min(1) < lift + margin) & (elevation.max(1) > lift - margin)


@exact_products
def _last_hits(start: np.ndarray, directions: np.ndarray, corners: np.ndarray):
    """Farthest triangle on each ray: found (n,), triangle (n,), barycentric (n, 3). Moeller-Trumbore."""
    a, ab, ac = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    cross = np.cross(directions[:, None], ac[None])
    determinant = np.sum(cross * ab, -1)
    determinant = np.where(np.abs(determinant) < 1e-12, 1e-12, determinant)
    offset = start - a
    u = np.sum(cross * offset, -1) / determinant
    q = np.cross(offset, ab)
    v = directions @ q.T / determinant
    distance = np.sum(q * ac, -1) / determinant
    inside = (u >= 0) & (v >= 0) & (u + v <= 1) & (distance > 1e-4)
    distance = np.where(inside, distance, -1.0)
    best = distance.argmax(1)
    rows = np.arange(len(directions))
    u, v = u[rows, best], v[rows, best]
    return inside.any(1), best, np.stack([1 - u - v, u, v], -1)


def _fill_row(row: int, hit: np.ndarray, index: np.ndarray, weight: np.ndarray) -> None:
    """Fills missed rays of one row in place from the row's nearest hits, or from the row above."""
    good = np.flatnonzero(hit[row])
    if len(good) < AZIMUTHS // 2:
        if row == 0:
            raise ValueError(
                "the hair's top row misses the skin: the head has no closed scalp above its centre"
            )
        index[row], weight[row] = index[row - 1], weight[row - 1]
        return
    for column in np.flatnonzero(~hit[row]):
        ahead = good[np.argmin((good - column) % AZIMUTHS)]
        behind = good[np.argmin((column - good) % AZIMUTHS)]
        gap_ahead, gap_behind = (ahead - column) % AZIMUTHS, (column - behind) % AZIMUTHS
        share = gap_behind / (gap_ahead + gap_behind)
        index[row, column] = np.concatenate([index[row, ahead, :3], index[row, behind, :3]])
        weight[row, column] = np.concatenate(
            [weight[row, ahead, :3] * share, weight[row, behind, :3] * (1 - share)]
        )


@exact_products
def grow_hair(style: HairStyle, skin: Array, center: Array, noise) -> tuple[Array, Array]:
    """Vertices of the shell, (ROWS*AZIMUTHS, 3), and their strand coordinates, (ROWS*AZIMUTHS, 3).

    Args:
      style: The haircut.
      skin: (ROWS*AZIMUTHS, 3) bound skin points, the neck unrotated, world units.
      center: (3,) the skull's centre.
      noise: Function (..., 3) -> (...,) of about zero mean and unit range.

    Strand coordinates: two numbers that are constant along a strand and one that runs along it.
    """
    skin = skin.reshape(ROWS, AZIMUTHS, 3)
    azimuth = jnp.asarray(shell_azimuths(), jnp.float32)
    flat = jnp.stack([jnp.sin(azimuth), jnp.zeros(AZIMUTHS), jnp.cos(azimuth)], -1)
    dome = jnp.asarray(shell_elevations(), jnp.float32)[:, None, None]
    directions = jnp.concatenate(
        [
            flat * jnp.cos(dome) + jnp.array([0.0, 1.0, 0.0]) * jnp.sin(dome),
            jnp.broadcast_to(flat, (CURTAIN, AZIMUTHS, 3)),
        ]
    )
    drop = CURTAIN_STEP * jnp.arange(CURTAIN, dtype=jnp.float32)
    end = noise(flat * 2.5 + style.seed) * (0.02 + 0.08 * style.curl) + style.length - center[1]
    drop = jnp.minimum(drop[:, None], jnp.maximum(-end, 0.0))  # (CURTAIN, AZIMUTHS): collapses below the end
    start = jnp.concatenate([jnp.zeros((DOME, AZIMUTHS)), drop])
    radius = jnp.linalg.norm((skin - center).at[DOME:, :, 1].set(0.0), axis=-1)
    # Rows below the end lie on the end: the same height, the same distance from the axis.
    last = jnp.maximum((jnp.maximum(-end, 0.0) / CURTAIN_STEP).astype(jnp.int32), 0) + DOME
    row = jnp.minimum(jnp.arange(ROWS)[:, None], last)
    radius = jnp.take_along_axis(_smooth_rows(radius), row, axis=0)
    radius = radius.at[DOME:].set(jax.lax.cummin(radius[DOME:], axis=0))  # a neck's flare is no nape
    widest = jax.lax.cummax(radius[DOME:], axis=0) * (1.0 - 0.12 * drop)
    behind = jax.nn.sigmoid((jnp.abs(azimuth) - 1.15) * 12.0)
    radius = radius.at[DOME:].add(style.hang * behind * (widest - radius[DOME:]))
    elevation = jnp.arctan2(
        directions[..., 1] * radius - start, jnp.hypot(directions[..., 0], directions[..., 2]) * radius
    )
    elevation = jax.lax.cummin(elevation, axis=0)
    rough = noise(directions * (2.5 + 3.0 * style.curl) + style.seed + start[..., None] * 6.0)
    grown = thickness(style, azimuth, elevation)
    grown = grown * (1.0 + (0.08 + 0.28 * style.curl) * rough) + 0.004 * rough * (grown > 0)
    position = (
        center
        + directions * jnp.maximum(radius + grown, 0.01)[..., None]
        - start[..., None] * jnp.array([0.0, 1.0, 0.0])
    )
    across = directions - (directions @ style.pole)[..., None] * style.pole
    across = across * jax.lax.rsqrt(jnp.sum(across**2, -1, keepdims=True) + 1e-4)
    side = jnp.cross(style.pole, jnp.array([0.0, 0.0, 1.0]))
    side = side / jnp.linalg.norm(side)
    along = jnp.arccos(jnp.clip(directions @ style.pole, -1, 1)) * 0.3 + start
    strands = jnp.stack([across @ side, across @ jnp.cross(side, style.pole), along], -1)
    return position.reshape(-1, 3), strands.reshape(-1, 3)


def _smooth_rows(radius: Array) -> Array:
    """(ROWS, AZIMUTHS) smoothed three times with its grid neighbours, the azimuth wrapping around."""
    for _ in range(3):
        rows = jnp.concatenate([radius[:1], radius[:-1]]) + jnp.concatenate([radius[1:], radius[-1:]])
        radius = (2 * radius + jnp.roll(radius, 1, 1) + jnp.roll(radius, -1, 1) + rows) / 6.0
    return radius
