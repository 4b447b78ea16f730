"""Volume rendering of one ray, and of many by `vmap`.

Source: docs/concepts/rendering.md, Eq. 4.2 to 4.7; EG3D (arXiv 2112.07945); NeRF.

Letters: S samples along a ray, N rays, C feature channels. Depths are distances along the ray in world units,
ascending. A field maps points (N, S, 3), those of one ray in a row, to densities (N, S, 1), before their
softplus, and features (N, S, C).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import struct

from p4d_jax.geometry import exact_products, world_to_camera
from p4d_jax.render.chosen import map_chosen
from p4d_jax.render.rays import generate_rays
from p4d_jax.types import BOX_WARP, Array, Camera, RenderOutput

if TYPE_CHECKING:
    from jaxtyping import Float

Field = Callable[[Array], tuple[Array, Array]]


@struct.dataclass
class March:
    """The integrals along one ray.

    Attributes:
      features: (C,) expected feature, premultiplied by opacity.
      depth: () expected distance along the ray, within the range of the samples.
      transmittance: () fraction of the background that passes, in [0, 1].
      weights: (S - 1,) probability that the ray ends in each interval.
      depths: (S,) depths of the samples, ascending.
    """

    features: Array
    depth: Array
    transmittance: Array
    weights: Array
    depths: Array


@struct.dataclass
class Samples:
    """Densities and features of a field at the samples of one pass over N rays.

    Attributes:
      densities: (N, S) raw densities, before softplus.
      features: (N, S, C) features.
      depths: (N, S) depths, ascending.
    """

    densities: Array
    features: Array
    depths: Array


def interval_optical_depths(
    densities: Float[Array, " samples"], depths: Float[Array, " samples"]
) -> Float[Array, " samples-1"]:
    """Optical depth (S - 1,) of each interval between samples with raw densities (S,) at depths (S,)."""
    middle = 0.5 * (densities[:-1] + densities[1:])
    return jax.nn.softplus(middle - 1) * jnp.diff(depths)


def compute_alpha_weights(optical_depths: Float[Array, " intervals"]) -> Float[Array, " intervals"]:
    """Probability (S,) that a ray ends in each interval of optical depth (S,): alpha times transmittance.

    The product of (1 - alpha) of the intervals in front is written as the exponential of a sum. With the
    transmittance behind the last interval, the weights sum to one.
    """
    size = optical_depths.shape[0]
    # A product with a triangle of ones is the fastest short cumulative sum on every device.
    before = jnp.triu(jnp.ones((size, size), optical_depths.dtype), k=1)
    in_front = jnp.matmul(optical_depths, before, precision=jax.lax.Precision.HIGHEST)
    return -jnp.expm1(-optical_depths) * jnp.exp(-in_front)


def sample_weights(weights: Float[Array, " intervals"]) -> Float[Array, " intervals+1"]:
    """Weights (S,) of the samples from those of the intervals (S - 1,): half of each neighbour.

    An interval's colour is the mean of its ends', so that the expected colour is a sum over samples.
    """
    return 0.5 * (jnp.pad(weights, (0, 1)) + jnp.pad(weights, (1, 0)))


def expected_depth(
    weights: Float[Array, " intervals"], depths: Float[Array, " intervals+1"]
) -> Float[Array, ""]:
    """Mean depth of the intervals' middles by weights (S - 1,), within the range of depths (S,).

    A ray that ends nowhere has the last depth. A ray that ends almost nowhere (weights of less than 1e-6) has
    no gradient: the square of their sum, by which it would be divided, underflows.
    """
    weights = jnp.where(weights.sum() < 1e-6, jax.lax.stop_gradient(weights), weights)
    total = weights.sum()
    middle = 0.5 * (depths[:-1] + depths[1:])
    empty = total < 1e-30
    mean = jnp.sum(weights * middle) / jnp.where(empty, 1.0, total)
    return jnp.clip(jnp.where(empty, depths[-1], mean), depths[0], depths[-1])


@exact_products
def march_rays(
    densities: Float[Array, " samples"],
    features: Float[Array, "samples channels"],
    depths: Float[Array, " samples"],
) -> March:
    """Integrates one ray: raw densities (S,), features (S, C), at ascending depths (S,)."""
    weights = compute_alpha_weights(interval_optical_depths(densities, depths))
    return March(
        features=sample_weights(weights) @ features,
        depth=expected_depth(weights, depths),
        transmittance=jnp.maximum(1 - weights.sum(), 0.0),
        weights=weights,
        depths=depths,
    )


def distortion(march: March) -> Float[Array, ""]:
    """() how far apart along one ray its weights lie: mean distance of two ends drawn by them, world units.

    Mip-NeRF 360 (arXiv 2111.12077), equation 15, where it is a double sum over pairs of intervals; here it is
    one over intervals, since they are in order.
    """
    weights, middle = march.weights, 0.5 * (march.depths[:-1] + march.depths[1:])
    mass, moment = (jnp.cumsum(x) - x for x in (weights, weights * middle))
    between = 2 * jnp.sum(weights * (middle * mass - moment))
    return between + jnp.sum(jnp.square(weights) * jnp.diff(march.depths)) / 3


def stratified_depths(near: Array, far: Array, jitter: Float[Array, " samples"]) -> Float[Array, " samples"]:
    """One depth (S,) in each step of a ladder from `near` to `far`, at `jitter` (S,) in [0, 1] of the step.

    The steps are (far - near) / (S - 1) long and the last begins at `far`, as in EG3D.
    """
    samples = jitter.shape[0]
    return near + (far - near) / (samples - 1) * (jnp.arange(samples) + jitter)


def smooth_weights(weights: Float[Array, " intervals"]) -> Float[Array, " intervals"]:
    """Interval weights (S,) widened by a maximum and a mean over neighbours, plus 0.01: (S,)."""
    padded = jnp.pad(weights, 1)
    peaks = jnp.maximum(padded[:-1], padded[1:])
    return 0.5 * (peaks[:-1] + peaks[1:]) + 0.01


def invert_cdf(
    u: Float[Array, " values"], edges: Float[Array, " bins+1"], weights: Float[Array, " bins"]
) -> Float[Array, " values"]:
    """Where the cumulative distribution of a histogram reaches `u`.

    The inverse is piecewise linear, hence a sum of clipped ramps, one a bin: no search and no gather.

    Args:
      u: (M,) in [0, 1].
      edges: (B + 1,) ascending edges of the bins.
      weights: (B,) positive weights of the bins, not normalised.

    Returns:
      (M,) in [edges[0], edges[-1]], ascending where u is.
    """
    weights = weights + 1e-5
    mass = weights / weights.sum()
    start = jnp.cumsum(mass) - mass
    ramps = jnp.clip((u[:, None] - start) / mass, 0.0, 1.0)
    return edges[0] + jnp.sum(ramps * jnp.diff(edges), axis=1)


def importance_depths(
    depths: Float[Array, " samples"], weights: Float[Array, " samples-1"], u: Float[Array, " values"]
) -> Float[Array, " values"]:
    """New depths (M,) where a ray's coarse pass ends: inverse CDF at `u` (M,). Carries no gradient.

    As in EG3D, the weight of an interval belongs to the bin that ends at its middle, and the first and last
    weights are left out.

    Args:
      depths: (S,) of the coarse pass.
      weights: (S - 1,) of its intervals.
      u: (M,) in [0, 1].
    """
    middles = 0.5 * (depths[:-1] + depths[1:])
    fine = invert_cdf(u, middles[:-1], smooth_weights(weights)[1:-1])
    return jax.lax.stop_gradient(fine)


def depth_range(camera: Camera, box_warp: float = BOX_WARP) -> tuple[Array, Array]:
    """Depths between which one camera's rays are sampled: |z of the world's origin| -+ box_warp / 2."""
    distance = jnp.abs(world_to_camera(camera, jnp.zeros(3))[2])
    return distance - box_warp / 2, distance + box_warp / 2


def merge_ascending(first: Array, second: Array) -> tuple[Array, Array]:
    """How two ascending lists (a,) and (b,) become one, by counting: a CPU sorts short lists slowly.

    Returns:
      order (a + b,) int32 of the joined list (first, second) that sorts it; rank (a + b,) int32, its inverse.
    """
    a, b = len(first), len(second)
    before_first = jnp.sum(second[None] < first[:, None], axis=1, dtype=jnp.int32)
    before_second = jnp.sum(first[None] <= second[:, None], axis=1, dtype=jnp.int32)
    rank_first = jnp.arange(a, dtype=jnp.int32) + before_first
    place = jnp.arange(a + b, dtype=jnp.int32)
    taken = jnp.sum(rank_first[None] < place[:, None], axis=1, dtype=jnp.int32)  # of the first list, before
    is_first = jnp.any(rank_first[None] == place[:, None], axis=1)
    order = jnp.where(is_first, taken, a + place - taken)
    return order, jnp.concatenate([rank_first, jnp.arange(b, dtype=jnp.int32) + before_second])


@exact_products
def _merge_and_march(coarse: Samples, fine: Samples) -> March:
    """Marches one ray over two passes.

    Only scalars are sorted by depth: weights go back to the order of the features, which stay in place.
    """
    densities = jnp.concatenate([coarse.densities, fine.densities])
    depths = jnp.concatenate([coarse.depths, fine.depths])
    order, rank = merge_ascending(coarse.depths, fine.depths)
    depths = depths[order]
    weights = compute_alpha_weights(interval_optical_depths(densities[order], depths))
    unsorted = sample_weights(weights)[rank]
    count = coarse.densities.shape[0]
    return March(
        features=unsorted[:count] @ coarse.features + unsorted[count:] @ fine.features,
        depth=expected_depth(weights, depths),
        transmittance=jnp.maximum(1 - weights.sum(), 0.0),
        weights=weights,
        depths=depths,
    )


def sample_rays(
    field: Field,
    origins: Float[Array, "rays 3"],
    directions: Float[Array, "rays 3"],
    *,
    near: Array,
    far: Array,
    jitter: Float[Array, "*rays_or_none samples"],
    u: Float[Array, "*rays_or_none values"],
) -> tuple[Samples, ...]:
    """Samples of a field along N rays: a stratified pass, then importance samples where it ended.

    Args: see `render_rays_at`.

    Returns:
      The passes, one or two, as `march_samples` takes them.
    """
    coarse, depths = _first_pass(field, origins, directions, near, far, jitter, u)
    return (coarse,) if depths is None else (coarse, _evaluate(field, origins, directions, depths))


def _evaluate(field: Field, origins: Array, directions: Array, depths: Array) -> Samples:
    points = origins[:, None] + depths[..., None] * directions[:, None]
    densities, features = field(points)
    return Samples(densities[..., 0].astype(jnp.float32), features.astype(jnp.float32), depths)


def _first_pass(
    field: Field, origins: Array, directions: Array, near: Array, far: Array, jitter: Array, u: Array
) -> tuple[Samples, Array | None]:
    """The stratified pass, and the depths (N, M) of the one after it, or None."""
    if jitter.shape[-1] < 4:
        raise ValueError(f"coarse_samples: at least 4, got {jitter.shape[-1]}")
    rays = origins.shape[0]
    jitter, u = (jnp.broadcast_to(x, (rays, x.shape[-1])) for x in (jitter, u))
    depths = jax.vmap(stratified_depths, (None, None, 0))(near, far, jitter)
    coarse = _evaluate(field, origins, directions, depths)
    if u.shape[-1] == 0:
        return coarse, None
    weights = jax.lax.stop_gradient(_interval_weights(coarse))
    return coarse, jax.vmap(importance_depths)(coarse.depths, weights, u)


def _interval_weights(samples: Samples) -> Array:
    """Probabilities (N, S - 1) that N rays end in their intervals."""
    optical = jax.vmap(interval_optical_depths)(samples.densities, samples.depths)
    return jax.vmap(compute_alpha_weights)(optical)


def march_samples(passes: tuple[Samples, ...]) -> March:
    """Integrates N rays over one or two passes; fields of the result have a leading axis N."""
    if len(passes) == 1:
        return jax.vmap(march_rays)(passes[0].densities, passes[0].features, passes[0].depths)
    return jax.vmap(_merge_and_march)(*passes)


def render_rays_at(
    field: Field,
    origins: Float[Array, "rays 3"],
    directions: Float[Array, "rays 3"],
    *,
    near: Array,
    far: Array,
    jitter: Float[Array, "*rays_or_none samples"],
    u: Float[Array, "*rays_or_none values"],
    choose: Callable[[Array], Array] | None = None,
    parts: int = 1,
) -> RenderOutput:
    """Renders N rays with given samples.

    Args:
      field: Function of points (N, S, 3) that gives densities (N, S, 1), before softplus, and features
        (N, S, C).
      origins: (N, 3) origins of the rays, world units.
      directions: (N, 3) directions of unit length.
      near, far: () depths between which samples lie, see `depth_range`.
      jitter: (N, S), or (S,) for all rays: places in [0, 1] of the S >= 4 stratified samples in their strata.
      u: (N, M), or (M,) for all rays: ascending values in [0, 1] at which the cumulative distribution of the
        first pass is inverted to place importance samples; with M = 0 there is no second pass.
      choose: Of the opacities (N,) of the first pass, which rays (N,) get a second; the others count as
        empty. None gives it to all. With it there is no gradient.
      parts: Of `map_chosen`.

    Returns:
      RenderOutput with one leading axis N in place of the image's two.
    """

    def as_output(march: March) -> RenderOutput:
        return RenderOutput(march.features, march.depth[:, None], march.transmittance[:, None])

    coarse, depths = _first_pass(field, origins, directions, near, far, jitter, u)
    if depths is None:
        return as_output(march_samples((coarse,)))

    def second(origins: Array, directions: Array, depths: Array, coarse: Samples) -> RenderOutput:
        return as_output(march_samples((coarse, _evaluate(field, origins, directions, depths))))

    rows = (origins, directions, depths, coarse)
    if choose is None:
        return second(*rows)
    chosen = choose(_interval_weights(coarse).sum(axis=-1))
    out = map_chosen(second, chosen, rows, parts)
    left_out = ~chosen[:, None]
    return out.replace(
        depth=jnp.where(left_out, coarse.depths[:, -1:], out.depth),
        transmittance=jnp.where(left_out, 1.0, out.transmittance),
    )


def draw_samples(key: Array | None, rays: int, coarse: int, fine: int) -> tuple[Array, Array]:
    """`jitter` and `u` of `render_rays_at`: drawn from a key, or for None the middles of their strata."""
    if key is None:
        return jnp.full(coarse, 0.5), (jnp.arange(fine) + 0.5) / max(fine, 1)
    coarse_key, fine_key = jax.random.split(key)
    u = jnp.sort(jax.random.uniform(fine_key, (rays, fine)), axis=-1)
    return jax.random.uniform(coarse_key, (rays, coarse)), u


def render_rays(
    field: Field,
    origins: Float[Array, "rays 3"],
    directions: Float[Array, "rays 3"],
    *,
    near: Array,
    far: Array,
    coarse_samples: int,
    fine_samples: int,
    key: Array | None = None,
    choose: Callable[[Array], Array] | None = None,
    parts: int = 1,
) -> RenderOutput:
    """Renders N rays as `render_rays_at`, with samples drawn from a key or in the middle of their strata.

    Args:
      field, origins, directions, near, far, choose, parts: As in `render_rays_at`.
      coarse_samples: Number of stratified samples a ray, at least 4.
      fine_samples: Number of importance samples a ray; 0 leaves the second pass out.
      key: Random key of both passes; without it, samples are the middles of their strata.
    """
    jitter, u = draw_samples(key, origins.shape[0], coarse_samples, fine_samples)
    return render_rays_at(
        field, origins, directions, near=near, far=far, jitter=jitter, u=u, choose=choose, parts=parts
    )


def render_image(
    field: Field,
    camera: Camera,
    resolution: int,
    *,
    coarse_samples: int,
    fine_samples: int,
    box_warp: float = BOX_WARP,
    key: Array | None = None,
) -> RenderOutput:
    """Renders the R x R image that one camera sees of `field`; see `render_rays`."""
    near, far = depth_range(camera, box_warp)
    rays = render_rays(
        field,
        *generate_rays(camera, resolution),
        near=near,
        far=far,
        coarse_samples=coarse_samples,
        fine_samples=fine_samples,
        key=key,
    )
    return jax.tree.map(lambda x: x.reshape(resolution, resolution, -1), rays)
