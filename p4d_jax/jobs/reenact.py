"""The job `reenact`: a photo, or several of one person, and a motion in, a film of the head out.

What happens, in order: inputs are checked (`jobs/_inputs.py`); the photos are captured (face, parameters,
crop); the driving is captured; the avatar is encoded and personalised; every frame is rendered and goes into
the films (`jobs/_filming.py`, `jobs/_films.py`); what `exports` names is made (`jobs/_exports.py`); the
report says how long it all took, how well it fits and what is guessed (`jobs/_report.py`). The workdir gets

    reenactment.mp4   source | driving | result, with the driving's sound
    frame_*.png       stills of it
    pasted.mp4 …      what `films` names: back in the photo or in a film, films with alpha, pictures
    turntable.mp4     the head seen from left to right and back
    depth.png         distance from the camera, near is yellow
    mesh.ply, .obj    coloured surface of the head at rest
    head.glb …        what else `exports` names
    people.png        of a photo with several faces: which number each has, for `person`
    report.json       timings, scores, versions, the config, files; what is synthetic, what guessed
    report.html       the same as a page, with the films and the frames of which most is guessed

all at once at the end, or nothing.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from p4d_jax.avatar.avatar import Avatar
from p4d_jax.avatar.motion import Motion
from p4d_jax.avatar.preparing import avatar_programs, in_background
from p4d_jax.capture.album import capture_album
from p4d_jax.capture.clip import FilmCapture, capture_film
from p4d_jax.capture.landmarks import Landmarker
from p4d_jax.capture.people import draw_people
from p4d_jax.capture.photo import Capture
from p4d_jax.errors import UserError
from p4d_jax.imaging import writing as pictures
from p4d_jax.jobs._exports import named_exports
from p4d_jax.jobs._fields import user_input
from p4d_jax.jobs._filming import Surroundings, driver_programs, write_films
from p4d_jax.jobs._inputs import PARTS, Inputs, read_inputs, read_motion
from p4d_jax.jobs._people import find_people, meet_people
from p4d_jax.jobs._publish import published
from p4d_jax.jobs._report import write_reports
from p4d_jax.jobs.settings import ReenactSettings
from p4d_jax.settings import from_config
from p4d_jax.train.losses import psnr


class Stopwatch:
    """Seconds of each stage, in order; says which one is on."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
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
    size, samples = config.picture_size or None, (config.coarse_samples, config.fine_samples)
    one = len(inputs.photos) == 1  # of several the programs are others
    programs = avatar_programs(inputs.model, size=size, samples=samples) if one else []
    programs += driver_programs(inputs.model.head, inputs.driving, config.panel)
    with in_background(programs) as wait:
        with watch.stage("capture", "looking for the face and fitting the head"):
            captures = capture_source(inputs, scores)
        with watch.stage("driving", "reading the driving motion"):
            driving = read_driving(inputs, config, scores)
            scene, found = read_scene(inputs, config), find_people(inputs, captures[0], config)
        with watch.stage("compile", "waiting for the programs"):
            wait()
    with watch.stage("encode", "encoding the avatar"):
        avatar = Avatar.from_captures(captures, inputs.model, size=size, samples=samples)
        scores["psnr_head_encoded"] = score_source(avatar)
    with watch.stage("personalise", f"personalising it in {config.personalise_steps} steps"):
        avatar = personalise(avatar, config, scores)
        steps = config.personalise_steps
        scores["psnr_head_personalised"] = score_source(avatar) if steps else scores["psnr_head_encoded"]
        others = meet_people(found, inputs, config)
    around = Surroundings(inputs.photo, captures[0].crop_matrix, scene, others, inputs.sound)
    with published(workdir) as folder:
        with watch.stage("film", f"rendering {len(driving)} frames"):
            made = write_films(folder, avatar, driving, around, config)
        for name, export in named_exports(config.exports).items():
            with watch.stage(name, f"making the {name}"):
                scores |= export(avatar, folder, config, made.driving)
        if scores["faces_in_the_photo"] > 1:
            pictures.save_picture(folder / "people.png", show_people(inputs.photo))
        write_reports(folder, config, scores, watch.seconds, made, captures)
    print(f"{sum(watch.seconds.values()):.0f} s; see {workdir / 'reenactment.mp4'}")
    return avatar


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


def show_people(photo: np.ndarray) -> np.ndarray:
    """A photo with a number on each face, as the fields `person` and `people` take it."""
    return draw_people(photo, Landmarker().people(photo))


def read_driving(inputs: Inputs, config: ReenactSettings, scores: dict) -> Motion:
    """The driver's motion, with the parts that others drive; notes the errors of its fit."""
    head = inputs.model.head
    motion = read_motion(inputs.driving, head, config, "driving", inputs.driving_person)
    if motion.errors is not None:
        scores["driving_fit_error_of_eye_distance"] = round(float(np.nanmean(motion.errors)), 4)
        scores["driving_worst_fit_error"] = round(float(np.nanmax(motion.errors)), 4)
        scores["driving_frames_without_a_face"] = int(np.isnan(motion.errors).sum())
    for field, driver in inputs.parts.items():
        with user_input(field):
            motion = motion.mixed(**{PARTS[field]: read_motion(driver, head, config, field)})
    if config.reference_frame is not None and config.reference_frame >= len(motion):
        raise UserError(
            f"config.reference_frame={config.reference_frame}: the driving has frames 0 to {len(motion) - 1}"
        )
    if config.reference_frame is None and motion.is_clip and (neutral := motion.neutral_frame):
        print(f"frame {neutral} of the driving is the most neutral and stands for the photo")
    return motion.at_rate(config.fps) if config.fps else motion


def read_scene(inputs: Inputs, config: ReenactSettings) -> FilmCapture | None:
    """The film that the head is pasted into, captured; None for the photo."""
    if inputs.into is None:
        return None
    with user_input("paste_into"):
        scene = capture_film(inputs.into, inputs.model.head, max_frames=config.max_frames)
    if scene.note:
        print(scene.note)
    return scene


# The avatar ------------------------------------------------------------------------------------------------


def personalise(avatar: Avatar, config: ReenactSettings, scores: dict) -> Avatar:
    """The avatar fitted to its photo; notes the loss before and after."""
    if not config.personalise_steps:
        return avatar
    losses: list[float] = []
    with tqdm(total=config.personalise_steps, desc="personalise", unit="step") as bar:

        def on_step(step: int, loss: float) -> None:
            losses.append(loss)
            bar.update()

        avatar = avatar.personalised(
            config.personalise_steps, key=jax.random.key(config.seed), on_step=on_step
        )
    scores["personalise_loss"] = [losses[0], losses[-1]]
    return avatar


def score_source(avatar: Avatar) -> float:
    """PSNR in dB of the photo's own view against the photo, in the person's alpha."""
    return round(float(jax.jit(psnr)(avatar.render().image, avatar.image(), avatar.image_alpha())), 2)
