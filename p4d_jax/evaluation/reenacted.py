"""What a model makes of pairs of photos and films: the pictures that scores are of.

Both kinds of pairs take expression, gaze, head rotation and place in the picture from the driver as they are,
not as changes. The neck turns the source's head, and its shoulders stay. Of a pair from one film the source
is seen in the film's one square, so that result and truth show the same part of the room.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from p4d_jax.avatar.avatar import Avatar
from p4d_jax.avatar.model import AvatarModel
from p4d_jax.avatar.motion import Motion
from p4d_jax.capture.clip import capture_film
from p4d_jax.capture.landmarks import Landmarker
from p4d_jax.capture.photo import Capture, capture_photo
from p4d_jax.errors import UserError
from p4d_jax.evaluation.fits import HeadFit, fit_looks
from p4d_jax.evaluation.looks import Look, PictureNetworks, look
from p4d_jax.evaluation.pairs import Pair, digest
from p4d_jax.head.model import HeadModel
from p4d_jax.imaging.reading import read_photo
from p4d_jax.imaging.video import is_video, open_video
from p4d_jax.imaging.writing import resize
from p4d_jax.types import FrameParams, concatenate, on_host, stack, take


@dataclass(frozen=True)
class Rendering:
    """How avatars are made and shown.

    Attributes:
      personalise_steps: Steps of optimisation for each source.
      samples: Coarse and fine samples a ray.
      seed: Of personalisation.
    """

    personalise_steps: int = 0
    samples: tuple[int, int] = (16, 16)
    seed: int = 0


@dataclass(frozen=True)
class Driver:
    """Frames of a driver in which a face was found.

    Attributes:
      frames: (F,) their numbers in the film.
      motion: Their parameters and pictures.
      square: (2, 3) from the film to its crop; None of a photo.
    """

    frames: np.ndarray
    motion: Motion
    square: np.ndarray | None


class Reenacted:
    """A pair and what the model made of it. Faces in the pictures are looked for when first asked for.

    Attributes:
      pair: The pair.
      frames: (F,) numbers of the driver's frames, those in which a face was found.
      source: (S, S, 3) uint8 the source.
      driving: (F, S, S, 3) uint8 the driver's frames; of a pair `self` they are the truth.
      made: (F, S, S, 3) uint8 the results, rounded as files hold them.
      avatar: What made them.
      networks: What looks at pictures.
    """

    def __init__(
        self,
        pair: Pair,
        frames: np.ndarray,
        source: np.ndarray,
        driving: np.ndarray,
        made: np.ndarray,
        avatar: Avatar,
        networks: PictureNetworks,
    ):
        """See the class's attributes."""
        self.pair, self.frames, self.avatar, self.networks = pair, frames, avatar, networks
        self.source, self.driving, self.made = source, driving, made

    @functools.cached_property
    def source_face(self) -> Look | None:
        """The face of the source; None where none is found."""
        return look(self.networks, as_image(self.source))

    @functools.cached_property
    def driving_faces(self) -> list[Look | None]:
        """The face of each of the driver's frames."""
        return [look(self.networks, as_image(picture)) for picture in self.driving]

    @functools.cached_property
    def made_faces(self) -> list[Look | None]:
        """The face of each result."""
        return [look(self.networks, as_image(picture)) for picture in self.made]

    @functools.cached_property
    def driving_fits(self) -> list[HeadFit | None]:
        """The head fitted to each of the driver's frames; None where there is no face."""
        return fit_looks(self.avatar.model.head, self.driving_faces)

    @functools.cached_property
    def made_fits(self) -> list[HeadFit | None]:
        """The head fitted to each result."""
        return fit_looks(self.avatar.model.head, self.made_faces)


class Unchanged(Reenacted):
    """A pair with its source as it is in the place of each result: what doing nothing makes."""

    def __init__(self, case: Reenacted):
        """case: The pair; what is found of its pictures is not looked for again."""
        made = np.broadcast_to(case.source, case.made.shape)
        super().__init__(case.pair, case.frames, case.source, case.driving, made, case.avatar, case.networks)
        self._case = case

    @property
    def source_face(self) -> Look | None:
        return self._case.source_face

    @property
    def driving_faces(self) -> list[Look | None]:
        return self._case.driving_faces

    @property
    def made_faces(self) -> list[Look | None]:
        return [self.source_face] * len(self.made)

    @property
    def driving_fits(self) -> list[HeadFit | None]:
        return self._case.driving_fits

    @functools.cached_property
    def made_fits(self) -> list[HeadFit | None]:
        return fit_looks(self.avatar.model.head, [self.source_face]) * len(self.made)


def as_image(picture: np.ndarray) -> np.ndarray:
    """uint8 -> float32 in [-1, 1]."""
    return np.float32(picture) / np.float32(127.5) - np.float32(1)


def reenact_pairs(
    model: AvatarModel,
    pairs: Iterable[Pair],
    folder: Path,
    networks: PictureNetworks,
    rendering: Rendering,
    on_damage: Callable[[str, str], None],
) -> Iterator[Reenacted]:
    """Pairs one after another; those whose files cannot be used are left out.

    Args:
      folder: In which the files of the pairs lie.
      on_damage: Called with the name of a file that cannot be used and what is wrong with it, each time that
        a pair is left out because of it.
    """
    files = Files(folder, model.head)
    for pair in pairs:
        name = pair.driving
        try:
            files.check(pair, name)
            driver = files.driver(name, pair.frames)
            name = pair.source
            files.check(pair, name)
            captured = files.source(pair, driver)
        except UserError as error:
            on_damage(name, str(error))
            continue
        yield reenact_pair(model, pair, captured, driver, networks, rendering)


def reenact_pair(
    model: AvatarModel,
    pair: Pair,
    captured: Capture,
    driver: Driver,
    networks: PictureNetworks,
    rendering: Rendering,
) -> Reenacted:
    """What the model makes of a pair whose files were read."""
    avatar = Avatar.from_captures([captured], model, samples=rendering.samples)
    avatar = avatar.personalised(rendering.personalise_steps, key=jax.random.key(rendering.seed))
    # With the source before them as the frame that stands for it, the driver's frames give their place in
    # the picture, too, not its change.
    before = jax.tree.map(lambda x: x[None], on_host(avatar.params))
    moved = avatar.retarget(concatenate([before, driver.motion.params]), relative=False, reference_frame=0)
    moved = take(moved, slice(1, None))
    vectors = avatar.driving_vectors(driver.motion, moved)
    made = np.stack(
        [avatar.render(take(moved, index), motion=vector).picture for index, vector in enumerate(vectors)]
    )
    size = made.shape[1]
    driving = np.stack([resize(picture, size) for picture in driver.motion.pictures])
    return Reenacted(pair, driver.frames, resize(captured.crop, size), driving, made, avatar, networks)


class Files:
    """The files of a list. The last driver that was read is kept, since neighbours have one."""

    def __init__(self, folder: Path, head: HeadModel):
        """folder: In which the files lie. head: The head model that is fitted."""
        self._folder, self._head, self._landmarker = folder, head, Landmarker()
        self.driver = functools.lru_cache(maxsize=1)(self._read_driver)
        self._digest = functools.lru_cache(maxsize=None)(digest)

    def check(self, pair: Pair, name: str) -> None:
        """That a file is the one that the list means.

        Raises:
          UserError: It is not there, or holds something else.
        """
        path = self._folder / name
        if not path.exists():
            raise UserError(f"no file {str(path)!r}")
        wanted = pair.sha256.get(name)
        if wanted is not None and (found := self._digest(path)) != wanted:
            raise UserError(f"{str(path)!r} is another file than the list's: its sha256 is {found}")

    def source(self, pair: Pair, driver: Driver) -> Capture:
        """The source of a pair; one that is a frame of the driver is seen in the driver's square.

        Raises:
          UserError: It cannot be read or shows no face that can be used.
        """
        path = self._folder / pair.source
        if is_video(path):
            frames = itertools.islice(open_video(path, pair.source_frame + 1), pair.source_frame, None)
            if (frame := next(frames, None)) is None:
                raise UserError(f"{str(path)!r} has no frame {pair.source_frame}")
            picture = frame.picture
        else:
            picture = read_photo(path)
        square = driver.square if pair.source == pair.driving else None
        return capture_photo(picture, self._head, self._landmarker, square=square)

    def _read_driver(self, name: str, frames: tuple[int, ...]) -> Driver:
        path = self._folder / name
        if not is_video(path):
            captured = capture_photo(path, self._head, self._landmarker)
            params = stack([on_host(captured.params)])
            return Driver(np.zeros(1, int), self._motion(params, [captured.crop]), None)
        film = capture_film(path, self._head, landmarker=self._landmarker, max_frames=frames[-1] + 1)
        if len(film) <= frames[-1]:
            raise UserError(f"{str(path)!r} ends after {len(film)} frames; frame {frames[-1]} is asked for")
        seen = [number for number in frames if np.isfinite(film.errors[number])]
        if not seen:
            raise UserError(f"{str(path)!r} shows no face in any of the {len(frames)} frames asked for")
        pictures = [crop for number, crop in enumerate(film.crops) if number in set(seen)]
        motion = self._motion(take(on_host(film.params), np.array(seen)), pictures)
        return Driver(np.array(seen), motion, film.crop_matrix)

    def _motion(self, params: FrameParams, pictures: list[np.ndarray]) -> Motion:
        return Motion(params, 25.0, self._head.name, self._head.expression_names, pictures)
