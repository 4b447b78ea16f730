"""Motion vectors of the frames that held-out people are asked for, of a network that sees motion in pictures.

Of each frame there is a true picture: of the person itself in the target and the film, of the driver where
the driver's motion is asked for. A novel view shows the source's own motion.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from p4d_jax.avatar.model import AvatarModel
from p4d_jax.avatar.motion_source import motion_of_frame
from p4d_jax.evaluation.people import DRIVEN, DRIVEN_NEUTRAL, FILM, OWN_NEUTRAL, TARGET, VIEW_YAWS, Person
from p4d_jax.types import Array, FrameParams, take


def needs_pictures(model: AvatarModel, params: FrameParams) -> bool:
    """Whether the model's motion source makes nothing of the parameters of a frame alone."""
    return model.motion_source.of_params(params) is None


def see_motion(model: AvatarModel, image: np.ndarray, params: FrameParams) -> Array:
    """(M,) the motion vector of an image (S, S, 3), of whose head the parameters are."""
    return motion_of_frame(model.motion_source, model.head, params, picture=jnp.asarray(image))


def asked_motions(model: AvatarModel, person: Person, driver: Person) -> Array | None:
    """(F, M) motion vectors of the frames `Person.asked`; None where the parameters tell them."""
    if not needs_pictures(model, person.source):
        return None
    film = [] if person.film is None else person.film.image
    # A film's frames have the shape of whose motion it is; the person in the picture has its own.
    frame = lambda index: take(person.asked, index).replace(shape=person.source.shape)
    return jnp.stack(
        [
            see_motion(model, person.clip.image[1], take(person.asked, TARGET)),
            see_motion(model, driver.clip.image[1], take(person.asked, DRIVEN)),
            see_motion(model, driver.truth.image[OWN_NEUTRAL], take(person.asked, DRIVEN_NEUTRAL)),
            *[see_motion(model, person.clip.image[0], person.source)] * len(VIEW_YAWS),
            *(see_motion(model, image, frame(FILM + index)) for index, image in enumerate(film)),
        ]
    )


def own_motions(model: AvatarModel, image: np.ndarray, params: FrameParams, count: int) -> Array | None:
    """(count, M) the motion vector of one image, for each view of it; None where the parameters tell it."""
    if not needs_pictures(model, params):
        return None
    return jnp.stack([see_motion(model, image, params)] * count)
