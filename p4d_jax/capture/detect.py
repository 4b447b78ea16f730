"""Face detection: MediaPipe's single-shot detectors, searched over scales and quarter turns.

A detector sees a square of 128, 192 or 256 pixels and predicts, for each anchor (a fixed point on a grid),
a score, a box and six keypoints relative to that anchor. Source: "BlazeFace" (arXiv 1907.05047) and
MediaPipe's published model cards. Coordinates: continuous photo pixels, see `sampling`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from flax import struct

from p4d_jax.imaging.warping import PhotoPyramid, apply_matrix, square_matrix

MINIMUM_SCORE = 0.5
SAME_FACE_OVERLAP = 0.3
# Upside down a face is often still found, as another one with its nose on the forehead, but with scores of
# 0.56 to 0.83, where those of upright faces are 0.92 to 0.99.
SURE_OF_TURN = 0.9
TURN_MARGIN = 2.0  # side of the square that is then looked at in the other turns, in sides of the box

Network = Callable[[np.ndarray], tuple[np.ndarray, ...]]


@struct.dataclass
class Face:
    """One detected face.

    Attributes:
      box: (4,) left, top, right, bottom in photo pixels (in the turned square if the photo lay on its side).
      keypoints: (6, 2) photo pixels: the subject's right eye, left eye, nose tip, mouth centre, right and
        left ear.
      score: in [0, 1].
    """

    box: np.ndarray
    keypoints: np.ndarray
    score: float

    @property
    def size(self) -> float:
        """Side of the square with the box's area, pixels."""
        width, height = self.box[2:] - self.box[:2]
        return float(np.sqrt(max(width, 0) * max(height, 0)))

    @property
    def eye_distance(self) -> float:
        return float(np.linalg.norm(self.keypoints[1] - self.keypoints[0]))


@dataclasses.dataclass(frozen=True)
class AnchorGrid:
    """A detector's input size and the grids (cells a side, anchors a cell) of its anchors."""

    input_size: int
    grids: tuple[tuple[int, int], ...]

    def centres(self) -> np.ndarray:
        """(A, 2) anchor centres in [0, 1], row-major in each grid."""
        rows = []
        for cells, repeats in self.grids:
            ticks = (np.arange(cells) + 0.5) / cells
            x, y = np.meshgrid(ticks, ticks)
            rows.append(np.repeat(np.stack([x.ravel(), y.ravel()], axis=-1), repeats, axis=0))
        return np.concatenate(rows)


# Name of the model -> its anchors: two maps of stride s and three of stride 2 s, each cell carrying two
# anchors a map; the full-range model has one map with one anchor a cell.
ANCHORS = {
    "face_detection_short_range": AnchorGrid(128, ((16, 2), (8, 6))),
    "face_detection_back": AnchorGrid(256, ((16, 2), (8, 6))),
    "face_detection_full_range": AnchorGrid(192, ((48, 1),)),
}


def decode(regressors: np.ndarray, logits: np.ndarray, anchors: AnchorGrid):
    """Raw network outputs -> boxes (A, 4), keypoints (A, 6, 2) in [0, 1] of the square, scores (A,).

    regressors: (A, 16) box centre, box size, six keypoints, in input pixels, positions relative to the
    anchor; logits: (A,).
    """
    centres = anchors.centres()
    values = regressors.reshape(-1, 8, 2).astype(np.float64) / anchors.input_size
    middle = values[:, 0] + centres
    half = values[:, 1] / 2
    boxes = np.concatenate([middle - half, middle + half], axis=-1)
    keypoints = values[:, 2:] + centres[:, None]
    scores = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -80, 80)))
    return boxes, keypoints, scores


def overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of one box (4,) with boxes (N, 4)."""
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    union = np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1) - shared
    return shared / np.maximum(union, 1e-12)


def merge_detections(boxes: np.ndarray, keypoints: np.ndarray, scores: np.ndarray) -> list[Face]:
    """Weighted non-maximum suppression (BlazeFace, section 3.4), best face first.

    Overlapping detections are averaged with their scores as weights, which is steadier from frame to frame
    than keeping the best one.
    """
    faces = []
    remaining = np.argsort(-scores)
    while remaining.size:
        best = remaining[0]
        same = overlaps(boxes[best], boxes[remaining]) > SAME_FACE_OVERLAP
        same[0] = True  # a degenerate box overlaps nothing, not even itself
        group = remaining[same]
        weights = scores[group] / scores[group].sum()
        faces.append(
            Face(
                box=np.einsum("n,nk->k", weights, boxes[group]),
                keypoints=np.einsum("n,nkc->kc", weights, keypoints[group]),
                score=float(scores[best]),
            )
        )
        remaining = remaining[~same]
    return faces


def detect_in_square(
    pyramid: PhotoPyramid,
    network: Network,
    anchors: AnchorGrid,
    centre: np.ndarray,
    side: float,
    turn: int = 0,
) -> list[Face]:
    """Faces in one square of the photo, looked at after `turn` quarter turns; zeros outside the photo."""
    size = anchors.input_size
    matrix = square_matrix(centre, side, turn * np.pi / 2, size)
    pixels = pyramid.sample(matrix, (size, size)).astype(np.float32) / 127.5 - 1
    outputs = network(pixels)
    regressors, logits = sorted(outputs, key=lambda output: -output.size)
    boxes, keypoints, scores = decode(regressors.reshape(-1, 16), logits.ravel(), anchors)
    keep = scores >= MINIMUM_SCORE
    corners = apply_matrix(matrix, boxes[keep].reshape(-1, 2, 2) * size)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=-1)
    return merge_detections(boxes, apply_matrix(matrix, keypoints[keep] * size), scores[keep])


def search_squares(height: int, width: int) -> list[list[tuple[np.ndarray, float]]]:
    """Squares (centre, side) to look at, coarse to fine: the whole photo, halves, quarters."""
    levels = []
    longest, shortest = max(height, width), min(height, width)
    levels.append([(np.array([width / 2, height / 2]), float(longest))])
    for side in (shortest * 0.75, shortest * 0.4):
        counts = [int(np.ceil(extent / (side * 0.7))) for extent in (width, height)]
        ticks = [
            np.linspace(side / 2, extent - side / 2, max(count, 1))
            for extent, count in zip((width, height), counts, strict=True)
        ]
        levels.append([(np.array([x, y]), side) for y in ticks[1] for x in ticks[0]])
    return levels


def search_faces(pyramid: PhotoPyramid, networks: dict[str, Network]) -> Iterator[list[Face]]:
    """Faces of a photo, largest first, one list for each stage of the search that finds any.

    networks: model name (of `ANCHORS`) -> network. Stages: the whole photo (close and far faces), smaller
    squares, the photo turned by quarter turns, smaller squares still. A later stage is run only if the caller
    asks for it, having found that the faces so far were none.
    """
    levels = search_squares(pyramid.height, pyramid.width)
    plans = [
        [("face_detection_short_range", square, 0) for square in levels[0]]
        + [("face_detection_full_range", square, 0) for square in levels[0]],
        [("face_detection_short_range", square, 0) for square in levels[1]],
        [("face_detection_full_range", square, turn) for turn in (1, 3, 2) for square in levels[0]],
        [("face_detection_full_range", square, 0) for square in levels[2]],
    ]
    for plan in plans:
        found = []
        for name, (centre, side), turn in plan:
            found += detect_in_square(pyramid, networks[name], ANCHORS[name], centre, side, turn)
        if found:
            faces = merge_detections(
                np.stack([face.box for face in found]),
                np.stack([face.keypoints for face in found]),
                np.array([face.score for face in found]),
            )
            yield sorted(faces, key=lambda face: -face.size)


def surest_turn(pyramid: PhotoPyramid, networks: dict[str, Network], face: Face) -> Face:
    """A face, or if the detectors are unsure of it, the same in a quarter turn of which they are sure."""
    if face.score >= SURE_OF_TURN:
        return face
    centre, side = (face.box[:2] + face.box[2:]) / 2, TURN_MARGIN * max(face.box[2:] - face.box[:2])
    seen = [
        one
        for turn in (1, 2, 3)
        for name in ("face_detection_short_range", "face_detection_full_range")
        for one in detect_in_square(pyramid, networks[name], ANCHORS[name], centre, side, turn)
        if one.score >= SURE_OF_TURN and overlaps(face.box, one.box[None])[0] > SAME_FACE_OVERLAP
    ]
    return max(seen, key=lambda one: one.score, default=face)
