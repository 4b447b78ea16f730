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
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import optax
from flax import struct

from p4d_jax.geometry import orbit, project
from p4d_jax.imaging.resizing import resize_antialiased
from p4d_jax.imaging.sampling import sample_image
from p4d_jax.reconstructor.config import ReconstructorConfig
from p4d_jax.reconstructor.deformation import Deformation, build_field
from p4d_jax.reconstructor.field import HeadField, compose, driven_meshes, march_rays, resize_background
from p4d_jax.reconstructor.texture import VISIBLE_MARGIN
from p4d_jax.render.raster import interpolate, rasterize
from p4d_jax.render.rays import generate_rays
from p4d_jax.train import losses
from p4d_jax.train.devices import fast_jit
from p4d_jax.types import Array, Camera, take

if TYPE_CHECKING:
    from p4d_jax.avatar.avatar import Avatar

GRAZING = 0.35  # cosine between surface normal and the photo's viewing direction under which texture smears
THIN = 2  # every so many rows and columns of rays, of nearby views
TUNED = ("decoder", "superresolution")  # networks that may move with the offset


@struct.dataclass
class PersonaliseRates:
    """Adam's step sizes, and the weights of what is not the photo itself.

    Attributes:
      offset: of the tri-plane offset (features of order 1).
      networks: of decoder and super-resolution (equalised weights of order 1).
      background: of the background features in [0, 1].
      nearby: weight of the textured mesh in nearby views.
      opacity: weight of the photo's alpha.
      kept: weight, in nearby views, of what the network made there, where the photo does not show the mesh.
      decay: weight of mean squared offset and of mean squared change of the networks.
    """

    offset: float = 0.06
    networks: float = 0.004
    background: float = 0.03
    nearby: float = 0.4
    opacity: float = 0.3
    kept: float = 0.5
    decay: float = 0.02


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


@struct.dataclass
class _Fixed:
    """What no step changes.

    Attributes:
      field: The head before its planes move; each view has a deformation of its own.
      image: (s, s, 3) the photo at the size of the super-resolution's picture. weights: (s, s, 1) of it.
      bare: (b, b, 1) 1 where the photo shows the background alone.
      views: The photo's own view, and nearby ones.
    """

    field: HeadField
    image: Array
    weights: Array
    bare: Array
    views: View


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


@functools.partial(fast_jit, static_argnames=("config", "resolution"))
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


def _every(image: Array, first: Array, step: int) -> Array:
    """Every `step`-th row and column of an image (R, R, C), from (row, column) `first` < step on."""
    side, channels = image.shape[0] // step, image.shape[-1]
    blocks = image.reshape(side, step, side, step, channels)
    return blocks[:, first[0], :, first[1]]


def _render(
    field: HeadField, background: Array, view: View, samples, key=None, first=None, step: int = 1
) -> tuple[Array, Array]:
    """Features and transmittance (R / step, R / step, .) of a view, of every `step`-th ray (`_every`)."""
    resolution = view.target.shape[-2]
    first = jnp.zeros(2, jnp.int32) if first is None else first
    thin = lambda x: _every(x.reshape(resolution, resolution, -1), first, step)
    rays = (thin(x).reshape(-1, 3) for x in generate_rays(view.camera, resolution))
    marched = march_rays(field.replace(deformation=view.field), *rays, view.camera, samples, key)
    square = lambda x: x.reshape(resolution // step, resolution // step, -1)
    transmittance = square(marched.transmittance)
    behind = thin(resize_background(background, resolution))
    return compose(square(marched.features), transmittance, behind), transmittance


@functools.partial(fast_jit, static_argnames="samples")
def _keep_hidden(fixed: _Fixed, background: Array, kept: Array, samples) -> View:
    """The views, whose targets where the photo does not show the mesh are what the network makes there."""
    views = fixed.views

    def one(view: View) -> View:
        made = _render(fixed.field, background, view, samples)[0][..., :3]
        shown = view.weight > 0
        return view.replace(
            target=jnp.where(shown, view.target, made), weight=jnp.where(shown, view.weight, kept)
        )

    return jax.lax.map(one, views)


def _objective(trained: _Trained, fixed: _Fixed, samples, rates: PersonaliseRates, index, key):
    variables = fixed.field.variables
    tuned = {**variables, "params": {**variables["params"], **trained.networks}}
    field = fixed.field.replace(variables=tuned, planes=fixed.field.planes + trained.offset)
    photo, nearby = (take(fixed.views, i) for i in (0, index))
    keys = jax.random.split(key, 3)
    first = jax.random.randint(keys[2], (2,), 0, THIN)
    features, transmittance = _render(field, trained.background, photo, samples, keys[0])
    result = field.network.apply(tuned, features[None], method="upscale")[0]
    own = losses.reconstruction(result, fixed.image, fixed.weights)
    own += 0.5 * losses.l1(features[..., :3], photo.target)
    # What the network gets from the background of the photo says nothing about a nearby view's.
    still = jax.lax.stop_gradient(trained.background)
    other, clear = _render(field, still, nearby, samples, keys[1], first, THIN)
    thin = lambda x: _every(x, first, THIN)
    around = losses.l1(other[..., :3], thin(nearby.target), thin(nearby.weight))
    opacity = losses.l1(1 - transmittance, photo.covered) + losses.l1(
        1 - clear, thin(nearby.covered), thin(nearby.covered_weight)
    )
    change = jax.tree.map(
        lambda a, b: jnp.mean((a - b) ** 2),
        trained.networks,
        {name: variables["params"][name] for name in TUNED},
    )
    decay = jnp.mean(trained.offset**2) + sum(jax.tree.leaves(change))
    loss = own + rates.nearby * around + rates.opacity * opacity + rates.decay * decay
    return loss, own


@functools.partial(fast_jit, static_argnames="samples", donate_argnums=(0, 1))
def _step(trained, moments, fixed: _Fixed, rates, progress, index, key, *, samples):
    gradients, own = jax.grad(_objective, has_aux=True)(trained, fixed, samples, rates, index, key)
    updates, moments = optax.scale_by_adam(b1=0.9, b2=0.99).update(gradients, moments)
    # Steps shrink to a tenth by a cosine, so that the last ones settle the noise of the samples.
    shrink = 0.1 + 0.45 * (1 + jnp.cos(jnp.pi * progress))
    moved = lambda values, update, rate: jax.tree.map(lambda v, u: v - shrink * rate * u, values, update)
    trained = _Trained(
        moved(trained.offset, updates.offset, rates.offset),
        moved(trained.networks, updates.networks, rates.networks),
        # Behind the head the photo says nothing, and Adam would make large steps of what leaks through.
        jnp.clip(moved(trained.background, fixed.bare * updates.background, rates.background), 0.0, 1.0),
    )
    return trained, moments, own


def personalise(
    avatar: Avatar,
    steps: int,
    *,
    key: Array,
    resolution: int = 64,
    yaws: tuple[float, ...] = (-0.6, -0.3, 0.3, 0.6),
    rates: PersonaliseRates | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> Avatar:
    """Fits an avatar to its photo.

    Args:
      avatar: What the network made of the photo.
      steps: Number of Adam steps.
      key: Of the ray samples.
      resolution: R.
      yaws: Radians of the nearby views about the photo's own.
      rates: Step sizes and weights.
      on_step: Called with the number of a step and the loss of the photo's own view, for a progress bar.

    Returns:
      The avatar with a plane offset, tuned decoder and super-resolution, and tuned background features.
    """
    model, source, params = avatar.model, avatar.source, avatar.params
    image, alpha = avatar.image(), avatar.image_alpha()
    rates = rates or PersonaliseRates()
    planes = avatar.animate(avatar.motion)
    trained = _Trained(
        jnp.zeros_like(planes),
        jax.tree.map(jnp.copy, {name: model.variables["params"][name] for name in TUNED}),
        jnp.copy(source.background),
    )
    posed, straight = driven_meshes(model.head, params.shape, params)
    views = _build_views(
        model.config, model.frame, posed, straight, params.neck, image, alpha, params.camera,
        jnp.asarray(yaws), resolution=resolution,
    )  # fmt: skip
    image, alpha = (resize_antialiased(x, model.config.image_size) for x in (image, alpha))
    fixed = _Fixed(
        HeadField(model.network, model.variables, planes, source.texture),
        image,
        0.5 + alpha + jax.image.resize(views.weight[1:].max(0), alpha.shape, "linear"),
        (resize_antialiased(alpha, trained.background.shape[0]) < 0.05).astype(jnp.float32),
        views,
    )
    fixed = fixed.replace(views=_keep_hidden(fixed, trained.background, rates.kept, avatar.samples))
    moments = optax.scale_by_adam().init(trained)
    for step in range(steps):
        trained, moments, loss = _step(
            trained, moments, fixed, rates, step / max(1, steps - 1), 1 + step % len(yaws),
            jax.random.fold_in(key, step), samples=avatar.samples,
        )  # fmt: skip
        if on_step is not None:
            on_step(step, float(loss))
    tuned = {**model.variables, "params": {**model.variables["params"], **trained.networks}}
    features = source.features.replace(background=trained.background[None])
    offset = trained.offset if avatar.plane_offset is None else trained.offset + avatar.plane_offset
    return avatar.replace(
        model=model.replace(variables=tuned),
        source=source.replace(features=features),
        plane_offset=offset,
    )
