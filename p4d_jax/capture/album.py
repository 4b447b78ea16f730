"""Several photos of one person: a crop, alpha and parameters each, and one shape for all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from p4d_jax.capture.clip import shared_shape
from p4d_jax.capture.fit import fit_photo
from p4d_jax.capture.landmark_head import bake_shape, landmark_head
from p4d_jax.capture.landmarks import LandmarkDetector, Landmarker
from p4d_jax.capture.people import Person
from p4d_jax.capture.photo import (
    Capture,
    capture_photo,
    find_face,
    finish_capture,
    open_photo,
    photo_name,
    turned_targets,
)
from p4d_jax.head.model import HeadModel


def capture_album(
    images: Sequence[np.ndarray | str | Path],
    head: HeadModel,
    landmarker: LandmarkDetector | None = None,
    *,
    person: Person | None = None,
) -> list[Capture]:
    """Photos of one person -> a `Capture` each, with the mean of the shapes that they give by themselves.

    One photo is `capture_photo`. Whether it is one person is not checked.

    Args:
      images: Paths, or arrays uint8 (H, W, 3).
      head: The head model that is fitted.
      landmarker: A landmark detector to use again; None makes one.
      person: Who is meant in the first photo, see `capture_photo`; in the others it is the largest face.

    Raises:
      UserError: A photo cannot be read, shows no face, or too small a one.
    """
    landmarker = landmarker or Landmarker()
    if len(images) == 1:
        return [capture_photo(images[0], head, landmarker, person=person)]
    photos = [open_photo(image) for image in images]
    names = [album_name(image, place, len(images)) for place, image in enumerate(images)]
    meant = [person, *[None] * (len(photos) - 1)]
    faces = [
        find_face(photo, name, landmarker, who) for photo, name, who in zip(photos, names, meant, strict=True)
    ]
    targets = [turned_targets(*face) for face in faces]
    small = landmark_head(head)
    shape = shared_shape(small, targets)
    baked = bake_shape(small, shape)
    captures = []
    for photo, name, face, target, who in zip(photos, names, faces, targets, meant, strict=True):
        fit = fit_photo(baked, *target).replace(shape=shape)
        captures.append(finish_capture(photo, head, *face, fit, name, who))
    return captures


def album_name(image: np.ndarray | str | Path, place: int, count: int) -> str:
    """What messages call a photo among others: its path, or its place."""
    return photo_name(image) if isinstance(image, str | Path) else f"photo {place + 1} of {count}"
