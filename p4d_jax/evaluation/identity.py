"""Whether a result shows the person of its source: the nearest of all sources, by a description of each."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from p4d_jax.evaluation import descriptions
from p4d_jax.evaluation.case import Looks, PersonFaces, Row
from p4d_jax.head.model import HeadModel


def recognise(people: Sequence[PersonFaces], head: HeadModel) -> list[Row]:
    """Whether each person's result is nearest to its own source among all; `_truth`: the true picture.

    By embeddings where there are any, else by `descriptions.face_colors`, whose scale is learnt from the true
    sources and the true targets. Sources without a face are left out.
    """
    true, made = [one.true for one in people], [one.seen for one in people]
    described = {
        "source": _describe(true, "source"),
        "target": _describe(true, "target"),
        "_truth": _describe(true, "driven"),
        "": _describe(made, "driven"),
    }
    known = sorted(described["source"])
    both = [i for i in known if i in described["target"]]
    if not both:
        return [{} for _ in true]
    pick = lambda name, chosen: np.stack([described[name][i] for i in chosen])
    if true[known[0]]["source"].embedding is not None:
        distances = descriptions.cosine_distances
    else:
        scale = descriptions.learn_scale(pick("source", both), pick("target", both))
        distances = functools.partial(descriptions.description_distances, scale=scale)
    rows: list[Row] = [{} for _ in true]
    for suffix in ("", "_truth"):
        asked = [i for i in known if i in described[suffix]]
        if asked:
            own = np.array([known.index(i) for i in asked])
            right = descriptions.is_recognised(distances(pick(suffix, asked), pick("source", known)), own)
            for i, value in zip(asked, right, strict=True):
                rows[i][f"cross/recognised{suffix}"] = float(value)
    return rows


def _describe(people: Sequence[Looks], name: str) -> dict[int, np.ndarray]:
    """Colours or embeddings of those people whose picture `name` shows a face."""
    seen = {index: looks[name] for index, looks in enumerate(people) if looks[name] is not None}
    return {i: value.colors if value.embedding is None else value.embedding for i, value in seen.items()}
