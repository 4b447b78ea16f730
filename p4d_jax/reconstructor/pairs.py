"""Pairs to learn reenactment from, out of what data sources draw (docs/concepts/training.md, 8.2).

A *dynamic* pair shows one person in two motions, its cross-attention at scale 1; a *static* pair one motion
from two sides, at scale 0. Half of a training batch is of either kind: cross-attention then carries all that
is motion, and nothing else does.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from p4d_jax.data.motion import random_motion
from p4d_jax.data.samples import HeadClip, HeadPair
from p4d_jax.errors import UserError
from p4d_jax.genhead.synthesis import SyntheticHead
from p4d_jax.openheads.config import OpenHeadsSettings
from p4d_jax.openheads.people import random_cameras, random_identity
from p4d_jax.openheads.portraits import render_scene
from p4d_jax.openheads.scene import OpenHeadsScene
from p4d_jax.types import SHAPE_SIZE, Array, FrameParams


def static_pairs(count: int, share: float) -> Array:
    """(count,) bool: which pairs of a batch are static, evenly spread, so that every device has its share."""
    number = jnp.arange(count)
    return jnp.floor((number + 1) * share) > jnp.floor(number * share)


def join_pairs(parts: list[HeadPair]) -> HeadPair:
    """One batch of several sources' batches; what one of them does not know is dropped.

    Raises:
      UserError: they know a thing at different sizes; only depth maps are brought to one, the largest.
    """
    known = {
        name: [getattr(part, name) for part in parts]
        for name in HeadPair.__dataclass_fields__
        if all(getattr(part, name) is not None for part in parts)
    }
    for name in {"depth", "source_depth"} & set(known):
        # The nearest: between two depths there may be nothing.
        size = max(depth.shape[1] for depth in known[name])
        known[name] = [jax.image.resize(x, (len(x), size, size, 1), "nearest") for x in known[name]]
    for name, values in known.items():
        shapes = {tuple(leaf.shape[1:] for leaf in jax.tree.leaves(value)) for value in values}
        if len(shapes) > 1:
            found = " and ".join(str(shape[0]) for shape in sorted(shapes))
            raise UserError(f"data: sources whose {name} are {found} do not go together in a batch")
    return HeadPair(
        **{name: jax.tree.map(lambda *x: jnp.concatenate(x), *values) for name, values in known.items()}
    )


def pair_of_clip(clip: HeadClip, static: Array) -> HeadPair:
    """The first frame of a clip (F, ...) becomes the last; those between are further photos of the source."""
    first, last = (jax.tree.map(lambda x, i=i: x[i], clip.replace(background=clip.image)) for i in (0, -1))
    photos = photos_params = None
    if clip.image.shape[0] > 2:
        photos, photos_params = jax.tree.map(lambda x: x[1:-1], (clip.image, clip.params))
    return HeadPair(
        first.image, first.params, last.image, last.params, last.mask, 1.0 - static.astype(jnp.float32),
        face_mask=last.face_mask, depth=last.depth, background=clip.background,
        source_mask=first.mask, source_depth=first.depth,
        photos=photos, photos_params=photos_params,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("resolution", "settings", "one_camera", "photos"))
def openheads_pair(
    scene: OpenHeadsScene,
    key: Array,
    static: Array,
    *,
    resolution: int,
    settings: OpenHeadsSettings,
    one_camera: bool = False,
    photos: int = 1,
) -> HeadPair:
    """A pair of one random OpenHeads person.

    Args:
      static: () bool: both pictures show the same motion.
      resolution: S.
      one_camera: both pictures are taken by one camera, as the frames of a film are.
      photos: of the source.
    """
    frames = photos + 1
    keys = jax.random.split(key, 4)
    identity = random_identity(keys[0], scene, settings)
    motion = random_motion(keys[1], frames, scene.head.expression_names, settings.closed_eyes)
    motion = jax.tree.map(lambda x: jnp.where(static, x[:1], x), motion)
    camera = random_cameras(keys[2], frames, settings)
    if one_camera:
        camera = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), camera)
    shape = jnp.broadcast_to(identity.shape, (frames, SHAPE_SIZE))
    params = FrameParams(camera, shape, motion.expression, motion.pose, motion.eyes)
    shown = render_scene(scene, identity, params, keys[3], resolution, settings)
    clip = HeadClip(shown.image, shown.mask, shown.face_mask, shown.depth, shown.background, params)
    return pair_of_clip(clip, static)


def pair_of_synthetic(sample: SyntheticHead, static: Array) -> HeadPair:
    """A pair of a GenHead sample (M, V, ...).

    Dynamic: the source is the first motion's first view, the target the second motion's first view, and the
    driving picture its last. Static, or with one motion: source and target are the first motion's first and
    last view, the target its own driving picture.
    """
    motions, views = sample.image.shape[:2]
    if motions == 1 and views < 2:
        raise ValueError(f"sample: a static pair needs two views of a motion, got {views}")
    moved = motions > 1

    def pick(motion: int, view: int):
        return jax.tree.map(lambda x: x[motion, view], sample_views(sample))

    target = jax.tree.map(
        lambda a, b: jnp.where(static, a, b),
        pick(0, views - 1),
        pick(1 if moved else 0, 0 if moved else views - 1),
    )
    driving = jax.tree.map(
        lambda a, b: jnp.where(static, a, b), pick(0, views - 1), pick(1 if moved else 0, views - 1)
    )
    target["face_mask"] = jnp.any(target["correspondence"] != 0, axis=-1, keepdims=True)
    return pair_of_views(pick(0, 0), target, driving, sample.background, static)


def pair_of_views(source: dict, target: dict, driving: dict, background: Array, static: Array) -> HeadPair:
    """A pair of three views of one GenHead sample.

    Args:
      source, driving: `image` and `params` of a `SyntheticHead`'s view.
      target: these, `opacity`, `depth`, `features`, `points`, `plane_features`, and `face_mask` (S, S, 1):
        where the correspondence map is not 0.
      background: (R, R, F) of the sample.
      static: () bool: source and target show one motion.
    """
    size = target["image"].shape[0]
    mask = jax.image.resize(target["opacity"], (size, size), "bilinear", antialias=False)
    return HeadPair(
        source["image"], source["params"], target["image"], target["params"], mask[..., None],
        1.0 - static.astype(jnp.float32),
        driving=driving["image"], driving_params=driving["params"],
        face_mask=target["face_mask"].astype(jnp.float32),
        depth=target["depth"][..., None], features=target["features"],
        background_features=background,
        points=target["points"], plane_features=target["plane_features"],
    )  # fmt: skip


def sample_views(sample: SyntheticHead) -> dict:
    """The fields of a sample that are there for each view (M, V, ...)."""
    shared = ("background", "latent", "conditioning", "motion", "landmarks")
    return {name: getattr(sample, name) for name in sample.__dataclass_fields__ if name not in shared}
