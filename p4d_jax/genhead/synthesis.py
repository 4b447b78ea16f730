"""Endless 4D training data of a GenHead: identities in motion, from all sides, with everything known of them.

    key -> Identity: latent, shape, conditioning camera -> tri-planes, background   (once)
        -> M motions of one clip -> their meshes                                   (once a motion)
        -> V cameras a motion -> views, and what they are compared with            (M x V)

A *dynamic* sample is one identity in several motions, each in several views; a *static* one has one motion:
the same function with M = 1. `synthesize` is a pure function of a key, compiled, and copies nothing to the
host; a training step calls it or `synthesize_many` inside its own program. Letters: M motions, V views, S
image size, R rays a side, F feature channels, N points, C channels of a tri-plane, Z latent size. World
units, camera and image axes of docs/concepts/conventions.md. Source: Portrait4D (arXiv 2311.18729, section
4.2 and appendix), docs/concepts/synthesis.md.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from p4d_jax.data.motion import random_motion
from p4d_jax.genhead.config import SynthesisSettings
from p4d_jax.genhead.model import HEAD, GenHead
from p4d_jax.genhead.parts import HeadParts, PosedParts, canonical_points, pose_parts, pose_straight_parts
from p4d_jax.genhead.view import GenHeadView, make_identities, render_genhead
from p4d_jax.geometry import camera_for_bent_neck, look_at_camera
from p4d_jax.head.actions import Motion
from p4d_jax.head.landmarks import project_landmarks
from p4d_jax.head.model import NECK, HeadModel
from p4d_jax.head.skinning import head_joints
from p4d_jax.openheads.config import OpenHeadsSettings
from p4d_jax.openheads.people import random_cameras, random_shape
from p4d_jax.render.rays import pixel_centres, rays_through
from p4d_jax.render.triplane import sample_planes
from p4d_jax.render.volume import depth_range
from p4d_jax.types import SHAPE_SIZE, Array, Camera, FrameParams


@struct.dataclass
class SyntheticHead:
    """One sample: one identity, M motions, V views of each. All float32.

    Attributes:
      image: (M, V, S, S, 3) the picture, in [-1, 1] or, as a network's output, a little beyond.
      opacity: (M, V, R, R) in [0, 1], how much of the ray the head stops: the mask.
      depth: (M, V, R, R) distance along the ray, world units; the far end where nothing is.
      features: (M, V, R, R, F) what super-resolution saw, background included; the first three are RGB in
        [-1, 1], the others in [-1.002, 1.002] like them.
      correspondence: (M, V, S, S, 3) the correspondence map (`genhead.parts.correspondence_map`).
      landmarks: (M, V, 70, 2) the 68 iBUG points and the eye centres (right, left), image coordinates: u to
        the right and v down, the image is [0, 1]^2.
      points: (M, V, N, 3) world points of the posed head's space, on rays that see neither eyes nor mouth.
      plane_features: (M, V, N, C) there: the head branch's tri-plane, read at each point's canonical place,
        the mean of its three planes.
      motion: (M, V, 109) `FrameParams.motion()`: expression 100, jaw 3, eyes 6 (radians).
      params: `FrameParams` (M, V, ...), whose camera is the view's.
      background: (R, R, F) features behind the head, the same in every view, in [-1, 1].
      latent: (Z,) the identity's code, also of its background.
      conditioning: (25,) label of the camera that conditioned the identity's mapping.
    """

    image: Array
    opacity: Array
    depth: Array
    features: Array
    correspondence: Array
    landmarks: Array
    points: Array
    plane_features: Array
    motion: Array
    params: FrameParams
    background: Array
    latent: Array
    conditioning: Array


# Where identities, cameras and motions come from ------------------------------------------------------------


@struct.dataclass
class RandomPortraits:
    """Shapes and cameras of OpenHeads, drawn anew each time.

    Attributes:
      shape_size: Number of components of the head's shape basis.
      settings: Ranges from which cameras are drawn.
    """

    shape_size: int = struct.field(pytree_node=False)
    settings: OpenHeadsSettings = struct.field(pytree_node=False, default=OpenHeadsSettings())

    def draw_shape(self, key: Array) -> Array:
        """(300,)."""
        return random_shape(key, self.shape_size, self.settings)

    def draw_cameras(self, key: Array, count: int) -> Camera:
        """Leading axis (count,)."""
        return random_cameras(key, count, self.settings)


@struct.dataclass
class StoredPortraits:
    """Shapes and cameras of a table: of the portraits on which a GenHead was trained.

    Attributes:
      shape: (T, 300).
      camera: Cameras of the motion, with a leading axis (T,).
    """

    shape: Array
    camera: Camera

    def draw_shape(self, key: Array) -> Array:
        """(300,)."""
        return self.shape[jax.random.randint(key, (), 0, self.shape.shape[0])]

    def draw_cameras(self, key: Array, count: int) -> Camera:
        """Leading axis (count,)."""
        rows = jax.random.randint(key, (count,), 0, self.camera.cam2world.shape[0])
        return jax.tree.map(lambda table: table[rows], self.camera)


@struct.dataclass
class RandomMotions:
    """Motions of the embedded motion model, for heads whose expressions are ARKit's.

    Attributes:
      names: Names of the head's expression components.
      closed_eyes: Probability that a motion's eyes are shut beside those that it shuts anyway.
    """

    names: tuple[str, ...] = struct.field(pytree_node=False)
    closed_eyes: float = struct.field(pytree_node=False, default=0.0)

    def draw(self, key: Array, count: int) -> Motion:
        """Independent motions of one person, (count, ...)."""
        return random_motion(key, count, self.names, self.closed_eyes)


@struct.dataclass
class StoredMotions:
    """Motions of real clips: a table of T frames, K clips one after the other.

    Attributes:
      frames: (T, ...).
      start, length: (K,) first frame and number of frames of each clip.
    """

    frames: Motion
    start: Array
    length: Array

    def draw(self, key: Array, count: int) -> Motion:
        """Frames (count, ...) of one clip; every clip is as likely as the others, and every frame in it."""
        clip_key, frame_key = jax.random.split(key)
        clip = jax.random.randint(clip_key, (), 0, self.start.shape[0])
        rows = self.start[clip] + jax.random.randint(frame_key, (count,), 0, self.length[clip])
        return jax.tree.map(lambda table: table[rows], self.frames)


@struct.dataclass
class Sources:
    """Whom samples show, from where, and how they move."""

    portraits: RandomPortraits | StoredPortraits
    motions: RandomMotions | StoredMotions


def openheads_sources(head: HeadModel, settings: OpenHeadsSettings | None = None) -> Sources:
    """The distribution of OpenHeads, for heads with ARKit's expressions; None: its default settings."""
    settings = settings or OpenHeadsSettings()
    return Sources(
        RandomPortraits(head.shape_basis.shape[-1], settings),
        RandomMotions(head.expression_names, settings.closed_eyes),
    )


def stored_portraits(files: list[FrameParams]) -> StoredPortraits:
    """Shapes and cameras of parameter files, each with leading axis (T,), in one table."""
    joined = join_tables(files)
    return StoredPortraits(joined.shape, joined.camera)


def stored_motions(clips: list[FrameParams]) -> StoredMotions:
    """Motions of clips, each with leading axis (T,), in one table."""
    lengths = np.array([len(clip.expression) for clip in clips], np.int32)
    joined = join_tables(clips)
    return StoredMotions(
        Motion(joined.expression, joined.pose, joined.eyes),
        jnp.asarray(np.cumsum(lengths) - lengths, jnp.int32),
        jnp.asarray(lengths),
    )


def join_tables(tables: list[FrameParams]) -> FrameParams:
    """Tables (T, ...), one after the other."""
    return jax.tree.map(lambda *parts: jnp.asarray(np.concatenate([np.asarray(p) for p in parts])), *tables)


# One identity -----------------------------------------------------------------------------------------------


@struct.dataclass
class SyntheticIdentity:
    """What all views of one identity share.

    Attributes:
      latent: (Z,). shape: (300,). conditioning: (25,); see `SyntheticHead`.
      planes: (2, 3, P, P, C) the tri-planes T_p, T_h.
      background: (b, b, F) features in [0, 1].
    """

    latent: Array
    shape: Array
    conditioning: Array
    planes: Array
    background: Array


@functools.partial(jax.jit, static_argnames=("genhead", "settings"))
def draw_identity(
    genhead: GenHead, variables: dict, key: Array, sources: Sources, settings: SynthesisSettings
) -> SyntheticIdentity:
    """A latent with a shape; one camera of the data conditions all views, so that they share tri-planes."""
    latent_key, shape_key, camera_key = jax.random.split(key, 3)
    latent = jax.random.normal(latent_key, (1, genhead.config.latent_size))
    shape = sources.portraits.draw_shape(shape_key)
    conditioning = sources.portraits.draw_cameras(camera_key, 1).to_label()
    planes, background = make_identities(
        genhead, variables, latent, conditioning, shape[None],
        settings.truncation_psi, settings.truncation_cutoff,
    )  # fmt: skip
    return SyntheticIdentity(latent[0], shape, conditioning[0], planes[0], background[0])


def draw_cameras(key: Array, count: int, sources: Sources, settings: SynthesisSettings) -> Camera:
    """Cameras (count,) that carry the whole head pose: of the data, or looking at the head from around it."""
    data_key, around_key, choice_key = jax.random.split(key, 3)
    of_data = sources.portraits.draw_cameras(data_key, count)
    around = look_at_cameras(around_key, count, settings)
    chosen = jax.random.uniform(choice_key, (count,)) < settings.look_at_share
    return jax.tree.map(lambda a, b: jnp.where(chosen[:, None, None], a, b), around, of_data)


def look_at_cameras(key: Array, count: int, settings: SynthesisSettings) -> Camera:
    """Cameras (count,) uniform in the settings' ranges."""
    yaw_key, pitch_key, roll_key, radius_key, pivot_key = jax.random.split(key, 5)

    def uniform(key: Array, low: float, high: float, shape: tuple[int, ...] = (count,)) -> Array:
        return jax.random.uniform(key, shape, minval=low, maxval=high)

    reach, middle = settings.pitch
    jitter = uniform(pivot_key, -settings.pivot_jitter, settings.pivot_jitter, (count, 3))
    return look_at_camera(
        yaw=uniform(yaw_key, -settings.yaw, settings.yaw),
        pitch=middle + uniform(pitch_key, -reach, reach),
        roll=uniform(roll_key, -settings.roll, settings.roll),
        radius=uniform(radius_key, *settings.radius),
        pivot=jnp.asarray(settings.pivot) + jitter,
    )


def bend_neck(head: HeadModel, params: FrameParams) -> FrameParams:
    """One frame whose camera sees the head from the side that `params.camera` would see the straight one."""
    joints = head_joints(head, params.shape, params.expression, params.pose, params.eyes)
    return params.replace(camera=camera_for_bent_neck(params.camera, params.neck, joints[NECK]))


# One view ---------------------------------------------------------------------------------------------------


def draw_ray_points(key: Array, view: GenHeadView, camera: Camera, count: int) -> Array:
    """Points (count, 3) on a view's rays, uniform in depth, where neither eyes nor mouth are seen.

    There, and only there, the head branch alone decides what is at a point. Points are thus where the
    renderer looks.
    """
    pixel_key, depth_key = jax.random.split(key)
    resolution = view.opacity.shape[0]
    free = ((view.masks.eye == 0) & (view.masks.mouth == 0)).astype(jnp.int32).reshape(-1)
    before = jnp.cumsum(free)
    # The n-th free pixel is the first with n + 1 free ones up to and including it.
    chosen = jnp.floor(jax.random.uniform(pixel_key, (count,)) * before[-1]).astype(jnp.int32)
    pixel = jnp.searchsorted(before, chosen + 1)
    origins, directions = rays_through(camera, pixel_centres(resolution)[pixel])
    near, far = depth_range(camera)
    return origins + directions * jax.random.uniform(depth_key, (count, 1), minval=near, maxval=far)


def head_plane_features(
    planes: Array, head: HeadModel, parts: HeadParts, posed: PosedParts, points: Array
) -> Array:
    """(N, C) mean over the planes of T_h (2, 3, P, P, C) at the canonical places of points (N, 3)."""
    canonical = canonical_points(head, parts, posed, points)
    return sample_planes(planes[HEAD], canonical.head).mean(0)


def show(
    genhead: GenHead,
    variables: dict,
    identity: SyntheticIdentity,
    head: HeadModel,
    parts: HeadParts,
    posed: PosedParts,
    camera: Camera,
    settings: SynthesisSettings,
) -> GenHeadView:
    """One view of an identity in one posed frame."""
    return render_genhead(
        genhead, variables, identity.planes, identity.background, head, parts, posed, camera,
        resolution=settings.resolution, samples=settings.samples,
    )  # fmt: skip


# Samples ----------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("genhead", "settings"))
def synthesize(
    genhead: GenHead,
    variables: dict,
    head: HeadModel,
    parts: HeadParts,
    key: Array,
    settings: SynthesisSettings,
    sources: Sources,
) -> SyntheticHead:
    """One sample from one key.

    Args:
      genhead, variables: The generator, e.g. from `genhead.weights.load_genhead`.
      head, parts: The head model and its parts (`genhead.parts.build_head_parts`).
      key: Random key of identity, motions, cameras and points.
      settings: Numbers of motions, views and points, and how they are rendered.
      sources: Where shapes, motions and cameras come from, e.g. `openheads_sources(head)`.
    """
    keys = jax.random.split(key, 4)
    count, views = settings.motions * settings.views, settings.views
    identity = draw_identity(genhead, variables, keys[0], sources, settings)
    params = draw_frames(keys[1:3], identity.shape, head, sources, settings)
    pose = pose_straight_parts if settings.neck_share == 0 else pose_parts
    posed = lax.map(
        lambda frame: pose(head, identity.shape, frame), jax.tree.map(lambda x: x[::views], params)
    )

    def one(index: Array, frame: FrameParams, key: Array):
        mesh = jax.tree.map(lambda x: x[index // views], posed)
        view = show(genhead, variables, identity, head, parts, mesh, frame.camera, settings)
        points = draw_ray_points(key, view, frame.camera, settings.points)
        features = head_plane_features(identity.planes, head, parts, mesh, points)
        seen = (view.image_sr, view.opacity, view.depth, view.features, view.correspondence)
        return (
            seen,
            project_landmarks(head, mesh.full, frame.neck, frame.camera),
            points,
            features,
            view.background,
        )

    indices, point_keys = jnp.arange(count), jax.random.split(keys[3], count)
    seen, landmarks, points, features, background = lax.map(
        lambda xs: one(*xs), (indices, params, point_keys), batch_size=settings.views_at_once
    )
    grid = lambda x: x.reshape(settings.motions, views, *x.shape[1:])
    seen, landmarks, points, features, params = jax.tree.map(
        grid, (seen, landmarks, points, features, params)
    )
    return SyntheticHead(
        *seen, landmarks, points, features, params.motion(), params,
        background[0], identity.latent, identity.conditioning,
    )  # fmt: skip


def draw_frames(
    keys: Array, shape: Array, head: HeadModel, sources: Sources, settings: SynthesisSettings
) -> FrameParams:
    """Frames (M * V,) of one identity: a motion for each V of them, a camera for each."""
    count = settings.motions * settings.views
    motion = sources.motions.draw(keys[0], settings.motions)
    motion = motion.replace(pose=motion.pose.at[:, :3].multiply(settings.neck_share))
    motion = jax.tree.map(lambda x: jnp.repeat(x, settings.views, axis=0), motion)
    cameras = draw_cameras(keys[1], count, sources, settings)
    shapes = jnp.broadcast_to(shape, (count, SHAPE_SIZE))
    params = FrameParams(cameras, shapes, motion.expression, motion.pose, motion.eyes)
    return params if settings.neck_share == 0 else jax.vmap(lambda frame: bend_neck(head, frame))(params)


@functools.partial(jax.jit, static_argnames=("genhead", "settings"))
def synthesize_many(
    genhead: GenHead,
    variables: dict,
    head: HeadModel,
    parts: HeadParts,
    keys: Array,
    settings: SynthesisSettings,
    sources: Sources,
) -> SyntheticHead:
    """A sample a key, leading axis (B,): each is what `synthesize` makes of its key."""
    return lax.map(lambda key: synthesize(genhead, variables, head, parts, key, settings, sources), keys)
