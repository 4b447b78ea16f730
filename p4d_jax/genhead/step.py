"""Training steps of GenHead: adversarial, on single pictures with masks and parameters.

Source: docs/concepts/genhead.md, Eq. 5.5 to 5.8.

A step is G's program and then D's; the regularisers are programs of their own and run every few steps. What
the head model says of a frame (meshes, masks, correspondence map) has no gradient and is a program of its own
too, on the device: one of all would compile for minutes. Letters: B samples of all devices, S image size, R
rays a side.

Views are rendered by `shard_map`, each device its own; all else is one program over the whole batch, so that
D's statistics of a batch, the means of styles and the swap of conditions cross devices by themselves.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from p4d_jax.data.samples import Portrait
from p4d_jax.genhead.config import GenHeadStepConfig
from p4d_jax.genhead.discriminator import Discriminator, DiscriminatorInput
from p4d_jax.genhead.latent_encoder import LatentEncoder, kl_divergence
from p4d_jax.genhead.model import HEAD, PARTS, GenHead
from p4d_jax.genhead.parts import (
    CORRESPONDENCE_SCALE,
    EYE_SHIFT,
    HeadParts,
    canonical_points,
    correspondence_map,
    pose_straight_parts,
)
from p4d_jax.genhead.view import (
    GenHeadView,
    RasterizedHead,
    discriminator_input,
    rasterize_head,
    render_rasterized,
)
from p4d_jax.geometry import vertex_normals
from p4d_jax.head.landmarks import project_landmarks
from p4d_jax.head.model import HeadModel
from p4d_jax.imaging.resizing import resize_antialiased
from p4d_jax.render.triplane import sample_planes
from p4d_jax.train import adversarial, losses
from p4d_jax.train.augment import Augmentation, adapt_probability, augment
from p4d_jax.train.devices import DATA_AXIS
from p4d_jax.train.state import average_decay, jit_init
from p4d_jax.types import BOX_WARP, Array, Camera, FrameParams

STYLE_MEAN_DECAY = 0.998  # of w_avg, a step


@struct.dataclass
class GenHeadState:
    """What a run carries from step to step; a pytree, checkpointed as it is.

    Attributes:
      step: () int32 steps done. seconds: () float32 training time, over restarts.
      generator, discriminator: parameters. buffers: G's noise images and mean styles.
      average: moving average of G's parameters.
      encoder: parameters of the `LatentEncoder`; empty where nothing is reconstructed.
      generator_optimizer, discriminator_optimizer, encoder_optimizer: optax states.
      augment: () probability of ADA.
      key: the run's random key; each step folds its number in.
    """

    step: Array
    seconds: Array
    generator: dict
    buffers: dict
    average: dict
    discriminator: dict
    encoder: dict
    generator_optimizer: optax.OptState
    discriminator_optimizer: optax.OptState
    encoder_optimizer: optax.OptState
    augment: Array
    key: Array


@dataclasses.dataclass(frozen=True)
class GenHeadTraining:
    """What does not change in a run: networks, head, config, devices."""

    genhead: GenHead
    discriminator: Discriminator
    config: GenHeadStepConfig
    head: HeadModel
    parts: HeadParts
    mesh: Mesh

    @property
    def encoder(self) -> LatentEncoder:
        """Of real pictures at half their size, as wide as D."""
        judge = self.discriminator.config
        sizes = (
            judge.image_size // 2,
            judge.channel_base,
            judge.channel_max,
        )
        return LatentEncoder(self.genhead.config.latent_size, *sizes, self.discriminator.dtype)

    def optimizer(self, every: int) -> optax.GradientTransformation:
        """Adam with betas (0, 0.99) whose memory is as long with a regulariser every few steps as without."""
        return optax.scale_by_adam(b1=0.0, b2=0.99 ** lazy_share(every), eps=1e-8)


def lazy_share(every: int) -> float:
    """By what a rate is multiplied where a regulariser every `every` steps is a step of its own."""
    return every / (every + 1)


def encoder_optimizer() -> optax.GradientTransformation:
    """Adam, whose memory is StyleGAN2's and whose momentum is the usual: no adversary moves its target."""
    return optax.scale_by_adam(b1=0.9, b2=0.99, eps=1e-8)


def create_genhead_state(training: GenHeadTraining, key: Array) -> GenHeadState:
    """A new run's state, from a typed key."""
    key_g, key_d = jax.random.split(key)
    config, size = training.genhead.config, training.genhead.config.image_size
    label, shape = jnp.zeros((2, 25)), jnp.zeros((2, config.shape_size))
    generator = jit_init(training.genhead.init)(key_g, jnp.zeros((2, config.latent_size)), label, shape)
    blank = jnp.zeros((2, size, size, 3))
    shown = DiscriminatorInput(blank, blank, blank, blank[..., :1])
    discriminator = jit_init(training.discriminator.init)(key_d, shown, label)["params"]
    encoder = {}
    if training.config.reconstruction_weight:
        key_e = jax.random.fold_in(key_d, 1)
        half = blank[:, ::2, ::2]
        encoder = jit_init(training.encoder.init)(key_e, half, half[..., :1], half)["params"]
    params = generator["params"]
    return GenHeadState(
        step=jnp.zeros((), jnp.int32),
        seconds=jnp.zeros((), jnp.float32),
        generator=params,
        buffers=generator["buffers"],
        average=jax.tree.map(jnp.copy, params),
        discriminator=discriminator,
        encoder=encoder,
        generator_optimizer=training.optimizer(training.config.density_every).init(params),
        discriminator_optimizer=training.optimizer(training.config.penalty_every).init(discriminator),
        encoder_optimizer=encoder_optimizer().init(encoder),
        augment=jnp.zeros(()),
        key=jax.random.key_data(key),
    )


# Drawing and rendering ------------------------------------------------------------------------------------


@struct.dataclass
class Frames:
    """A batch (B,) of frames to generate.

    Attributes:
      params: the camera carries the head's whole rotation.
      seen: the posed heads as the cameras see them.
    """

    params: FrameParams
    seen: RasterizedHead

    @property
    def label(self) -> Array:
        """(B, 25) camera labels."""
        return self.params.camera.to_label()


@struct.dataclass
class Reals:
    """A batch (B,) of real pictures and their correspondence maps (B, S, S, 3)."""

    portrait: Portrait
    correspondence: Array

    @property
    def label(self) -> Array:
        """(B, 25) camera labels."""
        return self.portrait.params.camera.to_label()


def on_devices(training: GenHeadTraining, f: Callable, *shared):
    """`f(*shared, one sample)` of a batch, each device its own share of the samples."""
    whole, shares = PartitionSpec(), PartitionSpec(DATA_AXIS)

    def on_device(batch, *shared):
        return jax.vmap(lambda one: f(*shared, one))(batch)

    spread = jax.shard_map(
        on_device,
        mesh=training.mesh,
        in_specs=(shares, *(whole,) * len(shared)),
        out_specs=shares,
        check_vma=False,
    )
    return lambda batch: spread(batch, *shared)


def rasterize_frames(
    training: GenHeadTraining, resolution: int, head: HeadModel, parts: HeadParts, params: FrameParams
) -> Frames:
    """Poses and rasterises frames (B,), necks straight."""

    def one(head: HeadModel, parts: HeadParts, params: FrameParams) -> RasterizedHead:
        posed = pose_straight_parts(head, params.shape, params)
        return rasterize_head(parts, posed, params.camera, training.genhead.config.image_size, resolution)

    return Frames(params, on_devices(training, one, head, parts)(params))


def rasterize_reals(
    training: GenHeadTraining, head: HeadModel, parts: HeadParts, portrait: Portrait
) -> Reals:
    """Rasterises the correspondence maps of real pictures."""

    def one(head: HeadModel, parts: HeadParts, params: FrameParams) -> Array:
        posed = pose_straight_parts(head, params.shape, params)
        return correspondence_map(parts, posed, params.camera, training.genhead.config.image_size)

    return Reals(portrait, on_devices(training, one, head, parts)(portrait.params))


@struct.dataclass
class Codes:
    """What G makes a batch of pictures from.

    Attributes:
      ws: (B, L, W) styles. latent: (B, Z), which is also the background's.
      keys: (B, 2) raw keys of the rays.
    """

    ws: Array
    latent: Array
    keys: Array


def draw_codes(
    training: GenHeadTraining, variables: dict, params: FrameParams, swap: Array, key: Array
) -> tuple[Codes, tuple[Array, Array]]:
    """Random codes for frames (B,), and the mean styles of `make_codes`."""
    latent_key, key = jax.random.split(key)
    latent = jax.random.normal(latent_key, (params.shape.shape[0], training.genhead.config.latent_size))
    return make_codes(training, variables, latent, params, swap, key)


def make_codes(
    training: GenHeadTraining, variables: dict, latent: Array, params: FrameParams, swap: Array, key: Array
) -> tuple[Codes, tuple[Array, Array]]:
    """Codes for frames (B,), and the means over the batch of the tri-planes' and the background's styles.

    Where the draw says so, G is conditioned on the camera and shape of the neighbour in the batch, lest
    it tell from them what the picture should look like.
    """
    count = latent.shape[0]
    keys = jax.random.split(key, 5)
    swapped = jax.random.uniform(keys[1], (count, 1)) < swap
    own = (params.camera.to_label(), params.shape)
    camera, shape = (jnp.where(swapped, jnp.roll(x, 1, axis=0), x) for x in own)
    ws = training.genhead.apply(variables, latent, camera, shape, method="map")
    mean = ws[:, 0].mean(0)
    if training.config.style_mixing:
        other = jax.random.normal(keys[2], latent.shape)
        mixed = training.genhead.apply(variables, other, camera, shape, method="map")
        cut_key, on_key = jax.random.split(keys[3])
        cut = jax.random.randint(cut_key, (), 1, ws.shape[1])
        mixing = jax.random.uniform(on_key) < training.config.style_mixing
        fine = (jnp.arange(ws.shape[1]) >= cut) & mixing
        ws = jnp.where(fine[None, :, None], mixed, ws)
    background = training.genhead.apply(variables, latent, method="background_styles").mean(0)
    return Codes(ws, latent, jax.random.split(jax.random.key_data(keys[4]), count)), (
        mean,
        background,
    )


def render_codes(training: GenHeadTraining, variables: dict, codes: Codes, frames: Frames) -> GenHeadView:
    """One view of each code, (B,): each device renders its own."""
    planes = training.genhead.apply(variables, codes.ws, method="planes")
    background = training.genhead.apply(variables, codes.latent, method="background")
    whole, shares = PartitionSpec(), PartitionSpec(DATA_AXIS)

    def view(variables: dict, head: HeadModel, parts: HeadParts, one: tuple) -> GenHeadView:
        planes, background, seen, key = one
        key = jax.random.wrap_key_data(key)
        return render_rasterized(
            training.genhead,
            variables,
            planes,
            background,
            head,
            parts,
            seen,
            samples=training.config.samples,
            key=key,
        )

    def on_device(variables, head, parts, batch):
        one = functools.partial(view, variables, head, parts)
        if training.config.rematerialize:
            one = jax.checkpoint(one)
        if training.config.views_at_once:
            return jax.lax.map(one, batch, batch_size=training.config.views_at_once)
        return jax.vmap(one)(batch)

    spread = jax.shard_map(
        on_device,
        mesh=training.mesh,
        in_specs=(whole, whole, whole, shares),
        out_specs=shares,
        check_vma=False,
    )
    used = {"params": {name: variables["params"][name] for name in ("decoder", "superresolution")}}
    return spread(used, training.head, training.parts, (planes, background, frames.seen, codes.keys))


# Schedules ------------------------------------------------------------------------------------------------


def fade(images: Array, over: float) -> Array:
    """From 1 at the start to 0 at `over` images."""
    return jnp.clip(1 - images / over, 0.0, 1.0) if over else jnp.zeros_like(images)


def swap_probability(config: GenHeadStepConfig, images: Array) -> Array:
    """Of conditioning G on another sample's camera and shape."""
    return config.swap + (1 - config.swap) * fade(images, config.swap_images)


def stage_resolution(config: GenHeadStepConfig, images: int) -> int:
    """R at so many images."""
    return [resolution for start, resolution in config.stages if images >= start][-1]


def blur_sigma(config: GenHeadStepConfig, images: Array) -> Array:
    """Sigma, in pixels, of the blur of pictures before D."""
    return config.blur * fade(images, config.blur_images)


# Programs -------------------------------------------------------------------------------------------------


def discriminator_logits(
    training: GenHeadTraining,
    params: dict,
    shown: DiscriminatorInput,
    label: Array,
    probability: Array,
    key: Array,
) -> Array:
    """D's logits of pictures, augmented where the config says so."""
    if training.config.augment_target:
        shown = augment(Augmentation(), shown, probability, key)
    return training.discriminator.apply({"params": params}, shown, label)


def blur_inputs(
    training: GenHeadTraining, blurred: bool, shown: DiscriminatorInput, images: Array, raw: bool
) -> DiscriminatorInput:
    """Blurs the picture, and of real ones also what was made from it."""
    if not blurred:
        return shown
    blur = lambda x: adversarial.blur_fading(x, blur_sigma(training.config, images), training.config.blur)
    shown = shown.replace(image=blur(shown.image))
    return shown.replace(raw=blur(shown.raw), segmentation=blur(shown.segmentation)) if raw else shown


def step_keys(state: GenHeadState, program: int) -> Array:
    """The random key of one program at the state's step."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step), program)


def images_seen(state: GenHeadState, batch: int) -> Array:
    """() float32 pictures that G was trained on before this step."""
    return (state.step * batch).astype(jnp.float32)


def apply_gradients(optimizer, rate: Array, gradients: dict, state: optax.OptState, params: dict):
    """(params, optimizer state) after a step."""
    updates, state = optimizer.update(gradients, state, params)
    return jax.tree.map(lambda p, u: p - rate * u, params, updates), state


@struct.dataclass
class GeneratorReport:
    """What G's losses leave beside themselves.

    Attributes:
      shown: the pictures, as D is shown them, not blurred.
      style_means: (W,) of the batch: tri-planes, background.
      logits: (B, 1).
    """

    shown: DiscriminatorInput
    style_means: tuple[Array, Array]
    logits: Array


def generator_losses(
    training: GenHeadTraining, blurred: bool, state: GenHeadState, generator: dict, frames: Frames
) -> tuple[dict[str, Array], GeneratorReport]:
    """The weighted losses of G's parameters on frames (B,), by name."""
    config = training.config
    images = images_seen(state, frames.label.shape[0])
    keys = jax.random.split(step_keys(state, 0), 3)
    variables = {"params": generator, "buffers": state.buffers}
    codes, means = draw_codes(training, variables, frames.params, swap_probability(config, images), keys[0])
    views = render_codes(training, variables, codes, frames)
    shown = discriminator_input(views)
    softened = blur_inputs(training, blurred, shown, images, raw=False)
    logits = discriminator_logits(
        training, state.discriminator, softened, frames.label, state.augment, keys[1]
    )
    terms = {"generator": adversarial.generator_loss(logits)}
    terms |= adversarial.part_losses(views, config.part_head_weight, config.part_solid_weight)
    terms |= surface_term(training, variables, codes.ws, images, keys[2])
    return terms, GeneratorReport(shown, means, logits)


def generator_step(
    training: GenHeadTraining, blurred: bool, state: GenHeadState, rate: Array, frames: Frames
) -> tuple[GenHeadState, DiscriminatorInput, dict[str, Array]]:
    """G's step on frames (B,): the new state, the pictures that it made, and its losses."""
    config, batch = training.config, frames.label.shape[0]

    def objective(generator):
        terms, report = generator_losses(training, blurred, state, generator, frames)
        return sum(terms.values()), (terms, report)

    gradients, (terms, report) = jax.grad(objective, has_aux=True)(state.generator)
    rate = rate * config.generator_rate * lazy_share(config.density_every)
    new = move_generator(training, state, rate, gradients, report.style_means, batch)
    more = {"fake_logit": report.logits.mean(), "generator_gradient": optax.tree.norm(gradients)}
    return new, jax.lax.stop_gradient(report.shown), {**terms, **more}


EYES_AND_MOUTH = 6.0  # their weight in a reconstruction, beside 1
FACE = 2.0


def reconstruction_weights(
    training: GenHeadTraining, correspondence: Array, seen: RasterizedHead, params: FrameParams
) -> Array:
    """(B, S, S, 1) of the pixels of real pictures: more on the face, most around its eyes and mouth."""

    def around(mesh: Array, camera: Camera) -> Array:
        landmarks = project_landmarks(training.head, mesh, jnp.zeros(3), camera)
        return losses.around_features(landmarks, training.genhead.config.image_size)

    face = jnp.any(correspondence != 0, axis=-1, keepdims=True)
    near = jax.vmap(around)(seen.posed.straight, params.camera)
    return 1 + FACE * face + EYES_AND_MOUTH * near


def skin_colors(
    training: GenHeadTraining, variables: dict, planes: Array, correspondence: Array
) -> tuple[Array, Array]:
    """What tri-planes hold where a view shows the head model's surface.

    Args:
      planes: (2, 3, P, P, C).
      correspondence: (S, S, 3) of the view.

    Returns:
      (S, S, 3) colours in [-1, 1], and (S, S, 1) whether the surface is seen there.
    """
    # The eyeballs' z is lowered below all of OpenHead's face; of FLAME's that was not checked.
    eyes = correspondence[..., 2:] < 0
    shift = jnp.array([0.0, 0.0, EYE_SHIFT])
    points = CORRESPONDENCE_SCALE * (correspondence + eyes * shift).reshape(-1, 3)

    def held_by(branch: int) -> Array:
        features = sample_planes(planes[branch], points, BOX_WARP)
        colors = training.genhead.apply(variables, features, method="decode")[1][:, :3]
        return colors.reshape(correspondence.shape)

    colors = jnp.where(eyes, held_by(PARTS), held_by(HEAD))
    return 2 * colors - 1, jnp.any(correspondence != 0, axis=-1, keepdims=True)


def skin_loss(training: GenHeadTraining, variables: dict, ws: Array, real: Reals, weights: Array) -> Array:
    """() how far `skin_colors` are from real pictures (B,)."""
    planes = training.genhead.apply(variables, ws, method="planes")
    used = {"params": {"decoder": variables["params"]["decoder"]}}

    def one(used: dict, batch: tuple) -> Array:
        planes, correspondence, image, weight = batch
        colors, shown = skin_colors(training, used, planes, correspondence)
        return losses.reconstruction(jnp.where(shown, colors, image), image, weight * shown)

    return on_devices(training, one, used)((planes, real.correspondence, real.portrait.image, weights)).mean()


def reconstruction_losses(
    training: GenHeadTraining,
    state: GenHeadState,
    generator: dict,
    encoder: dict,
    real: Reals,
    frames: Frames,
) -> tuple[dict[str, Array], tuple[Array, Array]]:
    """The weighted losses of giving real pictures (B,) back, by name, and the batch's mean styles.

    Args:
      frames: what the head model says of the real pictures' parameters.
    """
    config, portrait = training.config, real.portrait
    images = images_seen(state, real.label.shape[0])
    keys = jax.random.split(step_keys(state, 5), 3)
    seen = [jax.vmap(losses.halve)(x) for x in (portrait.image, portrait.mask, real.correspondence)]
    mean, log_variance = training.encoder.apply({"params": encoder}, *seen)
    latent = mean + jnp.exp(log_variance / 2) * jax.random.normal(keys[0], mean.shape)
    variables = {"params": generator, "buffers": state.buffers}
    swap = swap_probability(config, images)
    codes, means = make_codes(training, variables, latent, frames.params, swap, keys[1])
    views = render_codes(training, variables, codes, frames)
    resolution = views.image.shape[1]
    large = reconstruction_weights(training, real.correspondence, frames.seen, frames.params)
    weights = resize_antialiased(large, resolution)
    wanted = adversarial.real_input(portrait.image, portrait.mask, real.correspondence, resolution)
    restore = jax.vmap(losses.reconstruction)
    weight, segmentation = config.reconstruction_weight, discriminator_input(views).segmentation
    parts = {
        "reconstruction": weight * restore(views.image_sr, portrait.image, large).mean(),
        "reconstruction_raw": weight * restore(views.image, wanted.raw, weights).mean(),
        "reconstruction_mask": weight * jnp.abs(segmentation - wanted.segmentation).mean(),
        "kl": config.kl_weight * kl_divergence(mean, log_variance).mean(),
    }
    if config.skin_weight:
        parts["skin"] = config.skin_weight * skin_loss(training, variables, codes.ws, real, large)
    parts |= adversarial.part_losses(views, config.part_head_weight, config.part_solid_weight)
    return parts | surface_term(training, variables, codes.ws, images, keys[2]), means


def reconstruction_step(
    training: GenHeadTraining, state: GenHeadState, rate: Array, real: Reals, frames: Frames
) -> tuple[GenHeadState, dict[str, Array]]:
    """G's and the encoder's step on giving real pictures (B,) back."""

    def objective(params):
        terms, means = reconstruction_losses(training, state, *params, real, frames)
        return sum(terms.values()), (terms, means)

    of_both, (terms, means) = jax.grad(objective, has_aux=True)((state.generator, state.encoder))
    share = rate * training.config.generator_rate
    encoder, encoder_state = apply_gradients(
        encoder_optimizer(), share, of_both[1], state.encoder_optimizer, state.encoder
    )
    new = move_generator(training, state, share, of_both[0], means, real.label.shape[0])
    metrics = {**terms, "reconstruction_gradient": optax.tree.norm(of_both[0])}
    return new.replace(encoder=encoder, encoder_optimizer=encoder_state), metrics


def move_generator(
    training: GenHeadTraining,
    state: GenHeadState,
    rate: Array,
    gradients: dict,
    means: tuple[Array, Array],
    batch: int,
) -> GenHeadState:
    """The state after a step of G: parameters, their moving average, mean styles."""
    config = training.config
    generator, optimizer_state = apply_gradients(
        training.optimizer(config.density_every), rate, gradients, state.generator_optimizer, state.generator
    )
    images = images_seen(state, batch) + batch
    decay = average_decay(images, batch, config.average_half_life, config.average_ramp)
    return state.replace(
        generator=generator,
        generator_optimizer=optimizer_state,
        average=jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.average, generator),
        buffers=move_style_means(state.buffers, means),
    )


def move_style_means(buffers: dict, means: tuple[Array, Array]) -> dict:
    """G's buffers with the mean styles, of tri-planes and background, moved towards a batch's."""
    new = dict(buffers)
    for name, mean in zip(("backbone", "background_generator"), means, strict=True):
        kept = buffers[name]["w_avg"]
        new[name] = {**buffers[name], "w_avg": mean + STYLE_MEAN_DECAY * (kept - mean)}
    return jax.lax.stop_gradient(new)


def fresh_fakes(training: GenHeadTraining, state: GenHeadState, frames: Frames) -> DiscriminatorInput:
    """Pictures for D's step, of other frames and codes than G's step had."""
    swap = swap_probability(training.config, images_seen(state, frames.label.shape[0]))
    variables = {"params": state.generator, "buffers": state.buffers}
    codes, _ = draw_codes(training, variables, frames.params, swap, step_keys(state, 1))
    return discriminator_input(render_codes(training, variables, codes, frames))


def random_pictures(training: GenHeadTraining, variables: dict, frames: Frames, key: Array) -> Array:
    """Pictures (B, S, S, 3) to judge G by: each of a code of its own, conditioned on its own frame.

    Args:
      key: (2,) raw.
    """
    latent_key, ray_key = jax.random.split(jax.random.wrap_key_data(key))
    count = frames.label.shape[0]
    latent = jax.random.normal(latent_key, (count, training.genhead.config.latent_size))
    ws = training.genhead.apply(variables, latent, frames.label, frames.params.shape, method="map")
    keys = jax.random.split(jax.random.key_data(ray_key), count)
    return render_codes(training, variables, Codes(ws, latent, keys), frames).image_sr


def real_pictures(
    training: GenHeadTraining, resolution: int, blurred: bool, real: Reals, images: Array
) -> DiscriminatorInput:
    """What D sees of real pictures, before augmentation."""
    portrait = real.portrait
    shown = adversarial.real_input(portrait.image, portrait.mask, real.correspondence, resolution)
    return blur_inputs(training, blurred, shown, images, raw=True)


def discriminator_step(
    training: GenHeadTraining,
    blurred: bool,
    state: GenHeadState,
    rate: Array,
    real: Reals,
    fake: DiscriminatorInput,
    fake_label: Array,
) -> tuple[GenHeadState, dict[str, Array]]:
    """D's step on real pictures (B,) and on fakes with their camera labels (B, 25)."""
    config, batch = training.config, real.label.shape[0]
    images = images_seen(state, batch)
    keys = jax.random.split(step_keys(state, 2))
    shown = real_pictures(training, fake.raw.shape[1], blurred, real, images)
    fake = blur_inputs(training, blurred, fake, images, raw=False)

    def objective(params):
        reals = discriminator_logits(training, params, shown, real.label, state.augment, keys[0])
        fakes = discriminator_logits(training, params, fake, fake_label, state.augment, keys[1])
        return adversarial.discriminator_loss(fakes, reals), (reals, fakes)

    (loss, (reals, fakes)), gradients = jax.value_and_grad(objective, has_aux=True)(state.discriminator)
    optimizer = training.optimizer(config.penalty_every)
    rate = rate * config.discriminator_rate * lazy_share(config.penalty_every)
    params, optimizer_state = apply_gradients(
        optimizer, rate, gradients, state.discriminator_optimizer, state.discriminator
    )
    sign = jnp.sign(reals).mean()
    new = state.replace(
        discriminator=params,
        discriminator_optimizer=optimizer_state,
        augment=adapt_probability(state.augment, sign, config.augment_target, batch / config.augment_images)
        if config.augment_target
        else state.augment,
    )
    metrics = {
        "discriminator": loss,
        "real_logit": reals.mean(),
        "real_sign": sign,
        "fake_sign": jnp.sign(fakes).mean(),
        "discriminator_gradient": optax.tree.norm(gradients),
        "augment": new.augment,
    }
    return new, metrics


def penalty_step(
    training: GenHeadTraining, resolution: int, blurred: bool, state: GenHeadState, rate: Array, real: Reals
) -> tuple[GenHeadState, dict[str, Array]]:
    """D's step on R1 alone, `penalty_every` times as heavy."""
    config = training.config
    images = images_seen(state, real.label.shape[0])
    shown = real_pictures(training, resolution, blurred, real, images)
    key = step_keys(state, 3)

    def objective(params):
        penalty, parts = adversarial.gradient_penalty(
            lambda inputs: discriminator_logits(training, params, inputs, real.label, state.augment, key),
            shown, config.gamma_image, config.gamma_correspondence, config.gamma_segmentation,
        )  # fmt: skip
        return config.penalty_every * penalty, parts

    gradients, parts = jax.grad(objective, has_aux=True)(state.discriminator)
    rate = rate * config.discriminator_rate * lazy_share(config.penalty_every)
    params, optimizer_state = apply_gradients(
        training.optimizer(config.penalty_every),
        rate,
        gradients,
        state.discriminator_optimizer,
        state.discriminator,
    )
    return state.replace(discriminator=params, discriminator_optimizer=optimizer_state), parts


def density_step(
    training: GenHeadTraining, state: GenHeadState, rate: Array, params: FrameParams
) -> tuple[GenHeadState, dict[str, Array]]:
    """G's step on the density regulariser alone, `density_every` times as heavy."""
    config = training.config
    images = images_seen(state, params.shape.shape[0])
    keys = jax.random.split(step_keys(state, 4))

    def objective(generator):
        variables = {"params": generator, "buffers": state.buffers}
        codes, _ = draw_codes(training, variables, params, swap_probability(config, images), keys[0])
        loss = config.density_weight * density_loss(training, variables, codes.ws, params, keys[1])
        return config.density_every * loss, loss

    gradients, loss = jax.grad(objective, has_aux=True)(state.generator)
    rate = rate * config.generator_rate * lazy_share(config.density_every)
    generator, optimizer_state = apply_gradients(
        training.optimizer(config.density_every), rate, gradients, state.generator_optimizer, state.generator
    )
    return state.replace(generator=generator, generator_optimizer=optimizer_state), {"density": loss}


def branch_densities(
    training: GenHeadTraining, variables: dict, planes: Array, branch: int, points: Array
) -> Array:
    """Raw densities (P, 1) of one branch of planes (2, 3, P, P, C) at its canonical points (P, 3)."""
    features = sample_planes(planes[branch], points, BOX_WARP)
    return training.genhead.apply(variables, features, method="decode")[0]


def density_loss(
    training: GenHeadTraining, variables: dict, ws: Array, params: FrameParams, key: Array
) -> Array:
    """() mean over both branches of how much density differs between points and points near by."""
    count = ws.shape[0]
    planes = training.genhead.apply(variables, ws, method="planes")
    at_key, moved_key = jax.random.split(key)
    points = jax.random.uniform(at_key, (count, training.config.density_points, 3), minval=-1.0, maxval=1.0)
    moved = points + training.config.density_distance * BOX_WARP * jax.random.normal(moved_key, points.shape)

    def one(decoder: dict, head: HeadModel, parts: HeadParts, sample: tuple) -> Array:
        planes, params, points, moved = sample
        posed = pose_straight_parts(head, params.shape, params)
        places = canonical_points(head, parts, posed, jnp.concatenate([points, moved]))
        differences = []
        for branch, at in ((PARTS, places.eyes), (HEAD, places.head)):
            densities = branch_densities(training, decoder, planes, branch, at)
            differences.append(adversarial.density_difference(*jnp.split(densities, 2)))
        return jnp.stack(differences).mean()

    decoder = {"params": {"decoder": variables["params"]["decoder"]}}
    spread = on_devices(training, one, decoder, training.head, training.parts)
    return spread((planes, params, points, moved)).mean()


SURFACE_POINTS = 512
SURFACE_DEPTH = (0.01, 0.06)  # world units under the skin
SURFACE_DENSITY = 6.0  # raw


def surface_term(
    training: GenHeadTraining, variables: dict, ws: Array, images: Array, key: Array
) -> dict[str, Array]:
    """`surface_loss` with its weight at so many images; nothing where the config has none."""
    config = training.config
    if not config.surface_weight:
        return {}
    loss = config.surface_weight * surface_loss(training, variables, ws, key)
    return {"surface": loss * fade(images, config.surface_images)}


def surface_loss(training: GenHeadTraining, variables: dict, ws: Array, key: Array) -> Array:
    """() how far the head branch is from solid under the skin of the canonical mesh: ours, see the config."""
    planes = training.genhead.apply(variables, ws, method="planes")
    pick_key, depth_key = jax.random.split(key)
    picked = jax.random.choice(pick_key, training.parts.head_vertices, (SURFACE_POINTS,))
    depth = jax.random.uniform(
        depth_key, (SURFACE_POINTS, 1), minval=SURFACE_DEPTH[0], maxval=SURFACE_DEPTH[1]
    )
    points = (
        training.parts.canonical[picked]
        - depth * vertex_normals(training.parts.canonical, training.head.faces)[picked]
    )
    densities = jax.vmap(lambda planes: branch_densities(training, variables, planes, HEAD, points))(planes)
    return jax.nn.softplus(SURFACE_DENSITY - densities).mean()


# The step -------------------------------------------------------------------------------------------------


def build_genhead_step(
    training: GenHeadTraining,
    draw_real: Callable[[Array], Portrait],
    draw_params: Callable[[Array], FrameParams],
    batch: int,
) -> Callable[[GenHeadState, Array], tuple[GenHeadState, dict[str, Array]]]:
    """The step: (state, share of the learning rates) -> (state, losses).

    Args:
      draw_real: a number of the step -> real pictures (B,), split over the devices.
      draw_params: a number -> frames (B,) to generate, from the distribution of the real ones.
      batch: B.
    """
    share, whole = (
        NamedSharding(training.mesh, PartitionSpec(DATA_AXIS)),
        NamedSharding(training.mesh, PartitionSpec()),
    )
    jitted = functools.partial(jax.jit, donate_argnums=0)

    bind = lambda f, *names: functools.partial(f, training, *names)

    @functools.cache
    def seeing(resolution: int):
        return jax.jit(bind(rasterize_frames, resolution), out_shardings=share)

    @functools.cache
    def programs(resolution: int, blurred: bool) -> tuple:
        return (
            jitted(bind(generator_step, blurred), out_shardings=(whole, share, whole)),
            jitted(bind(discriminator_step, blurred), out_shardings=whole),
            jitted(bind(penalty_step, resolution, blurred), out_shardings=whole),
        )

    see_real, make = (
        jax.jit(bind(rasterize_reals), out_shardings=share),
        jax.jit(bind(fresh_fakes), out_shardings=share),
    )
    smooth = jitted(bind(density_step), out_shardings=whole)
    restore = jitted(bind(reconstruction_step), out_shardings=whole)
    config = training.config

    def compete(state: GenHeadState, rate: Array, number: int, real: Reals, see) -> tuple[GenHeadState, dict]:
        """G against D."""
        images = number * batch
        blurred = config.blur > 0 and images < config.blur_images
        generate, discriminate, penalise = programs(stage_resolution(config, images), blurred)
        frames = see(draw_params(3 * number))
        state, fake, metrics = generate(state, rate, frames)
        if not config.reuse_fakes:
            frames = see(draw_params(3 * number + 2))
            fake = make(state, frames)
        state, more = discriminate(state, rate, real, fake, frames.label)
        metrics |= more
        if (number + 1) % config.penalty_every == 0:
            state, more = penalise(state, rate, real)
            metrics |= more
        return state, metrics

    def step(state: GenHeadState, rate: Array) -> tuple[GenHeadState, dict[str, Array]]:
        number, metrics = int(state.step), {}
        images = number * batch
        see = functools.partial(seeing(stage_resolution(config, images)), training.head, training.parts)
        real = see_real(training.head, training.parts, draw_real(number))
        alone = config.reconstruction_weight > 0 and images < config.reconstruction_images
        if alone or (config.reconstruction_weight and (number + 1) % config.reconstruction_every == 0):
            state, metrics = restore(state, rate, real, see(real.portrait.params))
        if not alone:
            state, more = compete(state, rate, number, real, see)
            metrics |= more
        if (number + 1) % config.density_every == 0:
            state, more = smooth(state, rate, draw_params(3 * number + 1))
            metrics |= more
        return state.replace(step=state.step + 1), metrics

    return step
