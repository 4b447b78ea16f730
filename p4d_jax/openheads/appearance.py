"""Surface of OpenHeads: skin, lips, brows, stubble, eyes, mouth, hair colour, clothes.

Everything is a function of where a point lies on the rest mesh (expression and identity zero), so that it
sticks to the head: soft maps painted once in the front projection (`paint_maps`), white noise in a small
periodic volume read at several frequencies, and a handful of numbers per identity (`Appearance`). Colours
are linear RGB albedos. Skin tone follows two absorbers, melanin and haemoglobin, through the logarithm of
a palette of photographed skin (Fitzpatrick I to VI).
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from p4d_jax.data.dice import Dice
from p4d_jax.openheads.hair import HairStyle, hairline, random_hair_style
from p4d_jax.types import Array

SKIN, EYE, TEETH, MOUTH, HAIR, CLOTH = range(6)  # material of each rendered triangle

PAINT_SIZE = 192
PAINT_CHANNELS = ("lips", "brow", "lids", "cheek", "nose", "under_eye", "moustache", "seam")

NOISE_SIZE = 32
_NOISE = np.random.default_rng(20211).standard_normal((NOISE_SIZE**3, 4)).astype(np.float32)

_TONE = np.array(
    [[243, 211, 196], [228, 184, 158], [200, 150, 116], [150, 103, 74], [96, 64, 47], [58, 39, 32]]
)
_TONE_FIT = np.polyfit(np.linspace(0, 1, len(_TONE)), 2.2 * np.log(_TONE / 255.0), 3).astype(np.float32)
_HAEMOGLOBIN = np.array([0.10, 0.62, 0.52], np.float32)

_IRIS = np.array(
    [[48, 30, 18], [84, 52, 26], [120, 84, 42], [92, 96, 56], [84, 112, 134], [116, 134, 146], [62, 92, 140]],
    np.float32,
)
_IRIS_WEIGHTS = np.array([3.0, 2.5, 1.2, 0.8, 1.0, 0.8, 0.7], np.float32)


@struct.dataclass
class Appearance:
    """What one identity looks like besides its shape; scalars unless a shape is given.

    Attributes:
      melanin, haemoglobin, carotene: Amounts of the skin's absorbers, 0..1.
      blush: Redness of cheeks and nose. lip_color: (3,) log absorption of the lips. lip_edge: Its softness.
      mottle, freckles, blemish, under_eye: Strengths of the skin's variations.
      oil: Strength of highlights. shininess: Their exponent.
      brow_width, brow_density: Width in world units, and opacity. brow_color: (3,) colour.
      lash: Darkness of the lid line. liner: Its width in world units.
      stubble, beard, moustache: Opacity of painted, thickness of grown beard. beard_color: (3,) colour.
      iris: (3,), iris_size: angular radius in radians, pupil: share of it, sclera: (3,).
      teeth: (3,).
      cloth, cloth_second: (3,), stripes: frequency, stripe_angle, collar: height above the neck's rim,
        neckline: Depth of the neckline in front. v_neck: Its form, 0 round to 1 pointed.
      hair: The haircut. seed: (3,) place in the noise volume.
    """

    melanin: Array
    haemoglobin: Array
    carotene: Array
    blush: Array
    lip_color: Array
    lip_edge: Array
    mottle: Array
    freckles: Array
    blemish: Array
    under_eye: Array
    oil: Array
    shininess: Array
    brow_width: Array
    brow_density: Array
    brow_color: Array
    lash: Array
    liner: Array
    stubble: Array
    beard: Array
    moustache: Array
    beard_color: Array
    iris: Array
    iris_size: Array
    pupil: Array
    sclera: Array
    teeth: Array
    cloth: Array
    cloth_second: Array
    stripes: Array
    stripe_angle: Array
    collar: Array
    neckline: Array
    v_neck: Array
    hair: HairStyle
    seed: Array


def random_appearance(key: Array) -> Appearance:
    """Draws skin, hair, eyes and clothes of one identity."""
    key, hair_key = jax.random.split(key)
    dice = Dice(key, 96)
    uniform, chance = dice.uniform, dice.chance
    masculine, age = uniform(), uniform()
    hair = random_hair_style(hair_key, masculine, age)
    bearded = chance(jnp.clip(1.5 * (masculine - 0.35), 0.0, 0.75))
    full = bearded * chance(0.45)
    made_up = chance(jnp.clip(1.1 - 1.6 * masculine, 0.0, 0.7))
    melanin = uniform() ** 1.15
    lip_color = jnp.array([0.14, 0.85, 0.68]) * uniform(0.5, 1.2)
    lip_color += made_up * uniform(0.0, 1.0) * jnp.array([0.35, 1.3, 1.0]) * uniform(0.2, 1.0, (3,))
    iris = jnp.asarray(_IRIS / 255.0) ** 2.2
    dark = jnp.arange(len(_IRIS)) < 2
    iris_weights = jnp.asarray(_IRIS_WEIGHTS) * jnp.where(dark, 1.0, 1.3 * (1 - melanin) ** 2 + 0.03)
    cloth = uniform(0.0, 0.85, (3,)) ** 2.2
    grey = uniform(0.02, 0.8) ** 1.6
    cloth = jnp.where(chance(0.45) > 0, grey * (0.9 + 0.2 * cloth), cloth)
    return Appearance(
        melanin=melanin,
        haemoglobin=uniform(0.1, 0.6),
        carotene=uniform(-0.2, 0.45),
        blush=uniform(0.05, 0.6),
        lip_color=lip_color,
        lip_edge=uniform(0.003, 0.011) * (1 - 0.5 * made_up),
        mottle=uniform(0.3, 1.6),
        freckles=chance(0.3) * uniform() * (1 - melanin),
        blemish=uniform() ** 2,
        under_eye=uniform(0.0, 0.7),
        oil=uniform(0.15, 1.0),
        shininess=jnp.exp(uniform(2.3, 3.7)),
        brow_width=uniform(0.007, 0.014) + 0.004 * masculine,
        brow_density=uniform(0.35, 0.95),
        brow_color=hair.root * uniform(0.4, 1.0),
        lash=uniform(0.3, 0.75) + 0.25 * made_up,
        liner=uniform(0.004, 0.0075) + 0.003 * made_up,
        stubble=bearded * uniform(0.15, 0.8) + 0.08 * masculine,
        beard=full * uniform(0.005, 0.05),
        moustache=jnp.maximum(full, chance(0.06) * bearded) * uniform(0.3, 0.9),
        beard_color=hair.root * uniform(0.6, 1.1),
        iris=iris[dice.choice(iris_weights)] * uniform(0.7, 1.5, (3,)),
        iris_size=uniform(0.46, 0.54),
        pupil=uniform(0.28, 0.52),
        sclera=jnp.array([0.76, 0.71, 0.68]) * uniform(0.8, 1.08) * uniform(0.96, 1.02, (3,)),
        teeth=jnp.array([0.76, 0.71, 0.60]) * uniform(0.75, 1.05),
        cloth=cloth,
        cloth_second=uniform(0.0, 0.9, (3,)) ** 2.2,
        stripes=chance(0.25) * uniform(20.0, 120.0),
        stripe_angle=uniform(0.0, 3.14),
        collar=uniform(-0.02, 0.13),
        neckline=uniform(0.0, 0.3),
        v_neck=chance(0.4),
        hair=hair,
        seed=uniform(0.0, 32.0, (3,)),
    )


def sample_noise(points: Array) -> Array:
    """Smooth noise, four independent channels of about unit variance: (..., 3) -> (..., 4), period 32."""
    cell = jnp.floor(points)
    t = points - cell
    t = t * t * (3.0 - 2.0 * t)
    cell = cell.astype(jnp.int32)
    low, high = cell & (NOISE_SIZE - 1), (cell + 1) & (NOISE_SIZE - 1)
    table = jnp.asarray(_NOISE)
    total = 0.0
    for i in (0, 1):
        x, wx = (high[..., 0], t[..., 0]) if i else (low[..., 0], 1 - t[..., 0])
        for j in (0, 1):
            y, wy = (high[..., 1], t[..., 1]) if j else (low[..., 1], 1 - t[..., 1])
            for k in (0, 1):
                z, wz = (high[..., 2], t[..., 2]) if k else (low[..., 2], 1 - t[..., 2])
                total += table[(x * NOISE_SIZE + y) * NOISE_SIZE + z] * (wx * wy * wz)[..., None]
    return total * 1.6


def sample_paint(paint: Array, bounds: Array, points: Array) -> Array:
    """Bilinear reading of the front-projected maps: paint (P, P, C), bounds (4,), points (..., 3)."""
    size = paint.shape[0]
    low, high = bounds[:2], bounds[2:]
    at = jnp.clip((points[..., :2] - low) / (high - low), 0.0, 1.0) * (size - 1.001)
    cell = jnp.floor(at)
    t = at - cell
    cell = cell.astype(jnp.int32)
    index = cell[..., 1] * size + cell[..., 0]
    flat = paint.reshape(size * size, -1)
    tx, ty = t[..., :1], t[..., 1:]
    upper = flat[index] * (1 - tx) + flat[index + 1] * tx
    lower = flat[index + size] * (1 - tx) + flat[index + size + 1] * tx
    return upper * (1 - ty) + lower * ty


def paint_maps(landmarks: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Soft maps of the front of the face, (PAINT_SIZE, PAINT_SIZE, len(PAINT_CHANNELS)), row 0 at low y.

    Signed distances (world units, positive inside) for lips and lids, distance to the brow line divided by
    its local width profile, and Gaussian blobs for the rest.

    Args:
      landmarks: (68, 3) iBUG points of the rest mesh, world units, mouth closed.
      bounds: (4,) low x, low y, high x, high y of the painted rectangle.
    """
    axis = [np.linspace(bounds[i], bounds[i + 2], PAINT_SIZE) for i in (0, 1)]
    x, y = np.meshgrid(*axis)
    grid = np.stack([x, y], -1)
    mark = landmarks[:, :2]
    unit = np.linalg.norm(mark[36] - mark[45])  # outer eye corners

    def blob(center, width, height):
        return np.exp(-(((x - center[0]) / (width * unit)) ** 2) - ((y - center[1]) / (height * unit)) ** 2)

    lips = _signed_distance(grid, _rounded(mark[48:60]))
    seam, _ = _polyline_distance(grid, mark[[48, 60, 61, 62, 63, 64, 54]])
    lids = np.maximum(
        _signed_distance(grid, _rounded(mark[36:42])), _signed_distance(grid, _rounded(mark[42:48]))
    )
    brow = np.minimum(_brow_distance(grid, mark[17:22]), _brow_distance(grid, mark[22:27][::-1]))
    left, right = mark[36:42].mean(0), mark[42:48].mean(0)
    down = np.array([0.0, mark[33, 1] - mark[27, 1]])
    cheek = sum(
        blob(eye + [s * 0.10 * unit, 0] + 0.85 * down, 0.26, 0.22) for eye, s in ((left, -1), (right, 1))
    )
    nose = blob(mark[30] - [0, 0.03 * unit], 0.17, 0.16)
    under = sum(blob(eye - [0, 0.14 * unit], 0.20, 0.08) for eye in (left, right))
    middle = 0.5 * (mark[33] + mark[51])
    moustache = np.exp(-(((x - middle[0]) / (0.33 * unit)) ** 4) - ((y - middle[1]) / (0.09 * unit)) ** 4)
    return np.stack([lips, brow, lids, cheek, nose, under, moustache, seam], -1).astype(np.float32)


def _brow_distance(grid: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Distance to a brow, larger towards its ends so that it tapers; `line` runs from the outer end."""
    distance, along = _polyline_distance(grid, _rounded(line, closed=False))
    return distance / (0.35 + 0.75 * np.clip(along * 1.6, 0, 1) * (1 - 0.25 * along))


def _rounded(points: np.ndarray, closed: bool = True, times: int = 2) -> np.ndarray:
    """Chaikin's corner cutting: (N, 2) -> more points on a smoother line."""
    for _ in range(times):
        nxt = np.roll(points, -1, 0)
        cut = np.stack([0.75 * points + 0.25 * nxt, 0.25 * points + 0.75 * nxt], 1)
        ends = points[:1], points[-1:]
        points = cut.reshape(-1, 2) if closed else np.concatenate([ends[0], cut[:-1].reshape(-1, 2), ends[1]])
    return points


def _polyline_distance(grid: np.ndarray, line: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each grid point to an open line, and the place along it in [0, 1]."""
    best, place = np.full(grid.shape[:2], np.inf), np.zeros(grid.shape[:2])
    for i, (a, b) in enumerate(itertools.pairwise(line)):
        t = np.clip((grid - a) @ (b - a) / max(((b - a) ** 2).sum(), 1e-12), 0, 1)
        distance = np.linalg.norm(grid - a - t[..., None] * (b - a), axis=-1)
        nearer = distance < best
        best, place = np.where(nearer, distance, best), np.where(nearer, (i + t) / (len(line) - 1), place)
    return best, place


def _signed_distance(grid: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Distance to a closed polygon, positive inside."""
    distance, _ = _polyline_distance(grid, np.concatenate([polygon, polygon[:1]]))
    x, y = grid[..., 0], grid[..., 1]
    inside = np.zeros(grid.shape[:2], bool)
    for a, b in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        crosses = (a[1] > y) != (b[1] > y)
        slope = (b[0] - a[0]) / (b[1] - a[1] if b[1] != a[1] else 1e-12)
        inside ^= crosses & (x < a[0] + (y - a[1]) * slope)
    return np.where(inside, distance, -distance)


def _mix(a, b, share):
    return a + (b - a) * share[..., None]


def _step(low, high, value):
    t = jnp.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def skin_tone(melanin: Array, haemoglobin: Array, carotene: Array) -> Array:
    """Albedo (..., 3) of skin."""
    m = jnp.clip(melanin, 0.0, 1.05)[..., None]
    fit = jnp.asarray(_TONE_FIT)
    log = ((fit[0] * m + fit[1]) * m + fit[2]) * m + fit[3]
    log = log - haemoglobin[..., None] * jnp.asarray(_HAEMOGLOBIN) - carotene * jnp.array([0.0, 0.06, 0.4])
    return jnp.exp(log)


def skin_albedo(look: Appearance, rest: Array, angles: Array, beard: Array, paint: Array, noise) -> Array:
    """Albedo (..., 3) of skin with lips, brows, lids, freckles, beard shadow and painted hair.

    Args:
      look: Appearance of the person.
      rest: (..., 3) rest position. angles: (..., 2) azimuth and elevation about the skull's centre.
      beard: (...,) where a beard grows. paint: (..., C) front maps, already zero behind the face.
      noise: Three arrays (..., 4) of noise, coarse, middle and fine.
    """
    coarse, middle, fine = noise
    lips, brow, lids, cheek, nose, under, moustache, seam = jnp.moveaxis(paint, -1, 0)
    sunny = 0.25 + 0.75 * jnp.clip(cheek + nose, 0.0, 1.0)
    spots = 0.55 * _step(1.0, 2.4, fine[..., 0]) * look.freckles * sunny
    spots += _step(2.9, 3.6, fine[..., 1] + 0.3 * middle[..., 1]) * look.blemish
    melanin = look.melanin + 0.013 * look.mottle * (coarse[..., 0] + 0.7 * middle[..., 2])
    melanin += 0.10 * look.under_eye * under + 0.16 * spots
    haemoglobin = look.haemoglobin + look.blush * (0.75 * cheek + 0.6 * nose) * (1.2 - look.melanin)
    haemoglobin += 0.08 * look.mottle * (coarse[..., 1] + 0.5 * middle[..., 3])
    haemoglobin += look.blemish * _step(1.6, 3.0, middle[..., 0]) * 0.22
    color = skin_tone(melanin, haemoglobin, look.carotene)
    color *= 1.0 + 0.025 * look.mottle * fine[..., 2:3]
    lip = _step(-look.lip_edge, look.lip_edge, lips + 0.0015 * fine[..., 3])
    color *= jnp.exp(-lip[..., None] * look.lip_color * (1.0 - 0.55 * look.melanin))
    color *= 1.0 - 0.35 * (jnp.exp(-((seam / 0.006) ** 2)) * lip)[..., None]
    grown = beard * (1.0 + 0.25 * coarse[..., 2]) + moustache * jnp.maximum(look.stubble, look.moustache) * (
        1 - lip
    )
    hairs = jnp.clip(0.65 + 0.35 * fine[..., 1] + 0.15 * middle[..., 1], 0.0, 1.0)
    opacity = jnp.clip(
        grown * (look.stubble * 0.55 * hairs + jnp.minimum(30.0 * look.beard, 1.0) * (0.55 + 0.45 * hairs)),
        0.0,
        1.0,
    )
    color = _mix(color, look.beard_color * (0.7 + 0.5 * hairs[..., None]), opacity * (1 - lip))
    edge = angles[..., 1] - hairline(look.hair, angles[..., 0]) + 0.025 * fine[..., 2] + 0.02 * coarse[..., 0]
    top = jnp.clip(look.hair.paint * _step(-0.06, 0.16, edge), 0.0, 1.0)
    top *= jnp.where(
        look.hair.top < 0, 1 - _step(0.45, 0.75, angles[..., 1] - 0.35 * jnp.abs(angles[..., 0])), 1.0
    )
    color = _mix(color, look.hair.root * (0.75 + 0.4 * hairs[..., None]), top)
    arch = look.brow_density * _step(
        1.35, 0.25, brow / look.brow_width + 0.10 * fine[..., 3] + 0.05 * middle[..., 2]
    )
    color = _mix(color, look.brow_color * (0.8 + 0.25 * fine[..., :1]), jnp.clip(arch, 0.0, 1.0))
    line = look.lash * jnp.exp(-((lids / look.liner) ** 2))
    return color * (1.0 - jnp.clip(line, 0.0, 0.92))[..., None] + 0.0


def eye_albedo(look: Appearance, local: Array, noise: Array) -> tuple[Array, Array]:
    """Albedo (..., 3) of an eyeball and the share of iris (...,), from the direction in the eye's frame.

    Args:
      local: (..., 3) unit vectors, +z through the pupil. noise: (..., 4) middle frequency.
    """
    angle = jnp.arccos(jnp.clip(local[..., 2], -1.0, 1.0))
    turn = jnp.arctan2(local[..., 1], local[..., 0])
    radius = angle / look.iris_size
    fibres = (
        jnp.sin(turn * 23.0 + 3.0 * noise[..., 0]) * 0.5 + jnp.sin(turn * 41.0 + 2.0 * noise[..., 1]) * 0.5
    )
    iris = look.iris * (1.0 + 0.22 * fibres[..., None])
    iris = iris * (1.25 - 0.85 * _step(0.7, 1.02, radius))[..., None]
    iris = iris * (1.0 + 0.5 * _step(0.75, 0.35, radius)[..., None] * jnp.array([1.0, 0.7, 0.3]))
    iris = _mix(iris, jnp.full(3, 0.004), _step(look.pupil + 0.06, look.pupil - 0.06, radius))
    veins = _step(0.7, 1.3, angle) * (0.22 + 0.15 * jnp.clip(noise[..., 2], -1, 1))
    sclera = look.sclera * jnp.exp(-veins[..., None] * jnp.array([0.12, 0.55, 0.50]))
    share = _step(1.06, 0.94, radius)
    return _mix(sclera, iris, share), share


def hair_albedo(look: Appearance, along: Array, noise) -> Array:
    """Albedo (..., 3) of hair: strands differ in tone and lighten towards the tips.

    Args:
      along: (...,) world length from where the strands start. noise: coarse locks, middle, fine strands.
    """
    coarse, middle, fine = noise
    color = _mix(look.hair.root, look.hair.tip, _step(0.05, 0.6, along))
    strands = 0.22 * coarse[..., 0] + 0.30 * middle[..., 0] + 0.26 * fine[..., 0]
    return color * jnp.exp(jnp.clip(strands, -1.1, 0.8))[..., None]


def cloth_edge(look: Appearance, azimuth: Array, way: Array) -> Array:
    """How far below the neckline a point lies, world units: cloth where positive.

    Args:
      azimuth: (...,) about the neck. way: (...,) distance down from the rim of the neck, negative above it.
    """
    point = jnp.clip(1.0 - jnp.abs(azimuth) / 1.1, 0.0, 1.0)
    return (
        way + look.collar - look.neckline * (look.v_neck * point + (1 - look.v_neck) * jnp.sqrt(point) * 0.6)
    )


def cloth_albedo(look: Appearance, bust: Array, edge: Array, noise: Array) -> Array:
    """Albedo (..., 3) of the clothes.

    Args:
      bust: (..., 3) x, way down, z. edge: (...,) of `cloth_edge`. noise: three octaves.
    """
    coarse, _, fine = noise
    wave = jnp.sin(
        look.stripes * (bust[..., 0] * jnp.cos(look.stripe_angle) + bust[..., 1] * jnp.sin(look.stripe_angle))
    )
    share = jnp.where(look.stripes > 0, _step(-0.2, 0.2, wave), 0.0)
    color = _mix(look.cloth, look.cloth_second, share)
    color = color * (1.0 + 0.10 * coarse[..., :1] + 0.05 * fine[..., :1])
    return color * (1.0 - 0.3 * jnp.exp(-(((edge - 0.016) / 0.008) ** 2)))[..., None]
