"""468 face landmarks and irises of one photo, by MediaPipe's face mesh and iris networks.

Landmarks are numbered as in MediaPipe's canonical face model. "Left" and "right" are the subject's; the
subject's left eye is at the right of the photo. Coordinates: continuous photo pixels, see `sampling`.
Sources: "Real-time Facial Surface Geometry from Monocular Video" (arXiv 1907.06724), "Real-time Pupil
Tracking" (arXiv 2006.11341).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from flax import struct

from p4d_jax.capture.detect import ANCHORS, Face, search_faces
from p4d_jax.capture.networks import load_network
from p4d_jax.imaging.warping import PhotoPyramid, apply_matrix, square_matrix

LANDMARKS = 468
PRESENCE = 0.5  # of a face that is followed
FIRST_PRESENCE = 0.8  # of a new one: on a wall or upside down the mesh network is half convinced

# (outer corner, inner corner) of each eye, and its lids: lower lid outer to inner, then upper lid.
RIGHT_EYE_CORNERS, LEFT_EYE_CORNERS = (33, 133), (263, 362)
RIGHT_EYE_CONTOUR = (33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173)
LEFT_EYE_CONTOUR = (263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398)

_FACE_MARGIN, _EYE_MARGIN = 1.5, 2.3  # the squares that the networks were trained on, times the tight box
_FACE_SIZE, _EYE_SIZE = 192, 64

# Of further looks at a face, in squares beside the first: turn in radians, logarithm of the size, shift right
# and down in shares of the side. Each is followed by its opposite and by the mirror images of both, so that
# one more look than a multiple of four has no bias of their own, and mirrored faces have mirrored points.
_SPREAD = np.random.default_rng(0).normal(size=(8, 1, 4)) * np.array([0.1, 0.08, 0.04, 0.04])
_SIGNS = np.array([[1, 1, 1, 1], [-1, -1, -1, -1], [-1, 1, -1, 1], [1, -1, 1, -1]])
JITTERS = (_SPREAD * _SIGNS).reshape(32, 4)

# The mesh network counts from the middle of its first pixel: points of mirrored faces are 0.44 of its pixels
# too far left without this. The iris network finds the middle of drawn, symmetric eyes within a third.
_MESH_ORIGIN = 0.5


@struct.dataclass
class Landmarks:
    """Landmarks of one face.

    Attributes:
      points: (468, 2) photo pixels; the eyes' contours come from the iris network, whose crop is finer.
      iris: (2, 5, 2) photo pixels, left eye then right eye: centre and four points on the rim.
      score: Confidence of the networks that there is a face, in [0, 1].
      face_count: Number of faces in the photo (1 when a known face was followed).
    """

    points: np.ndarray
    iris: np.ndarray
    score: float
    face_count: int = 1

    @property
    def eye_distance(self) -> float:
        """Distance between the eye centres (mid-points of the corners), the unit of landmark errors."""
        return float(eye_distance(self.points))


def eye_centres(points):
    """(..., 468, 2) -> (..., 2, 2): mid-points of the eye corners, left eye then right eye."""
    left = points[..., LEFT_EYE_CORNERS, :].mean(-2)
    right = points[..., RIGHT_EYE_CORNERS, :].mean(-2)
    return np.stack([left, right], axis=-2)


def eye_distance(points):
    """(..., 468, 2) -> (...,) distance between the eye centres."""
    centres = eye_centres(points)
    return np.linalg.norm(centres[..., 0, :] - centres[..., 1, :], axis=-1)


class LandmarkDetector(Protocol):
    """What capture needs of a landmark detector; `Landmarker` is the one that ships."""

    def detect(self, image: np.ndarray, previous: Landmarks | None = None) -> Landmarks | None:
        """Landmarks of the largest face, or None if there is no face.

        Args:
          image: (H, W, 3) uint8.
          previous: Landmarks of the frame before, of the same person; None for a photo.
        """


class Landmarker:
    """MediaPipe's five networks, the one thing in this room with state; not to be shared between threads."""

    def __init__(self, threads: int = 2):
        """threads: CPU threads a network."""
        names = [*ANCHORS, "face_landmark", "iris_landmark"]
        self._networks = {name: load_network(name, threads) for name in names}

    def detect(
        self, image: np.ndarray, previous: Landmarks | None = None, looks: int = 1
    ) -> Landmarks | None:
        """Landmarks of the largest face, or None if there is no face.

        Args:
          image: (H, W, 3) uint8.
          previous: Landmarks of the frame before; the face is then searched around them first, which is
            faster and keeps to the same person.
          looks: Number of passes over the face, 1 to 32, in squares that are slightly rotated, scaled and
            shifted; their mean errs less than one.
        """
        if not 1 <= looks <= 1 + len(JITTERS):
            raise ValueError(f"looks: expected 1 to {1 + len(JITTERS)}, got {looks}")
        pyramid = PhotoPyramid(image)
        if previous is not None:
            followed = self._refine(pyramid, *_square_from_points(previous.points), 1, looks)
            if followed is not None:
                return followed
        for faces in search_faces(pyramid, self._networks):
            for face in faces:
                landmarks = self._refine(pyramid, *_square_from_face(face), 3, looks)
                if landmarks is not None and landmarks.score >= FIRST_PRESENCE:
                    return landmarks.replace(face_count=len(faces))
        return None

    def faces(self, image: np.ndarray) -> list[Face]:
        """All faces, largest first, without landmarks. image: (H, W, 3) uint8."""
        return next(search_faces(PhotoPyramid(image), self._networks), [])

    def _refine(self, pyramid, centre, side, angle, passes, looks) -> Landmarks | None:
        for _ in range(passes):
            points, score = self._mesh(pyramid, centre, side, angle)
            if score < PRESENCE:
                return None
            centre, side, angle = _square_from_points(points)
        found = [self._with_eyes(pyramid, points, angle)]
        for turn, growth, *shift in JITTERS[: looks - 1]:
            square = centre + side * np.array(shift), side * np.exp(growth), angle + turn
            found.append(self._with_eyes(pyramid, self._mesh(pyramid, *square)[0], angle + turn))
        points, iris = (np.mean(values, axis=0) for values in zip(*found, strict=True))
        return Landmarks(points=points, iris=iris, score=score)

    def _with_eyes(self, pyramid, points, angle) -> tuple[np.ndarray, np.ndarray]:
        """Points with the iris network's eye contours, and the irises (2, 5, 2)."""
        left, left_contour = self._iris(pyramid, points, LEFT_EYE_CORNERS, angle, flip=True)
        right, right_contour = self._iris(pyramid, points, RIGHT_EYE_CORNERS, angle, flip=False)
        points[list(LEFT_EYE_CONTOUR)] = left_contour
        points[list(RIGHT_EYE_CONTOUR)] = right_contour
        return points, np.stack([left, right])

    def _mesh(self, pyramid, centre, side, angle) -> tuple[np.ndarray, float]:
        matrix = square_matrix(centre, side, angle, _FACE_SIZE)
        pixels = pyramid.sample(matrix, (_FACE_SIZE, _FACE_SIZE)).astype(np.float32) / 255
        values, logit = sorted(self._networks["face_landmark"](pixels), key=lambda output: -output.size)
        points = values.reshape(LANDMARKS, 3)[:, :2].astype(np.float64) + _MESH_ORIGIN
        return apply_matrix(matrix, points), float(1 / (1 + np.exp(-logit.item())))

    def _iris(self, pyramid, points, corners, angle, flip) -> tuple[np.ndarray, np.ndarray]:
        """Iris (5, 2) and lids (16, 2) of one eye; the network knows right eyes, left ones are mirrored."""
        outer, inner = points[list(corners)]
        side = _EYE_MARGIN * max(abs(outer - inner))
        matrix = square_matrix((outer + inner) / 2, side, angle, _EYE_SIZE, flip)
        pixels = pyramid.sample(matrix, (_EYE_SIZE, _EYE_SIZE)).astype(np.float32) / 255
        contour, iris = sorted(self._networks["iris_landmark"](pixels), key=lambda output: -output.size)
        contour = contour.reshape(-1, 3)[:16, :2].astype(np.float64)
        iris = iris.reshape(-1, 3)[:, :2].astype(np.float64)
        return apply_matrix(matrix, iris), apply_matrix(matrix, contour)


def detect_landmarks(image: np.ndarray, landmarker: Landmarker | None = None) -> Landmarks | None:
    """Landmarks of the largest face of image (H, W, 3) uint8, or None."""
    return (landmarker or Landmarker()).detect(image)


def _square_from_face(face: Face) -> tuple[np.ndarray, float, float]:
    """Centre, side and angle of the square that the mesh network wants, from a detection."""
    right_eye, left_eye = face.keypoints[:2]
    centre = (face.box[:2] + face.box[2:]) / 2
    side = _FACE_MARGIN * max(face.box[2:] - face.box[:2])
    return centre, side, _angle(left_eye - right_eye)


def _square_from_points(points: np.ndarray) -> tuple[np.ndarray, float, float]:
    """The same from the landmarks of an earlier pass or frame."""
    angle = _angle(points[LEFT_EYE_CORNERS[0]] - points[RIGHT_EYE_CORNERS[0]])
    cosine, sine = np.cos(angle), np.sin(angle)
    upright = np.array([[cosine, -sine], [sine, cosine]])  # columns: the face's right and down
    along = points @ upright
    low, high = along.min(axis=0), along.max(axis=0)
    return upright @ ((low + high) / 2), _FACE_MARGIN * max(high - low), angle


def _angle(across: np.ndarray) -> float:
    return float(np.arctan2(across[1], across[0]))
