"""The scores that papers report, by name. A new one is one function and its line in `MEASURES`.

A measure of a pair takes a `Reenacted` and returns a number, the mean over its frames, or None where no face
was found; one of sets takes Inception's features of all results and of the real pictures. Each says where its
definition comes from and with which weights it was taken; without them there is no number, but a reason.
Pictures are whole, background included. docs/howto/evaluate.md defines every one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from p4d_jax.errors import UserError
from p4d_jax.evaluation.consistency import Surface, reprojected_depth_error
from p4d_jax.evaluation.descriptions import cosine_distances
from p4d_jax.evaluation.facts import rotation_angle
from p4d_jax.evaluation.fits import expression_distance
from p4d_jax.evaluation.flicker import second_difference
from p4d_jax.evaluation.frechet import FeatureStatistics, frechet_distance
from p4d_jax.evaluation.kernel import kernel_distance
from p4d_jax.evaluation.landmarks import keypoint_distance
from p4d_jax.evaluation.looks import DETECTION_SIZE
from p4d_jax.evaluation.pairs import KINDS, Pair, consecutive_runs
from p4d_jax.evaluation.pictures import MS_SSIM_LEAST, SSIM_WINDOW, ms_ssim, ssim
from p4d_jax.evaluation.reenacted import Reenacted, Unchanged, as_image
from p4d_jax.evaluation.statistics import statistics
from p4d_jax.geometry import look_at_camera
from p4d_jax.head.skinning import posed_vertices
from p4d_jax.render.raster import rasterize
from p4d_jax.train.losses import psnr
from p4d_jax.types import CAMERA_PIVOT, CAMERA_RADIUS

SIDE_YAW = np.deg2rad(25.0)  # of the two views whose depths are compared
MILLIMETRES = 1000 / 3  # in a world unit
KEYPOINT_SIZE = 256  # pixels a side, of the picture in whose pixels keypoints are apart
FEATURES_AT_ONCE = 8
LANDMARKS, HEAD, LPIPS, ARCFACE, INCEPTION = "landmarks", "head", "lpips", "arcface", "inception"


@dataclass(frozen=True)
class Measure:
    """A measure, where it comes from, and what it needs.

    Attributes:
      title: Its name in papers.
      definition: What is computed, in a sentence.
      source: The paper that defines it.
      better: 'higher' or 'lower'.
      of_pair: A pair -> a number, or None; or of_sets: features of results (N, D) and real pictures (M, D).
      needs: The weights that it is taken with, a key of `ScoreNetworks.weights`; '' for none.
      kinds: Of pairs for which it is defined.
      least_size: Pixels a side that pictures must have.
      of_source: Whether it says something of the source as it is, in the place of the result.
    """

    title: str
    definition: str
    source: str
    better: str
    of_pair: Callable[[Reenacted], float | None] | None = None
    of_sets: Callable[[np.ndarray, np.ndarray], float] | None = None
    needs: str = ""
    kinds: tuple[str, ...] = KINDS
    least_size: int = 1
    of_source: bool = True

    def refusal(self, weights: dict[str, str], size: int) -> str:
        """Why there is no number with these weights on pictures of this size; '' where there is one."""
        if self.needs and self.needs not in weights:
            return f"no weights of {NETWORKS[self.needs]} were given"
        if size < self.least_size:
            return f"pictures of {size} pixels a side, at least {self.least_size} are needed"
        return ""


NETWORKS = {LPIPS: "LPIPS", ARCFACE: "ArcFace", INCEPTION: "FID's Inception"}  # that do not ship


@dataclass(frozen=True)
class ScoreNetworks:
    """The networks of others with which scores are taken.

    Attributes:
      features: (B, S, S, 3) images in [-1, 1] -> Inception's features (B, D); None without weights.
      weights: What each of the networks is, in words, by the names that measures need; those that are not
        given are missing.
    """

    features: Callable[[np.ndarray], np.ndarray] | None = None
    weights: dict[str, str] = field(default_factory=dict)


# Measures of pairs ------------------------------------------------------------------------------------------

_psnr, _ssim = jax.jit(psnr), jax.jit(ssim)
_rasterize = jax.jit(rasterize, static_argnames="resolution")
_vertices = jax.jit(posed_vertices)


def mean_of(values: Iterable[float]) -> float | None:
    """The mean; None of nothing."""
    values = list(values)
    return float(np.mean(values)) if values else None


def of_pictures(compare: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[Reenacted], float | None]:
    """The mean over frames of a comparison of result and truth, (S, S, 3) uint8."""
    return lambda case: mean_of(compare(*both) for both in zip(case.made, case.driving, strict=True))


def of_images(compare: Callable) -> Callable[[Reenacted], float | None]:
    """The same of a comparison of images in [-1, 1]."""
    return of_pictures(lambda made, true: float(compare(as_image(made), as_image(true))))


def perceptual_distance(case: Reenacted) -> float | None:
    """LPIPS of result and truth."""
    return of_images(case.networks.lpips)(case)


def both_found(made: Sequence, wanted: Sequence) -> Iterator[tuple]:
    """Frames of which there is something of both."""
    return ((a, b) for a, b in zip(made, wanted, strict=True) if a is not None and b is not None)


def identity_similarity(case: Reenacted) -> float | None:
    """Cosine of ArcFace's embeddings of the results and the source."""
    source = [case.source_face] * len(case.made)
    cosine = lambda a, b: 1.0 - float(cosine_distances(a.embedding[None], b.embedding[None])[0, 0])
    return mean_of(cosine(*both) for both in both_found(case.made_faces, source))


def average_expression_distance(case: Reenacted) -> float | None:
    """Mean absolute difference of the expressions fitted to result and driver."""
    components = case.avatar.model.head.expression_basis.shape[-1]
    found = both_found(case.made_fits, case.driving_fits)
    return mean_of(expression_distance(*both, components) for both in found)


def average_pose_distance(case: Reenacted) -> float | None:
    """Degrees between the head rotations fitted to result and driver."""
    found = both_found(case.made_fits, case.driving_fits)
    return mean_of(rotation_angle(made.rotation, driver.rotation) for made, driver in found)


def average_keypoint_distance(case: Reenacted) -> float | None:
    """Distance of the landmarks of result and truth, in pixels of a picture of 256."""
    points = lambda look: look.landmarks
    found = both_found(case.made_faces, case.driving_faces)
    values = [keypoint_distance(points(made), points(true)) for made, true in found]
    return mean_of(value * KEYPOINT_SIZE / DETECTION_SIZE for value in values)


def faces_found(case: Reenacted) -> float | None:
    """Share of results in which a face is found."""
    return mean_of(float(face is not None) for face in case.made_faces)


def _flicker_of(films: Callable[[Reenacted], np.ndarray]) -> Callable[[Reenacted], float | None]:
    def measure(case: Reenacted) -> float | None:
        film, total, count = films(case), 0.0, 0
        for run in consecutive_runs(case.frames):
            changes = run.stop - run.start - 2
            total += changes * float(second_difference(film[run], np.ones((*film[run].shape[:3], 1))))
            count += changes
        return total / count if count else None

    return measure


flicker_of_result = _flicker_of(lambda case: as_image(case.made))
flicker_of_driver = _flicker_of(lambda case: as_image(case.driving))
flicker_of_error = _flicker_of(lambda case: as_image(case.made) - as_image(case.driving))


def depth_consistency(case: Reenacted) -> float | None:
    """Median difference of the depths of two views of the avatar's own expression, millimetres."""
    avatar = case.avatar
    head, params = avatar.model.head, jax.device_get(avatar.params)
    straight = params.replace(pose=np.concatenate([np.zeros(3, np.float32), params.jaw]))
    vertices, surfaces = _vertices(head, params.shape, straight), []
    cameras = tuple(
        look_at_camera(yaw, 0.0, CAMERA_RADIUS, 0.0, CAMERA_PIVOT) for yaw in (-SIDE_YAW, SIDE_YAW)
    )
    for camera in cameras:
        seen = avatar.render(straight.replace(camera=camera), motion=avatar.motion)
        mesh = _rasterize(vertices, head.faces, camera, resolution=seen.depth.shape[0])
        surfaces.append(Surface(seen.depth, seen.alpha, mesh))
    errors = reprojected_depth_error(tuple(surfaces), cameras)
    return float(np.median(errors)) * MILLIMETRES if len(errors) else None


# Measures of sets -------------------------------------------------------------------------------------------


def frechet_inception_distance(made: np.ndarray, real: np.ndarray) -> float:
    """FID of features (N, D) and (M, D)."""
    a, b = FeatureStatistics.of(made), FeatureStatistics.of(real)
    return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


MEASURES = {
    "psnr": Measure(
        "PSNR, dB", "10 log10(1 / mean squared error) of colours in [0, 1], result and truth",
        "Huynh-Thu, Ghanbari 2008, Electronics Letters 44(13)", "higher", of_images(_psnr), kinds=("self",),
    ),
    "ssim": Measure(
        "SSIM", "Gaussian window 11 x 11 of sigma 1.5, each channel by itself, windows inside the picture",
        "Wang et al. 2004, IEEE TIP 13(4)", "higher", of_images(_ssim), kinds=("self",),
        least_size=SSIM_WINDOW,
    ),
    "ms_ssim": Measure(
        "MS-SSIM", "SSIM's contrast and structure over five scales, luminance of the coarsest",
        "Wang, Simoncelli, Bovik 2003, Asilomar", "higher", of_pictures(ms_ssim), kinds=("self",),
        least_size=MS_SSIM_LEAST,
    ),
    "lpips": Measure(
        "LPIPS", "Version 0.1, result and truth", "Zhang et al. 2018, arXiv 1801.03924", "lower",
        perceptual_distance, needs=LPIPS, kinds=("self",), least_size=35,
    ),
    "akd": Measure(
        "AKD, pixels of 256", "Mean distance of 468 landmarks, result and truth",
        "Siarohin et al. 2019, arXiv 1812.08861, with other landmarks", "lower", average_keypoint_distance,
        needs=LANDMARKS, kinds=("self",),
    ),
    "csim": Measure(
        "CSIM", "Cosine of the embeddings of result and source",
        "Deng et al. 2019, arXiv 1801.07698; Zakharov et al. 2019, arXiv 1905.08233", "higher",
        identity_similarity, needs=ARCFACE,
    ),
    "aed": Measure(
        "AED", "Mean absolute difference of fitted expression coefficients, result and driver",
        "Ren et al. 2021, arXiv 2109.08379, with another head model", "lower", average_expression_distance,
        needs=HEAD,
    ),
    "apd": Measure(
        "APD, degrees", "Angle between fitted head rotations, result and driver",
        "Ren et al. 2021, arXiv 2109.08379, with another head model, as one angle", "lower",
        average_pose_distance, needs=HEAD,
    ),
    "fid": Measure(
        "FID", "Fréchet distance of Inception's features, results and real pictures",
        "Heusel et al. 2017, arXiv 1706.08500", "lower", of_sets=frechet_inception_distance, needs=INCEPTION,
    ),
    "kid": Measure(
        "KID", "Unbiased squared maximum mean discrepancy of the same features, kernel (x y / D + 1)³",
        "Bińkowski et al. 2018, arXiv 1801.01401", "lower", of_sets=kernel_distance, needs=INCEPTION,
    ),
    "flicker": Measure(
        "flicker, grey levels", "Mean |x(t+1) - 2 x(t) + x(t-1)| of the result",
        "this repository", "lower", flicker_of_result, of_source=False,
    ),
    "flicker_driver": Measure(
        "flicker of the driver", "The same of the driver's own frames; of self pairs they are the truth",
        "this repository", "lower", flicker_of_driver, of_source=False,
    ),
    "flicker_error": Measure(
        "flicker of the error", "The same of result minus truth",
        "this repository", "lower", flicker_of_error, kinds=("self",), of_source=False,
    ),
    "consistency": Measure(
        "3D consistency, mm", "Median difference of the depths that views from 25° left and right show",
        "after Or-El et al. 2022, arXiv 2112.11427", "lower", depth_consistency, needs=HEAD,
        of_source=False,
    ),
    "face_found": Measure(
        "faces found", "Share of results with a face; the others are left out of CSIM, AED, APD and AKD",
        "this repository", "higher", faces_found, needs=LANDMARKS,
    ),
}  # fmt: skip


# All pairs --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairScores:
    """The numbers of one pair.

    Attributes:
      pair: The pair.
      frames: Number of frames that were measured.
      values: By measure; those that have one.
      unchanged: The same of the source as it is.
    """

    pair: Pair
    frames: int
    values: dict[str, float]
    unchanged: dict[str, float]


@dataclass
class Features:
    """Inception's features of one kind's results, and of the real pictures, each counted once."""

    made: list[np.ndarray] = field(default_factory=list)
    real: dict[tuple, np.ndarray] = field(default_factory=dict)

    def add(self, case: Reenacted, extract: Callable[[np.ndarray], np.ndarray]) -> None:
        """Those of a pair. Real are the driver's frames, and in `cross` the source, too."""
        pair = case.pair
        real = dict(zip(((pair.driving, int(n)) for n in case.frames), case.driving, strict=True))
        if pair.kind == "cross":
            real[(pair.source, pair.source_frame)] = case.source
        new = {key: picture for key, picture in real.items() if key not in self.real}
        found = extract_features(extract, np.stack([*case.made, *new.values()]))
        self.made.extend(found[: len(case.made)])
        self.real |= dict(zip(new, found[len(case.made) :], strict=True))


def extract_features(extract: Callable[[np.ndarray], np.ndarray], pictures: np.ndarray) -> np.ndarray:
    """(N, D) of pictures (N, S, S, 3) uint8, in batches of one size."""
    found = []
    for start in range(0, len(pictures), FEATURES_AT_ONCE):
        some = as_image(pictures[start : start + FEATURES_AT_ONCE])
        filled = np.concatenate([some, np.repeat(some[-1:], FEATURES_AT_ONCE - len(some), axis=0)])
        found.append(np.asarray(extract(filled))[: len(some)])
    return np.concatenate(found)


def score_pairs(
    cases: Iterable[Reenacted],
    measures: dict[str, Measure],
    networks: ScoreNetworks,
    on_scored: Callable[[Reenacted, PairScores], None],
) -> dict:
    """The report of all pairs: `measures`, each with its source and its numbers or why there are none.

    Args:
      on_scored: Called with each pair when it has been measured.

    Raises:
      UserError: There are no pairs.
    """
    rows, features, size = [], {kind: Features() for kind in KINDS}, 0
    wants_features = any(one.of_sets is not None for one in measures.values())
    for case in cases:
        size, unchanged = case.made.shape[1], Unchanged(case)
        values: dict[str, dict[str, float]] = {"": {}, "unchanged": {}}
        for name, measure in measures.items():
            if measure.of_pair is None or case.pair.kind not in measure.kinds:
                continue
            if measure.refusal(networks.weights, size):
                continue
            shown = {"": case, "unchanged": unchanged} if measure.of_source else {"": case}
            for column, one in shown.items():
                if (value := measure.of_pair(one)) is not None:
                    values[column][name] = round(value, 6)
        if wants_features and networks.features is not None:
            features[case.pair.kind].add(case, networks.features)
        rows.append(PairScores(case.pair, len(case.made), values[""], values["unchanged"]))
        on_scored(case, rows[-1])
    if not rows:
        raise UserError("none of the pairs can be used")
    return {
        "pairs": {kind: sum(row.pair.kind == kind for row in rows) for kind in KINDS},
        "results": {kind: sum(row.frames for row in rows if row.pair.kind == kind) for kind in KINDS},
        "picture_size": size,
        "measures": {
            name: summarise_measure(name, measure, rows, features, networks, size)
            for name, measure in measures.items()
        },
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def summarise_measure(
    name: str,
    measure: Measure,
    rows: Sequence[PairScores],
    features: dict[str, Features],
    networks: ScoreNetworks,
    size: int,
) -> dict:
    """A measure's title, source and weights, and of each kind its mean, standard error and pairs."""
    about = {key: getattr(measure, key) for key in ("title", "definition", "source", "better")}
    about["weights"] = networks.weights.get(measure.needs, "not given") if measure.needs else "none"
    if said := measure.refusal(networks.weights, size):
        return about | {"refused": said}
    for kind in measure.kinds:
        if measure.of_sets is not None:
            made, real = features[kind].made, list(features[kind].real.values())
            if min(len(made), len(real)) < 2:
                continue
            value = measure.of_sets(np.stack(made), np.stack(real))
            about[kind] = {"mean": round(value, 6), "results": len(made), "real": len(real)}
            continue
        for column in ("values", "unchanged"):
            found = [getattr(row, column).get(name) for row in rows if row.pair.kind == kind]
            if found := [value for value in found if value is not None]:
                key = kind if column == "values" else f"{kind}_unchanged"
                about[key] = statistics(found, of="pairs")
    return about


def rank_cases(rows: Sequence[PairScores], kind: str, name: str) -> dict[str, int]:
    """The rows of the best, the median and the worst pair of a kind by a measure, those that differ."""
    having = [i for i, row in enumerate(rows) if row.pair.kind == kind and name in row.values]
    best_first = sorted(having, key=lambda i: rows[i].values[name], reverse=MEASURES[name].better == "higher")
    if not best_first:
        return {}
    places = {"best": 0, "median": (len(best_first) - 1) // 2, "worst": len(best_first) - 1}
    ranked: dict[str, int] = {}
    for label, place in places.items():
        if best_first[place] not in ranked.values():
            ranked[label] = best_first[place]
    return ranked
