"""Endless 4D data from a GenHead: heads of one identity in many motions and from many cameras, on the device.

`synthesize` makes the samples of one identity from one random key: a pure, compiled function that training
calls each step, with nothing copied to the host. Dynamic samples have several motions, static ones a single
motion; either has several views. `data.p4d_heads` writes samples to disk and reads them.

Letters: M motions, V views of each, S image size, R rays a side, F feature channels, C plane channels, N
points. Source: Portrait4D (arXiv 2311.18729, section 4.2), SPEC section 6.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import struct

from p4d_jax.data.motion import Motion, random_motion
from p4d_jax.data.openheads import OpenHeadsSettings, random_cameras
from p4d_jax.geometry import look_at_camera, project
from p4d_jax.head.landmarks import landmarks70
from p4d_jax.head.model import HeadModel
from p4d_jax.models.genhead import GenHead
from p4d_jax.render.genhead import render_genhead
from p4d_jax.render.part_fusion import HeadParts, canonical_points, pose_straight_parts
from p4d_jax.render.triplane import sample_planes
from p4d_jax.types import SHAPE_SIZE, Array, Camera, FrameParams

BOX_WARP = 1.3
LOOK_AT = (0.0, 0.0, 0.09)  # world: where the cameras of `random_views` look


@dataclasses.dataclass(frozen=True)
class SynthesisSettings:
    """What is drawn. Hashable: a static argument.

    Attributes:
      motions, views: M and V; one motion makes static samples.
      resolution: R. samples: coarse and fine samples a ray.
      truncation_psi, truncation_cutoff: of the codes.
      points: N, of the tri-plane features.
      data_cameras: share of views whose camera is drawn as the training data's; the rest look around:
      yaw, pitch, roll: to either side, radians, `pitch_middle` above; pivot: jitter of the point looked at;
      radius: smallest and largest distance, world units.
      shape_scale: standard deviation of shape coefficients, cut at two deviations.
      views_at_once: rendered side by side; 0 is all.
    """

    motions: int = 4
    views: int = 2
    resolution: int = 64
    samples: tuple[int, int] = (48, 48)
    truncation_psi: float = 0.95
    truncation_cutoff: int = 14
    points: int = 1024
    data_cameras: float = 0.5
    yaw: float = 0.78
    pitch: float = 0.45
    pitch_middle: float = 0.2
    roll: float = 0.25
    pivot: float = 0.03
    radius: tuple[float, float] = (3.65, 4.45)
    shape_scale: float = 0.9
    views_at_once: int = 1


@struct.dataclass
class HeadSample:
    """One view of one motion of one identity, or batches of them.

    Attributes:
      image: (..., S, S, 3) in [-1, 1].
      opacity: (..., R, R, 1) in [0, 1], the mask. depth: (..., R, R, 1) distance along the ray, world units.
      features: (..., R, R, F) in [-1, 1], the feature image over its background.
      background: (..., R, R, F) in [-1, 1].
      correspondence: (..., S, S, 3) the correspondence map.
      landmarks: (..., 70, 2) 68 iBUG points and eye centres in the image, [0, 1], v down.
      points: (..., N, 3) in the box, world units. Half are anywhere, half near the posed mesh.
      plane_features: (..., 2, N, C) mean over planes of T_p and T_h at the points in canonical space.
      motion: (..., 109) flame_motion.
      params: `FrameParams` (...); the neck is straight.
    """

    image: Array
    opacity: Array
    depth: Array
    features: Array
    background: Array
    correspondence: Array
    landmarks: Array
    points: Array
    plane_features: Array
    motion: Array
    params: FrameParams


@functools.partial(jax.jit, static_argnames=("genhead", "settings"))
def synthesize(
    genhead: GenHead,
    variables: dict,
    head: HeadModel,
    parts: HeadParts,
    key: Array,
    settings: SynthesisSettings,
    motions: Motion | None = None,
) -> HeadSample:
    """All samples of one identity, leading axes (M, V).

    Args:
      genhead, variables: the generator.
      head, parts: the head model, and its parts (`build_head_parts`).
      key: draws everything.
      motions: frames (T,) of a real clip to draw from, without repetition while there are enough; None draws
        from the embedded motion model, which needs a head with ARKit's names.
    """
    keys = jax.random.split(key, 6)
    shape = random_shape(keys[0], head, settings)
    drawn = draw_motions(keys[1], head, settings.motions, motions)
    cameras = random_views(keys[2], settings.motions * settings.views, settings)
    latent = jax.random.normal(keys[3], (1, genhead.config.latent_size))
    apply = functools.partial(genhead.apply, variables)
    # One camera for all views of an identity: its tri-planes are one body.
    label = look_at_camera(0.0, 0.0, sum(settings.radius) / 2, pivot=LOOK_AT).to_label()[None]
    ws = apply(latent, label, shape[None], settings.truncation_psi, settings.truncation_cutoff, method="map")
    planes, background = apply(ws, method="planes")[0], apply(latent, method="background")[0]

    def one(frame: tuple) -> HeadSample:
        motion, camera, key = frame
        params = FrameParams(camera, shape, motion.expression, motion.pose.at[:3].set(0), motion.eyes)
        return _render_sample(
            genhead, variables, planes, background, head, parts, params, settings, key
        )  # fmt: skip

    repeated = jax.tree.map(lambda x: jnp.repeat(x, settings.views, axis=0), drawn)
    frames = (repeated, cameras, jax.random.split(keys[4], settings.motions * settings.views))
    if settings.views_at_once:
        samples = jax.lax.map(one, frames, batch_size=settings.views_at_once)
    else:
        samples = jax.vmap(one)(frames)
    return jax.tree.map(lambda x: x.reshape(settings.motions, settings.views, *x.shape[1:]), samples)


def _render_sample(genhead, variables, planes, background, head, parts, params, settings, key) -> HeadSample:
    posed = pose_straight_parts(head, params.shape, params)
    view = render_genhead(
        genhead, variables, planes, background, head, parts, posed, params.camera,
        resolution=settings.resolution, samples=settings.samples,
    )  # fmt: skip
    points = random_points(key, posed.full, settings.points)
    canonical = canonical_points(head, parts, posed, points)
    read = lambda branch, at: sample_planes(planes[branch], at, BOX_WARP).mean(0)  # noqa: E731
    marks = landmarks70(head, posed.full, camera_yaw(params.camera))
    return HeadSample(
        image=view.image_sr,
        opacity=view.opacity[..., None],
        depth=view.depth[..., None],
        features=view.features,
        background=view.background,
        correspondence=view.correspondence,
        landmarks=project(params.camera, marks)[0],
        points=points,
        plane_features=jnp.stack([read(0, canonical.eyes), read(1, canonical.head)]),
        motion=params.motion(),
        params=params,
    )


def random_shape(key: Array, head: HeadModel, settings: SynthesisSettings) -> Array:
    """(300,) shape coefficients."""
    size = head.shape_basis.shape[-1]
    drawn = settings.shape_scale * jax.random.truncated_normal(key, -2.0, 2.0, (size,))
    return jnp.zeros(SHAPE_SIZE).at[:size].set(drawn)


def draw_motions(key: Array, head: HeadModel, count: int, motions: Motion | None) -> Motion:
    """`count` motions of one clip: of the frames given, or of the motion model."""
    if motions is None:
        return random_motion(key, count, head.expression_names)
    frames = motions.expression.shape[0]
    chosen = jax.random.choice(key, frames, (count,), replace=frames < count)
    return jax.tree.map(lambda x: x[chosen], motions)


def random_views(key: Array, count: int, settings: SynthesisSettings) -> Camera:
    """(count,) cameras: some drawn as the data's, the others from all around the front."""
    keys = jax.random.split(key, 7)
    near = OpenHeadsSettings(radius=settings.radius, pivot=settings.pivot)
    data = random_cameras(keys[0], count, near)
    around = lambda k, reach: jax.random.uniform(keys[k], (count,), minval=-reach, maxval=reach)  # noqa: E731
    pivot = jax.random.uniform(keys[4], (count, 3), minval=-settings.pivot, maxval=settings.pivot)
    look = look_at_camera(
        around(1, settings.yaw),
        around(2, settings.pitch) + settings.pitch_middle,
        jax.random.uniform(keys[5], (count,), minval=settings.radius[0], maxval=settings.radius[1]),
        around(3, settings.roll),
        pivot + jnp.array(LOOK_AT),
    )
    chosen = jax.random.uniform(keys[6], (count,)) < settings.data_cameras
    pick = lambda a, b: jnp.where(chosen.reshape(-1, *(1,) * (a.ndim - 1)), a, b)  # noqa: E731
    return jax.tree.map(pick, data, look)


def random_points(key: Array, mesh: Array, count: int) -> Array:
    """(count, 3): half anywhere in the box, half within 0.05 of a vertex of the posed mesh (V, 3)."""
    keys = jax.random.split(key, 3)
    reach = BOX_WARP / 2
    anywhere = jax.random.uniform(keys[0], (count - count // 2, 3), minval=-reach, maxval=reach)
    near = mesh[jax.random.randint(keys[1], (count // 2,), 0, len(mesh))]
    near = near + jax.random.uniform(keys[2], near.shape, minval=-0.05, maxval=0.05)
    return jnp.concatenate([anywhere, near])


def camera_yaw(camera: Camera) -> Array:
    """Degrees by which the head turns to its own left (+x) as a camera sees it: what `landmarks70` takes."""
    x, z = camera.cam2world[0, 3], camera.cam2world[2, 3]
    return -jnp.degrees(jnp.arctan2(x, z))
