"""What is behind the lips, drawn on a rendered picture: teeth, tongue and the mouth's dark. Not in the paper.

A photo shows little of it, and a volume renderer melts what it shows into the lips. Here teeth stay rigid,
the upper with the skull and the lower with the jaw, and the lips part over them: each is the photo's own
where the photo shows it, and else drawn in the light and the tint of the photo's face. Nothing is learned, no
gradient. Colours are in [0, 1] unless said otherwise; w pixels a side of the window on the mouth, S of the
picture.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from p4d_jax.head.mouth import Mouth, MouthView, tooth_pattern
from p4d_jax.imaging.resizing import average_blocks
from p4d_jax.imaging.sampling import sample_image
from p4d_jax.types import Array

FINEST = 512  # pixels a side of a picture for which the window has a pixel for each of its own
LUMINANCE = (0.299, 0.587, 0.114)
# Teeth, gums, tongue and the cavity beside a face of luminance 1, and what they keep of it in the dark.
TEETH, GUM, TONGUE, CAVITY = (0.88, 0.84, 0.75), (0.62, 0.33, 0.31), (0.66, 0.36, 0.35), (0.34, 0.15, 0.13)
KEPT = 0.35
COLOURFUL = 0.25  # chroma of a face from which they have their full tint; in a grey photo they have none
# World units behind the lips from which, and in which, it gets dark: teeth, and what is deeper. Then from and
# to which depth the mesh's inner lips are the mouth's.
DARK_FROM, TEETH_REACH, CAVITY_REACH = 0.05, 0.1, 0.08
LIPS_MOVED = 0.03  # world units by which lips move until the photo no longer says what they cover
DARKEST = 0.45  # share of the light that the deepest keeps
SEAM = 3  # pixels of the window up to which a line that is not seen lies between two that are
EDGE = 5  # pixels of the window between what the photo shows and what is drawn
INNER_FROM, INNER_TO = 0.015, 0.045
# Luminance in shares of the teeth's from which a pixel can be a tooth, and of the face's up to which it can
# be the mouth's inside: the fit errs, and puts lips on either.
TOOTH_FROM, TOOTH_TO = 0.5, 0.7
INSIDE_FROM, INSIDE_TO = 0.9, 0.65
# Luminance of the white of an eye in full light; power of the luminance by which brighter pixels count more.
SCLERA, BRIGHTEST = 0.85, 4
SHARE_SEEN = 0.05  # of the teeth that must be seen for their colour to be taken


def luminance(colours: Array) -> Array:
    """(..., 3) in [0, 1] -> (...)."""
    return colours @ jnp.asarray(LUMINANCE)


def ramp(low: float, high: float, x: Array) -> Array:
    """0 at low, 1 at high, linear between; low may be the larger."""
    return jnp.clip((x - low) / (high - low), 0.0, 1.0)


def mouth_colours(mouth: Mouth, colours: Array, shown: Array, white: Array) -> Array:
    """Colours of teeth, gums, tongue and cavity, and of the face, in the light of a photo: (5, 3).

    Args:
      colours: (V, 3) of the photo at the head's vertices, in [0, 1].
      shown: (V,) in [0, 1], how well the photo shows them.
      white: (V,) in [0, 1], the whites of the eyes, whose luminance says how much light there is on a dark
        skin too; lids and lashes shade most of them, so that the brightest count.
    """
    skin = shown * (1.0 - mouth.teeth - mouth.tongue - mouth.cavity) * (1.0 - white)
    face = skin @ colours / (skin.sum() + 1e-6)
    bright = luminance(colours)
    lit = shown * white * bright**BRIGHTEST
    sclera = jnp.sum(lit * bright) / (lit.sum() + 1e-9) / SCLERA
    light = jnp.clip(jnp.maximum(KEPT + (1.0 - KEPT) * luminance(face), sclera), 0.0, 1.0)
    chroma = (face.max() - face.min()) / (face.max() + 1e-6)
    plain = jnp.asarray([TEETH, GUM, TONGUE, CAVITY])
    grey = luminance(plain)[:, None]
    drawn = light * (grey + jnp.clip(chroma / COLOURFUL, 0.0, 1.0) * (plain - grey))
    # Of the photo's own teeth those in the light count; lips that the fit took for teeth are not as bright.
    teeth = shown * mouth.teeth * ramp(TOOTH_FROM, TOOTH_TO, bright / luminance(drawn[0]))
    brightest = teeth * bright**BRIGHTEST
    own = brightest @ colours / (brightest.sum() + 1e-9)
    share = jnp.clip(teeth.sum() / (SHARE_SEEN * mouth.teeth.sum()), 0.0, 1.0)
    drawn = drawn.at[0].set(drawn[0] + share * (own - drawn[0]))
    return jnp.concatenate([drawn, face[None]])


def draw_mouth(view: MouthView, colours: Array, extent: Array, photo: Array, seen: Array) -> Array:
    """The mouth in its window: (w, w, 4), colour premultiplied by opacity, and opacity.

    Args:
      colours: (5, 3) of `mouth_colours`. extent: (2,) `lip_extent` of the photo's mesh.
      photo: (w, w, 3) the photo at the surface of each pixel, and seen: (w, w) in [0, 1], how surely.
    """
    teeth, gum, tongue, cavity, face = colours
    bright = luminance(photo)
    tooth_like = ramp(TOOTH_FROM, TOOTH_TO, bright / luminance(teeth))
    inside_like = ramp(INSIDE_FROM, INSIDE_TO, bright / luminance(face))
    crown, shade = tooth_pattern(view.tooth)
    row = gum + crown[..., None] * (shade[..., None] * teeth - gum)
    deep = jnp.maximum(view.behind - DARK_FROM, 0.0)
    dark = jnp.maximum(jnp.exp(-deep / CAVITY_REACH), DARKEST)[..., None]
    lit = jnp.exp(-deep / TEETH_REACH)[..., None]
    drawn = lit * (view.teeth[..., None] * row + view.tongue[..., None] * tongue)
    drawn += dark * view.cavity[..., None] * cavity
    opacity = view.teeth + view.tongue + view.cavity * ramp(INNER_FROM, INNER_TO, view.behind)
    likely = view.teeth * tooth_like + (1.0 - view.teeth) * inside_like
    # While lips stay where the photo has them it shows the mouth as it is, however the fit's teeth lie in it.
    still = jnp.exp(-jnp.sum(((view.extent - extent) / LIPS_MOVED) ** 2))
    seen = without_seams(seen)
    own = jnp.maximum(soften(seen * likely), still * seen)[..., None]
    # Where else the photo shows neither a tooth nor the inside, the lips lie farther in than the fit has
    # them, over what moves with them.
    opacity *= 1.0 - soften(seen * (1.0 - likely) * view.cavity) * (1.0 - still)
    whole = view.teeth + view.tongue + view.cavity
    opacity = jnp.maximum(opacity, still * seen * whole)
    whole = whole[..., None]
    colour = own * photo + (1.0 - own) * drawn / (whole + 1e-6)
    opacity = jnp.clip(opacity, 0.0, 1.0)[..., None]
    return jnp.concatenate([colour * opacity, opacity], axis=-1)


def without_seams(seen: Array) -> Array:
    """What a depth buffer says is seen, (w, w), with the dark lines along the mesh's steps filled."""
    reduce = functools.partial(
        jax.lax.reduce_window, window_dimensions=(SEAM, SEAM), window_strides=(1, 1), padding="SAME"
    )
    return reduce(reduce(seen, -jnp.inf, jax.lax.max), jnp.inf, jax.lax.min)


def soften(weight: Array) -> Array:
    """A weight (w, w) without edges: least of a neighbourhood, then its mean, so that none grows."""
    reduce = functools.partial(
        jax.lax.reduce_window, window_dimensions=(EDGE, EDGE), window_strides=(1, 1), padding="SAME"
    )
    least = reduce(weight, jnp.inf, jax.lax.min)
    return reduce(least, 0.0, jax.lax.add) / EDGE**2


def put_mouth(image: Array, view: MouthView, drawn: Array) -> Array:
    """A picture (S, S, 3) in [-1, 1] with the window's mouth (w, w, 4) over it."""
    size = image.shape[0]
    finer = max(1, FINEST // size)
    drawn = average_blocks(drawn, 1 << finer.bit_length() - 1)  # divides a window of 2^n pixels
    ticks = (jnp.arange(size) + 0.5) / size
    place = (jnp.stack(jnp.meshgrid(ticks, ticks), axis=-1) - view.corner) / view.side
    inside = jnp.all((place > 0) & (place < 1), axis=-1, keepdims=True)
    layer = jax.lax.stop_gradient(inside * sample_image(drawn, place))
    return image * (1.0 - layer[..., 3:]) + 2.0 * layer[..., :3] - layer[..., 3:]
