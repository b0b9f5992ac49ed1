"""Turns a `Query` into words: one canonical form for reasoning, several paraphrases for asking."""

import numpy as np

from pixelthink_jax.data.shapes.queries import Description, Query

_RELATION_WORDS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "higher than"),
    "below": ("below", "lower than"),
}
_ORDER_WORDS = {
    "leftmost": "furthest to the left",
    "rightmost": "furthest to the right",
    "highest": "highest up",
    "lowest": "lowest down",
}


def canonical(query: Query) -> str:
    """The plain wording of a question, without a full stop.

    >>> canonical(Query(Description(colour="red"), superlative="largest"))
    'the largest red shape'
    """
    return _phrases(query)[0]


def ask(query: Query, rng: np.random.Generator) -> str:
    """One of the paraphrases of a question."""
    phrases = _phrases(query)
    return phrases[int(rng.integers(len(phrases)))]


def _phrases(query: Query) -> list[str]:
    """All wordings of a question, the canonical one first."""
    words = query.description.words
    if query.odd is not None:
        return [
            f"the only {words} whose {query.odd} appears once",
            f"the {words} with a {query.odd} that no other shape has",
        ]
    if query.between is not None and query.anchor is not None:
        return [f"the {words} between {query.anchor.words} and the {query.between.words}"]
    if query.superlative == "closest" and query.anchor is not None:
        return [f"the {words} closest to {query.anchor.words}"]
    links = _links(query)
    if query.superlative is not None:
        plain = f"the {query.superlative} {words}"
        if links:
            return [f"{plain} {link}" for link in links]
        late = _ORDER_WORDS.get(query.superlative, f"the {query.superlative}")
        return [plain, f"the {words} that is {late}"]
    if links:
        other = "other " if query.same else ""
        late = f"the {words} that {'is' if query.relation else 'comes'} {links[-1]}"
        return [*(f"the {other}{words} {link}" for link in links), *([late] if query.relation else [])]
    return [f"the {words}", words, *_described(query.description)]


def _links(query: Query) -> list[str]:
    """The part of a question that ties its answer to the anchor."""
    if query.anchor is None:
        return []
    if query.relation is not None:
        return [f"{words} {query.anchor.words}" for words in _RELATION_WORDS[query.relation]]
    return [
        f"with the same {query.same} as {query.anchor.words}",
        f"that shares its {query.same} with {query.anchor.words}",
    ]


def _described(description: Description) -> list[str]:
    """A relative clause instead of adjectives, where there is a colour to put into it."""
    if description.colour is None:
        return []
    rest = Description(size=description.size, kind=description.kind).words
    return [f"the {rest} that is {description.colour}"]
