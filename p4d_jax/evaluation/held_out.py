"""What a reconstructor makes of held-out people, measured: what the job `evaluate` and training share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from p4d_jax.avatar.avatar import Avatar
from p4d_jax.avatar.model import AvatarModel
from p4d_jax.capture.outside import alpha_of_picture
from p4d_jax.errors import find_named
from p4d_jax.evaluation.case import Case, Looks, PersonFaces, Row
from p4d_jax.evaluation.evaluators import EVALUATORS, Evaluator
from p4d_jax.evaluation.facts import about_person
from p4d_jax.evaluation.flicker import MIN_FRAMES
from p4d_jax.evaluation.looks import PictureNetworks, made_faces, true_faces
from p4d_jax.evaluation.motions import asked_motions
from p4d_jax.evaluation.people import Person, draw_people, film_motion
from p4d_jax.evaluation.summary import summarise
from p4d_jax.head.model import HeadModel
from p4d_jax.imaging.writing import to_picture
from p4d_jax.train.devices import local
from p4d_jax.train.state import TrainState
from p4d_jax.types import Array, FrameParams

IN_TRAINING = ("pictures", "views", "landmarks", "expression")


@dataclass(frozen=True)
class Rays:
    """How pictures are rendered.

    Attributes:
      resolution: Rays a side; None is what the network was made for.
      samples: Coarse and fine samples a ray.
    """

    resolution: int | None = None
    samples: tuple[int, int] = (16, 16)


@dataclass(frozen=True)
class Subject:
    """A person to be measured.

    Attributes:
      person: Who it is.
      driver: Who drives it.
      true: Looks at the true pictures, by the names of `looks.true_faces`.
      alpha: (S, S, 1) in [0, 1], the person in the source picture as capture finds it.
    """

    person: Person
    driver: Person
    true: Looks
    alpha: np.ndarray


def pair_with_drivers(people: Iterable[Person]) -> Iterator[tuple[Person, Person]]:
    """Each person with the next, who drives it, the last with the first; no more than three are kept."""
    people = iter(people)
    first = previous = next(people)
    for person in people:
        yield previous, person
        previous = person
    yield previous, first


def draw_subjects(people: Iterable[Person], networks: PictureNetworks, head: HeadModel) -> Iterator[Subject]:
    """Subjects one after another. head: the head model of their parameters."""
    for person, driver in pair_with_drivers(people):
        picture = to_picture(person.clip.image[0])
        alpha = alpha_of_picture(picture, head, person.source, networks.segmenter)
        yield Subject(person, driver, true_faces(networks, person), alpha[..., None])


def reenact(
    model: AvatarModel,
    source: np.ndarray,
    params: FrameParams,
    frames: FrameParams,
    motions: Array | None = None,
    rays: Rays = Rays(),
    alpha: np.ndarray | None = None,
) -> np.ndarray:
    """Pictures (F, S, S, 3) of a source image (S, S, 3) with its parameters.

    Args:
      frames: What is asked for, leading axis F.
      motions: (F, M) its motion vectors; None lets the parameters tell them.
      alpha: (S, S, 1) in [0, 1], the person in the source; None leaves it to the network.
    """
    images, each = jax.tree.map(lambda x: jnp.asarray(x)[None], (source, params))
    alphas = None if alpha is None else jnp.asarray(alpha)[None]
    avatar = Avatar.encode(
        model, images, each, alphas=alphas, resolution=rays.resolution, samples=rays.samples
    )
    return np.asarray(avatar.render_many(frames, motions))


def measure(
    model: AvatarModel,
    subjects: Iterable[Subject],
    evaluators: Sequence[Evaluator],
    networks: PictureNetworks,
    rays: Rays,
    on_made: Callable[[Subject, np.ndarray], None] | None = None,
) -> list[Row]:
    """A row a person: what all evaluators say of it, and facts of its frames.

    Pictures of one person at a time are in memory; what is kept of all are the faces.

    Args:
      on_made: Called with each subject and what the model made of it.
    """
    rows, faces = [], []
    of_all = [one.of_all for one in evaluators if one.of_all is not None]
    for subject in subjects:
        person = subject.person
        motions = asked_motions(model, person, subject.driver)
        made = reenact(model, person.clip.image[0], person.source, person.asked, motions, rays, subject.alpha)
        case = Case(person, made, subject.true, made_faces(networks, made), networks)
        row = about_person(person, model.head.expression_names)
        for evaluator in evaluators:
            if evaluator.of_person is not None:
                row |= dict(evaluator.of_person(case))
        rows.append(row)
        if of_all:
            faces.append(PersonFaces(dict(case.true), dict(case.seen)))
        if on_made is not None:
            on_made(subject, made)
    for evaluate in of_all:
        for row, more in zip(rows, evaluate(faces, model.head), strict=True):
            row |= more
    return rows


def build_evaluator(
    model: AvatarModel,
    *,
    people: int = 8,
    seed: int = 0,
    set_name: str = "held_out",
    names: Sequence[str] = IN_TRAINING,
    rays: Rays = Rays(),
) -> Callable[[TrainState], dict[str, float]]:
    """A function for every n steps of training: state -> means of the measures, by name, of the average.

    The people are drawn and looked at once, here; a call makes six pictures a person. Its numbers are those
    of the job `evaluate` for as many people.

    Args:
      model: Network, head model and motion source; its weights are those of the state.
      people: How many.
      seed: Of who they are.
      set_name: One of `openheads.sets.SETS`.
      names: Of the evaluators, in `evaluators.EVALUATORS`.

    Raises:
      UserError: There is no such evaluator.
    """
    evaluators = list(find_named(EVALUATORS, names, "evaluator").values())
    networks = PictureNetworks()
    frames = MIN_FRAMES if "flicker" in names else 0
    size, motion = model.config.picture_size, film_motion(model.head)
    drawn = draw_people(model.head, size, set_name, seed, people, motion, frames)
    subjects = list(draw_subjects(drawn, networks, model.head))

    def evaluate(state: TrainState) -> dict[str, float]:
        variables = local({"params": state.average, "buffers": state.buffers})
        rows = measure(model.replace(variables=variables), subjects, evaluators, networks, rays)
        return {name: value["mean"] for name, value in summarise(rows, evaluators).items()}

    return evaluate
