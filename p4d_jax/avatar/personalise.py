"""A few seconds of optimisation that make an avatar match its one photo.

The encoder gives a first tri-plane; here an offset to it, and gently the field decoder, the super-resolution
and the background, are fitted to the photo (pivotal tuning, arXiv 2106.05744, with the tri-plane for the
latent). One view leaves depth and hidden sides open, so the fitted mesh, textured with the photo, is the
target in nearby views, where the photo sees it at no grazing angle. The offset lives in canonical space: the
deformation field and the cross-attention move it as they move the rest, so the motion is kept.

S image side, R rays a side, V views (the first is the photo's own), images in [-1, 1].
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import struct

from p4d_jax.avatar.encode import Avatar, animate_avatar, motion_of
from p4d_jax.geometry import axis_angle_to_matrix, exact_products, project
from p4d_jax.head.model import HeadModel
from p4d_jax.imaging.resizing import resize_antialiased
from p4d_jax.imaging.sampling import sample_image
from p4d_jax.reconstructor.config import ReconstructorConfig
from p4d_jax.reconstructor.deformation import Deformation, build_field
from p4d_jax.reconstructor.field import compose, driven_meshes, shade_rays
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.reconstructor.texture import VISIBLE_MARGIN
from p4d_jax.render.raster import interpolate, rasterize
from p4d_jax.render.rays import generate_rays
from p4d_jax.train import losses
from p4d_jax.types import Array, Camera, FrameParams

GRAZING = 0.35  # cosine between surface normal and the photo's viewing direction under which texture smears
TUNED = ("decoder", "superresolution")  # networks that may move with the offset


@struct.dataclass
class PersonaliseRates:
    """Adam's step sizes, and the weights of what is not the photo itself.

    Attributes:
      offset: of the tri-plane offset (features of order 1).
      networks: of decoder and super-resolution (equalised weights of order 1).
      background: of the background features in [0, 1].
      nearby: weight of the textured mesh in nearby views.
      opacity: weight of the photo's matte.
      decay: weight of mean squared offset and of mean squared change of the networks.
    """

    offset: float = 0.03
    networks: float = 0.002
    background: float = 0.01
    nearby: float = 0.4
    opacity: float = 0.3
    decay: float = 0.02


@struct.dataclass
class Personalised:
    """What personalisation found; hand `variables`, `plane_offset` and `avatar` to `render_frame`.

    Attributes:
      variables: the reconstructor's, with tuned decoder and super-resolution.
      plane_offset: (3, PT, PT, C).
      avatar: with tuned background features.
      curve: (steps,) loss of the photo's own view.
    """

    variables: dict
    plane_offset: Array
    avatar: Avatar
    curve: Array


@struct.dataclass
class View:
    """One target view; stacked over V.

    Attributes:
      camera: of the view.
      field: observed -> canonical.
      target: (R, R, 3) colours in [-1, 1].
      weight: (R, R, 1) where they are known.
      covered: (R, R, 1) in [0, 1] how opaque the view should be there.
      covered_weight: (R, R, 1) where that is known.
    """

    camera: Camera
    field: Deformation
    target: Array
    weight: Array
    covered: Array
    covered_weight: Array


@struct.dataclass
class _Trained:
    offset: Array
    networks: dict
    background: Array


@exact_products
def orbit(camera: Camera, yaw: float) -> Camera:
    """The camera turned about the world's y axis by `yaw` radians."""
    turn = jnp.eye(4).at[:3, :3].set(axis_angle_to_matrix(jnp.array([0.0, yaw, 0.0])))
    return camera.replace(cam2world=turn @ camera.cam2world)


def textured_view(
    image: Array, posed: Array, faces: Array, source: Camera, view: Camera, resolution: int
) -> tuple[Array, Array, Array]:
    """The posed mesh, painted with the photo, from another camera.

    Args:
      image: (S, S, 3) photo in [-1, 1] seen by `source`.
      posed: (V, 3) fitted mesh, world.
      faces: (F, 3).

    Returns:
      colours (R, R, 3); weight (R, R, 1), 1 where the photo shows that surface well; mesh mask (R, R, 1).
    """
    raster = rasterize(posed, faces, view, resolution, False)
    corners = posed[faces]
    normals = jnp.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= jnp.linalg.norm(normals, axis=-1, keepdims=True) + 1e-12
    points = interpolate(raster, posed)
    towards = source.cam2world[:3, 3] - points
    distance = jnp.linalg.norm(towards, axis=-1)
    facing = jnp.sum(normals[jnp.maximum(raster.face_index, 0)] * towards, -1) / (distance + 1e-6)
    uv, _ = project(source, points)
    inside = jnp.all((uv > 0.01) & (uv < 0.99), axis=-1)
    size = image.shape[0]
    depth = rasterize(posed, faces, source, size, False).depth
    column, row = jnp.moveaxis(jnp.clip((uv * size).astype(jnp.int32), 0, size - 1), -1, 0)
    seen = distance < depth[row, column] + VISIBLE_MARGIN
    weight = raster.mask & inside & seen & (facing > GRAZING)
    return (
        sample_image(image, uv),
        weight[..., None].astype(jnp.float32),
        raster.mask[..., None].astype(jnp.float32),
    )


@functools.partial(jax.jit, static_argnames=("config", "resolution"))
def _build_views(
    config: ReconstructorConfig, frame, posed, straight, neck, image, alpha, camera, yaws, *, resolution: int
) -> View:
    def nearby(yaw: Array) -> View:
        turned = orbit(camera, yaw)
        colours, weight, mask = textured_view(image, posed, frame.faces, camera, turned, resolution)
        field = build_field(config, frame, posed, straight, neck, turned)
        # Hair lies outside the mesh: only what the mesh covers is known to be opaque.
        return View(turned, field, colours, weight, mask, mask)

    views = jax.vmap(nearby)(jnp.concatenate([jnp.zeros(1), yaws]))
    shrink = lambda x: jax.image.resize(x, (resolution, resolution, x.shape[-1]), "linear")
    ones = jnp.ones((resolution, resolution, 1))
    return views.replace(
        target=views.target.at[0].set(shrink(image)),
        weight=views.weight.at[0].set(ones),
        covered=views.covered.at[0].set(shrink(alpha)),
        covered_weight=views.covered_weight.at[0].set(ones),
    )


def _render(reconstructor, variables, planes, background, texture, view: View, samples, key):
    resolution = view.target.shape[-2]
    rays = generate_rays(view.camera, resolution)
    shaded = shade_rays(
        reconstructor, variables, planes, view.field, texture, *rays, view.camera, samples, key
    )
    square = lambda x: x.reshape(resolution, resolution, -1)
    behind = jax.image.resize(
        background, (resolution, resolution, background.shape[-1]), "bilinear", antialias=False
    )
    transmittance = square(shaded.transmittance)
    return compose(square(shaded.features), transmittance, behind), transmittance


def _objective(trained: _Trained, fixed, reconstructor, samples, rates: PersonaliseRates, index, key):
    variables, planes, texture, image, weights, views = fixed
    tuned = {**variables, "params": {**variables["params"], **trained.networks}}
    planes = planes + trained.offset
    photo, nearby = (jax.tree.map(lambda x, i=i: x[i], views) for i in (0, index))
    keys = jax.random.split(key)
    features, transmittance = _render(
        reconstructor, tuned, planes, trained.background, texture, photo, samples, keys[0]
    )
    result = reconstructor.apply(tuned, features[None], method="upscale")[0]
    own = losses.reconstruction(result, image, weights) + 0.5 * losses.l1(features[..., :3], photo.target)
    # What the network gets from the background of the photo says nothing about a nearby view's.
    still = jax.lax.stop_gradient(trained.background)
    other, clear = _render(reconstructor, tuned, planes, still, texture, nearby, samples, keys[1])
    around = losses.l1(other[..., :3], nearby.target, nearby.weight)
    opacity = losses.l1(1 - transmittance, photo.covered) + losses.l1(
        1 - clear, nearby.covered, nearby.covered_weight
    )
    change = jax.tree.map(
        lambda a, b: jnp.mean((a - b) ** 2),
        trained.networks,
        {name: variables["params"][name] for name in TUNED},
    )
    decay = jnp.mean(trained.offset**2) + sum(jax.tree.leaves(change))
    loss = own + rates.nearby * around + rates.opacity * opacity + rates.decay * decay
    return loss, own


@functools.partial(jax.jit, static_argnames=("reconstructor", "samples"), donate_argnums=(0, 1))
def _step(trained, moments, fixed, bare, rates, progress, index, key, *, reconstructor, samples):
    gradients, own = jax.grad(_objective, has_aux=True)(
        trained, fixed, reconstructor, samples, rates, index, key
    )
    updates, moments = optax.scale_by_adam(b1=0.9, b2=0.99).update(gradients, moments)
    # Steps shrink to a tenth by a cosine, so that the last ones settle the noise of the samples.
    shrink = 0.1 + 0.45 * (1 + jnp.cos(jnp.pi * progress))
    moved = lambda values, update, rate: jax.tree.map(lambda v, u: v - shrink * rate * u, values, update)
    trained = _Trained(
        moved(trained.offset, updates.offset, rates.offset),
        moved(trained.networks, updates.networks, rates.networks),
        # Behind the head the photo says nothing, and Adam would make large steps of what leaks through.
        jnp.clip(moved(trained.background, bare * updates.background, rates.background), 0.0, 1.0),
    )
    return trained, moments, own


def personalise(
    reconstructor: Reconstructor,
    variables: dict,
    avatar: Avatar,
    image: Array,
    alpha: Array,
    params: FrameParams,
    head: HeadModel,
    *,
    steps: int,
    key: Array,
    resolution: int = 64,
    samples: tuple[int, int] = (12, 12),
    yaws: tuple[float, ...] = (-0.4, -0.2, 0.2, 0.4),
    motion: Array | None = None,
    rates: PersonaliseRates | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> Personalised:
    """Fits an avatar to its photo.

    Args:
      reconstructor, variables: from `reconstructor.weights.load_reconstructor`.
      avatar: from `encode_source` of the same image and parameters.
      image: (S, S, 3) in [-1, 1] in the standard crop; S is the model's `picture_size`.
      alpha: (S, S, 1) in [0, 1], 1 on head and shoulders.
      params: fitted parameters of the photo.
      head: their head model.
      steps: number of Adam steps; 0 returns the avatar as it is.
      key: of the ray samples.
      resolution, samples: R, and coarse and fine samples a ray.
      yaws: radians of the nearby views about the photo's own.
      motion: (M,) motion vector of the photo; None for a model that takes the parameters' own.
      rates: step sizes and weights.
      on_step: called with the step and its loss, for a progress bar.

    Raises:
      ValueError: image or matte have another size than the model's.
    """
    size = reconstructor.config.picture_size
    for name, value, channels in (("image", image, 3), ("matte", alpha, 1)):
        if value.shape != (size, size, channels):
            raise ValueError(f"{name}: expected ({size}, {size}, {channels}), got {value.shape}")
    rates = rates or PersonaliseRates()
    planes = animate_avatar(reconstructor, variables, avatar, motion_of(reconstructor, params, motion))
    trained = _Trained(
        jnp.zeros_like(planes),
        jax.tree.map(jnp.copy, {name: variables["params"][name] for name in TUNED}),
        jnp.copy(avatar.features.background[0]),
    )
    posed, straight = driven_meshes(head, params.shape, params)
    views = _build_views(
        reconstructor.config, avatar.frame, posed, straight, params.neck, image, alpha, params.camera,
        jnp.asarray(yaws), resolution=resolution,
    )  # fmt: skip
    image, alpha = (resize_antialiased(x, reconstructor.config.image_size) for x in (image, alpha))
    bare = (resize_antialiased(alpha, trained.background.shape[0]) < 0.05).astype(jnp.float32)
    weights = 0.5 + alpha + jax.image.resize(views.weight[1:].max(0), alpha.shape, "linear")
    fixed = (variables, planes, avatar.texture, image, weights, views)
    moments = optax.scale_by_adam().init(trained)
    curve = []
    for step in range(steps):
        trained, moments, loss = _step(
            trained, moments, fixed, bare, rates, step / max(1, steps - 1), 1 + step % len(yaws),
            jax.random.fold_in(key, step), reconstructor=reconstructor, samples=samples,
        )  # fmt: skip
        curve.append(loss)
        if on_step is not None:
            on_step(step, float(loss))
    tuned = {**variables, "params": {**variables["params"], **trained.networks}}
    features = avatar.features.replace(background=trained.background[None])
    return Personalised(tuned, trained.offset, avatar.replace(features=features), jnp.asarray(curve))
