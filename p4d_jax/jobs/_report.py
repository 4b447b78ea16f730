"""What `reenact` says of a run: report.json, and the same as a page, report.html."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import flax
import jax
import numpy as np

import p4d_jax
from p4d_jax.avatar.motion import Motion
from p4d_jax.capture.photo import Capture
from p4d_jax.jobs._page import write_page
from p4d_jax.jobs._publish import write_report
from p4d_jax.jobs.settings import ReenactSettings
from p4d_jax.settings import to_config


@dataclass(frozen=True)
class Made:
    """The films of a run.

    Attributes:
      driving: The motion that they show.
      reference_frame: The frame of it that stands for the photo.
      guessed: (T,) in [0, 1], see `guessed_shares`.
      worst: (H, W, 3) uint8 panels of the frames of which most is guessed, by their numbers.
      sound: Whether they have sound.
    """

    driving: Motion
    reference_frame: int
    guessed: np.ndarray
    worst: dict[int, np.ndarray]
    sound: bool


def write_reports(
    folder: Path,
    config: ReenactSettings,
    scores: dict,
    seconds: dict[str, float],
    made: Made,
    captures: list[Capture],
) -> None:
    """report.json and report.html; scores and seconds of each stage go in as they are."""
    frames, device = len(made.driving), jax.devices()[0]
    about = {
        "scores": scores,
        "seconds": seconds,
        "seconds_total": round(sum(seconds.values()), 3),
        "film": {
            "frames": frames,
            "fps": made.driving.fps,
            "seconds": round(made.driving.seconds, 4),
            "reference_frame": made.reference_frame,
            "frames_rendered_per_second": round(frames / seconds["film"], 2),
        },
        "synthetic": said_of_synthesis(config, made),
        "guessed": {
            "share_of_frames": [round(float(share), 4) for share in made.guessed],
            "said": said_of_guesses(made, captures),
        },
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "versions": {"p4d_jax": p4d_jax.__version__, "jax": jax.__version__, "flax": flax.__version__},
        "config": to_config(config).to_dict(),
    }
    write_page(folder / "report.html", about, made.worst)
    write_report(folder, about)


def said_of_synthesis(config: ReenactSettings, made: Made) -> list[str]:
    """Sentences on what in the files of a run nobody has photographed or recorded."""
    return [
        "Every picture of the head in every film is synthetic: a network rendered it from the source, with"
        " the motion of somebody else, or of nobody.",
        f"Marks in the pictures: {config.watermark or 'none'}.",
        "The sound is the driving's." if made.sound else "There is no sound.",
    ]


def said_of_guesses(made: Made, captures: list[Capture]) -> list[str]:
    """Sentences on what the films show and the photo does not."""
    said = [
        f"Of the head that a frame shows, the first photo does not show {made.guessed.mean():.0%}"
        f" on average, and {made.guessed.max():.0%} in the worst frame: it is taken from other photos, or"
        " guessed from what is near.",
        "Teeth and tongue that no photo shows are drawn as those of an average mouth; the background that the"
        " head hid is filled smoothly.",
    ]
    if (beyond := 1 - float(np.mean(captures[0].known))) > 0.001:
        said.append(f"The photo ends in the picture: {beyond:.0%} of the head's square continue it.")
    notes = [*(one.note for one in captures), made.driving.note]
    return said + [note for note in notes if note]
