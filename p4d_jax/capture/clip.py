"""A film to the parameters of each frame.

Landmarks of all frames come first, each looked for around the frame before, anew after a cut. A few frames
spread over each shot then agree on the person's shape; and each frame is fitted with that shape, starting
from the frame before. The crop stands still: one square for the whole film, around where the head is on the
median, so that the head moves in it as it did in the film.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax.capture.crop import crop_matrix, crop_photo, quarter_turn
from p4d_jax.capture.fit import Fit, fit_photo, prepare_frames
from p4d_jax.capture.landmark_head import LandmarkHead, bake_shape, landmark_head
from p4d_jax.capture.landmarks import LandmarkDetector, Landmarker, Landmarks
from p4d_jax.capture.outside import Cutout, cut_out
from p4d_jax.capture.people import Person, find_person, see_face
from p4d_jax.capture.photo import check_face, describe, face_roll, params_in_square, turned_targets
from p4d_jax.capture.segmentation import Segmenter
from p4d_jax.capture.shots import (
    face_greys,
    find_dissolves,
    find_new_faces,
    grey_thumbnail,
    is_cut,
    normalised,
)
from p4d_jax.capture.smoothing import WIDTH, smooth_still
from p4d_jax.errors import UserError
from p4d_jax.head.model import HeadModel
from p4d_jax.imaging.reading import split_alpha
from p4d_jax.imaging.video import Video, VideoFrame, frame_edges, open_video, read_ahead, sample_video
from p4d_jax.imaging.warping import PhotoPyramid, compose_matrices
from p4d_jax.types import FrameParams, take

SHAPE_FRAMES = 8
# Frames that are fitted one from the other; the first of each chain takes as long as five of them.
CHAIN = 32
# A film without a face is not searched whole: if the first frames show none, some that are spread over it
# have to.
FACELESS_FRAMES, SAMPLED_FRAMES = 3, 8
MISSING_FRAMES = 3  # by which a film may end before its header says so
Progress = Callable[[int, int | None], None]


@dataclasses.dataclass(frozen=True)
class FilmLandmarks:
    """What was found in the T frames of a film.

    Attributes:
      found: Landmarks of each frame, None where there is no face.
      edges: (T + 1,) seconds: frame i is shown from edge i to edge i + 1.
      shots: First frame of each shot, ascending from 0.
      shape: (H, W) of the first frame that shows a face.
    """

    found: list[Landmarks | None]
    edges: np.ndarray
    shots: list[int]
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class FilmCapture:
    """The parameters of each frame of a film.

    Attributes:
      params: Parameters of the frames, with a leading axis (T,). All frames of a shot share `shape`; cameras
        are those of the film's one crop.
      edges: (T + 1,) seconds: frame i is shown from edge i to edge i + 1.
      errors: (T,) mean distance between detected and fitted landmarks, in distances between the eyes; nan
        where no face was found.
      crop_matrix: (2, 3) affine map from film pixels to crop pixels, the same for all frames.
      source: What was read, so that crops can be made when they are wanted.
      note: What the user should know, or empty.
    """

    params: FrameParams
    edges: np.ndarray
    errors: np.ndarray
    crop_matrix: np.ndarray
    source: str | Path | list[np.ndarray]
    note: str = ""

    def __len__(self) -> int:
        return len(self.errors)

    @property
    def fps(self) -> float:
        """Frames a second, on average."""
        return round(len(self) / float(self.edges[-1] - self.edges[0]), 6)

    @property
    def crops(self) -> Iterator[np.ndarray]:
        """(512, 512, 3) uint8 of each frame, in order; reads the film again, so that no film fills memory.

        Beyond the film's frames they repeat the border; `cutouts` does better, and takes longer.
        """
        for frame in open_video(self.source, max_frames=len(self)):
            yield crop_photo(PhotoPyramid(split_alpha(frame.picture)[0]), self.crop_matrix)

    def cutouts(self, head: HeadModel) -> Iterator[Cutout | None]:
        """Crop and alpha of each frame, in order; None where no face was found.

        Args:
          head: The head model that was fitted.
        """
        segmenter = Segmenter()
        for index, frame in enumerate(open_video(self.source, max_frames=len(self))):
            if np.isfinite(self.errors[index]):
                colours, mask = split_alpha(frame.picture)
                params = take(self.params, index)
                yield cut_out(PhotoPyramid(colours), self.crop_matrix, head, params, segmenter, mask)
            else:
                yield None


def capture_film(
    source: str | Path | Iterable[np.ndarray],
    head: HeadModel,
    progress: Progress | None = None,
    *,
    landmarker: LandmarkDetector | None = None,
    max_frames: int | None = None,
    smoothing: float = WIDTH,
    person: Person | None = None,
) -> FilmCapture:
    """Film -> `FilmCapture`.

    Args:
      source: A video file, a folder of pictures, or frames, uint8 (H, W, 3).
      head: The head model that is fitted.
      progress: Called with (frames done, frames in all or None) while landmarks are detected.
      landmarker: A landmark detector to use again; None makes one.
      max_frames: Number of frames after which reading stops; None reads all.
      smoothing: Seconds, standard deviation in time of the filter that stills a head where only the noise of
        landmarks moves it, see `capture.smoothing`; 0 applies none.
      person: Of several people, who is meant in the first frame with a face: a number, from 1 at the left, or
        a point (x, y), pixels; None is the largest face.

    Raises:
      UserError: The film cannot be read, or shows a face in less than half of its frames.
    """
    if not isinstance(source, str | Path):
        source = list(source)
    name = repr(str(source)) if isinstance(source, str | Path) else "the film"
    landmarker = landmarker or Landmarker()
    film = open_video(source, max_frames)

    def has_a_face() -> bool:
        pictures = sample_video(source, SAMPLED_FRAMES, max_frames)
        return any(landmarker.detect(split_alpha(picture)[0]) is not None for picture in pictures)

    small = landmark_head(head)
    with ThreadPoolExecutor(1) as beside:
        compiled = beside.submit(prepare_frames, small)
        seen = find_landmarks(film, landmarker, progress, has_a_face=has_a_face, person=person, name=name)
        compiled.result()
    is_seen = np.array([landmarks is not None for landmarks in seen.found])
    if is_seen.mean() < 0.5:
        raise UserError(f"film: a face is seen in only {is_seen.sum()} of {len(is_seen)} frames of {name}")
    first = next(landmarks for landmarks in seen.found if landmarks is not None)
    check_face(first, name, seen.shape)
    turn = quarter_turn(face_roll(first.points))
    targets = [None if landmarks is None else turned_targets(landmarks, turn) for landmarks in seen.found]
    fits = fit_frames(small, targets, seen.shots)
    errors = np.where(is_seen, np.asarray(fits.error), np.nan)
    shots = [slice(*ends) for ends in pairwise([*seen.shots, len(targets)])]
    parts = [smooth_fits(take(fits, shot), seen.edges[:-1][shot], smoothing) for shot in shots]
    fits = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    centre, side = np.median(fits.centre, axis=0), np.median(fits.side)
    notes = [
        describe(first, turn, see_face(first, seen.shape), name, person),
        *describe_film(seen, film, max_frames),
    ]
    return FilmCapture(
        params=stack_params(fits, centre, side),
        edges=seen.edges,
        errors=errors,
        crop_matrix=compose_matrices(crop_matrix(centre, float(side)), turn),
        source=source,
        note="; ".join(note for note in notes if note),
    )


def describe_film(seen: FilmLandmarks, film: Video, max_frames: int | None) -> list[str]:
    """What the user should know about a film, each a few words; nothing where all is usual."""
    count, missing = len(seen.found), sum(landmarks is None for landmarks in seen.found)
    notes = []
    if missing:
        notes.append(f"no face in {missing} of {count} frames: the head holds still there")
    cuts = [shot for shot in seen.shots[1:] if any(seen.found[:shot]) and any(seen.found[shot:])]
    if cuts:
        times = ", ".join(f"{seen.edges[cut]:.2f} s" for cut in cuts[:5]) + (", ..." if len(cuts) > 5 else "")
        number = "a cut" if len(cuts) == 1 else f"{len(cuts)} cuts"
        notes.append(f"{number} (at {times}): each part is fitted as a person of its own")
    usual = float(np.median(np.diff(seen.edges)))
    if film.duration and count != max_frames and seen.edges[-1] < film.duration - MISSING_FRAMES * usual:
        whole = f" and {film.length} frames" if film.length else ""
        notes.append(
            f"the film ends after {seen.edges[-1]:.2f} s and {count} frames, of {film.duration:.2f} s{whole}:"
            " it is truncated or damaged"
        )
    return notes


def find_landmarks(
    film: Video,
    landmarker: LandmarkDetector,
    progress: Progress | None = None,
    *,
    has_a_face: Callable[[], bool] = lambda: True,
    person: Person | None = None,
    name: str = "the film",
) -> FilmLandmarks:
    """Landmarks of each frame, each looked for around the frame before; after a cut, anywhere.

    Args:
      has_a_face: Asked once, if the first frames show no face, whether others do.
      film, landmarker, progress, person, name: See `capture_film`; name is what messages call the film.

    Raises:
      UserError: There is no face, or not that of `person`.
    """
    found, times, shots, greys, faces = [], [], [], [], []
    before, previous, last, shape = None, None, None, None
    for index, (picture, grey, shown) in enumerate(read_ahead(map(seen_frame, film))):
        greys.append(grey)
        now = normalised(greys[-1])
        if before is None or is_cut(before, now):
            shots.append(index)
            previous = None
        before = now if before is None or now.any() else before  # a flash, or a moment of black, is no cut
        if shape is None:
            previous = find_person(picture, landmarker, person, name)
            shape = None if previous is None else picture.shape
        elif previous is None and person is not None:
            previous = nearest_face(landmarker.people(picture), last)
        else:
            previous = landmarker.detect(picture, previous)
        last = last if previous is None else previous
        if index + 1 == FACELESS_FRAMES and shape is None and not has_a_face():
            raise UserError(
                f"film: no face found in {name}, neither at its beginning nor in frames spread over it"
            )
        found.append(previous)
        faces.append(None if previous is None else face_greys(picture, previous))
        times.append(shown)
        if progress is not None:
            progress(len(found), film.length)
    others = {*find_new_faces(faces), *(find_dissolves(np.stack(greys)) if greys else ())}
    shots = sorted({*shots, *(cut for cut in others if all(abs(cut - shot) > 1 for shot in shots))})
    return FilmLandmarks(found, frame_edges(times), shots, shape or (0, 0))


def seen_frame(frame: VideoFrame) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Colours (H, W, 3) uint8 of a frame, its thumbnail, its time and duration."""
    picture = split_alpha(frame.picture)[0]
    return picture, grey_thumbnail(picture), (frame.time, frame.duration)


def nearest_face(people: list[Landmarks], last: Landmarks) -> Landmarks | None:
    """Of several faces the one nearest to where a face was; None if there are none."""
    place = last.points.mean(axis=0)
    return min(people, key=lambda one: np.linalg.norm(one.points.mean(axis=0) - place), default=None)


def fit_frames(small: LandmarkHead, targets: list[tuple | None], shots: list[int]) -> Fit:
    """A `Fit` with leading axis T, with one shape a shot; frames without targets repeat their neighbour."""
    fits: list[Fit | None] = []
    with ThreadPoolExecutor() as pool:
        for start, end in pairwise([*shots, len(targets)]):
            fits += fit_shot(small, targets[start:end], pool)
    held = next(fit for fit in fits if fit is not None)
    for index, fit in enumerate(fits):
        fits[index] = held = held if fit is None else fit
    return jax.tree.map(lambda *x: np.stack(x), *fits)


def fit_shot(small: LandmarkHead, targets: list[tuple | None], pool: Executor) -> list[Fit | None]:
    """A fit of each frame that has targets, with one shape; chains of frames side by side."""
    seen = [target for target in targets if target is not None]
    if not seen:
        return [None] * len(targets)
    shape = shared_shape(small, seen, pool.map)
    person = bake_shape(small, shape)

    def fit_chain(targets: list[tuple | None]) -> list[Fit | None]:
        fits: list[Fit | None] = []
        start = None
        for target in targets:
            fit = None if target is None else fit_photo(person, *target, start=start)
            start = start if fit is None else fit.unknowns
            fits.append(fit and jax.device_get(fit.replace(shape=shape)))
        return fits

    chains = [targets[first : first + CHAIN] for first in range(0, len(targets), CHAIN)]
    return [fit for chain in pool.map(fit_chain, chains) for fit in chain]


def shared_shape(small: LandmarkHead, targets: list[tuple], map_all: Callable = map) -> jax.Array:
    """(300,) the mean of the shapes that frames spread over the film give by themselves.

    map_all: `map`, or that of an executor.
    """
    chosen = [targets[round(i)] for i in np.linspace(0, len(targets) - 1, min(SHAPE_FRAMES, len(targets)))]
    return jnp.stack([*map_all(lambda target: fit_photo(small, *target).shape, chosen)]).mean(axis=0)


def smooth_fits(fits: Fit, times: np.ndarray, width: float) -> Fit:
    """Fits whose heads hold still where only noise moves them; times, width: see `smooth_still`."""

    def smooth(values: np.ndarray, together: bool = True) -> np.ndarray:
        return smooth_still(np.asarray(values, np.float64).reshape(len(values), -1), times, width, together)

    still = {name: smooth(getattr(fits, name)) for name in ("rotation", "centre", "side", "jaw", "eyes")}
    # Each action by itself: a mouth that talks does not leave the lids to their noise.
    still["expression"] = smooth(fits.expression, together=False)
    return fits.replace(
        **{name: np.float32(value.reshape(getattr(fits, name).shape)) for name, value in still.items()}
    )


def stack_params(fits: Fit, centre: np.ndarray, side: float) -> FrameParams:
    """`FrameParams` (T,) in one square of the film; one by one, lest each length be compiled."""
    frames = [params_in_square(take(fits, k), centre, side) for k in range(len(fits.error))]
    return jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *frames)
