"""The evaluators of held-out people, by name. A new one is one function and its line in `EVALUATORS`.

An evaluator of one person takes a `Case`, all pictures of a person, and yields (name, value); one of all
people takes what is kept of each, the faces, and the head model, and returns a row a person. Names are
`part/measure`; docs/howto/evaluate.md defines every one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from p4d_jax.evaluation.case import Case, PersonFaces, Row
from p4d_jax.evaluation.expression import compare_expressions, expression_ratios
from p4d_jax.evaluation.fits import compare_fits
from p4d_jax.evaluation.flicker import compare_films
from p4d_jax.evaluation.identity import recognise
from p4d_jax.evaluation.landmarks import compare_landmarks
from p4d_jax.evaluation.pictures import compare_pictures, compare_views
from p4d_jax.head.model import HeadModel


@dataclass(frozen=True)
class Evaluator:
    """One of the two functions, and what it adds to the report.

    Attributes:
      of_person: Case -> (name, value) pairs.
      of_all: (faces of all people, head model) -> a row of each person.
      summary: All rows -> entries of the report beside the means of each name.
    """

    of_person: Callable[[Case], Iterable[tuple[str, float]]] | None = None
    of_all: Callable[[Sequence[PersonFaces], HeadModel], list[Row]] | None = None
    summary: Callable[[Sequence[Row]], dict[str, dict]] | None = None


EVALUATORS = {
    "pictures": Evaluator(of_person=compare_pictures),
    "views": Evaluator(of_person=compare_views),
    "flicker": Evaluator(of_person=compare_films),
    "landmarks": Evaluator(of_person=compare_landmarks),
    "expression": Evaluator(of_all=compare_expressions, summary=expression_ratios),
    "fits": Evaluator(of_all=compare_fits),
    "identity": Evaluator(of_all=recognise),
}
