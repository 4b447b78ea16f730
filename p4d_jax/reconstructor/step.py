"""Training steps of Psi: self-reenactment on pairs of pictures (docs/concepts/training.md).

    pairs -> what the head model says of them (no gradient) -> Psi, its losses and their gradient

Each is a program of its own: one of all would compile for minutes. So are the density regulariser and D's
steps, which run every few steps. Which terms count changes with the images seen, and with that a program:
`Term.active` is asked on the host. Views are rendered by `shard_map`, each device its own; all else is one
program over the whole batch, so that a run on many devices is the run on one.

Letters: B pairs of all devices, S image size, R rays a side, c side of the crop of rays that is rendered, F
feature channels, k = S / R.
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

from p4d_jax.data.samples import HeadPair
from p4d_jax.errors import UserError
from p4d_jax.genhead.discriminator import Discriminator, DiscriminatorInput
from p4d_jax.genhead.parts import HeadParts, correspondence_map, pose_parts
from p4d_jax.geometry import camera_for_bent_neck
from p4d_jax.head.expression_field import CanonicalFrame
from p4d_jax.head.landmarks import project_landmarks
from p4d_jax.head.model import NECK, HeadModel
from p4d_jax.head.skinning import head_joints, posed_vertices, straightened_vertices
from p4d_jax.imaging.resizing import resize_antialiased
from p4d_jax.networks.motion_encoder import MotionEncoder, portrait_motion
from p4d_jax.reconstructor.config import StepConfig
from p4d_jax.reconstructor.deformation import Deformation, apply_field, build_field
from p4d_jax.reconstructor.encoders import SourceFeatures
from p4d_jax.reconstructor.field import (
    HeadField,
    compose,
    march_rays,
    network_inputs,
    refine_image,
    resize_background,
)
from p4d_jax.reconstructor.losses import (
    TERMS,
    LossNetworks,
    Rendered,
    Targets,
    discriminator_input,
    over_black,
    real_input,
)
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.reconstructor.several_photos import SourceTextures, build_source_textures
from p4d_jax.reconstructor.texture import SourceTexture, build_source_texture, normalized_depth
from p4d_jax.render.rays import generate_rays
from p4d_jax.render.triplane import sample_planes
from p4d_jax.train import adversarial, losses
from p4d_jax.train.devices import DATA_AXIS, on_devices, samples_at_once
from p4d_jax.train.state import TrainState, average_decay
from p4d_jax.types import BOX_WARP, Array, Camera, FrameParams


@dataclasses.dataclass(frozen=True)
class ReconstructorTraining:
    """What does not change in a run: networks, settings, devices.

    Attributes:
      motion_encoder: makes motion vectors from pictures; None: the parameters' own (`flame_motion`).
      discriminator: where a term is adversarial.
    """

    reconstructor: Reconstructor
    config: StepConfig
    mesh: Mesh
    optimizer: optax.GradientTransformation
    motion_encoder: MotionEncoder | None = None
    discriminator: Discriminator | None = None


@struct.dataclass
class Constants:
    """Arrays that no step changes: the head model, its constants, and what others trained.

    shape_errors: (300, S), or None. Psi is given each pair's shape with this times normal numbers added, as
    the fit of a photo would be off.
    """

    head: HeadModel
    frame: CanonicalFrame
    parts: HeadParts | None = None
    loss_networks: LossNetworks = LossNetworks()
    motion_variables: dict | None = None
    shape_errors: Array | None = None


def check_terms(config: StepConfig, pair: HeadPair, loss_networks: LossNetworks) -> None:
    """Refuses a table whose terms ask for what a pair, or a judge, does not know.

    Args:
      pair: of the data; shapes are enough.

    Raises:
      UserError: the first such term.
    """
    for name, term in config.terms:
        missing = [field for field in TERMS[name].of_pair if getattr(pair, field) is None]
        if term.weight and missing:
            raise UserError(
                f"config.terms.{name}: this data does not know {', '.join(missing)}; set its weight to 0"
            )
    if config.term("identity").weight and loss_networks.arcface is None:
        raise UserError(
            "config.terms.identity needs ArcFace: give config.arcface=FOLDER, which"
            " 'python -m p4d_jax.main --config=configs/convert.py' makes, or set its weight to 0"
        )


# What the head model says -----------------------------------------------------------------------------------


@struct.dataclass
class Sample:
    """One source and one target, ready for Psi; batches (B,) add a leading axis.

    Attributes:
      texture: the source image (S, S, 3) and where the head is in it; or its K photos.
      motion_source, motion_driving: (M,); of K photos (K, M) and (M,).
      field: of the target view.
      camera: of the target. label: (25,) the camera that carries the whole head pose, for D.
      rays: origins and directions (c*c, 3) of the crop.
      pixel_rays: origins and directions (k c * k c, 3) of the crop's pixels.
      corner: (2,) int32 row and column of the crop among the rays.
      scale: () cross-attention scale.
      points: (N, 3) of the target, or None.
      targets: what the target looks like there.
      face: (k c, k c, 1) mask by which the logged PSNR is measured.
      box_scale: () of the tri-planes' box (`reconstructor.multiview`).
    """

    texture: SourceTexture | SourceTextures
    motion_source: Array
    motion_driving: Array
    field: Deformation
    camera: Camera
    label: Array
    rays: tuple[Array, Array]
    pixel_rays: tuple[Array, Array]
    corner: Array
    scale: Array
    points: Array | None
    targets: Targets
    face: Array
    box_scale: Array


def crop_image(image: Array, corner: Array, side: int) -> Array:
    """(H, W, C) -> (side, side, C) from row and column `corner`."""
    return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (side, side, image.shape[-1]))


def cropped_rays(camera: Camera, resolution: int, corner: Array, side: int) -> tuple[Array, Array]:
    """Origins and directions (side², 3) of a square of the rays of a view."""
    square = lambda x: x.reshape(resolution, resolution, 3)
    origins, directions = generate_rays(camera, resolution)
    return tuple(crop_image(square(x), corner, side).reshape(-1, 3) for x in (origins, directions))


def motion_of_picture(
    training: ReconstructorTraining, constants: Constants, image: Array, params: FrameParams, mesh: Array
) -> Array:
    """(M,) motion vector of one picture of a posed mesh (V, 3): its parameters, or what the encoder sees."""
    if training.motion_encoder is None:
        return params.motion()
    landmarks = project_landmarks(constants.head, mesh, params.neck, params.camera) * image.shape[0]
    return portrait_motion(training.motion_encoder, constants.motion_variables, image, landmarks)


def motions_of_pair(
    training: ReconstructorTraining, constants: Constants, pair: HeadPair
) -> tuple[Array, Array]:
    """Motion vectors of the source and of the driving picture, which may be the target itself."""
    shape = pair.source_params.shape

    def see(image: Array, params: FrameParams) -> Array:
        return motion_of_picture(
            training, constants, image, params, posed_vertices(constants.head, shape, params)
        )

    driving = (pair.image, pair.params) if pair.driving is None else (pair.driving, pair.driving_params)
    return see(pair.source, pair.source_params), see(*driving)


def build_sample(
    training: ReconstructorTraining,
    resolution: int,
    whole: bool,
    constants: Constants,
    pair: HeadPair,
    key: Array,
) -> Sample:
    """All geometry of one pair, and a random crop.

    Args:
      whole: also what only losses of whole views need: landmarks, correspondence map.
    """
    config, model, head, frame = (
        training.config,
        training.reconstructor.config,
        constants.head,
        constants.frame,
    )
    if constants.shape_errors is not None:
        pair = perturb_shape(pair, constants.shape_errors, jax.random.fold_in(key, 1))
    size, side = pair.image.shape[0], config.crop or resolution
    shape, params = pair.source_params.shape, pair.params
    source, target = (posed_vertices(head, shape, frame) for frame in (pair.source_params, params))
    motions = motions_of_pair(training, constants, pair)
    corner = jax.random.randint(key, (2,), 0, resolution - side + 1)
    camera = params.camera
    weight = 1.0
    if config.face_weight:
        weight += config.face_weight * pair.face_mask
    if config.feature_weight:
        landmarks = project_landmarks(head, target, params.neck, camera)
        weight += config.feature_weight * pair.mask * losses.around_features(landmarks, size)
    targets, face = crop_targets(config, pair, resolution, corner, weight)
    label, points = camera.to_label(), pair.points
    if whole:
        joint = head_joints(head, shape, params.expression, params.pose, params.eyes)[NECK]
        label = camera_for_bent_neck(camera, -params.neck, joint).to_label()
        targets = targets.replace(landmarks=project_landmarks(head, target, params.neck, camera) * size)
        if constants.parts is not None:
            posed = pose_parts(head, shape, params)
            targets = targets.replace(correspondence=correspondence_map(constants.parts, posed, camera, size))
    targets = targets.replace(depth_and_alpha=target_depth_and_alpha(model.image_size, pair))
    texture = build_source_texture(
        pair.source, frame, source, pair.source_params.neck, pair.source_params.camera
    )
    if pair.photos is not None:
        texture, motions = add_photos(training, constants, pair, source, motions)
    return Sample(
        texture,
        *motions,
        build_field(model, frame, target, straightened_vertices(head, shape, params), params.neck, camera),
        camera,
        label,
        cropped_rays(camera, resolution, corner, side),
        cropped_rays(camera, size, *pixels_of_crop(config, size, resolution, corner)),
        corner,
        pair.scale,
        points,
        targets,
        face,
        jnp.ones(()),
    )


def perturb_shape(pair: HeadPair, shape_errors: Array, key: Array) -> HeadPair:
    """A pair whose pictures were fitted with one error of the shape: see `Constants`."""
    error = shape_errors @ jax.random.normal(key, shape_errors.shape[-1:])
    off = lambda params: None if params is None else params.replace(shape=params.shape + error)
    names = ("params", "source_params", "driving_params", "photos_params")
    return pair.replace(**{name: off(getattr(pair, name)) for name in names})


def add_photos(
    training: ReconstructorTraining,
    constants: Constants,
    pair: HeadPair,
    mesh: Array,
    motions: tuple[Array, Array],
) -> tuple[SourceTextures, tuple[Array, Array]]:
    """Guides and motions of a source of K photos, the first of which has this mesh (V, 3) and motion."""
    head, shape = constants.head, pair.source_params.shape
    images, params = join_photos(pair)
    meshes = [mesh]
    vectors = [motions[0]]
    for place in range(1, images.shape[0]):
        one = jax.tree.map(lambda x, place=place: x[place], params)
        meshes.append(posed_vertices(head, shape, one))
        vectors.append(motion_of_picture(training, constants, images[place], one, meshes[-1]))
    textures = build_source_textures(images, constants.frame, jnp.stack(meshes), params.neck, params.camera)
    return textures, (jnp.stack(vectors), motions[1])


def join_photos(pair: HeadPair) -> tuple[Array, FrameParams]:
    """All K photos of a pair's source (K, S, S, 3), and their parameters."""
    join = lambda first, others: jnp.concatenate([first[None], others])
    return join(pair.source, pair.photos), jax.tree.map(join, pair.source_params, pair.photos_params)


def crop_targets(
    config: StepConfig, pair: HeadPair, resolution: int, corner: Array, weight: Array | float
) -> tuple[Targets, Array]:
    """What the crop of rays at `corner` should look like, and its mask (k c, k c, 1) of the person.

    weight: (S, S, 1) of the picture's pixels; a number for none.
    """
    side, pixels = config.crop or resolution, pixels_of_crop(config, pair.image.shape[0], resolution, corner)
    fine = lambda x: crop_image(x, *pixels)
    coarse = lambda x: crop_image(x, corner, side)
    mask = coarse(resize_to(pair.mask, resolution))
    weights = raw_weights = None
    if not isinstance(weight, float):
        weights, raw_weights = fine(weight), coarse(resize_to(weight, resolution))
    rays = lambda x: None if x is None else coarse(resize_to(x, resolution))
    features, behind = rays(pair.features), rays(pair.background_features)
    background = rays(pair.background)
    if background is None and behind is not None:
        background = behind[..., :3]
    depth = None
    if pair.depth is not None:  # no mean: at an edge that would be a depth where nothing is
        depth = coarse(jax.image.resize(pair.depth, (resolution, resolution, 1), "nearest"))
    targets = Targets(
        fine(pair.image), coarse(resize_to(pair.image, resolution)), mask, weights, raw_weights, depth,
        background, None if features is None else over_black(features, mask), behind, pair.plane_features,
    )  # fmt: skip
    return targets, fine(pair.mask)


def target_depth_and_alpha(size: int, pair: HeadPair) -> Array | None:
    """(size, size, 2) the relief of a pair's source, or None."""
    if pair.source_depth is None:
        return None
    depth = jax.image.resize(pair.source_depth, (size, size, 1), "nearest")
    depth_and_alpha = normalized_depth(pair.source_params.camera, depth)
    return jnp.concatenate([depth_and_alpha, resize_to(pair.source_mask, size)], axis=-1)


def pixels_of_crop(config: StepConfig, size: int, resolution: int, corner: Array) -> tuple[Array, int]:
    """Corner and side in the picture of the crop of rays at `corner`: of a whole view, the whole picture."""
    factor = size // resolution
    return (corner * factor, config.crop * factor) if config.crop else (corner, size)


def resize_to(image: Array, size: int) -> Array:
    """(H, W, C) -> (size, size, C), with antialiasing where it gets smaller."""
    return image if image.shape[0] == size else resize_antialiased(image[None], size)[0]


def build_samples(
    training: ReconstructorTraining,
    resolution: int,
    whole: bool,
    constants: Constants,
    pairs: HeadPair,
    keys: Array,
) -> Sample:
    """Samples of pairs (B,) with raw keys (B, 2). No gradient."""

    def one(constants: Constants, batch: tuple) -> Sample:
        pair, key = batch
        return build_sample(training, resolution, whole, constants, pair, jax.random.wrap_key_data(key))

    spread = on_devices(training.mesh, one, constants, at_once=samples_at_once())
    return jax.lax.stop_gradient(spread((pairs, keys)))


# Psi on samples ---------------------------------------------------------------------------------------------


@struct.dataclass
class Identities:
    """What Psi makes of a batch before rays are marched.

    Attributes:
      planes: (B, 3, P, P, C). background: (B, b, b, F) in [0, 1].
      photo: `SourceFeatures.photo`, (B, ...) or None.
    """

    planes: Array
    background: Array
    photo: Array | None


def encode_photo(reconstructor: Reconstructor, variables: dict, samples: Sample) -> SourceFeatures:
    """Sources (B,) of one photo each."""
    image, lifted, mesh = jax.vmap(functools.partial(network_inputs, reconstructor))(samples.texture)
    return reconstructor.apply(
        variables, image, samples.motion_source, lifted, samples.scale, mesh, method="encode"
    )


def encode_photos(reconstructor: Reconstructor, variables: dict, samples: Sample) -> SourceFeatures:
    """Sources (B,) of K photos each, fused."""
    batch, count = samples.motion_source.shape[:2]
    flat = jax.tree.map(
        lambda x: x.reshape(batch * count, *x.shape[2:]), (samples.texture.textures, samples.motion_source)
    )
    each = samples.replace(texture=flat[0], motion_source=flat[1], scale=jnp.repeat(samples.scale, count))
    photos = encode_photo(reconstructor, variables, each)
    photos = jax.tree.map(lambda x: x.reshape(batch, count, *x.shape[1:]), photos)
    fuse = lambda one, trust: reconstructor.apply(variables, one, trust, method="fuse")
    return jax.tree.map(lambda x: x[:, 0], jax.vmap(fuse)(photos, samples.texture.trust))


def make_planes(training: ReconstructorTraining, variables: dict, samples: Sample) -> Identities:
    """The networks before the renderer; `views_at_once` pairs at a time, where memory is short."""
    reconstructor, config = training.reconstructor, training.config

    def networks(variables: dict, samples: Sample) -> Identities:
        apply = functools.partial(reconstructor.apply, variables)
        encode = encode_photos if isinstance(samples.texture, SourceTextures) else encode_photo
        source = encode(reconstructor, variables, samples)
        planes = apply(source, samples.motion_driving, samples.scale, method="animate")
        return Identities(planes, source.background, source.photo)

    def one(variables: dict, sample: Sample) -> Identities:
        made = networks(variables, jax.tree.map(lambda x: x[None], sample))
        return jax.tree.map(lambda x: x[0], made)

    used = samples.replace(targets=None)
    keep = jax.checkpoint if config.rematerialize else lambda f: f
    if config.views_at_once:
        return on_devices(training.mesh, keep(one), variables, at_once=config.views_at_once)(used)
    return keep(networks)(variables, used)


def render_samples(
    training: ReconstructorTraining, variables: dict, samples: Sample, keys: Array | None
) -> Rendered:
    """Psi on samples (B,) with raw keys (B, 2) of the rays, or None for no randomness."""
    reconstructor, config = training.reconstructor, training.config
    made = make_planes(training, variables, samples)
    side, pixels = samples.targets.raw.shape[1], samples.targets.image.shape[1]
    resolution = side * samples.texture.image.shape[1] // pixels

    def view(variables: dict, one: tuple) -> Rendered:
        identity, sample, key = one
        key = None if key is None else jax.random.wrap_key_data(key)
        texture = sample.texture.with_features(identity.photo)
        field = HeadField(reconstructor, variables, identity.planes, texture, sample.field, sample.box_scale)
        flat = march_rays(field, *sample.rays, sample.camera, config.samples, key)
        marched = jax.tree.map(lambda x: x.reshape(side, side, x.shape[-1]), flat)
        behind = crop_image(resize_background(identity.background, resolution), sample.corner, side)
        features = compose(marched.features, marched.transmittance, behind)
        upscaled = reconstructor.apply(variables, features[None], method="upscale")[0]
        image = refine_image(field, upscaled, flat, sample.pixel_rays)
        at_points = None
        if sample.points is not None:
            at_points = sample_planes(identity.planes, apply_field(sample.field, sample.points)).mean(0)
        return Rendered(
            image, upscaled if reconstructor.config.refinement_features else None, features,
            2 * marched.features - 1, 2 * behind - 1, 1 - marched.transmittance, marched.depth, at_points,
        )  # fmt: skip

    one = jax.checkpoint(view) if config.rematerialize else view
    used = samples.replace(targets=None, face=None)
    out = on_devices(training.mesh, one, variables, at_once=config.views_at_once)((made, used, keys))
    if made.photo is None:
        return out
    several = made.photo.ndim == 5  # the first of K photos is the pair's source
    return out.replace(depth_and_alpha=(made.photo[:, 0] if several else made.photo)[..., -2:])


# Programs ---------------------------------------------------------------------------------------------------


def step_keys(state: TrainState, program: int, count: int) -> Array:
    """Raw keys (count, 2) of one program at the state's step."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step), program)
    return jax.random.key_data(jax.random.split(key, count))


def learning_variables(training: ReconstructorTraining, state: TrainState, params: dict) -> dict:
    """Psi's variables; no gradient reaches the parameters of parts that are not `trained`."""
    if training.config.trained:
        held = {name: jax.lax.stop_gradient(part) for name, part in params.items()}
        params = held | {name: params[name] for name in training.config.trained}
    return {"params": params, "buffers": state.buffers}


def reenact_losses(
    training: ReconstructorTraining,
    active: tuple[str, ...],
    constants: Constants,
    state: TrainState,
    params: dict,
    samples: Sample,
) -> tuple[dict[str, Array], Rendered]:
    """The weighted losses of Psi's parameters that are active, by name."""
    out = render_samples(
        training,
        learning_variables(training, state, params),
        samples,
        step_keys(state, 1, samples.scale.shape[0]),
    )
    parts = {
        name: training.config.term(name).weight
        * TERMS[name].loss(constants.loss_networks, samples.targets, out)
        for name in active
        if TERMS[name].loss is not None
    }
    if "adversarial" in active:
        shown = discriminator_input(samples.targets, out)
        logits = training.discriminator.apply({"params": state.discriminator}, shown, samples.label)
        parts["adversarial"] = training.config.term("adversarial").weight * adversarial.generator_loss(logits)
    return parts, out


def reenact_step(
    training: ReconstructorTraining,
    active: tuple[str, ...],
    state: TrainState,
    rate: Array,
    constants: Constants,
    samples: Sample,
) -> tuple[TrainState, dict[str, Array], DiscriminatorInput | None]:
    """Psi's step on samples (B,): the new state, its losses, and what D is shown of it."""

    def objective(params):
        parts, out = reenact_losses(training, active, constants, state, params, samples)
        return sum(parts.values()), (parts, out)

    gradients, (parts, out) = jax.grad(objective, has_aux=True)(state.params)
    new = move_psi(training, state, rate, gradients)
    batch = samples.scale.shape[0]
    decay = average_decay((state.step + 1) * batch, batch, training.config.average_half_life)
    average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.average, new.params)
    fake = None
    if "adversarial" in active:
        fake = jax.lax.stop_gradient(discriminator_input(samples.targets, out))
    metrics = {**parts, "gradient_norm": optax.tree.norm(gradients)}
    if "image" in active:  # else nothing need be rendered
        metrics["psnr"] = jax.vmap(losses.psnr)(out.image, samples.targets.image, samples.face).mean()
    return new.replace(average=average), metrics, fake


def move_psi(training: ReconstructorTraining, state: TrainState, rate: Array, gradients: dict) -> TrainState:
    """The state after one step along the gradients; the motion's layers have their own rate."""
    updates, optimizer_state = training.optimizer.update(gradients, state.optimizer, state.params)

    def move(path, param, update):
        share = training.config.motion_rate if of_motion(path) else 1.0
        return param - rate * share * update

    params = jax.tree_util.tree_map_with_path(move, state.params, updates)
    return state.replace(params=params, optimizer=optimizer_state)


def of_motion(path: tuple) -> bool:
    """Whether a parameter's path leads into a cross-attention or into the motion's mapping."""
    return any(part.key in ("attn2", "motion") for part in path)


def density_loss(training: ReconstructorTraining, state: TrainState, params: dict, samples: Sample) -> Array:
    """() how much the density differs between points of the box and points near by, unweighted."""
    config, reconstructor = training.config, training.reconstructor
    keys = step_keys(state, 2, samples.scale.shape[0])

    def one(decoder: dict, batch: tuple) -> Array:
        identity, field, texture, key = batch
        at_key, moved_key = jax.random.split(jax.random.wrap_key_data(key))
        points = jax.random.uniform(at_key, (config.density_points, 3), minval=-1.0, maxval=1.0)
        reach = config.density_distance * BOX_WARP
        moved = points + reach * jax.random.normal(moved_key, points.shape)
        texture = texture.with_features(identity.photo)
        ask = HeadField(reconstructor, decoder, identity.planes, texture, field)
        return adversarial.density_difference(*jnp.split(ask(jnp.concatenate([points, moved]))[0], 2))

    variables = learning_variables(training, state, params)
    made = make_planes(training, variables, samples)
    decoder = variables | {"params": {"decoder": variables["params"]["decoder"]}}
    return on_devices(training.mesh, one, decoder)((made, samples.field, samples.texture, keys)).mean()


def density_step(
    training: ReconstructorTraining, state: TrainState, rate: Array, constants: Constants, samples: Sample
) -> tuple[TrainState, dict[str, Array]]:
    """Psi's step on the density regulariser alone, `density_every` times as heavy."""
    weight = training.config.term("density").weight

    def objective(params):
        loss = weight * density_loss(training, state, params, samples)
        return training.config.density_every * loss, loss

    gradients, loss = jax.grad(objective, has_aux=True)(state.params)
    return move_psi(training, state, rate, gradients), {"density": loss}


def move_discriminator(
    training: ReconstructorTraining, state: TrainState, rate: Array, gradients: dict
) -> TrainState:
    """The state after one step of D."""
    updates, optimizer_state = training.optimizer.update(
        gradients, state.discriminator_optimizer, state.discriminator
    )
    rate = rate * training.config.discriminator_rate
    params = jax.tree.map(lambda p, u: p - rate * u, state.discriminator, updates)
    return state.replace(discriminator=params, discriminator_optimizer=optimizer_state)


def discriminator_step(
    training: ReconstructorTraining, state: TrainState, rate: Array, samples: Sample, fake: DiscriminatorInput
) -> tuple[TrainState, dict[str, Array]]:
    """D's step on the targets and on what Psi made of them."""
    real = real_input(samples.targets)

    def objective(params):
        judge = lambda shown: training.discriminator.apply({"params": params}, shown, samples.label)
        reals, fakes = judge(real), judge(fake)
        return adversarial.discriminator_loss(fakes, reals), (reals, fakes)

    (loss, (reals, fakes)), gradients = jax.value_and_grad(objective, has_aux=True)(state.discriminator)
    metrics = {"discriminator": loss, "real_logit": reals.mean(), "fake_logit": fakes.mean()}
    return move_discriminator(training, state, rate, gradients), metrics


def penalty_step(
    training: ReconstructorTraining, state: TrainState, rate: Array, samples: Sample
) -> tuple[TrainState, dict[str, Array]]:
    """D's step on R1 alone, `penalty_every` times as heavy."""
    config, real = training.config, real_input(samples.targets)

    def objective(params):
        penalty, parts = adversarial.gradient_penalty(
            lambda shown: training.discriminator.apply({"params": params}, shown, samples.label),
            real, config.gamma_image, config.gamma_correspondence, config.gamma_segmentation,
        )  # fmt: skip
        return config.penalty_every * penalty, parts

    gradients, parts = jax.grad(objective, has_aux=True)(state.discriminator)
    return move_discriminator(training, state, rate, gradients), parts


# The step ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TrainingHooks:
    """Programs that a variant of the training adds (`reconstructor.multiview`).

    Attributes:
      describe: (R, state, pairs) -> pairs with other driving pictures, or None.
      regularise: (R, state, rate, given, pairs) -> (state, losses), every `every` steps, or None.
    """

    describe: Callable | None = None
    regularise: Callable | None = None
    every: int = 4


def build_step(
    training: ReconstructorTraining,
    constants: Constants,
    draw_pairs: Callable[[int], HeadPair],
    batch: int,
    extra: TrainingHooks = TrainingHooks(),
) -> Callable[[TrainState, Array], tuple[TrainState, dict[str, Array]]]:
    """The step: (state, learning rate) -> (state, losses).

    Args:
      draw_pairs: a number of the step -> pairs (B,), split over the devices.
      batch: B.
      extra: what v2 adds.
    """
    config = training.config
    share, whole = (
        NamedSharding(training.mesh, PartitionSpec(DATA_AXIS)),
        NamedSharding(training.mesh, PartitionSpec()),
    )
    whole_views = any(TERMS[name].whole and term.weight for name, term in config.terms)
    jitted = functools.partial(jax.jit, donate_argnums=0)
    draw_keys = jax.jit(step_keys, static_argnums=(1, 2), out_shardings=share)

    @functools.cache
    def prepare(resolution: int):
        return jax.jit(
            functools.partial(build_samples, training, resolution, whole_views), out_shardings=share
        )

    @functools.cache
    def update(active: tuple[str, ...]):
        shown = share if "adversarial" in active else None
        return jitted(functools.partial(reenact_step, training, active), out_shardings=(whole, whole, shown))

    smooth, discriminate, penalise = (
        jitted(functools.partial(f, training), out_shardings=whole)
        for f in (density_step, discriminator_step, penalty_step)
    )

    def step(state: TrainState, rate: Array) -> tuple[TrainState, dict[str, Array]]:
        number = int(state.step)
        images = number * batch
        active = config.active(images)
        resolution, pairs = config.resolution(images), draw_pairs(number)
        if extra.describe:
            pairs = extra.describe(resolution, state, pairs)
        samples = prepare(resolution)(constants, pairs, draw_keys(state, 0, batch))
        state, metrics, fake = update(active)(state, rate, constants, samples)
        if "density" in active and (number + 1) % config.density_every == 0:
            state, more = smooth(state, rate, constants, samples)
            metrics |= more
        if extra.regularise and (number + 1) % extra.every == 0:
            state, more = extra.regularise(resolution, state, rate, constants, pairs)
            metrics |= more
        if fake is not None:
            state, more = discriminate(state, rate, samples, fake)
            metrics |= more
            if (number + 1) % config.penalty_every == 0:
                state, more = penalise(state, rate, samples)
                metrics |= more
        return state.replace(step=state.step + 1), metrics

    return step
