"""468 face landmarks, irises and scores of facial actions of one photo, by MediaPipe's networks.

Landmarks are numbered as in MediaPipe's canonical face model. "Left" and "right" are the subject's; the
subject's left eye is at the right of the photo. Coordinates: continuous photo pixels, see `sampling`.
Sources: "Attention Mesh: High-fidelity Face Mesh Prediction in Real-time" (arXiv 2006.10962), "Blendshapes
GHUM: Real-time Monocular Facial Blendshape Prediction" (arXiv 2309.05782).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from flax import struct

from p4d_jax.capture.detect import ANCHORS, Face, search_faces, surest_turn
from p4d_jax.capture.networks import load_network
from p4d_jax.head.actions import ARKIT
from p4d_jax.imaging.warping import PhotoPyramid, apply_matrix, square_matrix

LANDMARKS = 468
PRESENCE = 0.5  # of a face that is followed
FIRST_PRESENCE = 0.8  # of a new one: on a wall or upside down the network is half convinced
# A new face that the detector is unsure of has to be where the network finds it again: on coins, too, it is
# sure of a face, but the square goes on moving by 2 to 7 % of its side; on most faces by less than 1 %.
FIRST_PASSES, SETTLED, SURE_DETECTION = 4, 0.02, 0.7

# (outer corner, inner corner) of each eye, and its lids: lower lid outer to inner, then upper lid.
RIGHT_EYE_CORNERS, LEFT_EYE_CORNERS = (33, 133), (263, 362)
RIGHT_EYE_CONTOUR = (33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173)
LEFT_EYE_CONTOUR = (263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398)

LEFT_IRIS, RIGHT_IRIS = range(473, 478), range(468, 473)  # centre, then four points on the rim

_FACE_MARGIN = 1.5  # of the square that the network was trained on, times the tight box
_FACE_SIZE = 256

# Of further looks at a face, in squares beside the first: turn in radians, logarithm of the size, shift right
# and down in shares of the side. Each is followed by its opposite and by the mirror images of both, so that
# one more look than a multiple of four has no bias of their own, and mirrored faces have mirrored points.
_SPREAD = np.random.default_rng(0).normal(size=(8, 1, 4)) * np.array([0.1, 0.08, 0.04, 0.04])
_SIGNS = np.array([[1, 1, 1, 1], [-1, -1, -1, -1], [-1, 1, -1, 1], [1, -1, 1, -1]])
JITTERS = (_SPREAD * _SIGNS).reshape(32, 4)

MEASURED_LOOKS = 8  # of a new face, which tell how far to trust its points

# fmt: off
# The points that the network of scores takes, irises last, and its scores but for the first, of no action.
SCORED_POINTS = (
    0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55, 58, 61, 63, 65, 66, 67, 70,
    78, 80, 81, 82, 84, 87, 88, 91, 93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144, 145, 146, 148, 149,
    150, 152, 153, 154, 155, 157, 158, 159, 160, 161, 162, 163, 168, 172, 173, 176, 178, 181, 185, 191, 195,
    197, 234, 246, 249, 251, 263, 267, 269, 270, 276, 282, 283, 284, 285, 288, 291, 293, 295, 296, 297, 300,
    308, 310, 311, 312, 314, 317, 318, 321, 323, 324, 332, 334, 336, 338, 356, 361, 362, 365, 373, 374, 375,
    377, 378, 379, 380, 381, 382, 384, 385, 386, 387, 388, 389, 390, 397, 398, 400, 402, 405, 409, 415, 454,
    466, *range(468, 478),
)
_SCORES = sorted(set(ARKIT) - {"tongueOut"})  # which has no score
# fmt: on


@struct.dataclass
class Landmarks:
    """Landmarks of one face.

    Attributes:
      points: (468, 2) photo pixels.
      iris: (2, 5, 2) photo pixels, left eye then right eye: centre and four points on the rim.
      score: Confidence of the networks that there is a face, in [0, 1]; of a new face the mean of several
        looks.
      face_count: Number of faces in the photo (1 when a known face was followed).
      actions: (52,) scores in [0, 1] of the actions in `head.actions.ARKIT`'s order, not a number where there
        is none; None from a detector that has no scores.
      scatter: (468,) standard deviation of each point over several looks at the face, in distances between
        the eyes: large where it is covered or cut; None of a face that was followed, or looked at once.
    """

    points: np.ndarray
    iris: np.ndarray
    score: float
    face_count: int = 1
    actions: np.ndarray | None = None
    scatter: np.ndarray | None = None

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

    def people(self, image: np.ndarray) -> list[Landmarks]:
        """Landmarks of every face of image (H, W, 3) uint8, from left to right; asked where one is chosen."""


class Landmarker:
    """MediaPipe's five networks, the one thing in this room with state; not to be shared between threads."""

    def __init__(self, threads: int = 2):
        """threads: CPU threads a network."""
        names = [*ANCHORS, "face_landmarks_detector"]
        self._networks = {name: load_network(name, threads) for name in names}
        # So small that a second thread costs more than it brings.
        self._networks["face_blendshapes"] = load_network("face_blendshapes", 1)

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
                if (landmarks := self._confirm(pyramid, face, looks)) is not None:
                    count = 1 if len(faces) == 1 else len(self._confirm_all(pyramid, faces))
                    return landmarks.replace(face_count=max(count, 1))
        return None

    def people(self, image: np.ndarray) -> list[Landmarks]:
        """Landmarks of every face, from left to right. image: (H, W, 3) uint8."""
        pyramid = PhotoPyramid(image)
        for faces in search_faces(pyramid, self._networks):
            if found := self._confirm_all(pyramid, faces):
                found = [landmarks.replace(face_count=len(found)) for landmarks in found]
                return sorted(found, key=lambda landmarks: landmarks.points[:, 0].mean())
        return []

    def _confirm_all(self, pyramid, faces: list[Face]) -> list[Landmarks]:
        """Landmarks of those detected faces that are faces, each place once."""
        found: list[Landmarks] = []
        for landmarks in (self._confirm(pyramid, face, 1) for face in faces):
            if landmarks is not None and not any(_same_place(landmarks, other) for other in found):
                found.append(landmarks)
        return found

    def _confirm(self, pyramid, face: Face, looks: int) -> Landmarks | None:
        """Landmarks of a detected face, if the network of landmarks finds a face there, too."""
        face = surest_turn(pyramid, self._networks, face)
        most = np.inf if face.score >= SURE_DETECTION else SETTLED
        square = _square_from_face(face)
        return self._refine(
            pyramid, *square, FIRST_PASSES, looks, most=most, least=FIRST_PRESENCE, measured=MEASURED_LOOKS
        )

    def _refine(
        self, pyramid, centre, side, angle, passes, looks, *, most=np.inf, least=PRESENCE, measured=0
    ) -> Landmarks | None:
        """Landmarks of the face in a square, which follows it from pass to pass.

        Args:
          most: The largest move of the square, as a share of its side, after the second pass.
          least: The score that the last pass must have.
          measured: Number of looks whose scatter is measured; 0 measures none.
        """
        for index in range(passes):
            points, score = self._look(pyramid, centre, side, angle)
            before, size = centre, side
            centre, side, angle = _square_from_points(points)
            move = max(np.linalg.norm(centre - before) / side, abs(np.log(side / size)))
            if score < PRESENCE or (index >= 2 and move > most):
                return None
        if score < least:
            return None
        jitters = JITTERS[: max(looks - 1, measured)]
        seen = [self._look(pyramid, *_jittered((centre, side, angle), jitter)) for jitter in jitters]
        points = np.mean([points, *(other for other, _ in seen[: looks - 1])], axis=0)
        iris = np.stack([points[list(LEFT_IRIS)], points[list(RIGHT_IRIS)]])
        landmarks = Landmarks(points[:LANDMARKS], iris, score, actions=self._actions(points))
        if not measured:
            return landmarks
        spread = np.std([other[:LANDMARKS] for other, _ in seen[:measured]], axis=0)
        scatter = np.linalg.norm(spread, axis=-1) / landmarks.eye_distance
        return landmarks.replace(scatter=scatter, score=float(np.mean([one for _, one in seen[:measured]])))

    def _look(self, pyramid, centre, side, angle) -> tuple[np.ndarray, float]:
        """One pass over a square of the photo: (478, 2) points and irises, photo pixels, and a score.

        The network counts pixels from the corner of the first: points of mirrored faces are a tenth of a
        pixel off their mirror images.
        """
        matrix = square_matrix(centre, side, angle, _FACE_SIZE)
        pixels = pyramid.sample(matrix, (_FACE_SIZE, _FACE_SIZE)).astype(np.float32) / 255
        values, logit = self._networks["face_landmarks_detector"](pixels)[:2]
        points = values.reshape(-1, 3)[:, :2].astype(np.float64)
        return apply_matrix(matrix, points), float(1 / (1 + np.exp(-logit.item())))

    def _actions(self, points) -> np.ndarray:
        """(52,) scores of ARKit's actions in `ARKIT`'s order, from the points (478, 2)."""
        scores = self._networks["face_blendshapes"](points[list(SCORED_POINTS)].astype(np.float32))[0]
        scored = dict(zip(_SCORES, scores.ravel()[1:], strict=True))
        return np.array([scored.get(name, np.nan) for name in ARKIT])


def detect_landmarks(image: np.ndarray, landmarker: Landmarker | None = None) -> Landmarks | None:
    """Landmarks of the largest face of image (H, W, 3) uint8, or None."""
    return (landmarker or Landmarker()).detect(image)


def _jittered(square: tuple[np.ndarray, float, float], jitter: np.ndarray) -> tuple[np.ndarray, float, float]:
    centre, side, angle = square
    turn, growth, *shift = jitter
    return centre + side * np.array(shift), side * np.exp(growth), angle + turn


def _same_place(one: Landmarks, other: Landmarks) -> bool:
    apart = np.linalg.norm(one.points.mean(axis=0) - other.points.mean(axis=0))
    return bool(apart < 0.5 * max(one.eye_distance, other.eye_distance))


def _square_from_face(face: Face) -> tuple[np.ndarray, float, float]:
    """Centre, side and angle of the square that the network wants, from a detection."""
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
