"""What a reconstructor makes of held-out people, measured: what the job `evaluate` and training share.

A row is a dict of one person's numbers, named `part/measure`; beside some are those of the source picture as
it is, `_unchanged`, and those of the true rendering, `_truth`, which say what the measure itself misses.
docs/howto/evaluate.md defines every one. `about/...` are facts of the person, not results.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from p4d_jax import assets
from p4d_jax.avatar.avatar import Avatar
from p4d_jax.avatar.model import AvatarModel
from p4d_jax.capture.fit import fit_photos, landmark_head
from p4d_jax.capture.landmarks import Landmarker, Landmarks
from p4d_jax.data.motion import load_motion, motion_for_head
from p4d_jax.errors import UserError
from p4d_jax.evaluation import likeness
from p4d_jax.evaluation.measures import flicker, ssim
from p4d_jax.evaluation.people import (
    DRIVEN,
    DRIVEN_NEUTRAL,
    FILM,
    OWN_NEUTRAL,
    TARGET,
    UNCHANGED,
    VIEW_YAWS,
    VIEWS,
    Person,
    draw_people,
    eyes_shut,
    head_rotation,
    head_yaw,
)
from p4d_jax.geometry import axis_angle_to_matrix
from p4d_jax.head.model import HeadModel
from p4d_jax.imaging.writing import to_picture
from p4d_jax.networks.arcface import IResNet
from p4d_jax.networks.lpips import LPIPS, ConvShape, Stage
from p4d_jax.openheads.portraits import Portraits
from p4d_jax.reconstructor.model import Reconstructor
from p4d_jax.train.devices import local
from p4d_jax.train.losses import psnr
from p4d_jax.train.network_folder import load_converted
from p4d_jax.train.state import TrainState
from p4d_jax.types import Array, FrameParams, take

DETECTION_SIZE = 384  # pixels; small pictures are enlarged to it for the landmark networks
LOOKS = 17  # at each face, whose mean errs a third less than one
FIT_BATCH = 8
MOTION = "motion_talk"
Row = dict[str, float]


@dataclass(frozen=True)
class Evaluators:
    """What looks at pictures.

    Attributes:
      landmarker: finds faces.
      lpips: (image, target) -> distance; None where there are no weights.
      embed: (image, landmarks (468, 2)) -> embedding; None where there are no weights.
    """

    landmarker: Landmarker = field(default_factory=Landmarker)
    lpips: Callable[[Array, Array], Array] | None = None
    embed: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True)
class Look:
    """What is kept of one picture: its face's landmarks and colours, and an embedding if there is ArcFace."""

    landmarks: Landmarks
    colors: np.ndarray
    embedding: np.ndarray | None


Looks = dict[str, Look | None]  # None: no face was found


# Pictures --------------------------------------------------------------------------------------------------


def reenact(
    model: AvatarModel,
    source: np.ndarray,
    params: FrameParams,
    frames: FrameParams,
    *,
    resolution: int | None = None,
    samples: tuple[int, int] = (16, 16),
) -> np.ndarray:
    """Pictures (F, S, S, 3) of a source image with its parameters, as the frames (F, ...) ask for."""
    images, each = jax.tree.map(lambda x: jnp.asarray(x)[None], (source, params))
    avatar = Avatar.encode(model, images, each, resolution=resolution, samples=samples)
    return np.asarray(avatar.render_many(frames))


def enlarge(picture: np.ndarray) -> np.ndarray:
    """A picture at the size in which landmarks are looked for, so that the detector's own does not matter."""
    return np.asarray(Image.fromarray(picture).resize((DETECTION_SIZE,) * 2, Image.BICUBIC))


def detect(landmarker: Landmarker, picture: np.ndarray) -> Landmarks | None:
    """Landmarks of a small picture, in pixels of the enlarged one."""
    return landmarker.detect(enlarge(picture), looks=LOOKS)


def look(evaluators: Evaluators, image: np.ndarray) -> Look | None:
    """What is kept of an image (S, S, 3) in [-1, 1]."""
    large = enlarge(to_picture(image))
    landmarks = evaluators.landmarker.detect(large, looks=LOOKS)
    if landmarks is None:
        return None
    embedding = None if evaluators.embed is None else evaluators.embed(large / 127.5 - 1.0, landmarks.points)
    return Look(landmarks, likeness.face_colors(large, landmarks.points), embedding)


def look_at_truth(evaluators: Evaluators, person: Person) -> Looks:
    """The true pictures that others are compared with."""
    images = {
        "source": person.clip.image[0],
        "target": person.clip.image[1],
        "own_neutral": person.truth.image[OWN_NEUTRAL],
        "driven": person.truth.image[DRIVEN],
        "neutral": person.truth.image[DRIVEN_NEUTRAL],
        "unchanged": person.truth.image[UNCHANGED],
    }
    return {name: look(evaluators, image) for name, image in images.items()}


def look_at_result(evaluators: Evaluators, made: np.ndarray) -> Looks:
    """The same of the model's pictures (F, S, S, 3)."""
    places = {"self": TARGET, "driven": DRIVEN, "neutral": DRIVEN_NEUTRAL}
    return {name: look(evaluators, made[place]) for name, place in places.items()}


# Measures of one person ------------------------------------------------------------------------------------


@jax.jit
def image_measures(image: Array, target: Array, mask: Array, face_mask: Array) -> dict[str, Array]:
    """PSNR and SSIM in the mask of head, hair and shoulders, and (`_face`) of the parametric head alone."""
    return {
        "psnr": psnr(image, target, mask),
        "psnr_face": psnr(image, target, face_mask),
        "ssim": ssim(image, target, mask),
        "ssim_face": ssim(image, target, face_mask),
    }


def compare_images(evaluators: Evaluators, image, target, mask, face_mask) -> Row:
    """`image_measures`, and LPIPS of the image in the mask before the target's background."""
    row = {name: float(value) for name, value in image_measures(image, target, mask, face_mask).items()}
    if evaluators.lpips is not None:
        row["lpips"] = float(evaluators.lpips(target + (image - target) * mask, target))
    return row


def named(part: str, row: Row, suffix: str = "") -> Row:
    """Numbers under their part's name."""
    return {f"{part}/{name}{suffix}": value for name, value in row.items()}


def measure_person(evaluators: Evaluators, person: Person, made: np.ndarray) -> Row:
    """All that the pictures (F, S, S, 3) of one person say without landmarks."""
    clip, truth, row = person.clip, person.truth, about_person(person)
    wanted = (clip.image[1], clip.mask[1], clip.face_mask[1])
    row |= named("self", compare_images(evaluators, made[TARGET], *wanted))
    row |= named("self", compare_images(evaluators, clip.image[0], *wanted), "_unchanged")
    true = lambda index: (truth.image[index], truth.mask[index], truth.face_mask[index])
    row |= named("cross", compare_images(evaluators, made[DRIVEN], *true(DRIVEN)))
    views = {yaw: image_measures(made[VIEWS + i], *true(VIEWS + i)) for i, yaw in enumerate(VIEW_YAWS)}
    for yaw, measures in views.items():
        for name in ("psnr", "psnr_face", "ssim"):
            row[f"novel/{name}_{yaw:+d}"] = float(measures[name])
        if yaw:
            row[f"novel/drop_{yaw:+d}"] = float(views[0]["psnr"] - measures["psnr"])
    return row if person.film is None else row | measure_film(made[FILM:], person.film)


def measure_film(made: np.ndarray, truth: Portraits) -> Row:
    """Flicker of a film (T >= 3, S, S, 3) against the true one: of head, hair and shoulders, and the face."""
    row = {}
    for suffix, masks in (("", truth.mask), ("_face", truth.face_mask)):
        values = _flicker(made, truth.image, masks)
        result, true, error = (float(x) for x in (values.result, values.truth, values.error))
        row |= {
            f"flicker/change{suffix}": result,
            f"flicker/change{suffix}_truth": true,
            f"flicker/excess{suffix}": result - true,
            f"flicker/error{suffix}": error,
        }
    return row


_flicker = jax.jit(flicker)


def about_person(person: Person) -> Row:
    """Facts of the person's frames, by which results are sorted into bins: degrees, and shares shut."""
    source, target = person.source, take(person.asked, TARGET)
    views = {f"view_angle_{yaw:+d}": abs(yaw_between(person, i)) for i, yaw in enumerate(VIEW_YAWS)}
    return named(
        "about",
        {
            "source_yaw": abs(head_yaw(source)),
            "turn": likeness.rotation_angle(head_rotation(source), head_rotation(target)),
        }
        | views,
    )


def yaw_between(person: Person, view: int) -> float:
    """Degrees of yaw from the source picture to a novel view."""
    return head_yaw(take(person.asked, VIEWS + view)) - head_yaw(person.source)


def about_eyes(person: Person, names: tuple[str, ...]) -> Row:
    """How far eyes are shut in source and target; nothing for a head without ARKit's blinks."""
    if "eyeBlinkLeft" not in names:
        return {}
    frames = {"source": person.source, "target": take(person.asked, TARGET)}
    return named("about", {f"{key}_eyes_shut": eyes_shut(frame, names) for key, frame in frames.items()})


def measure_landmarks(true: Looks, made: Looks) -> Row:
    """Landmark errors of self-reenactment, and whether faces were found."""
    row = {"self/face_found": float(made["self"] is not None)}
    row["cross/face_found"] = float(made["driven"] is not None)
    for suffix, seen in (("", made["self"]), ("_unchanged", true["source"])):
        if seen is not None and true["target"] is not None:
            errors = likeness.landmark_errors(seen.landmarks, true["target"].landmarks)
            row |= named("self", errors, suffix)
    return row


# Measures between people -----------------------------------------------------------------------------------


def measure_expression(driver: Looks, true: Looks, made: Looks) -> Row:
    """How far the result's expression is from the driver's, each against its own neutral face.

    driver: true looks of the person that drives.
    """
    wanted = displacement(driver["target"], driver["own_neutral"])
    candidates = {
        "": displacement(made["driven"], made["neutral"]),
        "_unchanged": displacement(true["unchanged"], true["neutral"]),
        "_truth": displacement(true["driven"], true["neutral"]),
    }
    if wanted is None or any(value is None for value in candidates.values()):
        return {}  # so that the ratio compares the same people
    row = {}
    for suffix, found in candidates.items():
        row |= named("cross", likeness.expression_errors(found, wanted), suffix)
    return row


def displacement(seen: Look | None, neutral: Look | None) -> np.ndarray | None:
    """`likeness.expression_displacement`; None where a face is missing."""
    if seen is None or neutral is None:
        return None
    return likeness.expression_displacement(seen.landmarks.points, neutral.landmarks.points)


@dataclass(frozen=True)
class HeadFit:
    """A fitted head: rotation (3, 3) world to camera, expression (100,)."""

    rotation: np.ndarray
    expression: np.ndarray


def fit_looks(head: HeadModel, looks: Sequence[Look | None]) -> list[HeadFit | None]:
    """`capture.fit.fit_photos` of many looks, in batches of one size."""
    small = landmark_head(head)
    seen = [index for index, value in enumerate(looks) if value is not None]
    result: list[HeadFit | None] = [None] * len(looks)
    for start in range(0, len(seen), FIT_BATCH):
        chosen = seen[start : start + FIT_BATCH]
        filled = chosen + chosen[:1] * (FIT_BATCH - len(chosen))
        points = np.stack([looks[i].landmarks.points for i in filled]).astype(np.float32)
        iris = np.stack([looks[i].landmarks.iris[:, 0] for i in filled]).astype(np.float32)
        fit = fit_photos(small, jnp.asarray(points), jnp.asarray(iris))
        rotation, expression = np.asarray(fit.rotation), np.asarray(fit.expression)
        rotation = np.asarray(axis_angle_to_matrix(jnp.asarray(rotation)))
        for place, index in enumerate(chosen):
            result[index] = HeadFit(rotation[place], expression[place])
    return result


def fit_all(head: HeadModel, people: Sequence[Looks], names: Sequence[str]) -> list[dict]:
    """Fits of the named looks of all people: a dict from name to `HeadFit` or None for each."""
    fits = iter(fit_looks(head, [looks[name] for looks in people for name in names]))
    return [{name: next(fits) for name in names} for _ in people]


def measure_fits(true: dict, made: dict, driver: dict, components: int) -> Row:
    """APD and AED: the angle between the heads' fitted rotations, and the mean difference of the expressions.

    true, made, driver: fits by name. components: expression coefficients that the head has.
    """
    row = {}
    pairs = {
        ("self", ""): (made["self"], true["target"]),
        ("self", "_unchanged"): (true["source"], true["target"]),
        ("cross", ""): (made["driven"], driver["target"]),
        ("cross", "_truth"): (true["driven"], driver["target"]),
    }
    for (part, suffix), (found, wanted) in pairs.items():
        if found is not None and wanted is not None:
            difference = np.abs(found.expression - wanted.expression)[:components]
            row[f"{part}/pose_degrees{suffix}"] = likeness.rotation_angle(found.rotation, wanted.rotation)
            row[f"{part}/coefficients{suffix}"] = float(difference.mean())
    return row


def measure_identity(true: Sequence[Looks], made: Sequence[Looks]) -> list[Row]:
    """Whether each person's result is nearest to its own source among all; `_truth`: the true picture.

    By embeddings where there are any, else by `likeness.face_colors`, whose scale is learnt from the true
    sources and the true targets. Sources without a face are left out.
    """
    described = {
        "source": _describe(true, "source"),
        "target": _describe(true, "target"),
        "_truth": _describe(true, "driven"),
        "": _describe(made, "driven"),
    }
    known = sorted(described["source"])
    both = [i for i in known if i in described["target"]]
    if not both:
        return [{} for _ in true]
    pick = lambda name, people: np.stack([described[name][i] for i in people])
    if true[known[0]]["source"].embedding is not None:
        distances = likeness.cosine_distances
    else:
        scale = likeness.learn_scale(pick("source", both), pick("target", both))
        distances = functools.partial(likeness.description_distances, scale=scale)
    rows: list[Row] = [{} for _ in true]
    for suffix in ("", "_truth"):
        asked = [i for i in known if i in described[suffix]]
        if asked:
            own = np.array([known.index(i) for i in asked])
            right = likeness.is_recognised(distances(pick(suffix, asked), pick("source", known)), own)
            for i, value in zip(asked, right, strict=True):
                rows[i][f"cross/recognised{suffix}"] = float(value)
    return rows


def _describe(people: Sequence[Looks], name: str) -> dict[int, np.ndarray]:
    """Colours or embeddings of those people whose picture `name` shows a face."""
    seen = {index: looks[name] for index, looks in enumerate(people) if looks[name] is not None}
    return {i: value.colors if value.embedding is None else value.embedding for i, value in seen.items()}


# Evaluators with outside weights ----------------------------------------------------------------------------


def load_lpips(folder: str) -> Callable[[Array, Array], Array]:
    """LPIPS from a folder that the job `convert` made: (image, target) -> distance."""
    name, config, variables = load_converted(folder)
    if not name.startswith("lpips"):
        raise UserError(f"config.lpips={folder!r} holds the network {name!r}; give lpips_vgg or lpips_alex")
    stages = tuple(
        Stage(tuple(ConvShape(**shape) for shape in stage["convs"]), stage["pool"])
        for stage in config["stages"]
    )
    network = LPIPS(stages)
    apply = jax.jit(lambda image, target: network.apply(variables, image[None], target[None])[0])
    return lambda image, target: apply(jnp.asarray(image), jnp.asarray(target))


def load_arcface(folder: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """ArcFace from a folder that the job `convert` made: (image, landmarks) -> embedding (E,)."""
    name, config, variables = load_converted(folder)
    if not name.startswith("arcface"):
        raise UserError(f"config.arcface={folder!r} holds the network {name!r}; give arcface50 or arcface18")
    network = IResNet(**{key: tuple(v) if isinstance(v, list) else v for key, v in config.items()})
    apply = jax.jit(lambda crop: network.apply(variables, crop[None])[0])
    crop = jax.jit(likeness.crop_for_arcface)

    def embed(image: np.ndarray, points: np.ndarray) -> np.ndarray:
        five = jnp.asarray(likeness.arcface_points(points), jnp.float32)
        return np.asarray(apply(crop(jnp.asarray(image, jnp.float32), five)))

    return embed


# Summary ---------------------------------------------------------------------------------------------------


def statistics(values: Sequence[float]) -> dict[str, float | int | None]:
    """Mean, its standard error (None for one value) and count."""
    values = np.asarray(values, np.float64)
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return {
        "mean": round(float(values.mean()), 5),
        "standard_error": None if error is None else round(error, 5),
        "people": len(values),
    }


def jackknife(estimate: Callable[[np.ndarray], float], values: np.ndarray) -> dict:
    """An estimate from rows (N, ...), and its standard error by leaving out one at a time."""
    count, error = len(values), None
    if count > 1:
        left_out = np.array([estimate(np.delete(values, i, axis=0)) for i in range(count)])
        error = round(float(np.sqrt((count - 1) * np.mean((left_out - left_out.mean()) ** 2))), 5)
    return {"mean": round(float(estimate(values)), 5), "standard_error": error, "people": count}


def ratio(values: np.ndarray) -> float:
    """Mean of column 0 over the mean of column 1."""
    above, below = values.mean(0)
    return above / max(below, 1e-12)


def net_ratio(values: np.ndarray) -> float:
    """Root mean square of column 0 over that of column 1, both without column 2's: the measure's own."""
    result, unchanged, floor = np.mean(values**2, axis=0)
    return np.sqrt(max(result - floor, 0.0) / max(unchanged - floor, 1e-12))


def expression_ratios(rows: Sequence[Row], name: str) -> dict[str, dict]:
    """How much of the unchanged source's error the result and the truth have, and net of the truth's."""
    columns = [f"cross/{name}", f"cross/{name}_unchanged", f"cross/{name}_truth"]
    values = np.array([[row[column] for column in columns] for row in rows])
    return {
        f"cross/{name}_ratio": jackknife(ratio, values[:, :2]),
        f"cross/{name}_ratio_truth": jackknife(ratio, values[:, 2:0:-1]),
        f"cross/{name}_ratio_net": jackknife(net_ratio, values),
    }


def summarise(rows: Sequence[Row]) -> dict[str, dict]:
    """Statistics of each measure over the people that have it, and the ratios of expression errors."""
    names = sorted(name for name in set().union(*rows) if not name.startswith("about/"))
    report = {name: statistics([row[name] for row in rows if name in row]) for name in names}
    having = [row for row in rows if "cross/expression" in row]
    if having:
        for name in ("expression", *likeness.PARTS, "openings"):
            report |= expression_ratios(having, name)
    return report


# In training -----------------------------------------------------------------------------------------------


def film_motion(head: HeadModel, name: str = MOTION) -> FrameParams:
    """(T, ...) an embedded motion, for this head, on the host."""
    motion = motion_for_head(load_motion(assets.motion(name)), head.expression_names)
    return jax.tree.map(np.asarray, motion.params)


def build_evaluator(
    reconstructor: Reconstructor,
    head: HeadModel,
    *,
    people: int = 8,
    seed: int = 0,
    set_name: str = "held_out",
    resolution: int | None = None,
    samples: tuple[int, int] = (16, 16),
) -> Callable[[TrainState], dict[str, float]]:
    """A function for every n ticks of training: state -> means of the measures, by name, of the average.

    The people are drawn and looked at once, here; a call makes six pictures a person. Its numbers are those
    of the job `evaluate` for as many people, without the film, the fits (pose and coefficients) and identity.
    """
    evaluators = Evaluators()
    size = reconstructor.config.picture_size
    model = AvatarModel.create(reconstructor, {}, head)
    drawn = list(draw_people(head, size, set_name, seed, people, film_motion(head), 0))
    true = [look_at_truth(evaluators, person) for person in drawn]

    def evaluate(state: TrainState) -> dict[str, float]:
        variables = local({"params": state.average, "buffers": state.buffers})
        now = model.replace(variables=variables)
        rows = []
        for index, person in enumerate(drawn):
            made = reenact(
                now, person.clip.image[0], person.source, person.asked, resolution=resolution, samples=samples
            )
            seen = look_at_result(evaluators, made)
            row = measure_person(evaluators, person, made) | measure_landmarks(true[index], seen)
            rows.append(row | measure_expression(true[(index + 1) % people], true[index], seen))
        return {name: value["mean"] for name, value in summarise(rows).items()}

    return evaluate
