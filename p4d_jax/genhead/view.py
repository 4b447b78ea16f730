"""One view of a generated head: rays through the part-wise field, background, super-resolution.

An identity is its tri-planes and background (`make_identities`), a frame its `PosedParts`; `render_genhead`
makes a view of both, for one head; `vmap` for many. `show_frame` poses the frame too. R rays a side, S image
size, P plane size, C plane channels, b background size, F feature channels. Source:
docs/concepts/rendering.md and genhead.md.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import struct

from p4d_jax.genhead.model import HEAD, PARTS, GenHead
from p4d_jax.genhead.parts import (
    TRAINED_RESOLUTION,
    Fusion,
    HeadParts,
    PartMasks,
    PointMasks,
    PosedParts,
    canonical_points,
    correspondence_map,
    fuse_by_density,
    fuse_by_masks,
    gate_part_density,
    pose_straight_parts,
    rasterize_part_masks,
    resize_masks,
    soften_masks,
)
from p4d_jax.head.model import HeadModel
from p4d_jax.imaging.resizing import resize_bilinear
from p4d_jax.render.rays import generate_rays
from p4d_jax.render.triplane import sample_planes
from p4d_jax.render.volume import (
    Field,
    March,
    Samples,
    depth_range,
    distortion,
    draw_samples,
    march_samples,
    sample_rays,
)
from p4d_jax.train.adversarial import DiscriminatorInput
from p4d_jax.types import Array, Camera, FrameParams


@functools.partial(jax.jit, static_argnames=("genhead", "truncation_cutoff"))
def make_identities(
    genhead: GenHead,
    variables: dict,
    latent: Array,
    label: Array,
    shape: Array,
    truncation_psi: Array | float = 1.0,
    truncation_cutoff: int | None = None,
) -> tuple[Array, Array]:
    """Tri-planes (B, 2, 3, P, P, C) and backgrounds (B, b, b, F) in [0, 1] of B identities.

    Args:
      latent, label, shape, truncation_psi, truncation_cutoff: see `GenHead.map`; the latent is also the
        background's.
    """
    apply = functools.partial(genhead.apply, variables)
    ws = apply(latent, label, shape, truncation_psi, truncation_cutoff, method="map")
    return apply(ws, method="planes"), apply(latent, method="background")


@struct.dataclass
class PartTerms:
    """What training asks of the rays through eyes and mouth (docs/concepts/genhead.md), (R, R) each.

    Attributes:
      head_in_eyes: mean over samples of the softplus of T_h's raw density, 0 outside the eye boxes.
      head_in_mouth: the same, times the ray's mouth mask.
      distortion: how far apart along the ray its weights lie, world units (`render.volume.distortion`).
    """

    head_in_eyes: Array
    head_in_mouth: Array
    distortion: Array


@struct.dataclass
class GenHeadView:
    """One view of a generated head.

    Attributes:
      image_sr: (S, S, 3) the picture, in [-1, 1].
      image: (R, R, 3) the volume renderer's colours over the background, in [-1, 1].
      features: (R, R, F) the same with all features, what super-resolution saw.
      depth: (R, R) distance along the ray, world units; the far end where nothing is.
      opacity: (R, R) in [0, 1].
      background: (R, R, F) features in [-1, 1].
      masks: (R, R) each, of the rays.
      correspondence: (S, S, 3) the correspondence map.
      terms: of the losses on eyes and mouth.
    """

    image_sr: Array
    image: Array
    features: Array
    depth: Array
    opacity: Array
    background: Array
    masks: PartMasks
    correspondence: Array
    terms: PartTerms


def discriminator_input(view: GenHeadView) -> DiscriminatorInput:
    """What the discriminator sees of a view, or of a batch of views."""
    segmentation = view.opacity[..., None] * 2 - 1
    return DiscriminatorInput(view.image_sr, view.image, view.correspondence, segmentation)


def part_wise_field(
    genhead: GenHead,
    variables: dict,
    planes: Array,
    head: HeadModel,
    parts: HeadParts,
    posed: PosedParts,
    masks: PartMasks,
    fuse: Fusion,
) -> Field:
    """The field that rays march through: the two branches, fused.

    Behind the features come two channels: T_h's raw density in the eye boxes, and in the mouth mask.

    Args:
      planes: (2, 3, P, P, C).
      masks: (N,) each, of the N rays.
      fuse: `fuse_by_masks` or `fuse_by_density`.
    """

    def decode(branch: int, points: Array) -> tuple[Array, Array]:
        return genhead.apply(variables, sample_planes(planes[branch], points), method="decode")

    def field(points: Array) -> tuple[Array, Array]:
        rays, samples, _ = points.shape
        canonical = canonical_points(head, parts, posed, points.reshape(-1, 3))
        per_point = lambda mask: jnp.repeat(mask, samples)[:, None]
        in_eye_box = canonical.in_eye_box[:, None].astype(points.dtype)
        at = PointMasks(per_point(masks.eye), per_point(masks.mouth), in_eye_box)
        density, features = decode(PARTS, jnp.where(at.mouth > 0, canonical.mouth, canonical.eyes))
        rest = decode(HEAD, canonical.head)
        fused, mixed = fuse((gate_part_density(density, at), features), rest, at)
        features = jnp.concatenate([mixed, rest[0] * at.in_eye_box, rest[0] * at.mouth], axis=-1)
        return fused.reshape(rays, samples, 1), features.reshape(rays, samples, -1)

    return field


@struct.dataclass
class RasterizedHead:
    """A posed head as one camera sees it, before it is rendered: all that does not depend on G.

    Attributes:
      posed: its meshes.
      camera: of the view.
      masks: (R, R) each, of the rays.
      correspondence: (S, S, 3) the correspondence map.
    """

    posed: PosedParts
    camera: Camera
    masks: PartMasks
    correspondence: Array


def rasterize_head(
    parts: HeadParts, posed: PosedParts, camera: Camera, size: int, resolution: int
) -> RasterizedHead:
    """Rasterises masks and correspondence map of one head for one camera: `size` S, `resolution` R."""
    masks = rasterize_part_masks(parts, posed, camera, size)
    masks = soften_masks(masks) if resolution == size else resize_masks(masks, resolution)
    return RasterizedHead(posed, camera, masks, correspondence_map(parts, posed, camera, size))


@functools.partial(jax.jit, static_argnames=("genhead", "resolution", "samples"))
def render_genhead(
    genhead: GenHead,
    variables: dict,
    planes: Array,
    background: Array,
    head: HeadModel,
    parts: HeadParts,
    posed: PosedParts,
    camera: Camera,
    *,
    resolution: int = 64,
    samples: tuple[int, int] = (48, 48),
    key: Array | None = None,
) -> GenHeadView:
    """Renders one view of one head.

    Args:
      genhead, variables: the networks; `decode` and `upscale` are used.
      planes: (2, 3, P, P, C) from `GenHead.planes`.
      background: (b, b, F) in [0, 1] from `GenHead.background`.
      head, parts, posed: the head model, its parts (`build_head_parts`), the frame (`pose_parts`).
      camera: of the view.
      resolution: R, up to `superresolution_size`, or S itself: then the rays are the picture, and
        super-resolution makes the background alone.
      samples: coarse and fine samples a ray.
      key: randomises the samples; None is deterministic.
    """
    config = genhead.config
    if resolution > config.superresolution_size and resolution != config.image_size:
        raise ValueError(
            f"resolution: at most {config.superresolution_size} rays a side, or {config.image_size},"
            f" got {resolution}"
        )
    seen = rasterize_head(parts, posed, camera, config.image_size, resolution)
    return render_rasterized(
        genhead, variables, planes, background, head, parts, seen, samples=samples, key=key
    )


@functools.partial(jax.jit, static_argnames=("genhead", "resolution", "samples"))
def show_frame(
    genhead: GenHead,
    variables: dict,
    head: HeadModel,
    parts: HeadParts,
    planes: Array,
    background: Array,
    frame: FrameParams,
    *,
    resolution: int,
    samples: tuple[int, int],
) -> GenHeadView:
    """`render_genhead` of one frame, its neck straight and before its own camera, without randomness."""
    posed = pose_straight_parts(head, frame.shape, frame)
    return render_genhead(
        genhead, variables, planes, background, head, parts, posed, frame.camera,
        resolution=resolution, samples=samples,
    )  # fmt: skip


def render_rasterized(
    genhead: GenHead,
    variables: dict,
    planes: Array,
    background: Array,
    head: HeadModel,
    parts: HeadParts,
    seen: RasterizedHead,
    *,
    samples: tuple[int, int] = (48, 48),
    key: Array | None = None,
) -> GenHeadView:
    """`render_genhead` of a head whose masks and map are there already."""
    size, masks, camera, posed = genhead.config.image_size, seen.masks, seen.camera, seen.posed
    resolution = masks.eye.shape[0]
    field = part_wise_field(
        genhead, variables, planes, head, parts, posed,
        masks=jax.tree.map(jnp.ravel, masks),
        fuse=fuse_by_masks if resolution <= TRAINED_RESOLUTION else fuse_by_density,
    )  # fmt: skip
    near, far = depth_range(camera)
    jitter, u = draw_samples(key, resolution**2, *samples)
    passes = sample_rays(
        field, *generate_rays(camera, resolution), near=near, far=far, jitter=jitter, u=u
    )  # fmt: skip
    march = march_samples(passes)
    colors = march.features[:, :-2]
    square = lambda x: x.reshape(resolution, resolution, -1)
    transmittance, behind = square(march.transmittance), resize_bilinear(background, resolution)
    upscale = lambda image: genhead.apply(variables, image[None], method="upscale")[0]
    features = 2 * (square(colors) + transmittance * behind) - 1
    if resolution == size:
        sharp = (upscale(2 * behind - 1) + 1) / 2
        image_sr = 2 * (square(colors)[..., :3] + transmittance * sharp) - 1
    else:
        image_sr = upscale(features)
    return GenHeadView(
        image_sr=image_sr,
        image=image_sr if resolution == size else features[..., :3],
        features=features,
        depth=square(march.depth)[..., 0],
        opacity=1 - transmittance[..., 0],
        background=2 * behind - 1,
        masks=masks,
        correspondence=seen.correspondence,
        terms=jax.tree.map(lambda x: square(x)[..., 0], part_terms(passes, march)),
    )


def part_terms(passes: tuple[Samples, ...], march: March) -> PartTerms:
    """The terms of N rays, (N,) each, from the passes over `part_wise_field`."""
    densities = jnp.concatenate([samples.features[..., -2:] for samples in passes], axis=1)
    eyes, mouth = jnp.moveaxis(jax.nn.softplus(densities).mean(1), -1, 0)
    return PartTerms(eyes, mouth, jax.vmap(distortion)(march))
