"""What `reenact` is given: the files that its config names, checked and read, cheapest first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from p4d_jax import assets
from p4d_jax.avatar.encode import check_picture_size
from p4d_jax.avatar.model import AvatarModel
from p4d_jax.avatar.motion import MOTION_SUFFIXES, Motion, find_motion
from p4d_jax.capture.people import Person
from p4d_jax.capture.photo import open_photo
from p4d_jax.errors import UserError
from p4d_jax.head.model import HeadModel
from p4d_jax.imaging.reading import split_alpha
from p4d_jax.imaging.sound import has_sound
from p4d_jax.imaging.video import is_video
from p4d_jax.imaging.watermark import MARKS
from p4d_jax.jobs._exports import named_exports
from p4d_jax.jobs._fields import check_ranges, named_in, parse_people, parse_person, user_input
from p4d_jax.jobs._films import named_films
from p4d_jax.jobs.settings import ReenactSettings

# Fields of the config that name a driver of one part, and what `Motion.mixed` calls the part.
PARTS = {"pose_driving": "pose", "gaze_driving": "gaze", "blink_driving": "blinks"}
Driver = Motion | Path  # a motion that is read, or a film, a folder or a photo


@dataclass(frozen=True)
class Inputs:
    """What the user named, found and read.

    Attributes:
      photos: Each (H, W, 3) uint8, or 4 with alpha, of one person; the first is the one that comes to life.
      person: Who is meant in the first photo.
      driving: What drives that person.
      driving_person: Who is meant in the driving.
      parts: Drivers of single parts, by the fields that name them, `PARTS`; those that are named.
      people: Drivers of other people of the first photo, by their numbers.
      into: The film that the head is pasted into, or None.
      sound: The driving, where it is a film with sound that fits; else None.
      model: Network, weights and head model.
    """

    photos: list[np.ndarray]
    person: Person | None
    driving: Driver
    driving_person: Person | None
    parts: dict[str, Driver]
    people: dict[int, Driver]
    into: Path | None
    sound: Path | None
    model: AvatarModel

    @property
    def photo(self) -> np.ndarray:
        """(H, W, 3) uint8, the first photo without its alpha."""
        return split_alpha(self.photos[0])[0]


def read_inputs(config: ReenactSettings) -> Inputs:
    """Checks and reads all that the config names, cheapest first."""
    check_numbers(config)
    named_exports(config.exports)
    films = named_films(config.films)
    named_in(MARKS, config.watermark, "watermark", "mark")
    with user_input("person"):
        person = parse_person(config.person)
    with user_input("driving_person"):
        driving_person = parse_person(config.driving_person)
    with user_input("people"):
        people = parse_people(config.people)
        if people and ("pasted" not in films or config.paste_into):
            raise UserError("people are pasted into the photo: name pasted among the films, no paste_into")
    with user_input("paste_into"):
        into = find_film(config.paste_into)
        if into and "pasted" not in films:
            raise UserError("nothing is pasted; name pasted among the films")
    with user_input("source"):
        photos = [open_photo(name) for name in source_names(config.source)]
    with user_input("head"):
        head = assets.head_model(config.head)
    with user_input("driving"):
        driving = find_driver(config.driving, head)
    parts = {}
    for field in PARTS:
        if name := getattr(config, field):
            with user_input(field):
                parts[field] = find_driver(name, head)
    with user_input("people"):
        others = {number: find_driver(name, head) for number, name in people.items()}
    with user_input("weights"):
        model = AvatarModel.load(config.weights, head, config.motion_encoder or None)
    with user_input("picture_size"):
        check_picture_size(model.config, config.picture_size or model.config.picture_size)
    sound = find_sound(driving, config)
    return Inputs(photos, person, driving, driving_person, parts, others, into, sound, model)


def find_driver(name: str, head: HeadModel) -> Driver:
    """A motion file or table, read for a head model; of what else can drive, the path."""
    path = find_motion(name)
    return Motion.load(path, head).for_head(head) if path.suffix in MOTION_SUFFIXES else path


def find_film(name: str) -> Path | None:
    """The path of a film; None for no name."""
    if not name:
        return None
    path = Path(name).expanduser()
    if not path.exists() or not is_video(path):
        raise UserError(f"no film {name!r}")
    return path


def find_sound(driving: Driver, config: ReenactSettings) -> Path | None:
    """The film whose sound goes along: the driving, unless it is shown at another speed."""
    if isinstance(driving, Motion) or not has_sound(driving):
        return None
    if config.fps:
        print(f"without the driving's sound, since config.fps={config.fps:g} changes its speed")
        return None
    return driving


def check_numbers(config: ReenactSettings) -> None:
    """Every number of the config that has a range."""
    ranges = {
        "max_frames": (1, 100_000),
        "fps": (0, 240),
        "personalise_steps": (0, 100_000),
        "neck_share": (0, 1),
        "picture_size": (0, 2048),
        "coarse_samples": (4, 512),
        "fine_samples": (2, 512),
        "panel": (32, 2048),
        "turntable_frames": (1, 10_000),
        "turntable_yaw": (0, 90),
        "mesh_resolution": (16, 1024),
        "stills": (0, 1000),
    }
    check_ranges(config, ranges)
    if config.reference_frame is not None and not 0 <= config.reference_frame < config.max_frames:
        raise UserError(
            f"config.reference_frame={config.reference_frame}: expected None, or a frame of 0 to"
            f" {config.max_frames - 1}"
        )
    if config.panel % 2:
        raise UserError(f"config.panel={config.panel}: H.264 needs an even number of pixels")


def source_names(source: str) -> list[str]:
    """The photos that a config names, with commas between them; a file may have a comma in its name."""
    if (path := Path(source).expanduser()).is_dir():
        raise UserError(f"{source!r} is a folder; give a photo, or several of one person with commas between")
    if path.exists():
        return [source]
    names = [name.strip() for name in source.split(",")]
    if not all(names):
        raise UserError(f"{source!r}: expected photos with commas between them")
    return names


def read_motion(
    driver: Driver, head: HeadModel, config: ReenactSettings, field: str, person: Person | None = None
) -> Motion:
    """A driver's motion, whatever it came as; says what the user should know of it.

    field: of the config that names it.
    """
    if isinstance(driver, Motion):
        motion = driver.first(config.max_frames)
    else:
        with user_input(field), tqdm(desc=field, unit="frame") as bar:

            def progress(done: int, total: int | None) -> None:
                bar.total = total
                bar.update(done - bar.n)

            motion = Motion.open(driver, head, max_frames=config.max_frames, progress=progress, person=person)
    if motion.note:
        print(motion.note)
    return motion
