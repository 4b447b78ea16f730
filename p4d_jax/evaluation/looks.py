"""Looks at pictures by networks of others: landmarks of faces, embeddings, a perceptual distance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from p4d_jax.capture.landmarks import Landmarker, Landmarks
from p4d_jax.capture.segmentation import Segmenter
from p4d_jax.errors import UserError
from p4d_jax.evaluation.descriptions import arcface_points, crop_for_arcface, face_colors
from p4d_jax.evaluation.people import DRIVEN, DRIVEN_NEUTRAL, OWN_NEUTRAL, TARGET, UNCHANGED, Person
from p4d_jax.imaging.writing import to_picture
from p4d_jax.networks.arcface import IResNet
from p4d_jax.networks.lpips import LPIPS, ConvShape, Stage
from p4d_jax.train.network_folder import load_converted
from p4d_jax.types import Array

DETECTION_SIZE = 384  # pixels; small pictures are enlarged to it for the landmark networks
LOOKS = 17  # at each face, whose mean errs a third less than one


@dataclass(frozen=True)
class PictureNetworks:
    """What looks at pictures.

    Attributes:
      landmarker: Finds faces.
      segmenter: Tells people from the background.
      lpips: (image, target) -> distance; None where there are no weights.
      embed: (image, landmarks (468, 2)) -> embedding; None where there are no weights.
    """

    landmarker: Landmarker = field(default_factory=Landmarker)
    segmenter: Segmenter = field(default_factory=Segmenter)
    lpips: Callable[[Array, Array], Array] | None = None
    embed: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True)
class Look:
    """What is kept of one picture.

    Attributes:
      landmarks: Of its face, in pixels of the enlarged picture.
      colors: `descriptions.face_colors`.
      embedding: Of its face, or None without a network for it.
    """

    landmarks: Landmarks
    colors: np.ndarray
    embedding: np.ndarray | None


def enlarge(picture: np.ndarray) -> np.ndarray:
    """A picture at the size in which landmarks are looked for, so that the detector's own does not matter."""
    return np.asarray(Image.fromarray(picture).resize((DETECTION_SIZE,) * 2, Image.BICUBIC))


def detect(landmarker: Landmarker, picture: np.ndarray) -> Landmarks | None:
    """Landmarks of a small picture, in pixels of the enlarged one."""
    return landmarker.detect(enlarge(picture), looks=LOOKS)


def look(networks: PictureNetworks, image: np.ndarray) -> Look | None:
    """What is kept of an image (S, S, 3) in [-1, 1]; None where it shows no face."""
    large = enlarge(to_picture(image))
    landmarks = networks.landmarker.detect(large, looks=LOOKS)
    if landmarks is None:
        return None
    embedding = None if networks.embed is None else networks.embed(large / 127.5 - 1.0, landmarks.points)
    return Look(landmarks, face_colors(large, landmarks.points), embedding)


class Faces(Mapping):
    """Looks at named images; each is looked at once, when first asked for, and then forgotten."""

    def __init__(self, networks: PictureNetworks, images: dict[str, np.ndarray]):
        self._networks, self._images, self._found = networks, dict.fromkeys(images), {}
        self._images.update(images)

    def __getitem__(self, name: str) -> Look | None:
        if name not in self._found:
            self._found[name] = look(self._networks, self._images[name])
            self._images[name] = None
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._images)

    def __len__(self) -> int:
        return len(self._images)


def true_faces(networks: PictureNetworks, person: Person) -> Faces:
    """The true pictures that others are compared with."""
    images = {
        "source": person.clip.image[0],
        "target": person.clip.image[1],
        "own_neutral": person.truth.image[OWN_NEUTRAL],
        "driven": person.truth.image[DRIVEN],
        "neutral": person.truth.image[DRIVEN_NEUTRAL],
        "unchanged": person.truth.image[UNCHANGED],
    }
    return Faces(networks, images)


def made_faces(networks: PictureNetworks, made: np.ndarray) -> Faces:
    """The same of the model's pictures (F, S, S, 3)."""
    places = {"self": TARGET, "driven": DRIVEN, "neutral": DRIVEN_NEUTRAL}
    return Faces(networks, {name: made[place] for name, place in places.items()})


# Networks with outside weights -----------------------------------------------------------------------------


def load_lpips(folder: str) -> Callable[[Array, Array], Array]:
    """LPIPS from a folder that the job `convert` made: (image, target) -> distance.

    Raises:
      UserError: The folder holds no such network.
    """
    name, config, variables = load_converted(folder)
    if not name.startswith("lpips"):
        raise UserError(f"lpips={folder!r} holds the network {name!r}; give lpips_vgg or lpips_alex")
    stages = tuple(
        Stage(tuple(ConvShape(**shape) for shape in stage["convs"]), stage["pool"])
        for stage in config["stages"]
    )
    network = LPIPS(stages)
    apply = jax.jit(lambda image, target: network.apply(variables, image[None], target[None])[0])
    return lambda image, target: apply(jnp.asarray(image), jnp.asarray(target))


def load_arcface(folder: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """ArcFace from a folder that the job `convert` made: (image, landmarks) -> embedding (E,).

    Raises:
      UserError: The folder holds no such network.
    """
    name, config, variables = load_converted(folder)
    if not name.startswith("arcface"):
        raise UserError(f"arcface={folder!r} holds the network {name!r}; give arcface50 or arcface18")
    network = IResNet(**{key: tuple(v) if isinstance(v, list) else v for key, v in config.items()})
    apply = jax.jit(lambda crop: network.apply(variables, crop[None])[0])
    crop = jax.jit(crop_for_arcface)

    def embed(image: np.ndarray, points: np.ndarray) -> np.ndarray:
        five = jnp.asarray(arcface_points(points), jnp.float32)
        return np.asarray(apply(crop(jnp.asarray(image, jnp.float32), five)))

    return embed
