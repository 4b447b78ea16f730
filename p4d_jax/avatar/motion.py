"""`Motion`: how somebody moves, frame by frame, whatever it came as.

A motion is read from a motion file, a film, a folder of pictures or a photo, or by the name of one that
ships, or a table of ARKit's facial actions. It drives any avatar whose head model has the same expression
basis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from p4d_jax import assets
from p4d_jax.capture import shots
from p4d_jax.capture.clip import capture_film
from p4d_jax.capture.landmarks import Landmarker
from p4d_jax.capture.people import Person
from p4d_jax.capture.photo import Capture, capture_photo
from p4d_jax.data.arkit import load_arkit, save_arkit
from p4d_jax.data.motion import MotionFile, load_motion, motion_for_head, save_motion
from p4d_jax.errors import UserError
from p4d_jax.head.model import HeadModel
from p4d_jax.imaging.reading import PHOTO_SUFFIXES, read_photo, split_alpha
from p4d_jax.imaging.video import FILM_SUFFIXES, FOLDER_FPS, folder_pictures, is_video
from p4d_jax.types import FrameParams, on_host, stack, take

ARKIT_SUFFIX = ".csv"
MOTION_SUFFIXES = (".npz", ARKIT_SUFFIX)
Progress = Callable[[int, int | None], None]
CLIP_PICTURES = 40  # of a folder, that tell whether it is one clip
# How far from rest a face is: how much actions count more than others do, what an open jaw (radians) and a
# turned head (norm of the difference of rotations) count as one action, and by how much a frame has to be
# better.
NEUTRAL_WEIGHTS = {"eyeBlink": 2.0, "jawOpen": 2.0}
JAW_UNIT, TURN_UNIT, NEUTRAL_TOLERANCE = 0.15, 0.5, 0.75


@dataclass(frozen=True)
class Motion:
    """The parameters of a clip of T frames, on the host.

    Attributes:
      params: Leading axis T; the camera carries the head's rotation.
      fps: Frames a second, on average.
      head: Name of the head model whose expression basis the coefficients speak of.
      names: One name for each leading expression coefficient, or empty.
      pictures: (512, 512, 3) uint8 of each frame as its camera sees it; an iterable that can be read again,
        or None for a motion that came without pictures.
      vectors: (T, M) motion vectors that a motion encoder saw in these frames, or None.
      edges: (T + 1,) seconds: frame i is shown from edge i to edge i + 1; None: evenly.
      errors: (T,) of the fits, in distances between the eyes, nan where no face was found; None if not known.
      is_clip: Whether the frames follow each other in time; photos, each by itself, do not.
      note: What the user should know, or empty.
    """

    params: FrameParams
    fps: float
    head: str
    names: tuple[str, ...] = ()
    pictures: Iterable[np.ndarray] | None = None
    vectors: np.ndarray | None = None
    edges: np.ndarray | None = None
    errors: np.ndarray | None = None
    is_clip: bool = True
    note: str = ""

    def __len__(self) -> int:
        return len(self.params.expression)

    def __getitem__(self, index: int) -> FrameParams:
        """The parameters of one frame."""
        return take(self.params, index)

    @classmethod
    def open(
        cls,
        source: str | Path,
        head: str | HeadModel = "openhead",
        *,
        max_frames: int | None = None,
        progress: Progress | None = None,
        person: Person | None = None,
    ) -> Motion:
        """Whatever a name or path stands for: a motion that ships, a motion file, a film, a folder, a photo.

        Args:
          head: The head model that is fitted to pictures, or that a motion file has to move.
          max_frames: Reads no more frames than these.
          progress: Called with (frames done, frames in all or None) while a film is read.
          person: Who is meant, of several people in a picture; see `capture_photo`.

        Raises:
          UserError: There is no such thing, it cannot be read, or it moves another head model.
        """
        head = find_head(head)
        path = find_motion(source)
        if path.suffix in MOTION_SUFFIXES:
            return cls.load(path, head).for_head(head).first(max_frames)
        if path.is_dir():
            pictures = folder_pictures(path)[:max_frames]
            if not is_one_clip(pictures):
                return cls.from_photos(pictures, head, progress=progress)
        if is_video(path):
            return cls.from_film(path, head, max_frames=max_frames, progress=progress, person=person)
        return cls.from_photo(path, head, person=person)

    @classmethod
    def load(cls, path: str | Path, head: str | HeadModel = "openhead") -> Motion:
        """Reads a motion file, one that ships by its name, or a table of ARKit's actions (`data.arkit`).

        Args:
          path: Of the file; a table's ends in .csv.
          head: The head model that a table's actions move; a motion file names its own.

        Raises:
          UserError: There is no such file, or it is not one.
        """
        try:
            if Path(path).suffix == ARKIT_SUFFIX:
                head = find_head(head)
                stored = load_arkit(path, head.name, head.expression_names)
            else:
                stored = load_motion(assets.motion(path))
        except ValueError as error:
            raise UserError(str(error)) from error
        vectors = None if stored.motion_vectors is None else np.asarray(stored.motion_vectors)
        frames = on_host(stored.params)
        is_clip = len(frames.expression) > 1
        return cls(
            frames,
            stored.fps,
            stored.head,
            stored.names,
            vectors=vectors,
            edges=stored.edges,
            is_clip=is_clip,
        )

    def save(self, path: str | Path) -> None:
        """Writes a motion file: parameters, times, and motion vectors where there are any; no picture.

        A path that ends in .csv gets a table of ARKit's actions and the head's rotation (`data.arkit`), at an
        even rate.

        Raises:
          UserError: A table is asked for, and the expression does not consist of ARKit's actions.
        """
        if Path(path).suffix == ARKIT_SUFFIX:
            even = self if self.edges is None else self.resampled(self.even_edges)
            try:
                save_arkit(path, even.params, self.fps, self.names)
            except ValueError as error:
                raise UserError(f"path: {str(path)!r} is a table of ARKit's actions, and {error}") from error
            return
        save_motion(path, self.params, self.fps, self.head, self.names, self.vectors, self.edges)

    @classmethod
    def from_film(
        cls,
        film: str | Path | Iterable[np.ndarray],
        head: str | HeadModel = "openhead",
        *,
        max_frames: int | None = None,
        progress: Progress | None = None,
        person: Person | None = None,
    ) -> Motion:
        """The motion of a film, a folder of frames, or pictures (H, W, 3) uint8; see `capture_film`."""
        head = find_head(head)
        captured = capture_film(film, head, progress, max_frames=max_frames, person=person)
        return cls(
            on_host(captured.params),
            captured.fps,
            head.name,
            head.expression_names,
            Crops(captured),
            edges=captured.edges,
            errors=captured.errors,
            is_clip=len(captured) > 1,
            note=captured.note,
        )

    @classmethod
    def from_photo(
        cls,
        photo: str | Path | np.ndarray,
        head: str | HeadModel = "openhead",
        *,
        person: Person | None = None,
    ) -> Motion:
        """The face of a photo, as one frame that is no clip; see `capture_photo`."""
        head = find_head(head)
        return cls._of_captures([capture_photo(photo, head, person=person)], head)

    @classmethod
    def from_photos(
        cls,
        photos: Sequence[str | Path | np.ndarray],
        head: str | HeadModel = "openhead",
        *,
        progress: Progress | None = None,
    ) -> Motion:
        """The faces of photos, each by itself, with the person's shape and the crop that it alone gives.

        Args:
          photos: As `capture_photo` takes them; those that it refuses are left out, and the note says so.
          head: The head model that is fitted.
          progress: Called with (photos done, photos in all).

        Raises:
          UserError: None of them can be used.
        """
        head, landmarker = find_head(head), Landmarker()
        captures, refused = [], []
        for index, photo in enumerate(photos):
            try:
                captures.append(capture_photo(photo, head, landmarker))
            except UserError as error:
                refused.append(str(error))
            if progress is not None:
                progress(index + 1, len(photos))
        if not captures:
            raise UserError(refused[0] if refused else "photo: at least one is needed, got none")
        motion = cls._of_captures(captures, head)
        if not refused:
            return motion
        left_out = (
            f"{len(refused)} of {len(photos)} photos are left out, the first because of this: {refused[0]}"
        )
        return replace(motion, note="; ".join(note for note in (motion.note, left_out) if note))

    @classmethod
    def _of_captures(cls, captures: Sequence[Capture], head: HeadModel) -> Motion:
        return cls(
            stack([on_host(captured.params) for captured in captures]),
            FOLDER_FPS,
            head.name,
            head.expression_names,
            [captured.crop for captured in captures],
            errors=np.array([captured.error for captured in captures]),
            is_clip=False,
            note="; ".join(captured.note for captured in captures if captured.note),
        )

    @property
    def seconds(self) -> float:
        """How long the clip takes."""
        return len(self) / self.fps if self.edges is None else float(self.edges[-1] - self.edges[0])

    @property
    def times(self) -> np.ndarray:
        """(T,) seconds from the beginning on at which the frames appear."""
        return np.arange(len(self)) / self.fps if self.edges is None else self.edges[:-1] - self.edges[0]

    @property
    def even_edges(self) -> np.ndarray:
        """(T + 1,) seconds at which frames as many as these would appear, and end, if all took as long."""
        return np.linspace(0, self.seconds, len(self) + 1)

    def at_rate(self, fps: float) -> Motion:
        """The same frames, shown evenly at another rate."""
        return replace(self, fps=fps, edges=None)

    def first(self, frames: int | None) -> Motion:
        """The first frames alone; all of them for None."""
        if frames is None or frames >= len(self):
            return self
        cut = lambda values, count: None if values is None else values[:count]
        return replace(
            self,
            params=take(self.params, slice(frames)),
            vectors=cut(self.vectors, frames),
            edges=cut(self.edges, frames + 1),
            errors=cut(self.errors, frames),
        )

    def resampled(self, edges: np.ndarray) -> Motion:
        """The motion as it is at other times, between its frames; after its end, the last one stays.

        Pictures are dropped: none shows what lies between two frames.

        Args:
          edges: (F + 1,) seconds from the beginning on at which the new frames appear, and the last one ends.
        """
        places = np.interp(edges[:-1], self.times, np.arange(len(self)))
        nearest_frames = np.round(places).astype(int)
        return replace(
            self,
            params=interpolate(self.params, places),
            fps=(len(edges) - 1) / float(edges[-1] - edges[0]),
            pictures=None,
            vectors=None if self.vectors is None else between(self.vectors, places),
            edges=np.asarray(edges, np.float64),
            errors=None if self.errors is None else self.errors[nearest_frames],
        )

    def mixed(
        self, *, pose: Motion | None = None, gaze: Motion | None = None, blinks: Motion | None = None
    ) -> Motion:
        """This motion with parts of other drivers', each from its beginning on, at the times of this one.

        It is as long as the shortest of them; of a single frame, which lasts for ever, the others give the
        times. A motion encoder's vectors and the pictures stay this one's.

        Args:
          pose: Whose head rotation, way through the picture and neck are taken.
          gaze: Whose eyes, and lids that follow them.
          blinks: Whose blinks of both eyes.

        Raises:
          UserError: A motion moves another head model, or its blinks and gaze have no names.
        """
        given = {"pose": pose, "gaze": gaze, "blinks": blinks}
        others = {part: other for part, other in given.items() if other is not None}
        for part, other in others.items():
            if (other.head, other.names) != (self.head, self.names):
                raise UserError(f"{part}: it moves the head {other.head!r}, and the motion {self.head!r}")
            if part != "pose" and not any(name.startswith("eye") for name in self.names):
                raise UserError(f"{part}: the head {self.head!r} has no ARKit actions to tell it by")
        clips = [one for one in (self, *others.values()) if len(one) > 1] or [self]
        clock, end = clips[0], min(one.seconds for one in clips)
        frames = max(1, int(np.searchsorted(clock.times, end - 1e-6)))
        edges = np.append(clock.times, clock.seconds)[: frames + 1]
        mixed = self.first(frames) if clock is self else self.resampled(edges)
        params = mixed.params
        for part, other in others.items():
            theirs = other.resampled(edges).params
            if part == "pose":
                pose_numbers = np.concatenate([theirs.neck, params.jaw], axis=-1)
                params = params.replace(camera=theirs.camera, pose=pose_numbers)
                continue
            prefix = {"gaze": "eyeLook", "blinks": "eyeBlink"}[part]
            columns = [index for index, name in enumerate(self.names) if name.startswith(prefix)]
            expression = np.array(params.expression)
            expression[:, columns] = theirs.expression[:, columns]
            eyes = theirs.eyes if part == "gaze" else params.eyes
            params = params.replace(expression=expression, eyes=eyes)
        return replace(mixed, params=params)

    def without_identity(self) -> Motion:
        """The motion alone, to be given away: an average head's shape, and no picture."""
        return replace(
            self, params=self.params.replace(shape=np.zeros_like(self.params.shape)), pictures=None
        )

    @property
    def neutral_frame(self) -> int:
        """The frame that can best stand for a photo: a face at rest that looks straight ahead.

        Far from rest are an open jaw and actions at work, shut eyes the most, and a head that is turned away
        from the median. The first frame is taken unless another one is clearly nearer: a motion then begins
        as the photo is. Frames in which no face was found are not asked.
        """
        return neutral_frame(self.params, self.names, self.errors)

    def for_head(self, head: HeadModel) -> Motion:
        """The same motion in the order of a head model's expression components.

        Raises:
          UserError: The motion speaks of another head model's expression basis.
        """
        if self.head != head.name:
            raise UserError(
                f"motion: it moves the head model {self.head!r}, not {head.name!r}: their expression numbers"
                f" mean different things; use the head model {self.head!r}"
            )
        try:
            stored = motion_for_head(
                MotionFile(self.params, self.fps, self.head, self.names), head.expression_names
            )
        except ValueError as error:
            raise UserError(str(error)) from error
        return replace(self, params=on_host(stored.params), names=stored.names)


def is_one_clip(pictures: Sequence[Path]) -> bool:
    """Whether the pictures of a folder are frames of one clip, and not photos that were put together."""
    some = [pictures[i] for i in sorted({*range(min(len(pictures), CLIP_PICTURES))})]
    try:
        return shots.is_one_clip([split_alpha(read_photo(path))[0] for path in some])
    except UserError:  # who reads them one by one says which cannot be read
        return False


def neutral_frame(params: FrameParams, names: Sequence[str], errors: np.ndarray | None = None) -> int:
    """See `Motion.neutral_frame`."""
    weights = np.array(
        [NEUTRAL_WEIGHTS.get(name.removesuffix("Left").removesuffix("Right"), 1) for name in names]
    )
    actions = np.asarray(params.expression)[:, : len(names)] if names else np.asarray(params.expression)
    actions = np.maximum(actions, 0) if names else actions
    rotations = np.asarray(params.camera.cam2world)[:, :3, :3]
    usual = np.median(rotations, axis=0)
    turned = np.linalg.norm(rotations - usual, axis=(1, 2))
    moved = (np.abs(actions) * (weights if names else 1)).sum(axis=1)
    unrest = moved + np.maximum(np.asarray(params.jaw)[:, 0], 0) / JAW_UNIT + turned / TURN_UNIT
    if errors is not None:
        unrest = np.where(np.isfinite(errors), unrest, np.inf)
    best = int(np.argmin(unrest))
    return 0 if unrest[0] <= unrest[best] + NEUTRAL_TOLERANCE else best


@dataclass(frozen=True)
class Crops:
    """A film's pictures in its one crop, cut anew each time they are read, so that none fills memory."""

    film: object

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.film.crops)

    def __len__(self) -> int:
        return len(self.film)


def interpolate(params: FrameParams, places: np.ndarray) -> FrameParams:
    """A clip's parameters at places (P,) between its frames; the cameras stay rigid."""
    mixed = jax.tree.map(lambda values: between(values, places), params)
    cam2world = mixed.camera.cam2world
    # The rotation nearest to the mean of two.
    u, _, v = np.linalg.svd(cam2world[:, :3, :3].astype(np.float64))
    cam2world[:, :3, :3] = u @ v
    return mixed


def between(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Values (T, ...) at places (P,) in [0, T - 1], linearly."""
    before = np.floor(places).astype(int)
    after = np.minimum(before + 1, len(values) - 1)
    share = (places - before).reshape(-1, *(1,) * (values.ndim - 1)).astype(np.float32)
    return (1 - share) * values[before] + share * values[after]


def find_head(head: str | Path | HeadModel) -> HeadModel:
    """A head model by its name or file; a head model is itself."""
    return head if isinstance(head, HeadModel) else assets.head_model(str(head))


def find_motion(source: str | Path) -> Path:
    """The path of what a motion can be read from.

    Raises:
      UserError: It does not exist, or is none of that.
    """
    if not str(source).strip():
        raise UserError("nothing is given; name a film, a photo, a folder of photos or a motion")
    path = Path(source).expanduser()
    if not path.exists() and path.suffix and path.suffix != ".npz":
        raise UserError(f"no file or folder {str(source)!r}")
    if not path.exists() or path.suffix == ".npz":
        return assets.motion(source)
    if not is_video(path) and path.suffix.lower() not in (*PHOTO_SUFFIXES, ARKIT_SUFFIX):
        known = " ".join((*FILM_SUFFIXES, *PHOTO_SUFFIXES, *MOTION_SUFFIXES))
        raise UserError(
            f"{str(source)!r} is neither film, photo nor motion; endings that can be read: {known}"
        )
    return path
