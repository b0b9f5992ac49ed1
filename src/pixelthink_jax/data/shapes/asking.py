"""Proposes questions about a scene: each structure of a level, with attributes taken from the scene."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from pixelthink_jax.data.shapes.queries import (
    RELATIONS,
    SUPERLATIVES,
    Anchor,
    Description,
    Query,
    Trace,
    resolve,
)
from pixelthink_jax.data.shapes.scene import SceneGraph

ATTRIBUTES = ("colour", "kind")
ANYTHING = Description()


class Descriptions:
    """The descriptions a scene offers.

    Attributes:
        single: Descriptions that fit exactly one object.
        unique: Shortest descriptions that fit exactly one object: no attribute in them is superfluous.
        plain: Colour, kind, both or neither.
        loose: A colour or a kind or neither: descriptions that often fit several objects.
    """

    def __init__(self, graph: SceneGraph):
        """Collect the descriptions of a scene, in a fixed order."""
        shapes = [item.shape for item in graph.objects]
        # Each object offers each description that fits it once, so the counts say how many objects a description fits.
        fits = Counter(d for shape in shapes for d in _parts(shape.size, shape.colour, shape.kind))
        self.single = [Description(*d) for d, count in fits.items() if count == 1]
        self.unique = [
            Description(*d)
            for d, count in fits.items()
            if count == 1 and not any(fits[part] == 1 for part in _parts(*d) if part != d)
        ]
        self.plain = [Description(*d) for d in fits if d[0] is None]
        self.loose = [d for d in self.plain if d.colour is None or d.kind is None]


def _parts(size: str | None, colour: str | None, kind: str | None) -> dict[tuple[str | None, ...], None]:
    """What is left of a description when any of its attributes are left free."""
    return dict.fromkeys(product((None, size), (None, colour), (None, kind)))


Structure = tuple[Callable[[Descriptions], tuple[Sequence[Any], ...]], Callable[..., Query]]
"""What the parts of a question are drawn from, and how they make a question."""

# In the order of the docstring of `BY_LEVEL`.
ATTRIBUTE: Structure = (lambda d: (d.unique,), Query)
RELATION: Structure = (
    lambda d: (d.plain, d.unique, tuple(RELATIONS)),
    lambda what, anchor, place: Query(what, Anchor(anchor), relation=place),
)
SUPERLATIVE: Structure = (
    lambda d: (d.loose, SUPERLATIVES),
    lambda what, word: Query(what, superlative=word),
)
SAME_TO_SUPERLATIVE: Structure = (
    lambda d: (d.loose, SUPERLATIVES, ATTRIBUTES),
    lambda anchor, word, attribute: Query(ANYTHING, Anchor(anchor, word), same=attribute),
)
RELATION_TO_SUPERLATIVE: Structure = (
    lambda d: (d.loose, d.loose, SUPERLATIVES, tuple(RELATIONS)),
    lambda what, anchor, word, place: Query(what, Anchor(anchor, word), relation=place),
)
SUPERLATIVE_OF_RELATION: Structure = (
    lambda d: (d.loose, d.unique, SUPERLATIVES, tuple(RELATIONS)),
    lambda what, anchor, word, place: Query(what, Anchor(anchor), relation=place, superlative=word),
)
SUPERLATIVE_OF_SAME: Structure = (
    lambda d: (d.unique, SUPERLATIVES, ATTRIBUTES),
    lambda anchor, word, attribute: Query(ANYTHING, Anchor(anchor), same=attribute, superlative=word),
)
ODD_ONE_OUT: Structure = (lambda d: (ATTRIBUTES,), lambda attribute: Query(ANYTHING, odd=attribute))
CLOSEST: Structure = (
    lambda d: (d.loose, d.unique),
    lambda what, anchor: Query(what, Anchor(anchor), superlative="closest"),
)
BETWEEN: Structure = (
    lambda d: (d.loose, d.unique, d.unique),
    lambda what, first, second: Query(what, Anchor(first), between=second),
)
RELATION_TO_SAME: Structure = (
    lambda d: (d.loose, d.unique, ATTRIBUTES, tuple(RELATIONS)),
    lambda what, other, like, place: Query(what, Anchor(ANYTHING, like=like, other=other), relation=place),
)

BY_LEVEL: dict[str, tuple[Structure, ...]] = {
    "easy": (ATTRIBUTE,),
    "medium": (RELATION, SUPERLATIVE),
    "hard": (
        SAME_TO_SUPERLATIVE,
        RELATION_TO_SUPERLATIVE,
        SUPERLATIVE_OF_RELATION,
        SUPERLATIVE_OF_SAME,
        ODD_ONE_OUT,
    ),
}
"""Question structures of each level in training.

Easy: `the small blue star`. Medium: `the star left of the green square`, `the largest red shape`. Hard: `the
other shape with the same colour as the largest circle`, `the star left of the largest circle`, `the smallest
shape right of the blue ring`, `the highest shape with the same kind as the red star`, `the only shape whose
colour appears once`.
"""

HELD_OUT: dict[str, tuple[Structure, ...]] = {"medium": (CLOSEST, BETWEEN), "hard": (RELATION_TO_SAME,)}
"""Question structures that only the out-of-distribution split asks.

Medium: `the star closest to the green square`, `the shape between the red circle and the blue star`. Hard:
`the star left of the other shape with the same colour as the green square`.
"""


def propose(
    structure: Structure, graph: SceneGraph, rng: np.random.Generator, *, tries: int = 40
) -> Iterator[tuple[Query, Trace]]:
    """Random questions of one structure with one clear answer and no idle part, from `tries` draws."""
    parts, build = structure
    axes = parts(Descriptions(graph))
    if not all(axes):
        return
    for draw in rng.random((tries, len(axes))).tolist():
        query = build(*(axis[int(u * len(axis))] for axis, u in zip(axes, draw, strict=True)))
        trace = resolve(query, graph)
        if trace is not None and worthwhile(query, trace, graph):
            yield query, trace


def worthwhile(query: Query, trace: Trace, graph: SceneGraph) -> bool:
    """Whether every step of a question matters: without it the answer would be another, or unclear."""
    if query.odd or query.type == "attributes":
        return True
    if len(trace.candidates) < 2:
        return False
    if query.relation or query.same or query.between:
        if len(trace.linked) == len(trace.candidates):
            return False
        if query.superlative:
            bare = resolve(Query(query.description, superlative=query.superlative), graph)
            return bare is None or bare.answer != trace.answer
    return True
