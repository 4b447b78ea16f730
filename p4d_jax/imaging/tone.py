"""High dynamic range to the range of a screen: film colours in PQ or HLG and BT.2020 to sRGB.

Up to `KNEE` of diffuse white (203 cd/m², as ITU-R BT.2408 places it) colours stay as they are; what is
brighter is compressed, channel by channel, into what is left below white. Sources: SMPTE ST 2084, ITU-R
BT.2100 (tables 4 and 5), BT.2087 (the matrix), IEC 61966-2-1.
"""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image, ImageFilter

DIFFUSE_WHITE = 203.0  # cd/m²
KNEE = 0.75  # in diffuse whites
HLG_PEAK, HLG_GAMMA = 1000.0, 1.2  # cd/m² of the display that HLG is shown on, and its system gamma
LUMINANCE = np.array([0.2627, 0.6780, 0.0593])  # of BT.2020's primaries
FROM_BT2020 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
NODES = 33  # a side of the table of colours


def pq_to_light(code: np.ndarray) -> np.ndarray:
    """PQ code values (..., 3) in [0, 1] -> light, 1 is diffuse white."""
    power = np.asarray(code) ** (32 / 2523)
    light = np.maximum(power - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * power)
    return 10_000 / DIFFUSE_WHITE * light ** (16384 / 2610)


def hlg_to_light(code: np.ndarray) -> np.ndarray:
    """HLG code values (..., 3) in [0, 1] -> light, 1 is diffuse white."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(code <= 0.5, np.square(code) / 3, (np.exp((code - c) / a) + b) / 12)
    shown = scene * (scene @ LUMINANCE)[..., None] ** (HLG_GAMMA - 1)
    return HLG_PEAK / DIFFUSE_WHITE * shown


def light_to_srgb(light: np.ndarray) -> np.ndarray:
    """Light (..., 3) of BT.2020's primaries, 1 is diffuse white -> sRGB code values (..., 3) in [0, 1]."""
    light = np.maximum(light @ FROM_BT2020.T, 0)
    over = np.maximum(light - KNEE, 0) / (1 - KNEE)
    light = np.minimum(light, KNEE) + (1 - KNEE) * over / (1 + over)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


# As ISO/IEC 23091-2 numbers transfer characteristics.
TRANSFERS = {16: pq_to_light, 18: hlg_to_light}


def map_tones(picture: np.ndarray, transfer: int) -> np.ndarray:
    """A picture (H, W, 3) uint8 of code values of one of `TRANSFERS` -> sRGB uint8."""
    return np.asarray(Image.fromarray(picture).filter(_table(transfer)))


@functools.cache
def _table(transfer: int) -> ImageFilter.Color3DLUT:
    ticks = np.linspace(0, 1, NODES)
    blue, green, red = np.meshgrid(ticks, ticks, ticks, indexing="ij")  # red changes fastest
    colours = light_to_srgb(TRANSFERS[transfer](np.stack([red, green, blue], axis=-1)))
    return ImageFilter.Color3DLUT(NODES, colours.astype(np.float32).ravel())
