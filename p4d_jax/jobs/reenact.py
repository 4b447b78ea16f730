"""The job `reenact`: a photo, or several of one person, and a motion in, a film of the head out.

What happens, in order: inputs are checked; the photos are captured (face, parameters, crop); their avatar is
encoded and personalised; the driving is captured; every frame is rendered; what `exports` names is made
(`jobs/_exports.py`); `report.json` says how long it all took and how well it fits. The workdir gets

    reenactment.mp4   source | driving | result, with the driving's sound
    frame_*.png       stills of it
    turntable.mp4     the head seen from left to right and back
    depth.png         distance from the camera, near is yellow
    mesh.ply          coloured surface of the head at rest
    avatar.avatar     where it is asked for: the avatar itself, for `p4d_jax.load_avatar`
    people.png        of a photo with several faces: which number each has, for `person`
    report.json       timings, scores, versions, the config, the files of the run

all at once at the end, or nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

import p4d_jax
from p4d_jax import assets
from p4d_jax.avatar.avatar import Avatar
from p4d_jax.avatar.encode import check_picture_size
from p4d_jax.avatar.model import AvatarModel
from p4d_jax.avatar.motion import MOTION_SUFFIXES, Motion, find_motion
from p4d_jax.capture.album import capture_album
from p4d_jax.capture.landmarks import Landmarker
from p4d_jax.capture.people import Person, draw_people
from p4d_jax.capture.photo import Capture, open_photo
from p4d_jax.errors import UserError
from p4d_jax.head.model import HeadModel
from p4d_jax.head.shading import shade_head, vertex_paint
from p4d_jax.imaging import writing as pictures
from p4d_jax.imaging.reading import split_alpha
from p4d_jax.imaging.sound import has_sound
from p4d_jax.jobs._exports import named_exports
from p4d_jax.jobs._fields import parse_person
from p4d_jax.jobs._publish import published, write_report
from p4d_jax.jobs.settings import ReenactSettings
from p4d_jax.settings import from_config, to_config
from p4d_jax.train.losses import psnr


@dataclass(frozen=True)
class Inputs:
    """What the user named, found and read.

    Attributes:
      photos: Each (H, W, 3) uint8, or 4 with alpha, of one person; the first is the one that comes to life.
      person: Who is meant in the first photo.
      driving: The motion, where it is a motion file; else the path of a film, a folder or a photo.
      driving_person: Who is meant in the driving.
      sound: The driving, where it is a film with sound that fits; else None.
      model: Network, weights and head model.
    """

    photos: list[np.ndarray]
    person: Person | None
    driving: Motion | Path
    driving_person: Person | None
    sound: Path | None
    model: AvatarModel


class Stopwatch:
    """Seconds of each stage, in order; says which one is on."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, said: str):
        print(f"{said} ...", flush=True)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


def run(config: ConfigDict, workdir: Path) -> Avatar:
    """Runs the job; see the file's docstring. Returns the avatar, to be shown in other poses and views."""
    config = from_config(ReenactSettings, config)
    watch, scores = Stopwatch(), {}
    with watch.stage("load", "reading the photo, the driving and the weights"):
        inputs = read_inputs(config)
    with watch.stage("capture", "looking for the face and fitting the head"):
        captures = capture_source(inputs, scores)
    with watch.stage("driving", "reading the driving motion"):
        driving = read_driving(inputs, config, scores)
    with watch.stage("encode", "encoding the avatar"):
        size = config.picture_size or None
        avatar = Avatar.from_captures(captures, inputs.model, size=size, samples=samples_of(config))
        scores["psnr_head_encoded"] = score_source(avatar)
    with watch.stage("personalise", f"personalising it in {config.personalise_steps} steps"):
        avatar = personalise(avatar, config, scores)
        scores["psnr_head_personalised"] = score_source(avatar)
    with published(workdir) as folder:
        with watch.stage("film", f"rendering {len(driving)} frames"):
            write_film(folder, avatar, driving, config, inputs.sound)
        for name, export in named_exports(config.exports).items():
            with watch.stage(name, f"making the {name}"):
                scores |= export(avatar, folder, config, driving)
        if scores["faces_in_the_photo"] > 1:
            pictures.save_picture(folder / "people.png", show_people(inputs))
        write_report(folder, report(config, watch, scores, driving))
    print(f"{sum(watch.seconds.values()):.0f} s; see {workdir / 'reenactment.mp4'}")
    return avatar


# What goes in ----------------------------------------------------------------------------------------------


@contextmanager
def user_input(field: str):
    """A ValueError about a file that the user named is the user's to put right."""
    try:
        yield
    except ValueError as error:  # a UserError is one too
        raise UserError(f"config.{field}: {error}") from error


def read_inputs(config: ReenactSettings) -> Inputs:
    """Checks and reads all that the config names, cheapest first."""
    check_numbers(config)
    named_exports(config.exports)
    with user_input("person"):
        person = parse_person(config.person)
    with user_input("driving_person"):
        driving_person = parse_person(config.driving_person)
    with user_input("source"):
        photos = [open_photo(name) for name in source_names(config.source)]
    with user_input("head"):
        head = assets.head_model(config.head)
    with user_input("driving"):
        path = find_motion(config.driving)
        driving = Motion.load(path, head).for_head(head) if path.suffix in MOTION_SUFFIXES else path
    with user_input("weights"):
        model = AvatarModel.load(config.weights, head, config.motion_encoder or None)
    with user_input("picture_size"):
        check_picture_size(model.config, config.picture_size or model.config.picture_size)
    return Inputs(photos, person, driving, driving_person, find_sound(driving, config), model)


def find_sound(driving: Motion | Path, config: ReenactSettings) -> Path | None:
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
        "coarse_samples": (2, 512),
        "fine_samples": (2, 512),
        "panel": (32, 2048),
        "turntable_frames": (1, 10_000),
        "turntable_yaw": (0, 90),
        "mesh_resolution": (16, 1024),
        "stills": (0, 1000),
    }
    for field, (low, high) in ranges.items():
        if not low <= (value := getattr(config, field)) <= high:
            raise UserError(f"config.{field}={value}: expected a number from {low} to {high}")
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


def samples_of(config: ReenactSettings) -> tuple[int, int]:
    """Coarse and fine samples a ray."""
    return config.coarse_samples, config.fine_samples


# Capture ---------------------------------------------------------------------------------------------------


def capture_source(inputs: Inputs, scores: dict) -> list[Capture]:
    """The photos' heads; notes the error of the fit, the worst of all photos."""
    with user_input("source"):
        captured = capture_album(inputs.photos, inputs.model.head, person=inputs.person)
    scores["fit_error_of_eye_distance"] = round(max(float(one.error) for one in captured), 4)
    scores["faces_in_the_photo"] = int(captured[0].landmarks.face_count)
    scores["visibility"] = [one.visibility.report() for one in captured]
    for one in captured:
        if one.note:
            print(one.note)
    return captured


def show_people(inputs: Inputs) -> np.ndarray:
    """The first photo with a number on each face, as the field `person` takes it."""
    photo, _ = split_alpha(inputs.photos[0])
    return draw_people(photo, Landmarker().people(photo))


def read_driving(inputs: Inputs, config: ReenactSettings, scores: dict) -> Motion:
    """The driver's motion, whatever it came as; notes the errors of its fit."""
    motion = inputs.driving
    if isinstance(motion, Motion):
        motion = motion.first(config.max_frames)
    else:
        with user_input("driving"), tqdm(desc="driving", unit="frame") as bar:

            def progress(done: int, total: int | None) -> None:
                bar.total = total
                bar.update(done - bar.n)

            motion = Motion.open(
                motion,
                inputs.model.head,
                max_frames=config.max_frames,
                progress=progress,
                person=inputs.driving_person,
            )
    if motion.note:
        print(motion.note)
    if motion.errors is not None:
        scores["driving_fit_error_of_eye_distance"] = round(float(np.nanmean(motion.errors)), 4)
        scores["driving_worst_fit_error"] = round(float(np.nanmax(motion.errors)), 4)
        scores["driving_frames_without_a_face"] = int(np.isnan(motion.errors).sum())
    if config.reference_frame is not None and config.reference_frame >= len(motion):
        raise UserError(
            f"config.reference_frame={config.reference_frame}: the driving has frames 0 to {len(motion) - 1}"
        )
    if config.reference_frame is None and motion.is_clip and (neutral := motion.neutral_frame):
        print(f"frame {neutral} of the driving is the most neutral and stands for the photo")
    return motion.at_rate(config.fps) if config.fps else motion


def show_driving(motion: Motion, head: HeadModel, size: int) -> Iterator[np.ndarray]:
    """Pictures (size, size, 3) of the driver; of a motion without any, the head model itself, moving."""
    if motion.pictures is not None:
        for picture in motion.pictures:
            yield pictures.resize(picture, size)
        return
    paint = jnp.asarray(vertex_paint(head))
    for index in range(len(motion)):
        yield pictures.to_picture(shade_head(head, paint, motion[index], size))


# The avatar ------------------------------------------------------------------------------------------------


def personalise(avatar: Avatar, config: ReenactSettings, scores: dict) -> Avatar:
    """The avatar fitted to its photo; notes the loss before and after."""
    losses: list[float] = []
    with tqdm(total=config.personalise_steps, desc="personalise", unit="step") as bar:

        def on_step(step: int, loss: float) -> None:
            losses.append(loss)
            bar.update()

        avatar = avatar.personalised(
            config.personalise_steps, key=jax.random.key(config.seed), on_step=on_step
        )
    if losses:
        scores["personalise_loss"] = [losses[0], losses[-1]]
    return avatar


def reference_frame(config: ReenactSettings, driving: Motion) -> int:
    """The frame of the driving that stands for the photo."""
    return driving.neutral_frame if config.reference_frame is None else config.reference_frame


def score_source(avatar: Avatar) -> float:
    """PSNR in dB of the photo's own view against the photo, in the person's alpha."""
    return round(float(jax.jit(psnr)(avatar.render().image, avatar.image(), avatar.image_alpha())), 2)


# What comes out --------------------------------------------------------------------------------------------


def write_film(
    folder: Path, avatar: Avatar, driving: Motion, config: ReenactSettings, sound: Path | None
) -> None:
    """reenactment.mp4 and its stills."""
    count = len(driving)
    stills = set(np.linspace(0, count - 1, min(config.stills, count)).round().astype(int).tolist())
    frames = avatar.drive(
        driving,
        relative=config.relative_motion,
        reference_frame=reference_frame(config, driving),
        neck_share=config.neck_share,
        strength=config.strength,
    )
    shown = zip(show_driving(driving, avatar.model.head, config.panel), frames, strict=True)
    with pictures.VideoWriter(folder / "reenactment.mp4", driving.fps, driving.edges, sound) as film:
        for index, (driver, frame) in enumerate(tqdm(shown, desc="film", unit="frame", total=count)):
            row = pictures.side_by_side((avatar.photo, driver, frame.picture), config.panel)
            film.add(row)
            if index in stills:
                pictures.save_picture(folder / f"frame_{index:04d}.png", row)


def report(config: ReenactSettings, watch: Stopwatch, scores: dict, driving: Motion) -> dict:
    """What report.json holds."""
    frames = len(driving)
    device = jax.devices()[0]
    return {
        "scores": scores,
        "seconds": watch.seconds,
        "seconds_total": round(sum(watch.seconds.values()), 3),
        "film": {
            "frames": frames,
            "fps": driving.fps,
            "seconds": round(driving.seconds, 4),
            "reference_frame": reference_frame(config, driving),
            "frames_rendered_per_second": round(frames / watch.seconds["film"], 2),
        },
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "versions": {"p4d_jax": p4d_jax.__version__, "jax": jax.__version__, "flax": flax.__version__},
        "config": to_config(config).to_dict(),
    }
