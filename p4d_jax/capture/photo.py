"""One photo to parameters, crop and alpha."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from PIL import Image, ImageDraw

from p4d_jax import assets
from p4d_jax.capture.crop import camera_in_square, crop_matrix, quarter_turn, square_of_matrix
from p4d_jax.capture.fit import Fit, action_scores, fit_photo, head_camera
from p4d_jax.capture.landmark_head import landmark_head
from p4d_jax.capture.landmarks import LandmarkDetector, Landmarker, Landmarks
from p4d_jax.capture.outside import cut_out
from p4d_jax.capture.people import Person, Visibility, find_person, see_face
from p4d_jax.capture.segmentation import Segmenter
from p4d_jax.errors import UserError
from p4d_jax.head.model import HeadModel
from p4d_jax.imaging.reading import as_photo, split_alpha
from p4d_jax.imaging.warping import PhotoPyramid, apply_matrix, compose_matrices, invert_matrix
from p4d_jax.types import FrameParams

SMALLEST_EYE_DISTANCE = 20.0  # photo pixels; the crop shows eyes about 110 apart


@struct.dataclass
class Capture:
    """The parameters of a photo's head, and what was computed on the way.

    Attributes:
      crop: (512, 512, 3) uint8 square of the photo that the default camera sees, continued where the photo
        ends.
      params: Parameters of the head; the camera is that of the crop.
      alpha: (512, 512) float32 in [0, 1], opacity of the person against the background.
      known: (512, 512) float32 in [0, 1], where the crop shows the photo; it is 0 beyond the photo, and rises
        to 1 within 4 pixels of its border.
      landmarks: The landmarks that were detected, in photo pixels.
      model_points: (M, 2) landmarks of the fitted head, in photo pixels.
      crop_matrix: (2, 3) affine map from photo pixels to crop pixels; its inverse pastes back.
      error: Mean distance between detected and fitted landmarks, in distances between the eyes.
      visibility: How well the face is seen, where that was judged.
      note: What the user should know, for example that several faces were found; or empty.
    """

    crop: np.ndarray
    params: FrameParams
    alpha: np.ndarray
    known: np.ndarray
    landmarks: Landmarks
    model_points: np.ndarray
    crop_matrix: np.ndarray
    error: float
    visibility: Visibility | None = struct.field(pytree_node=False, default=None)
    note: str = struct.field(pytree_node=False, default="")

    def overlay(self, head: HeadModel) -> np.ndarray:
        """(512, 512, 3) uint8: the crop with the landmarks in green and the fitted head's in red.

        Args:
          head: The head model that was fitted.
        """
        picture = Image.fromarray(self.crop)
        pen = ImageDraw.Draw(picture)
        found = self.landmarks.points[np.asarray(head.mediapipe_indices)]
        for points, colour in ((found, "lime"), (self.model_points, "red")):
            for x, y in apply_matrix(self.crop_matrix, points):
                pen.ellipse((x - 1, y - 1, x + 1, y + 1), fill=colour)
        return np.asarray(picture)


def capture_photo(
    image: np.ndarray | str | Path,
    head: HeadModel,
    landmarker: LandmarkDetector | None = None,
    *,
    person: Person | None = None,
    square: np.ndarray | None = None,
) -> Capture:
    """Photo -> `Capture`.

    Args:
      image: A path, or an array uint8 (H, W, 3); grey, transparent and 16-bit ones too, see
        `imaging.reading.as_photo`. What is transparent is not the person.
      head: The head model that is fitted.
      landmarker: A landmark detector to use again; None makes one.
      person: Of several people: a number, from 1 at the left, or a point (x, y) of the face, pixels; None is
        the largest face.
      square: (2, 3) from the photo to the crop of another square than the head's own, such as a film's
        `FilmCapture.crop_matrix`, of which the photo is a frame.

    Raises:
      UserError: The file cannot be read, shows no face, one too small or too little of it, or not this
        person.
    """
    photo = open_photo(image)
    name = photo_name(image)
    landmarks, turn = find_face(photo, name, landmarker or Landmarker(), person)
    fit = fit_photo(landmark_head(head), *turned_targets(landmarks, turn))
    return finish_capture(photo, head, landmarks, turn, fit, name, person, square)


def open_photo(image: np.ndarray | str | Path) -> np.ndarray:
    """A photo's path, the name of an example, or an array -> (H, W, 3) uint8, or 4 with alpha."""
    if isinstance(image, str) and image in assets.PHOTOS:
        return assets.photo(image)
    return as_photo(image)


def photo_name(image: np.ndarray | str | Path) -> str:
    """What messages call a photo."""
    return repr(str(image)) if isinstance(image, str | Path) else "the photo"


def find_face(
    photo: np.ndarray, name: str, landmarker: LandmarkDetector, person: Person | None = None
) -> tuple[Landmarks, np.ndarray]:
    """Landmarks of a photo uint8 (H, W, 3 or 4), and the quarter turn (2, 3) that sets the face upright."""
    landmarks = find_person(split_alpha(photo)[0], landmarker, person, name)
    check_face(landmarks, name, photo.shape)
    return landmarks, quarter_turn(face_roll(landmarks.points))


def finish_capture(
    photo: np.ndarray,
    head: HeadModel,
    landmarks: Landmarks,
    turn: np.ndarray,
    fit: Fit,
    name: str,
    person: Person | None = None,
    square: np.ndarray | None = None,
) -> Capture:
    """Crop, alpha and parameters of a fitted photo; square: see `capture_photo`."""
    if square is None:
        matrix = compose_matrices(crop_matrix(np.asarray(fit.centre), float(fit.side)), turn)
        params = _frame_params(fit)
    else:
        matrix = square
        params = params_in_square(fit, *square_of_matrix(compose_matrices(square, invert_matrix(turn))))
    colours, mask = split_alpha(photo)
    cutout = cut_out(PhotoPyramid(colours), matrix, head, params, Segmenter(), mask)
    visibility = see_face(landmarks, photo.shape)
    return Capture(
        crop=cutout.crop,
        params=params,
        alpha=cutout.alpha,
        known=cutout.known,
        landmarks=landmarks,
        model_points=apply_matrix(invert_matrix(turn), np.asarray(fit.points)),
        crop_matrix=matrix,
        error=float(fit.error),
        visibility=visibility,
        note=describe(landmarks, turn, visibility, name, person),
    )


def check_face(landmarks: Landmarks | None, name: str, shape: tuple[int, ...]) -> None:
    """Raises `UserError` if there is no face, or one too small or too hidden to be worth a head."""
    if landmarks is None:
        raise UserError(f"photo: no face found in {name}; give a photo in which a face can be seen clearly")
    if landmarks.eye_distance < SMALLEST_EYE_DISTANCE:
        raise UserError(
            f"photo: the face in {name} ({shape[1]}x{shape[0]}) is too small, its eyes are"
            f" {landmarks.eye_distance:.0f} pixels apart; at least {SMALLEST_EYE_DISTANCE:.0f} are needed, so"
            " give a larger photo or one taken closer"
        )
    if refusal := see_face(landmarks, shape).refusal:
        raise UserError(f"photo: in {name} {refusal}; give a photo that shows the whole face")


def describe(
    landmarks: Landmarks, turn: np.ndarray, visibility: Visibility, name: str, person: Person | None = None
) -> str:
    """What the user should know about a photo's face, in one line; empty where all is usual."""
    notes = list(visibility.doubts)
    if landmarks.face_count > 1 and person is None:
        notes.append(f"{landmarks.face_count} faces found, the largest taken; `person` takes another")
    quarters = round(np.arctan2(turn[1, 0], turn[0, 0]) / (np.pi / 2)) % 4
    if quarters:
        lay = {1: "lies on its left side", 2: "is upside down", 3: "lies on its right side"}[quarters]
        notes.append(f"the face {lay}: the photo was turned")
    return f"{name}: {'; '.join(notes)}" if notes else ""


def face_roll(points: np.ndarray) -> float:
    """Roll of the line of the eyes of landmarks (468, 2): radians, clockwise on the screen."""
    across = points[263] - points[33]
    return float(np.arctan2(across[1], across[0]))


def turned_targets(landmarks: Landmarks, turn: np.ndarray):
    """What is fitted: landmarks (468, 2), irises (2, 2) after the photo's quarter turn, and scores (52,)."""
    points = apply_matrix(turn, landmarks.points)
    iris = apply_matrix(turn, landmarks.iris[:, 0])
    return tuple(np.asarray(value, np.float32) for value in (points, iris, action_scores(landmarks)))


def frame_params(fit: Fit, camera=None) -> FrameParams:
    """The public layout of a fit. camera: None is the camera of the head's own square."""
    return FrameParams(
        camera=head_camera(fit.rotation) if camera is None else camera,
        shape=fit.shape,
        expression=fit.expression,
        pose=jnp.concatenate([jnp.zeros(3), fit.jaw]),
        eyes=fit.eyes,
    )


@jax.jit
def params_in_square(fit: Fit, centre: jax.Array, side: jax.Array) -> FrameParams:
    """The parameters of a face that was fitted in another square than its crop, of one frame; see
    `crop.camera_in_square`."""
    return frame_params(fit, camera_in_square(fit, centre, side))


_frame_params = jax.jit(frame_params)
