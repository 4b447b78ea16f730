"""Fitting a parametric head to the landmarks of one photo, by Levenberg-Marquardt.

A photo does not tell its focal length, and the crop is ours to choose; so the camera always has 12 degrees of
view and stands `CAMERA_RADIUS` away, looking at the world's origin, and what is solved is where in the photo
the square lies that this camera sees: its centre and its side. That leaves no ambiguity between size and
distance. Frames: targets are in eye distances (the distance between the eye centres is 1), x right, y down,
around the landmarks' mean; results are in photo pixels. Rotations are axis-angle in radians. The neck stays
straight: landmarks of a face cannot tell it from the camera, which carries the head's pose.

Only landmarks enter (`capture.landmark_head`), and their derivatives are put together from small parts
(`linearise`), so a step costs a few milliseconds. Every function is for one photo; `vmap` for many. Source:
docs/concepts/capture.md, Eq. 9.1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.flatten_util import ravel_pytree

from p4d_jax.capture.landmark_head import LandmarkHead, bake_shape, pose_rows, rows_at_rest, turns
from p4d_jax.capture.landmarks import Landmarks, eye_distance
from p4d_jax.geometry import axis_angle_to_matrix, exact_products, intrinsics_from_fov
from p4d_jax.head.actions import ARKIT, GAZE_DOWN, GAZE_SIDE, GAZE_UP, JAW_OPEN
from p4d_jax.head.landmarks import mediapipe_landmarks
from p4d_jax.head.model import HeadModel
from p4d_jax.train.devices import CPU_OPTIONS, fast_jit
from p4d_jax.types import CAMERA_RADIUS, EXPRESSION_SIZE, SHAPE_SIZE, Array, Camera, shaped

# fmt: off
# Points of MediaPipe's face outline: they slide along the skin towards the silhouette as a head turns.
OUTLINE = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152,
    148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)
# Lids and lips carry the expression and move by little.
EYELIDS = (
    33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173,
    263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398,
)
LIPS = (
    61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409,
    78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415,
)
# fmt: on
# How far the detector's scores of actions are from the truth, by root mean square on portraits of OpenHeads
# (`python -m benchmarks.landmark_networks`); only of actions whose scores follow the truth with a correlation
# of 0.6 or more: the others tell nothing there. But points tell jawOpen better than its score does; and
# eyeWide's scores are small where they should be: without them a wide eye undoes what is said of a blink.
SCORE_ERRORS = {"eyeBlink": 0.14, "eyeWide": 0.11, "eyeLookIn": 0.15, "eyeLookOut": 0.15, "mouthSmile": 0.16}
NO_SCORES = np.full(len(ARKIT), np.nan, np.float32)


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """Standard deviations of the fit's priors and of its landmarks, and how many steps it takes.

    Landmark noise is in eye distances, for `independent_points` points: neighbouring landmarks err together,
    so many do not count as many.
    """

    rough_iterations: int = 8
    iterations: int = 12
    landmark_noise: float = 0.02
    independent_points: float = 100.0
    outlier_distance: float = 0.05  # landmarks further off than this lose their pull (Cauchy's loss)
    iris_noise: float = 0.015
    outline_weight: float = 0.1
    eyelid_weight: float = 2.0
    lip_weight: float = 2.0
    shape_spread: float = 1.0
    expression_spread: float = 0.35  # twice what OpenHeads draw
    score_spread: float = 1.0  # of expressions around the detector's scores, in their `SCORE_ERRORS`
    expression_bound: float = 0.03  # softness of the walls at 0 and 1 of ARKit coefficients
    action_tie: float = 0.1  # between an action and the joint that shares its work
    jaw_range: tuple[float, float] = (0.0, 0.45)
    jaw_bound: float = 0.01
    jaw_spread: tuple[float, float, float] = (0.3, 0.02, 0.02)
    gaze_spread: tuple[float, float] = (0.3, 0.4)  # pitch, yaw
    gaze_difference: tuple[float, float] = (0.03, 0.08)  # between the eyes


PHOTO_SETTINGS = FitSettings()
FRAME_SETTINGS = FitSettings(rough_iterations=0, iterations=4)


@struct.dataclass
class Unknowns:
    """What is solved for. S and E are the sizes of the head's bases.

    Attributes:
      rotation: (3,) world to camera, axis-angle.
      centre: (2,) image of the world's origin, eye distances.
      log_side: () logarithm of the side of the camera's square, eye distances.
      shape: (S,), expression: (E,) coefficients.
      jaw: (3,) axis-angle.
      gaze: (2, 2) left eye, right eye: pitch (x) and yaw (y).
    """

    rotation: Array
    centre: Array
    log_side: Array
    shape: Array
    expression: Array
    jaw: Array
    gaze: Array


@struct.dataclass
class Targets:
    """Landmarks brought to eye distances around their mean, to be hit by the model.

    Attributes:
      points: (M, 2) detected landmarks, those of MediaPipe's points that the head defines.
      iris: (2, 2) iris centres, left eye then right eye.
      actions: (52,) scores of ARKit's actions in [0, 1]; not a number where there is none.
      origin: (2,) photo pixels of the frame's origin.
      unit: () photo pixels of one eye distance.
      roll: () roll of the face in the photo, radians clockwise.
    """

    points: Array
    iris: Array
    actions: Array
    origin: Array
    unit: Array
    roll: Array


@struct.dataclass
class Fit:
    """A fitted head.

    Attributes:
      unknowns: The solution in eye distances, from which the next frame starts.
      rotation: (3,) world to camera, axis-angle.
      centre: (2,) image of the world's origin, photo pixels.
      side: () side of the camera's square, photo pixels.
      shape: (300,), expression: (100,), jaw: (3,), eyes: (6,) padded with zeros to the public layout.
      points: (M, 2) landmarks of the fitted head, photo pixels.
      iris: (2, 2) its pupils, photo pixels.
      error: () mean distance between detected and fitted landmarks, in eye distances.
    """

    unknowns: Unknowns
    rotation: Array
    centre: Array
    side: Array
    shape: Array
    expression: Array
    jaw: Array
    eyes: Array
    points: Array
    iris: Array
    error: Array


def shapes_left_open(head: HeadModel, priors: FitSettings = PHOTO_SETTINGS) -> np.ndarray:
    """What a photo's landmarks leave open of a head's shape: (300, S), times normal numbers a fit's error.

    A factor of the posterior covariance of the shape's S coefficients, of unit variance before, given where
    the inner landmarks are, those not on the face's `OUTLINE`, with the noise that `priors` says.
    """
    if not len(head.mediapipe_indices):
        raise ValueError(f"head: {head.name!r} defines no MediaPipe landmarks; use 'openhead'")
    inner = ~np.isin(np.asarray(head.mediapipe_indices), OUTLINE)
    corners = np.asarray(head.shape_basis)[np.asarray(head.mediapipe_triangles)[inner]]
    moved = np.einsum("mk,mkas->mas", np.asarray(head.mediapipe_barycentric)[inner], corners)
    points = np.full((468, 3), np.nan)
    points[np.asarray(head.mediapipe_indices)] = mediapipe_landmarks(head, head.template)
    noise = priors.landmark_noise * eye_distance(points)
    if not np.isfinite(noise):
        raise ValueError(f"head: {head.name!r} does not define the corners of the eyes; use 'openhead'")
    weight = priors.independent_points / inner.sum() / noise**2
    moved = moved.reshape(-1, moved.shape[-1]).astype(np.float64)
    size = moved.shape[1]
    factor = np.linalg.cholesky(np.linalg.inv(weight * moved.T @ moved + np.eye(size)))
    return np.pad(factor, ((0, SHAPE_SIZE - size), (0, 0))).astype(np.float32)


# The model's prediction -----------------------------------------------------------------------------------


def head_camera(rotation: Array, radius: float = CAMERA_RADIUS) -> Camera:
    """The camera looking at the world's origin from `radius`; rotation: (3,) world to camera, axis-angle."""
    to_camera = axis_angle_to_matrix(rotation)
    cam2world = jnp.eye(4).at[:3, :3].set(to_camera.T).at[:3, 3].set(to_camera.T[:, 2] * radius)
    return Camera(cam2world, intrinsics_from_fov())


def gaze_to_eyes(gaze: Array) -> Array:
    """(2, 2) pitch and yaw of left and right eye -> (6,) axis-angle."""
    return jnp.concatenate([gaze, jnp.zeros((2, 1))], axis=1).reshape(6)


def predict(small: LandmarkHead, unknowns: Unknowns) -> tuple[Array, Array]:
    """Where the head's landmarks (M, 2) and pupils (2, 2) appear, in eye distances."""
    rows = rows_at_rest(small, unknowns.shape, unknowns.expression)
    points = pose_rows(small, rows, unknowns.jaw, unknowns.gaze)
    placed = see_points(points, unknowns.rotation, unknowns.centre, unknowns.log_side)
    return placed[:-2], placed[-2:]


@exact_products
def see_points(points: Array, rotation: Array, centre: Array, log_side: Array) -> Array:
    """Where points (N, 3) of the world appear (N, 2), in eye distances; the camera: see `Unknowns`."""
    local = points @ axis_angle_to_matrix(rotation).T
    focal = intrinsics_from_fov()[0, 0]
    seen = focal * local[:, :2] * jnp.array([1.0, -1.0]) / (CAMERA_RADIUS - local[:, 2:])
    return centre + jnp.exp(log_side) * seen


def make_targets(small: LandmarkHead, points: Array, iris: Array, actions: Array | None = None) -> Targets:
    """Landmarks (468, 2) and iris centres (2, 2), photo pixels, scores (52,) or None -> `Targets`."""
    left = points[jnp.array((263, 362))].mean(0)
    right = points[jnp.array((33, 133))].mean(0)
    across = left - right
    unit = jnp.linalg.norm(across)
    origin = points.mean(0)
    return Targets(
        points=(points[small.mediapipe_indices] - origin) / unit,
        iris=(iris - origin) / unit,
        actions=NO_SCORES if actions is None else actions,
        origin=origin,
        unit=unit,
        roll=jnp.arctan2(across[1], across[0]),
    )


def point_weights(small: LandmarkHead, settings: FitSettings) -> Array:
    """(M,) how much each landmark counts, summing to `independent_points`."""
    weights = np.ones(468)
    weights[list(EYELIDS)] = settings.eyelid_weight
    weights[list(LIPS)] = settings.lip_weight
    weights[list(OUTLINE)] = settings.outline_weight
    chosen = jnp.asarray(weights, jnp.float32)[small.mediapipe_indices]
    return chosen * settings.independent_points / chosen.sum()


def soften_outliers(offsets: Array, distance: Array | float) -> Array:
    """Offsets (M, 2) shortened so that their squared lengths become Cauchy's loss, d^2 log(1 + |r|^2 / d^2).

    Covered points, and points that lie elsewhere on the mesh than on MediaPipe's face model, then distort the
    fit little.
    """
    ratio = jnp.sum(offsets**2, axis=-1, keepdims=True) / distance**2
    small = ratio < 1e-4
    safe = jnp.where(small, 1.0, ratio)
    return offsets * jnp.where(small, 1 - ratio / 4, jnp.sqrt(jnp.log1p(safe) / safe))


def residuals(
    small: LandmarkHead,
    targets: Targets,
    unknowns: Unknowns,
    settings: FitSettings,
    outlier_distance: Array,
) -> Array:
    """All that should be zero, in standard deviations: landmarks, irises, then the priors."""
    seen = jnp.concatenate(predict(small, unknowns))
    missed = point_residuals(small, targets, seen, settings, outlier_distance)
    return jnp.concatenate([missed.reshape(-1), prior_residuals(small, targets, unknowns, settings)])


def point_residuals(
    small: LandmarkHead, targets: Targets, seen: Array, settings: FitSettings, outlier_distance: Array
) -> Array:
    """(N, 2) how far landmarks and pupils that are seen at (N, 2) are from their targets; each by itself."""
    weights = jnp.sqrt(point_weights(small, settings))[:, None] / settings.landmark_noise
    landmarks = weights * soften_outliers(seen[:-2] - targets.points, outlier_distance)
    return jnp.concatenate([landmarks, (seen[-2:] - targets.iris) / settings.iris_noise])


def prior_residuals(
    small: LandmarkHead, targets: Targets, unknowns: Unknowns, settings: FitSettings
) -> Array:
    """(P,) how far the unknowns are from what the priors say of them."""
    low, high = settings.jaw_range
    opening = unknowns.jaw[0]
    parts = [
        unknowns.shape / settings.shape_spread,
        unknowns.expression / settings.expression_spread,
        unknowns.jaw / jnp.array(settings.jaw_spread),
        (jnp.maximum(low - opening, 0) + jnp.maximum(opening - high, 0)) / settings.jaw_bound,
        unknowns.gaze / jnp.array(settings.gaze_spread),
        (unknowns.gaze[0] - unknowns.gaze[1]) / jnp.array(settings.gaze_difference),
    ]
    if small.expression_names:
        outside = jnp.maximum(-unknowns.expression, 0) + jnp.maximum(unknowns.expression - 1, 0)
        parts.append(outside / settings.expression_bound)
        parts.append(action_ties(small.expression_names, unknowns) / settings.action_tie)
        scores = score_residuals(small.expression_names, unknowns.expression, targets.actions)
        parts.append(scores / settings.score_spread)
    return jnp.concatenate([part.reshape(-1) for part in parts])


@exact_products
def linearise(
    small: LandmarkHead,
    targets: Targets,
    unknowns: Unknowns,
    settings: FitSettings,
    outlier_distance: Array,
) -> tuple[Array, Array]:
    """`residuals` (R,) and their Jacobian (R, n) by the unknowns, in the order of `ravel_pytree`.

    By the chain rule through the points (N, 3), since a residual depends on its own point alone, and the
    points on shape and expression linearly: what is left to differentiate has three, six and seven directions
    instead of as many as there are unknowns.
    """
    camera = (unknowns.rotation, unknowns.centre, unknowns.log_side)
    rows = rows_at_rest(small, unknowns.shape, unknowns.expression)

    def pose(jaw, gaze):
        return pose_rows(small, rows, jaw, gaze)

    def miss(points, *camera):
        seen = see_points(points, *camera)
        return point_residuals(small, targets, seen, settings, outlier_distance)

    points = pose(unknowns.jaw, unknowns.gaze)
    residual, move = jax.linearize(miss, points, *camera)
    still = jax.tree.map(jnp.zeros_like, camera)
    by_point = jax.vmap(lambda axis: move(jnp.broadcast_to(axis, points.shape), *still))(jnp.eye(3))

    def by(moved: Array) -> Array:
        """(2N, k) of the residuals, from (3, N, k) of the points."""
        terms = (by_point[axis][..., None] * moved[axis][:, None] for axis in range(3))
        return sum(terms).reshape(2 * len(points), -1)

    turned = turns(unknowns.jaw, unknowns.gaze)
    by_camera = jax.jacfwd(miss, argnums=(1, 2, 3))(points, *camera)
    by_pose = jax.jacfwd(pose, argnums=(0, 1))(unknowns.jaw, unknowns.gaze)
    blocks = [
        *(block.reshape(2 * len(points), -1) for block in by_camera),
        *(by(jnp.tensordot(turned, basis, 1)) for basis in (small.shape_basis, small.expression_basis)),
        *(by(jnp.moveaxis(block.reshape(*points.shape, -1), 1, 0)) for block in by_pose),
    ]
    flat, unravel = ravel_pytree(unknowns)
    prior = lambda x: prior_residuals(small, targets, unravel(x), settings)
    whole = jnp.concatenate([residual.reshape(-1), prior(flat)])
    return whole, jnp.concatenate([jnp.concatenate(blocks, axis=1), jax.jacfwd(prior)(flat)])


def action_ties(names: tuple[str, ...], unknowns: Unknowns) -> Array:
    """How far ARKit's actions are from the joints that share their work: jawOpen, and where the eyes look."""
    left, right = unknowns.gaze
    shares = {"jawOpen": unknowns.jaw[0] / JAW_OPEN}
    for side, gaze, outward in (("Left", left, 1), ("Right", right, -1)):
        shares[f"eyeLookUp{side}"] = -gaze[0] / GAZE_UP
        shares[f"eyeLookDown{side}"] = gaze[0] / GAZE_DOWN
        shares[f"eyeLookOut{side}"] = outward * gaze[1] / GAZE_SIDE
        shares[f"eyeLookIn{side}"] = -outward * gaze[1] / GAZE_SIDE
    ties = [
        unknowns.expression[names.index(name)] - jnp.clip(share, 0, 1)
        for name, share in shares.items()
        if name in names
    ]
    return jnp.stack(ties) if ties else jnp.zeros(0)


def score_residuals(names: tuple[str, ...], expression: Array, scores: Array) -> Array:
    """How far ARKit's actions are from their scores (52,), in `SCORE_ERRORS`; 0 where there is no score."""
    chosen = [name for name in ARKIT if name in names and _unsided(name) in SCORE_ERRORS]
    if not chosen:
        return jnp.zeros(0)
    wanted = scores[jnp.array([ARKIT.index(name) for name in chosen])]
    found = expression[jnp.array([names.index(name) for name in chosen])]
    errors = jnp.array([SCORE_ERRORS[_unsided(name)] for name in chosen])
    return jnp.where(jnp.isnan(wanted), 0.0, (found - jnp.nan_to_num(wanted)) / errors)


def _unsided(name: str) -> str:
    return name.removesuffix("Left").removesuffix("Right")


# The solver -----------------------------------------------------------------------------------------------


@exact_products
def levenberg_marquardt(
    function: Callable[[Array, Array], Array],
    linearise: Callable[[Array, Array], tuple[Array, Array]],
    start: Array,
    iterations: Array | int,
) -> Array:
    """Minimise |function(x, step)|^2 from `start` (n,); a step that makes it worse is not taken.

    Args:
      function: may change from step to step (0 .. iterations - 1), which it is told.
      linearise: (x, step) -> the same and its Jacobian.

    Damping: Marquardt's, relative to the diagonal of J^T J, divided by 5 after a good step and multiplied by
    4 after a bad one (Nocedal and Wright, section 10.3).
    """

    def step(index, state):
        x, damping = state
        residual, jacobian = linearise(x, index)
        normal = jacobian.T @ jacobian
        gradient = jacobian.T @ residual
        diagonal = jnp.diagonal(normal)
        damped = normal + jnp.diag(damping * diagonal + 1e-6 * diagonal.max())
        candidate = x - jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(damped), gradient)
        better = jnp.sum(function(candidate, index) ** 2) < jnp.sum(residual**2)
        return jnp.where(better, candidate, x), jnp.where(better, damping / 5, damping * 4)

    return jax.lax.fori_loop(0, iterations, step, (start, jnp.asarray(1e-3)))[0]


def first_guess(small: LandmarkHead, targets: Targets) -> Unknowns:
    """A neutral frontal head with the roll and the place of the photo's."""
    unknowns = Unknowns(
        rotation=jnp.array([0.0, 0.0, -1.0]) * targets.roll,
        centre=jnp.zeros(2),
        log_side=jnp.log(4.5),
        shape=jnp.zeros(small.shape_basis.shape[-1]),
        expression=jnp.zeros(small.expression_basis.shape[-1]),
        jaw=jnp.array([0.05, 0.0, 0.0]),
        gaze=jnp.zeros((2, 2)),
    )
    points = predict(small, unknowns)[0]
    spread = jnp.sqrt(jnp.sum((targets.points - targets.points.mean(0)) ** 2))
    side = spread / jnp.sqrt(jnp.sum((points - points.mean(0)) ** 2))
    centre = targets.points.mean(0) - side * points.mean(0)
    return unknowns.replace(centre=centre, log_side=unknowns.log_side + jnp.log(side))


def fit_landmarks(
    small: LandmarkHead,
    points: Array,
    iris: Array,
    actions: Array,
    start: Unknowns,
    is_warm: Array,
    steps: tuple[Array, Array],
    settings: FitSettings = PHOTO_SETTINGS,
) -> Fit:
    """Fit one head to one face; `fit_photo` compiles it.

    Args:
      small: The head that `landmark_head` gives, or `bake_shape`, which keeps the identity.
      points: (468, 2) detected landmarks, photo pixels, in MediaPipe's order.
      iris: (2, 2) centres of the left and of the right iris, photo pixels.
      actions: (52,) scores of ARKit's actions, not a number where there is none.
      start: Solution of the frame before, from which the fit starts where `is_warm`; elsewhere it starts from
        a neutral frontal face.
      steps: Numbers of steps without and with the robust loss.
      settings: Priors and noise; see `FitSettings`.
    """
    targets = make_targets(small, points, iris, actions)
    guess = first_guess(small, targets)
    flat, unravel = ravel_pytree(jax.tree.map(lambda a, b: jnp.where(is_warm, a, b), start, guess))

    def at_step(function):
        # A first guess is off everywhere: which points are outliers is known only after a few steps.
        outlier = lambda step: jnp.where(step < steps[0], 1.0, settings.outlier_distance)
        return lambda x, step: function(small, targets, unravel(x), settings, outlier(step))

    solution = levenberg_marquardt(at_step(residuals), at_step(linearise), flat, steps[0] + steps[1])
    return finish_fit(small, targets, unravel(solution))


def finish_fit(small: LandmarkHead, targets: Targets, unknowns: Unknowns) -> Fit:
    """The solution in photo pixels and the public layout, with its error."""
    points, iris = predict(small, unknowns)
    return Fit(
        unknowns=unknowns,
        rotation=unknowns.rotation,
        centre=targets.origin + targets.unit * unknowns.centre,
        side=targets.unit * jnp.exp(unknowns.log_side),
        shape=_pad(unknowns.shape, SHAPE_SIZE),
        expression=_pad(unknowns.expression, EXPRESSION_SIZE),
        jaw=unknowns.jaw,
        eyes=gaze_to_eyes(unknowns.gaze),
        points=targets.origin + targets.unit * points,
        iris=targets.origin + targets.unit * iris,
        error=jnp.linalg.norm(points - targets.points, axis=-1).mean(),
    )


def _pad(values: Array, size: int) -> Array:
    return jnp.zeros(size).at[: values.shape[0]].set(values)


def action_scores(landmarks: Landmarks) -> np.ndarray:
    """(52,) what the fit takes of a detector's scores: not a number where there is none."""
    if landmarks.actions is None:
        return NO_SCORES
    scores = np.asarray(landmarks.actions, np.float32)
    if scores.shape != NO_SCORES.shape:
        raise ValueError(f"actions: expected the scores of ARKit's 52 actions, got shape {scores.shape}")
    return scores


def blank_unknowns(small: LandmarkHead) -> Unknowns:
    """All zeros, of the head's sizes."""
    sizes = (3,), (2,), (), small.shape_basis.shape[-1:], small.expression_basis.shape[-1:], (3,), (2, 2)
    return Unknowns(*(np.zeros(size, np.float32) for size in sizes))


def fit_photo(
    small: LandmarkHead,
    points: Array,
    iris: Array,
    actions: Array | None = None,
    start: Unknowns | None = None,
    priors: FitSettings | None = None,
) -> Fit:
    """`fit_landmarks` of one face, compiled: once for photos, and once for heads of `bake_shape`.

    Args:
      small, points, iris: See `fit_landmarks`.
      actions: (52,) scores of ARKit's actions, or None.
      start: None for a photo, else the frame before; of its shape what the head has.
      priors: None for those of a photo or of a frame.
    """
    priors = priors or (PHOTO_SETTINGS if start is None else FRAME_SETTINGS)
    is_warm = np.bool_(start is not None)
    start = start or blank_unknowns(small)
    start = start.replace(shape=start.shape[: small.shape_basis.shape[-1]])
    actions = NO_SCORES if actions is None else actions
    return _fit(small, points, iris, actions, start, is_warm, *_steps(priors))


def prepare_frames(small: LandmarkHead) -> None:
    """Compiles, in any thread, what `fit_photo` takes for the frames of a film; small: of `landmark_head`."""
    person = jax.eval_shape(bake_shape, small, shaped(SHAPE_SIZE))
    face = shaped(468, 2), shaped(2, 2), NO_SCORES
    _fit.prepare(person, *face, blank_unknowns(person), np.bool_(True), *_steps(FRAME_SETTINGS))


def _steps(priors: FitSettings) -> tuple[tuple[np.int32, np.int32], FitSettings]:
    """Numbers of steps, which are arguments, so that one program takes any, and the settings without them."""
    steps = np.int32(priors.rough_iterations), np.int32(priors.iterations)
    return steps, dataclasses.replace(priors, rough_iterations=0, iterations=0)


def fit_photos(
    small: LandmarkHead,
    points: Array,
    iris: Array,
    actions: Array | None = None,
    priors: FitSettings = PHOTO_SETTINGS,
) -> Fit:
    """Many photos at once: points (B, 468, 2), iris (B, 2, 2), scores (B, 52) or None -> `Fit` with (B,)."""
    steps = (np.int32(priors.rough_iterations), np.int32(priors.iterations))
    actions = np.tile(NO_SCORES, (len(points), 1)) if actions is None else actions
    return _fit_many(small, points, iris, actions, blank_unknowns(small), np.bool_(False), steps, priors)


# So compiled in half of the time, and as fast.
_FIT_OPTIONS = CPU_OPTIONS | {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}
_fit = fast_jit(fit_landmarks, options=_FIT_OPTIONS, static_argnames="settings")
_fit_many = jax.jit(
    jax.vmap(fit_landmarks, in_axes=(None, 0, 0, 0, None, None, None, None)), static_argnums=7
)
