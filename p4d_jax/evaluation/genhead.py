"""A GenHead, measured: does it follow the head model, and is it one body seen from all sides?

- Control: heads with random codes, shapes, motions and cameras. A landmark network looks at each picture
  17 times; the mean of its points is compared with the head model's that the picture was conditioned on, in
  shares of the distance between the eyes. The same is measured on OpenHeads' true pictures of the same size:
  what it misses.
- Consistency: the depth of one head seen from 25 degrees to the left is taken as points of the world and
  compared with the depth seen from 25 degrees to the right, where the head model's mesh is seen by both.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
from tqdm import tqdm

from p4d_jax.capture.landmarks import Landmarker, eye_distance
from p4d_jax.evaluation.consistency import Surface, reprojected_depth_error
from p4d_jax.evaluation.looks import DETECTION_SIZE, detect
from p4d_jax.genhead.parts import pose_straight_parts
from p4d_jax.genhead.renderer import GenHeadRenderer
from p4d_jax.genhead.view import GenHeadView
from p4d_jax.geometry import look_at_camera, project
from p4d_jax.head.landmarks import mediapipe_landmarks
from p4d_jax.head.model import HeadModel
from p4d_jax.head.skinning import head_vertices
from p4d_jax.imaging.writing import to_picture
from p4d_jax.openheads.config import OpenHeadsSettings
from p4d_jax.openheads.people import random_identity, random_portrait_params
from p4d_jax.openheads.portraits import portraits_in_scene
from p4d_jax.openheads.scene import OpenHeadsScene
from p4d_jax.render.raster import rasterize
from p4d_jax.types import CAMERA_PIVOT, CAMERA_RADIUS, Array, Camera, FrameParams, take

YAW = np.deg2rad(25.0)
SHOWN = 16
SETTINGS = OpenHeadsSettings()
LIPS = ((13, 14),)  # upper, lower: MediaPipe's numbers
LIDS = ((386, 374), (159, 145))


@dataclass(frozen=True)
class GenHeadSubject:
    """What is measured: a GenHead, and how it is shown.

    Attributes:
      renderer: The GenHead with its head model.
      scene: OpenHeads on that head model.
      resolution: Rays a side.
      samples: Coarse and fine samples a ray.
      truncation_psi: Truncation of the codes: 1 is none, 0 the mean.
    """

    renderer: GenHeadRenderer
    scene: OpenHeadsScene
    resolution: int
    samples: tuple[int, int]
    truncation_psi: float

    def random_frame(self, keys: Array) -> FrameParams:
        """Somebody of OpenHeads in some motion before some camera, from three keys."""
        shape = random_identity(keys[0], self.scene, SETTINGS).shape
        return random_portrait_params(keys[1], keys[2], self.scene, shape, SETTINGS)

    def identity(self, key: Array, camera: Camera, shape: Array) -> tuple[Array, Array]:
        """Tri-planes and background of a random code."""
        latent = jax.random.normal(key, (1, self.renderer.genhead.config.latent_size))
        label = camera.to_label()[None]
        made = self.renderer.make_identities(latent, label, shape[None], self.truncation_psi)
        return take(made, 0)

    def view(self, planes: Array, background: Array, frame: FrameParams) -> GenHeadView:
        """One view, without randomness."""
        return self.renderer.show(planes, background, frame, self.resolution, self.samples)


# Control --------------------------------------------------------------------------------------------------


def measure_control(subject: GenHeadSubject, key: Array, count: int) -> tuple[list[dict], list[np.ndarray]]:
    """Errors of each sample, and some pictures with the head model's points."""
    landmarker, rows, pictures = Landmarker(), [], []
    head, size = subject.renderer.head, subject.renderer.genhead.config.image_size
    for index in tqdm(range(count), desc="control", unit="head"):
        keys = jax.random.split(jax.random.fold_in(key, index), 4)
        params = subject.random_frame(keys)
        made = subject.view(*subject.identity(keys[3], params.camera, params.shape), params)
        made = to_picture(made.image_sr)
        true = take(portraits_in_scene(subject.scene, keys[3:4], size, SETTINGS), 0)
        row = {}
        for name, picture, frame in (("", made, params), ("openheads_", to_picture(true.image), true.params)):
            wanted = wanted_points(head, frame)
            found = detect(landmarker, picture)
            row[f"{name}found"] = float(found is not None)
            if found is not None:
                indices = np.asarray(head.mediapipe_indices)
                errors = compare(found.points / DETECTION_SIZE, wanted, indices)
                row |= {f"{name}{measure}": value for measure, value in errors.items()}
            if index < SHOWN and not name:
                pictures.append(draw_points(picture, wanted))
        rows.append(row)
    return rows, pictures


def wanted_points(head: HeadModel, params: FrameParams) -> np.ndarray:
    """(M, 2) where the head model has its `mediapipe_indices` in the picture, in [0, 1]."""
    vertices = head_vertices(head, params.shape, params.expression, params.pose, params.eyes)
    return np.asarray(project(params.camera, mediapipe_landmarks(head, vertices))[0])


def compare(found: np.ndarray, wanted: np.ndarray, indices: np.ndarray) -> dict[str, float]:
    """Errors in shares of the wanted eye distance.

    Args:
      found: (468, 2) all of MediaPipe's points.
      wanted: (M, 2) the head model's.
      indices: (M,) which of the 468 these are.
    """
    everywhere = np.full((468, 2), np.nan)
    everywhere[indices] = wanted
    unit = float(eye_distance(everywhere))
    if not np.isfinite(unit):  # the head model has no eye corners among its points
        unit = float(eye_distance(found))
    distance = np.linalg.norm(found[indices] - wanted, axis=1) / unit
    result = {"landmarks": float(distance.mean())}
    for name, pairs in (("mouth_opening", LIPS), ("eye_opening", LIDS)):
        gap = lambda points, pairs=pairs: [points[below, 1] - points[above, 1] for above, below in pairs]
        gaps = gap(found), gap(everywhere)
        seen, asked = (float(np.mean(values)) / unit for values in gaps)
        if np.isfinite(asked):
            result |= {name: abs(seen - asked), f"{name}_seen": seen, f"{name}_asked": asked}
    return result


def summarise(rows: list[dict]) -> dict:
    """Mean and standard error of each error; of openings, the correlation of seen and asked for."""
    report = {}
    for name in sorted(set().union(*rows)):
        if name.endswith(("_seen", "_asked")):
            continue
        values = np.array([row[name] for row in rows if name in row])
        report[name] = {
            "mean": round(float(values.mean()), 4),
            "standard_error": round(float(values.std() / np.sqrt(len(values))), 4),
            "samples": len(values),
        }
        if f"{name}_seen" in set().union(*rows):
            having = [row for row in rows if f"{name}_seen" in row]
            pairs = np.array([[row[f"{name}_asked"], row[f"{name}_seen"]] for row in having])
            report[name]["correlation"] = round(float(np.corrcoef(pairs.T)[0, 1]), 3)
    return report


def draw_points(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The picture, four times as large, with a green dot at each point in [0, 1]."""
    large = np.kron(picture, np.ones((4, 4, 1), np.uint8))
    rows, columns = (np.clip((points[:, k] * len(large)).astype(int), 0, len(large) - 1) for k in (1, 0))
    large[rows, columns] = (0, 255, 0)
    return np.concatenate([np.kron(picture, np.ones((4, 4, 1), np.uint8)), large], axis=1)


def contact_sheet(pictures: list[np.ndarray], columns: int = 4) -> np.ndarray:
    """Pictures of one size in rows; the last row is filled with black."""
    blank = [np.zeros_like(pictures[0])] * (-len(pictures) % columns)
    tiles = [*pictures, *blank]
    return np.concatenate(
        [np.concatenate(tiles[k : k + columns], axis=1) for k in range(0, len(tiles), columns)]
    )


# Consistency ----------------------------------------------------------------------------------------------


def measure_consistency(subject: GenHeadSubject, key: Array, count: int) -> dict:
    """Median and 90 % of the reprojected depth error over heads, world units."""
    errors, head = [], subject.renderer.head
    left, front, right = (
        look_at_camera(yaw, 0.0, CAMERA_RADIUS, 0.0, CAMERA_PIVOT) for yaw in (-YAW, 0.0, YAW)
    )
    for index in tqdm(range(count), desc="consistency", unit="head"):
        keys = jax.random.split(jax.random.fold_in(key, index), 4)
        params = subject.random_frame(keys)
        identity = subject.identity(keys[3], front, params.shape)
        views = [subject.view(*identity, params.replace(camera=camera)) for camera in (left, right)]
        mesh = pose_straight_parts(head, params.shape, params).full
        seen = tuple(rasterize(mesh, head.faces, c, subject.resolution) for c in (left, right))
        surfaces = tuple(
            Surface(view.depth, view.opacity, mesh) for view, mesh in zip(views, seen, strict=True)
        )
        errors.append(reprojected_depth_error(surfaces, (left, right)))
    values = np.concatenate(errors)
    return {
        "median": round(float(np.median(values)), 4),
        "percentile_90": round(float(np.percentile(values, 90)), 4),
        "unit": "world units (3 a metre)",
        "rays": len(values),
        "heads": count,
    }
