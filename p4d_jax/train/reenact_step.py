"""One training step of Psi: self-reenactment on clips of synthetic heads (SPEC section 8).

Letters: N clips of F frames on a device give B = N F samples: every frame is a source once and a target
once. S image size, R = S/2 rays a side, c side of the ray crop that is rendered, F feature channels.

Everything the head model says (lifted image, deformation field, rays) is computed first and carries no
gradient; then the network, the volume renderer and the losses are differentiated. Half of the samples are
static: every cross-attention is multiplied by 0, and what the mesh tells is all the motion there is.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, PartitionSpec

from p4d_jax.data.openheads import Stage
from p4d_jax.data.samples import HeadClip
from p4d_jax.head.model import HeadModel
from p4d_jax.models.reconstructor import Reconstructor, ReconstructorConfig
from p4d_jax.render.avatar import (
    compose,
    network_inputs,
    posed_vertices,
    refine_image,
    shade_rays,
    straightened_vertices,
)
from p4d_jax.render.deformation import Deformation, build_field
from p4d_jax.render.lifting import CanonicalFrame, SourceGuide, build_source_guide
from p4d_jax.render.rays import generate_rays
from p4d_jax.train import losses
from p4d_jax.train.devices import DATA_AXIS, split
from p4d_jax.train.state import TrainState, average_decay
from p4d_jax.types import Array, Camera, FrameParams


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """What the step needs from the training config.

    Attributes:
      resolution: R of the whole view.
      crop: c, side of the crop of rays that is rendered; R renders the whole view.
      samples: coarse and fine samples a ray.
      face_weight: weight of pixels of the parametric head over others in image losses.
      raw_weight: of the losses on what comes before the last picture: the upscaled image where a refinement
        follows, the raw image, and the raw image without background.
      depth_weight, opacity_weight, background_weight: of L_depth, L_opa and the background's L_re.
      average_half_life: of the moving average, in images.
    """

    resolution: int
    crop: int
    samples: tuple[int, int]
    face_weight: float = 2.0
    raw_weight: float = 0.5
    depth_weight: float = 1.0
    opacity_weight: float = 0.3
    background_weight: float = 0.3
    average_half_life: float = 2000.0


@struct.dataclass
class Sample:
    """One source and one target; batches add a leading axis.

    Attributes:
      guide: the source image (S, S, 3) and where the head is in it.
      motion_source, motion_driving: (M,).
      field: of the target view.
      params: of the target.
      rays: origins and directions (c*c, 3) of the crop.
      pixel_rays: origins and directions (k c * k c, 3) of the crop's pixels.
      corner: (2,) int32 row and column of the crop among the rays.
      target, mask, face: (k c, k c, .) crop of the target image and masks, k = S / R.
      depth: (c, c, 1) target depth at the rays' resolution.
      background: (S, S, 3).
      scale: () cross-attention scale.
    """

    guide: SourceGuide
    motion_source: Array
    motion_driving: Array
    field: Deformation
    params: FrameParams
    rays: tuple[Array, Array]
    pixel_rays: tuple[Array, Array]
    corner: Array
    target: Array
    mask: Array
    face: Array
    depth: Array
    background: Array
    scale: Array


def crop_image(image: Array, corner: Array, side: int) -> Array:
    """(H, W, C) -> (side, side, C) from row and column `corner`."""
    return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (side, side, image.shape[-1]))


def pair_frames(clips: HeadClip) -> tuple[HeadClip, HeadClip]:
    """(N, F) clips -> sources and targets with leading axis N F; frame i drives from frame i - 1."""

    def flat(clip: HeadClip, background: Array) -> HeadClip:
        frames = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), clip.replace(background=background))
        return frames

    count = clips.image.shape[1]
    background = jnp.repeat(clips.background[:, None], count, axis=1)
    rolled = jax.tree.map(lambda x: jnp.roll(x, 1, axis=1), clips.replace(background=background))
    return flat(clips, background), flat(rolled, background)


def build_sample(
    config: StepConfig,
    model: ReconstructorConfig,
    head: HeadModel,
    frame: CanonicalFrame,
    source: HeadClip,
    target: HeadClip,
    scale: Array,
    key: Array,
) -> Sample:
    """One source frame and one target frame of one identity, with all geometry, and a random crop."""
    size, factor = source.image.shape[0], source.image.shape[0] // config.resolution
    posed_source = posed_vertices(head, source.params.shape, source.params)
    posed_target = posed_vertices(head, source.params.shape, target.params)
    straight_target = straightened_vertices(head, source.params.shape, target.params)
    corner = jax.random.randint(key, (2,), 0, config.resolution - config.crop + 1)
    side, camera = factor * config.crop, target.params.camera
    pick = lambda x: crop_image(x, corner * factor, side)  # noqa: E731
    return Sample(
        build_source_guide(source.image, frame, posed_source, source.params.camera),
        source.params.motion(),
        target.params.motion(),
        build_field(model, frame, posed_target, straight_target, camera),
        target.params,
        cropped_rays(camera, config.resolution, corner, config.crop),
        cropped_rays(camera, size, corner * factor, side),
        corner,
        pick(target.image),
        pick(target.mask),
        pick(target.face_mask),
        pick(target.depth)[factor // 2 :: factor, factor // 2 :: factor],
        source.background,
        scale,
    )


def cropped_rays(camera: Camera, resolution: int, corner: Array, side: int) -> tuple[Array, Array]:
    """Origins and directions (side², 3) of a square of the rays of a view."""
    square = lambda x: x.reshape(resolution, resolution, 3)  # noqa: E731
    origins, directions = generate_rays(camera, resolution)
    return tuple(crop_image(square(x), corner, side).reshape(-1, 3) for x in (origins, directions))


def build_samples(
    config: StepConfig,
    model: ReconstructorConfig,
    head: HeadModel,
    frame: CanonicalFrame,
    clips: HeadClip,
    key: Array,
) -> Sample:
    """All samples of a batch of clips; every second one is static."""
    sources, targets = pair_frames(clips)
    count = sources.image.shape[0]
    scale = (jnp.arange(count) + jax.random.randint(key, (), 0, 2)) % 2
    keys = jax.random.split(key, count)
    make = functools.partial(build_sample, config, model, head, frame)
    samples = jax.vmap(make)(sources, targets, scale.astype(jnp.float32), keys)
    return jax.lax.stop_gradient(samples)


def render_samples(
    reconstructor: Reconstructor, config: StepConfig, variables: dict, samples: Sample, key: Array | None
) -> dict[str, Array]:
    """Psi on a batch of samples; every image is (B, ., ., .), colours in [-1, 1]."""
    apply = functools.partial(reconstructor.apply, variables)
    image, lifted = jax.vmap(functools.partial(network_inputs, reconstructor))(samples.guide)
    source = apply(image, samples.motion_source, lifted, samples.scale, method="encode")
    planes = apply(source, samples.motion_driving, samples.scale, method="animate")
    keys = None if key is None else jax.random.split(key, planes.shape[0])

    def shade(planes, field, rays, camera, key):
        return shade_rays(reconstructor, variables, planes, field, *rays, camera, config.samples, key)

    flat = jax.vmap(shade)(planes, samples.field, samples.rays, samples.params.camera, keys)
    shaded = jax.tree.map(lambda x: x.reshape(x.shape[0], config.crop, config.crop, x.shape[-1]), flat)
    size = (planes.shape[0], config.resolution, config.resolution, source.background.shape[-1])
    background = jax.image.resize(source.background, size, "bilinear", antialias=False)
    behind = jax.vmap(crop_image, (0, 0, None))(background, samples.corner, config.crop)
    features = compose(shaded.features, shaded.transmittance, behind)
    upscaled = apply(features, method="upscale")
    refine = functools.partial(refine_image, reconstructor, variables)
    return {
        "image": jax.vmap(refine)(upscaled, flat, samples.field, samples.guide, samples.pixel_rays),
        **({"upscaled": upscaled} if reconstructor.config.refinement_features else {}),
        "raw": features[..., :3],
        "foreground": 2.0 * shaded.features[..., :3] - 1.0,
        "opacity": 1.0 - shaded.transmittance,
        "depth": shaded.depth,
        "background": 2.0 * source.background[..., :3] - 1.0,
    }


def sample_losses(config: StepConfig, sample: Sample, out: dict[str, Array]) -> dict[str, Array]:
    """The weighted losses of one sample, by name."""

    def shrink(image: Array, size: int) -> Array:
        return jax.image.resize(image, (size, size, image.shape[-1]), "linear", antialias=True)

    weights = 1.0 + config.face_weight * sample.face
    small_target, small_mask, small_weights = (
        shrink(x, config.crop) for x in (sample.target, sample.mask, weights)
    )
    foreground = (small_target + 1.0) * small_mask - 1.0
    behind = shrink(sample.background, out["background"].shape[0])
    parts = {}
    if "upscaled" in out:
        target, weight = (shrink(x, out["upscaled"].shape[0]) for x in (sample.target, weights))
        parts["upscaled"] = config.raw_weight * losses.reconstruction(out["upscaled"], target, weight)
    return parts | {
        "image": losses.reconstruction(out["image"], sample.target, weights),
        "raw": config.raw_weight * losses.reconstruction(out["raw"], small_target, small_weights),
        "foreground": config.raw_weight * losses.reconstruction(out["foreground"], foreground, small_weights),
        "background": config.background_weight * losses.reconstruction(out["background"], behind),
        "depth": config.depth_weight * losses.depth_error(out["depth"], sample.depth, small_mask),
        "opacity": config.opacity_weight * losses.l1(out["opacity"], small_mask),
    }


def build_step(
    reconstructor: Reconstructor,
    config: StepConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    make_clips: Callable[[Stage, Array], HeadClip],
    stage: Stage,
    frame: CanonicalFrame,
) -> Callable[[TrainState, Array], tuple[TrainState, dict[str, Array]]]:
    """The step: (state, learning rate) -> (state, mean losses).

    Three programs, since one of all would compile for minutes: `make_clips(stage, key)` draws people, then
    all geometry is computed, then the network is differentiated with the batch split over the mesh; only
    gradients and metrics cross devices.
    """
    prepare = jax.jit(
        functools.partial(build_samples, config, reconstructor.config), out_shardings=split(mesh)
    )

    def on_device(params, buffers, samples, key):
        def objective(params):
            variables = {"params": params, "buffers": buffers}
            key_rays = jax.random.fold_in(jax.random.wrap_key_data(key), jax.lax.axis_index(DATA_AXIS))
            out = render_samples(reconstructor, config, variables, samples, key_rays)
            parts = jax.tree.map(jnp.mean, jax.vmap(functools.partial(sample_losses, config))(samples, out))
            measured = jax.vmap(losses.psnr)(out["image"], samples.target, samples.mask).mean()
            return sum(parts.values()), {**parts, "psnr": measured}

        gradients, metrics = jax.grad(objective, has_aux=True)(params)
        return jax.lax.pmean((gradients, metrics), DATA_AXIS)

    whole, shares = PartitionSpec(), PartitionSpec(DATA_AXIS)
    spread = jax.shard_map(
        on_device, mesh=mesh, in_specs=(whole, whole, shares, whole), out_specs=whole, check_vma=False
    )

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: TrainState, samples: Sample, rate: Array, key) -> tuple[TrainState, dict[str, Array]]:
        gradients, metrics = spread(state.params, state.buffers, samples, key)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
        batch = samples.scale.shape[0]
        decay = average_decay((state.step + 1) * batch, batch, config.average_half_life)
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.average, params)
        new = state.replace(step=state.step + 1, params=params, average=average, optimizer=optimizer_state)
        return new, {**metrics, "gradient_norm": optax.tree.norm(gradients)}

    def step(state: TrainState, rate: Array) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        key_clips, key_samples, key_rays = jax.random.split(key, 3)
        samples = prepare(stage.head, frame, make_clips(stage, key_clips), key_samples)
        return update(state, samples, rate, jax.random.key_data(key_rays))

    return step
