"""Other people of the photo that `reenact` brings to life, each by a driver of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import jax
import numpy as np

from p4d_jax.avatar.avatar import Avatar
from p4d_jax.avatar.motion import Motion
from p4d_jax.avatar.paste import PasteBack
from p4d_jax.capture.photo import Capture, capture_photo
from p4d_jax.errors import UserError
from p4d_jax.jobs._fields import user_input
from p4d_jax.jobs._inputs import Inputs, read_motion
from p4d_jax.jobs.settings import ReenactSettings
from p4d_jax.reconstructor.field import Frame


@dataclass(frozen=True)
class OtherPerson:
    """Somebody else in the photo: the avatar, where its pictures lie, and its driver's motion."""

    avatar: Avatar
    place: PasteBack
    motion: Motion

    def frames(self, edges: np.ndarray, config: ReenactSettings) -> Iterator[Frame]:
        """The person at the times of a film, (T + 1,) seconds; when the driver's motion is over, it stays."""
        return self.avatar.drive(
            self.motion.resampled(edges),
            relative=self.motion.is_clip if config.relative_motion is None else config.relative_motion,
            reference_frame=None,
            neck_share=config.neck_share,
            strength=replace(config.strength, travel=0.0),
        )


def find_people(inputs: Inputs, capture: Capture, config: ReenactSettings) -> list[tuple[Capture, Motion]]:
    """The other people that the config names, captured, each with the driver's motion.

    capture: Of the person whom the driving drives.

    Raises:
      UserError: A number is that person's, or nobody's; or a driver cannot be read.
    """
    found = []
    for number, driver in inputs.people.items():
        print(f"person {number} of the photo ...", flush=True)
        with user_input("people"):
            captured = capture_photo(inputs.photos[0], inputs.model.head, person=number)
            apart = captured.landmarks.points.mean(axis=0) - capture.landmarks.points.mean(axis=0)
            if np.linalg.norm(apart) < capture.landmarks.eye_distance:
                raise UserError(f"person {number} is whom the driving drives; name the others")
        if captured.note:
            print(captured.note)
        found.append((captured, read_motion(driver, inputs.model.head, config, "people")))
    return found


def meet_people(
    found: list[tuple[Capture, Motion]], inputs: Inputs, config: ReenactSettings
) -> list[OtherPerson]:
    """What `find_people` has found, encoded and personalised."""
    met = []
    for captured, motion in found:
        avatar = Avatar.from_captures(
            [captured],
            inputs.model,
            size=config.picture_size or None,
            samples=(config.coarse_samples, config.fine_samples),
        )
        avatar = avatar.personalised(config.personalise_steps, key=jax.random.key(config.seed))
        place = PasteBack.of(avatar, inputs.photo, captured.crop_matrix)
        met.append(OtherPerson(avatar, place, motion))
    return met
