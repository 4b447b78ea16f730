"""A film to the parameters of each frame.

Landmarks of all frames come first; a few frames spread over the film then agree on the person's shape; and
each frame is fitted with that shape, starting from the frame before. The crop stands still: one square for
the whole film, around where the head is on the median, so that the head moves in it as it did in the film.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from p4d_jax.capture.crop import camera_in_square, crop_matrix, crop_photo, quarter_turn
from p4d_jax.capture.fit import Fit, bake_shape, fit_photo, landmark_head
from p4d_jax.capture.landmarks import LandmarkDetector, Landmarker, Landmarks
from p4d_jax.capture.outside import Cutout, cut_out
from p4d_jax.capture.photo import check_face, face_roll, frame_params, turned_targets
from p4d_jax.capture.segmentation import Segmenter
from p4d_jax.errors import UserError
from p4d_jax.head.model import HeadModel
from p4d_jax.imaging.video import open_video
from p4d_jax.imaging.warping import PhotoPyramid, compose_matrices
from p4d_jax.types import FrameParams, take

SHAPE_FRAMES = 8
Progress = Callable[[int, int | None], None]


@dataclasses.dataclass(frozen=True)
class FilmCapture:
    """The parameters of each frame of a film.

    Attributes:
      params: Parameters of the frames, with a leading axis (T,). All frames share `shape`; cameras are those
        of the film's one crop.
      fps: Frames a second.
      errors: (T,) mean distance between detected and fitted landmarks, in distances between the eyes; nan
        where no face was found.
      crop_matrix: (2, 3) affine map from film pixels to crop pixels, the same for all frames.
      source: What was read, so that crops can be made when they are wanted.
      note: What the user should know, or empty.
    """

    params: FrameParams
    fps: float
    errors: np.ndarray
    crop_matrix: np.ndarray
    source: str | Path | list[np.ndarray]
    note: str = ""

    def __len__(self) -> int:
        return len(self.errors)

    @property
    def crops(self) -> Iterator[np.ndarray]:
        """(512, 512, 3) uint8 of each frame, in order; reads the film again, so that no film fills memory.

        Beyond the film's frames they repeat the border; `cutouts` does better, and takes longer.
        """
        for frame in open_video(self.source, max_frames=len(self)):
            yield crop_photo(PhotoPyramid(frame), self.crop_matrix)

    def cutouts(self, head: HeadModel) -> Iterator[Cutout | None]:
        """Crop and alpha of each frame, in order; None where no face was found.

        Args:
          head: The head model that was fitted.
        """
        segmenter = Segmenter()
        for index, frame in enumerate(open_video(self.source, max_frames=len(self))):
            if np.isfinite(self.errors[index]):
                params = take(self.params, index)
                yield cut_out(PhotoPyramid(frame), self.crop_matrix, head, params, segmenter)
            else:
                yield None


def capture_film(
    source: str | Path | Iterable[np.ndarray],
    head: HeadModel,
    progress: Progress | None = None,
    *,
    landmarker: LandmarkDetector | None = None,
    max_frames: int | None = None,
    smoothing: float = 0.6,
) -> FilmCapture:
    """Film -> `FilmCapture`.

    Args:
      source: A video file, a folder of pictures, or frames, uint8 (H, W, 3).
      head: The head model that is fitted.
      progress: Called with (frames done, frames in all or None) while landmarks are detected.
      landmarker: A landmark detector to use again; None makes one.
      max_frames: Number of frames after which reading stops; None reads all.
      smoothing: Standard deviation, in frames, of the Gaussian over time that is applied to the fitted motion
        against the jitter of landmarks; 0 applies none.

    Raises:
      UserError: The film cannot be read, or shows a face in less than half of its frames.
    """
    if not isinstance(source, str | Path):
        source = list(source)
    film = open_video(source, max_frames)
    found = find_landmarks(film, landmarker or Landmarker(), progress)
    seen = np.array([landmarks is not None for landmarks in found])
    name = repr(str(source)) if isinstance(source, str | Path) else "the film"
    if seen.mean() < 0.5:
        raise UserError(f"film: a face is seen in only {seen.sum()} of {len(seen)} frames of {name}")
    first = next(landmarks for landmarks in found if landmarks is not None)
    check_face(first, name, next(iter(open_video(source, 1))).shape)
    turn = quarter_turn(face_roll(first.points))
    targets = [None if landmarks is None else turned_targets(landmarks, turn) for landmarks in found]
    fits = fit_frames(landmark_head(head), targets)
    errors = np.where(seen, np.asarray(fits.error), np.nan)
    fits = smooth_fits(fits, smoothing)
    centre, side = np.median(fits.centre, axis=0), np.median(fits.side)
    return FilmCapture(
        params=stack_params(fits, centre, side),
        fps=film.fps,
        errors=errors,
        crop_matrix=compose_matrices(crop_matrix(centre, float(side)), turn),
        source=source,
        note=""
        if seen.all()
        else f"no face in {(~seen).sum()} of {len(seen)} frames: the head holds still there",
    )


def find_landmarks(
    film, landmarker: LandmarkDetector, progress: Progress | None = None
) -> list[Landmarks | None]:
    """Landmarks of each frame, each looked for around the frame before."""
    found, previous = [], None
    for frame in film:
        previous = landmarker.detect(frame, previous)
        found.append(previous)
        if progress is not None:
            progress(len(found), film.length)
    return found


def fit_frames(small: HeadModel, targets: list[tuple | None]) -> Fit:
    """A `Fit` with leading axis T and one shape; frames without targets repeat their neighbour."""
    shape = shared_shape(small, [target for target in targets if target is not None])
    person = bake_shape(small, shape)
    fits: list[Fit | None] = []
    start = None
    for target in targets:
        if target is None:
            fits.append(fits[-1] if fits else None)
            continue
        fits.append(fit_photo(person, *target, start=start))
        start = fits[-1].unknowns
    first = next(fit for fit in fits if fit is not None)
    stacked = jax.tree.map(lambda *x: np.stack(x), *[first if fit is None else fit for fit in fits])
    return stacked.replace(shape=np.broadcast_to(np.asarray(shape), (len(fits), len(shape))))


def shared_shape(small: HeadModel, targets: list[tuple]) -> jax.Array:
    """(300,) the mean of the shapes that frames spread over the film give by themselves."""
    chosen = [targets[round(i)] for i in np.linspace(0, len(targets) - 1, min(SHAPE_FRAMES, len(targets)))]
    return jnp.stack([fit_photo(small, *target).shape for target in chosen]).mean(axis=0)


def smooth_fits(fits: Fit, frames: float) -> Fit:
    """Gaussian over time, of `frames` standard deviation, on everything that moves."""
    if frames == 0 or len(fits.error) < 2:
        return fits

    def smooth(values):
        return ndimage.gaussian_filter1d(np.asarray(values, np.float32), frames, axis=0, mode="nearest")

    moving = ("rotation", "centre", "side", "expression", "jaw", "eyes")
    return fits.replace(**{name: smooth(getattr(fits, name)) for name in moving})


def stack_params(fits: Fit, centre: np.ndarray, side: float) -> FrameParams:
    """`FrameParams` with leading axis T in one square of the film."""

    def one(fit: Fit) -> FrameParams:
        return frame_params(fit, camera_in_square(fit, jnp.asarray(centre), jnp.asarray(side)))

    return jax.jit(jax.vmap(one))(fits)
