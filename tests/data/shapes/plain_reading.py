"""A second reading of the questions, from their words alone: shares no code with the package."""

import re
from dataclasses import dataclass

import numpy as np

_SIZES, _COLOURS = {"small", "large"}, {"red", "green", "blue", "yellow", "purple", "orange"}
_SUPERLATIVES = {
    "largest": ("width", 1),
    "smallest": ("width", -1),
    "leftmost": ("x", -1),
    "rightmost": ("x", 1),
    "highest": ("y", -1),
    "lowest": ("y", 1),
}
_LATE = {
    "furthest to the left": "leftmost",
    "furthest to the right": "rightmost",
    "highest up": "highest",
    "lowest down": "lowest",
    "the largest": "largest",
    "the smallest": "smallest",
}
_RELATION = re.compile(
    r"^(?P<head>.*?)(?: that is)? "
    r"(?P<word>(?:to the )?left of|(?:to the )?right of|above|below|higher than|lower than) "
    r"(?P<anchor>the .*)$"
)
_SAME = re.compile(
    r"^(?P<head>.*?) (?:with the same|that shares its) (?P<name>colour|kind) (?:as|with) (?P<anchor>the .*)$"
)


@dataclass(frozen=True)
class Seen:
    """What can be read off one object's mask, and its attributes.

    Middle and width of its extent are in 840ths of the picture's sides; `centre` is the drawn one in pixels.
    """

    index: int
    size: str
    colour: str
    kind: str
    x: float
    y: float
    width: float
    centre: tuple[float, float]


def look(graph) -> list[Seen]:
    """Measures every object of a scene graph on its mask."""
    seen = []
    for index, item in enumerate(graph.objects):
        rows, columns = np.nonzero(graph.mask(index))
        height, wide = graph.mask(index).shape
        x, y = (columns.min() + columns.max()) * 420 / wide, (rows.min() + rows.max()) * 420 / height
        shape = item.shape
        width = (columns.max() - columns.min()) * 840 / wide
        seen.append(Seen(index, shape.size, shape.colour, shape.kind, x, y, width, (shape.x, shape.y)))
    return seen


def answers(query: str, seen: list[Seen]) -> set[int]:
    """Indices of every object the question can mean."""
    return {item.index for item in _find(query, seen)}


def _find(text: str, seen: list[Seen]) -> list[Seen]:
    text = text.removeprefix("the ")
    odd = re.match(r"(?:only shape whose|shape with a) (colour|kind)", text)
    if odd:
        values = [getattr(item, odd[1]) for item in seen]
        return [item for item in seen if values.count(getattr(item, odd[1])) == 1]
    if match := re.match(r"(.*) between (the .*) and (the .*)", text):
        return _between(match, seen)
    if match := re.match(r"(.*) closest to (the .*)", text):
        (anchor,) = _find(match[2], seen)
        rest = [item for item in _find(match[1], seen) if item != anchor]
        return [min(rest, key=lambda item: np.hypot(*np.subtract(item.centre, anchor.centre)))]
    if match := _RELATION.match(text):
        return _related(match, seen)
    if match := _SAME.match(text):
        (anchor,) = _find(match["anchor"], seen)
        value = getattr(anchor, match["name"])
        pool = [item for item in seen if item != anchor and getattr(item, match["name"]) == value]
        return _find(match["head"].removeprefix("other "), pool)
    if match := re.match(r"(.*) that is (.*)", text):
        if match[2] in _LATE:
            return _extreme(_LATE[match[2]], _find(match[1], seen))
        return [item for item in _find(match[1], seen) if item.colour == match[2]]
    first, _, rest = text.partition(" ")
    return _extreme(first, _find(rest, seen)) if first in _SUPERLATIVES else _matching(text, seen)


def _matching(text: str, seen: list[Seen]) -> list[Seen]:
    kept = seen
    for word in text.split():
        name = "size" if word in _SIZES else "colour" if word in _COLOURS else "kind"
        if word != "shape":
            kept = [item for item in kept if getattr(item, name) == word]
    return kept


def _extreme(word: str, members: list[Seen]) -> list[Seen]:
    name, sign = _SUPERLATIVES[word]
    best = max((sign * getattr(item, name) for item in members), default=0)
    return [item for item in members if sign * getattr(item, name) == best]


def _related(match: re.Match, seen: list[Seen]) -> list[Seen]:
    (anchor,) = _find(match["anchor"], seen)
    word = match["word"].removeprefix("to the ")
    name = "x" if word in ("left of", "right of") else "y"
    sign = -1 if word in ("left of", "above", "higher than") else 1
    there = getattr(anchor, name)
    pool = [item for item in seen if item != anchor and sign * (getattr(item, name) - there) > 0]
    return _find(match["head"], pool)


def _between(match: re.Match, seen: list[Seen]) -> list[Seen]:
    (a,), (b,) = _find(match[2], seen), _find(match[3], seen)
    kept = []
    for item in _find(match[1], seen):
        near, far = np.array([a.x - item.x, a.y - item.y]), np.array([b.x - item.x, b.y - item.y])
        cosine = near @ far / max(np.linalg.norm(near) * np.linalg.norm(far), 1e-9)
        # Seen from between two things, they lie in roughly opposite directions.
        if item not in (a, b) and cosine < -0.3:
            kept.append(item)
    return kept
