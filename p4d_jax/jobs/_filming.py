"""Renders the films of `reenact`: each frame once, for all that the config names."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from p4d_jax.avatar.avatar import Avatar
from p4d_jax.avatar.guessed import guessed_shares
from p4d_jax.avatar.motion import Motion
from p4d_jax.avatar.paste import PasteBack
from p4d_jax.capture.clip import FilmCapture
from p4d_jax.head.model import HeadModel
from p4d_jax.head.shading import shade_head, vertex_paint
from p4d_jax.imaging import writing as pictures
from p4d_jax.imaging.reading import split_alpha
from p4d_jax.imaging.video import open_video
from p4d_jax.jobs._fields import parse_names
from p4d_jax.jobs._films import Film, Kept, Panels, Show, named_films
from p4d_jax.jobs._people import OtherPerson
from p4d_jax.jobs._report import Made
from p4d_jax.jobs.settings import ReenactSettings

WORST = 3  # frames of which most is guessed, in the report


@dataclass(frozen=True)
class Surroundings:
    """What a head is shown in, and with what.

    Attributes:
      photo: (H, W, 3) uint8 that it was made of.
      crop_matrix: (2, 3) of the photo's capture.
      scene: The film that is pasted into, captured; None for the photo.
      others: Other people in the photo.
      sound: The film whose sound goes along, or None.
    """

    photo: np.ndarray
    crop_matrix: np.ndarray
    scene: FilmCapture | None
    others: list[OtherPerson]
    sound: Path | None


def write_films(
    folder: Path,
    avatar: Avatar,
    driving: Motion,
    around: Surroundings,
    config: ReenactSettings,
) -> Made:
    """reenactment.mp4, its stills and the films that the config names.

    Args:
      folder: Where they are written.
      avatar: Whose head they show.
      driving: How it moves.
      around: What they show it in.
      config: Of the job.
    """
    films, strength, place = {"panels": Panels} | named_films(config.films), config.strength, None
    photos: Iterable[np.ndarray | None] = itertools.repeat(None)
    if "pasted" in films:  # shoulders are the photo's, and the head stays on them
        place, strength = PasteBack.of(avatar, around.photo, around.crop_matrix), replace(strength, travel=0)
    reference = driving.neutral_frame if config.reference_frame is None else config.reference_frame
    if (scene := around.scene) is not None:
        moment, driving = driving.times[reference], at_times_of(driving, scene)
        reference = int(np.abs(driving.times - moment).argmin())
        place = place.into_film(scene.crop_matrix)
        photos = (split_alpha(frame.picture)[0] for frame in open_video(scene.source))
    how = {
        "relative": driving.is_clip if config.relative_motion is None else config.relative_motion,
        "reference_frame": reference,
        "neck_share": config.neck_share,
        "strength": strength,
        "at": None if scene is None else scene.params,
    }
    count, edges = len(driving), np.append(driving.times, driving.seconds)
    show = Show(
        folder=folder,
        avatar=avatar,
        fps=driving.fps,
        edges=edges,
        stills=frozenset(np.linspace(0, count - 1, min(config.stills, count)).round().astype(int).tolist()),
        panel=config.panel,
        marks=tuple(parse_names(config.watermark)),
        sound=around.sound,
        place=place,
        others=tuple((one.place, one.frames(edges, config)) for one in around.others),
    )
    guessed = guessed_shares(avatar, avatar.retarget(driving.params, **how))
    kept = Kept(show, worst_frames(guessed))
    frames = avatar.drive(driving, **how)
    drivers = show_driving(driving, avatar.model.head, config.panel)
    with contextlib.ExitStack() as opened:
        made: list[Film] = [kept]
        for film in films.values():
            made.append(film(show))
            opened.callback(made[-1].close)
        shown = zip(range(count), frames, drivers, photos, strict=False)
        for one in tqdm(shown, desc="film", unit="frame", total=count):
            for film in made:
                film.add(*one)
    return Made(driving, reference, guessed, kept.rows, around.sound is not None)


def worst_frames(guessed: np.ndarray) -> list[int]:
    """Numbers, ascending, of some frames of which most (T,) is guessed, none next to another."""
    apart, worst = len(guessed) / (2 * WORST), []
    for index in np.argsort(-guessed, kind="stable").tolist():
        if len(worst) < WORST and all(abs(index - other) >= apart for other in worst):
            worst.append(index)
    return sorted(worst)


def at_times_of(driving: Motion, scene: FilmCapture) -> Motion:
    """The driving at the times of the frames of a film, as long as the shorter of the two."""
    edges = scene.edges - scene.edges[0]
    if len(driving) > 1:
        edges = edges[: max(1, int(np.searchsorted(edges[:-1], driving.seconds - 1e-6))) + 1]
    return driving.resampled(edges)


def driver_programs(head: HeadModel, driving: Motion | Path, size: int) -> list[Callable[[], object]]:
    """What compiles, in any thread, the programs of `show_driving`."""
    if not isinstance(driving, Motion):
        return []
    return [lambda: shade_head.lower(head, vertex_paint(head), driving[0], size).compile()]


def show_driving(motion: Motion, head: HeadModel, size: int) -> Iterator[np.ndarray]:
    """Pictures (size, size, 3) of the driver; of a motion without any, the head model itself, moving."""
    if motion.pictures is not None:
        for picture in itertools.islice(motion.pictures, len(motion)):
            yield pictures.resize(picture, size)
        return
    paint = jax.device_put(vertex_paint(head))
    for index in range(len(motion)):
        yield pictures.to_picture(shade_head(head, paint, motion[index], size))
