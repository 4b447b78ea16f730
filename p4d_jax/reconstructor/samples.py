"""What the head model says of a pair: geometry, a random crop of rays, and what the target looks like there.

    HeadPair -> Sample: source texture, motion vectors, deformation field, rays, `Targets`

No part of it has a gradient. Letters: B pairs of all devices, S image size, R rays a side, c side of the crop
of rays that is rendered (R: all), k = S / R, F feature channels, K photos of a source. Images in [-1, 1].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from p4d_jax.data.samples import HeadPair
from p4d_jax.genhead.parts import correspondence_map, pose_parts
from p4d_jax.geometry import camera_for_bent_neck
from p4d_jax.head.landmarks import project_landmarks
from p4d_jax.head.model import NECK
from p4d_jax.head.skinning import head_joints, posed_vertices, straightened_vertices
from p4d_jax.imaging.resizing import resize_antialiased
from p4d_jax.networks.motion_encoder import portrait_motion
from p4d_jax.reconstructor.config import StepConfig
from p4d_jax.reconstructor.deformation import Deformation, build_field
from p4d_jax.reconstructor.several_photos import SourceTextures, build_source_textures
from p4d_jax.reconstructor.texture import SourceTexture, build_source_texture, normalized_depth
from p4d_jax.reconstructor.training import Constants, ReconstructorTraining
from p4d_jax.render.rays import generate_rays
from p4d_jax.train import losses
from p4d_jax.train.devices import on_devices, samples_at_once
from p4d_jax.types import Array, Camera, FrameParams


@struct.dataclass
class Targets:
    """What a batch should look like, cut to the rendered crop; None where a pair does not know it.

    Attributes:
      image: (B, kc, kc, 3). raw: (B, c, c, 3).
      mask: (B, c, c, 1) in [0, 1].
      weights, raw_weights: (B, kc, kc, 1), (B, c, c, 1) of pixels in L_re, or None.
      depth: (B, c, c, 1) world units.
      background: (B, c, c, 3): what is behind everywhere; None: `raw` shows it where the mask is 0.
      features: (B, c, c, F) of the head alone, premultiplied, in [-1, 1].
      background_features: (B, c, c, F) in [-1, 1].
      plane_features: (B, N, C).
      landmarks: (B, 70, 2) in pixels of the image; for whole views.
      correspondence: (B, S, S, 3) for whole views.
      depth_and_alpha: (B, S, S, 2) of the source (`texture.mesh_depth_and_alpha`), S the input size.
    """

    image: Array
    raw: Array
    mask: Array
    weights: Array | None = None
    raw_weights: Array | None = None
    depth: Array | None = None
    background: Array | None = None
    features: Array | None = None
    background_features: Array | None = None
    plane_features: Array | None = None
    landmarks: Array | None = None
    correspondence: Array | None = None
    depth_and_alpha: Array | None = None


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
      resolution: R.
      whole: also what only losses of whole views need: landmarks, correspondence map.
    """
    config, head, frame = training.config, constants.head, constants.frame
    model = training.reconstructor.config
    if constants.shape_errors is not None:
        pair = perturb_shape(pair, constants.shape_errors, jax.random.fold_in(key, 1))
    size, side = pair.image.shape[0], config.crop or resolution
    shape, params, camera = pair.source_params.shape, pair.params, pair.params.camera
    source, target = (posed_vertices(head, shape, frame) for frame in (pair.source_params, params))

    motions = motions_of_pair(training, constants, pair)
    texture = build_source_texture(
        pair.source, frame, source, pair.source_params.neck, pair.source_params.camera, pair.source_mask
    )
    if pair.photos is not None:
        texture, motions = add_photos(training, constants, pair, source, motions)

    corner = jax.random.randint(key, (2,), 0, resolution - side + 1)
    weight = pixel_weights(config, constants, pair, target)
    targets, face = crop_targets(config, pair, resolution, corner, weight)
    targets = targets.replace(depth_and_alpha=target_depth_and_alpha(model.image_size, pair))
    label = camera.to_label()
    if whole:
        joint = head_joints(head, shape, params.expression, params.pose, params.eyes)[NECK]
        label = camera_for_bent_neck(camera, -params.neck, joint).to_label()
        targets = add_whole_view_targets(constants, targets, pair, target)
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
        pair.points,
        targets,
        face,
        jnp.ones(()),
    )


def pixel_weights(config: StepConfig, constants: Constants, pair: HeadPair, mesh: Array) -> Array | float:
    """(S, S, 1) weights of the target's pixels in L_re, a number where all are alike.

    Args:
      mesh: (V, 3) of the target.
    """
    weight = 1.0
    if config.face_weight:
        weight += config.face_weight * pair.face_mask
    if config.feature_weight:
        landmarks = project_landmarks(constants.head, mesh, pair.params.neck, pair.params.camera)
        weight += config.feature_weight * pair.mask * losses.around_features(landmarks, pair.image.shape[0])
    return weight


def add_whole_view_targets(constants: Constants, targets: Targets, pair: HeadPair, mesh: Array) -> Targets:
    """Targets with landmarks and correspondence map of a whole view; `mesh` (V, 3) is the target's."""
    head, params, size = constants.head, pair.params, pair.image.shape[0]
    targets = targets.replace(landmarks=project_landmarks(head, mesh, params.neck, params.camera) * size)
    if constants.parts is None:
        return targets
    posed = pose_parts(head, pair.source_params.shape, params)
    return targets.replace(correspondence=correspondence_map(constants.parts, posed, params.camera, size))


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


def over_black(image: Array, mask: Array) -> Array:
    """Images in [-1, 1], black where the mask is 0."""
    return (image + 1) * mask - 1
