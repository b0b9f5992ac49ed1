"""Questions about a scene: their structure, their one answer, and their wording.

A `Query` is a small program: find the anchor (if any), collect the candidates, keep those linked to the
anchor, pick one. `resolve` runs it on a scene graph and keeps every intermediate result in a `Trace`, from
which difficulty and reasoning chains are computed. A question whose answer is not unique by a clear margin
has no trace.
"""

import math
from dataclasses import dataclass
from typing import Literal

from pixelthink_jax.data.shapes.scene import SceneGraph, SceneObject

MARGIN = 40
"""Two positions are told apart only if they differ by this much, in the 840 frame."""

RATIO = 1.15
"""Two sizes or distances are told apart only if they differ by this factor."""

Attribute = Literal["colour", "kind"]
RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
"""Axis (0 across, 1 down) and the sign of candidate minus anchor along it."""

ORDERS = {"leftmost": (0, -1), "rightmost": (0, 1), "highest": (1, -1), "lowest": (1, 1)}
SUPERLATIVES = ("largest", "smallest", *ORDERS)


@dataclass(frozen=True)
class Description:
    """Attributes an object must have; None leaves an attribute free."""

    size: str | None = None
    colour: str | None = None
    kind: str | None = None

    @property
    def words(self) -> str:
        """The attributes as a noun phrase.

        >>> Description(colour="red").words
        'red shape'
        """
        return " ".join(word for word in (self.size, self.colour, self.kind or "shape") if word)

    @property
    def given(self) -> dict[str, str]:
        """The attributes that are not free."""
        values = {"size": self.size, "colour": self.colour, "kind": self.kind}
        return {name: value for name, value in values.items() if value is not None}

    def matches(self, item: SceneObject) -> bool:
        """Whether an object has all the given attributes."""
        shape = item.shape
        return (
            self.size in (None, shape.size)
            and self.colour in (None, shape.colour)
            and self.kind in (None, shape.kind)
        )


@dataclass(frozen=True)
class Anchor:
    """The object a question refers to: the only match, or the extreme one, or the one like another object.

    `like` is an attribute shared with the only object that matches `other`; it occurs out of distribution
    only.
    """

    description: Description
    superlative: str | None = None
    like: Attribute | None = None
    other: Description | None = None

    @property
    def words(self) -> str:
        """The anchor as a definite noun phrase."""
        if self.like is not None and self.other is not None:
            return f"the other {self.description.words} with the same {self.like} as the {self.other.words}"
        return f"the {self.superlative + ' ' if self.superlative else ''}{self.description.words}"


@dataclass(frozen=True)
class Query:
    """A question.

    Attributes:
        description: What the answer must look like.
        anchor: The object it is related to, if any.
        relation: A key of `RELATIONS`; the answer stands so to the anchor.
        same: An attribute the answer shares with the anchor.
        superlative: A member of `SUPERLATIVES`, or `closest` (to the anchor; out of distribution only).
        odd: An attribute whose value the answer alone has.
        between: A second anchor, by attributes; the answer lies between the two (out of distribution only).
    """

    description: Description
    anchor: Anchor | None = None
    relation: str | None = None
    same: Attribute | None = None
    superlative: str | None = None
    odd: Attribute | None = None
    between: Description | None = None

    @property
    def type(self) -> str:
        """Name of the question's structure, such as `relation_superlative`."""
        if self.odd:
            return "odd_one_out"
        if self.between:
            return "between"
        link = "relation" if self.relation else "same" if self.same else ""
        if self.anchor and (self.anchor.superlative or self.anchor.like):
            return f"{link}_to_{'superlative' if self.anchor.superlative else 'same'}"
        pick = "closest" if self.superlative == "closest" else "superlative" if self.superlative else ""
        return "_of_".join(part for part in (pick, link) if part) or "attributes"

    @property
    def hops(self) -> int:
        """Reasoning steps beyond matching words with objects."""
        anchor = self.anchor
        steps = [self.relation, self.same, self.superlative, self.between]
        steps += [anchor.superlative, anchor.like] if anchor else []
        return 2 if self.odd else sum(step is not None for step in steps)


@dataclass(frozen=True)
class Trace:
    """Indices into the scene graph's objects at each stage of a question.

    Attributes:
        anchor_candidates: Objects that match the anchor's description.
        anchor: The anchor; None without one.
        second: The second anchor of `between`, or the object the anchor is like; None without one.
        candidates: Objects other than the anchors that match the answer's description.
        linked: Candidates left after the relation or shared attribute.
        answer: The answer.
    """

    anchor_candidates: tuple[int, ...]
    anchor: int | None
    second: int | None
    candidates: tuple[int, ...]
    linked: tuple[int, ...]
    answer: int


def resolve(query: Query, graph: SceneGraph) -> Trace | None:
    """The question's answer and how it is reached; None unless the answer is unique by a clear margin."""
    objects = graph.objects
    found: tuple[tuple[int, ...], int | None, int | None] | None = ((), None, None)
    if query.anchor is not None:
        found = _find_anchor(query.anchor, graph)
    if found is None:
        return None
    anchor_candidates, anchor, second = found
    if query.between is not None:
        second = _only(_matching(query.between, graph))
        if second is None or second == anchor:
            return None
    # "Like" questions speak of another shape; the object an anchor is like may itself be an answer.
    barred = {anchor} | ({second} if query.between is not None else set())
    candidates = tuple(i for i in _matching(query.description, graph) if i not in barred)
    linked = _link(query, graph, anchor, second, candidates)
    if linked is None:
        return None
    if query.superlative == "closest":
        answer = _closest(graph, linked, objects[anchor]) if anchor is not None else None
    elif query.superlative is not None:
        answer = extreme(query.superlative, graph, linked)
    else:
        answer = _only(linked)
    if answer is None:
        return None
    return Trace(anchor_candidates, anchor, second, candidates, linked, answer)


def _find_anchor(anchor: Anchor, graph: SceneGraph) -> tuple[tuple[int, ...], int, int | None] | None:
    """Objects that match the anchor's description, the anchor, and the object it is like; None if unclear."""
    matches = _matching(anchor.description, graph)
    second = None
    if anchor.like is not None and anchor.other is not None:
        second = _only(_matching(anchor.other, graph))
        if second is None:
            return None
        value = graph.objects[second].value(anchor.like)
        matches = tuple(i for i in matches if i != second and graph.objects[i].value(anchor.like) == value)
    index = extreme(anchor.superlative, graph, matches) if anchor.superlative else _only(matches)
    return None if index is None else (matches, index, second)


def _link(
    query: Query, graph: SceneGraph, anchor: int | None, second: int | None, candidates: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Candidates that stand in the asked relation; None if one of them is a borderline case."""
    objects = graph.objects
    if query.odd is not None:
        values = [item.value(query.odd) for item in objects]
        return tuple(i for i in candidates if values.count(values[i]) == 1)
    if anchor is None:
        return candidates
    if query.same is not None:
        value = objects[anchor].value(query.same)
        return tuple(i for i in candidates if objects[i].value(query.same) == value)
    if query.between is not None and second is not None:
        shares = {i: _between(objects[i], objects[anchor], objects[second]) for i in candidates}
        if any(clear is None for clear in shares.values()):
            return None
        return tuple(i for i, clear in shares.items() if clear)
    if query.relation is not None:
        axis, sign = RELATIONS[query.relation]
        gaps = {i: sign * (objects[i].centre[axis] - objects[anchor].centre[axis]) for i in candidates}
        if any(abs(gap) < MARGIN for gap in gaps.values()):
            return None
        return tuple(i for i, gap in gaps.items() if gap > 0)
    return candidates


def extreme(superlative: str, graph: SceneGraph, members: tuple[int, ...]) -> int | None:
    """The member that is the largest, leftmost and so on by a clear margin; None for a draw or one member.

    Size is the width of the visible box, and the drawn radius must agree, so that occlusion cannot fool
    anyone.
    """
    if len(members) < 2:
        return None
    items = graph.objects
    if superlative in ORDERS:
        axis, sign = ORDERS[superlative]
        first, runner_up = sorted(members, key=lambda i: -sign * items[i].centre[axis])[:2]
        gap = sign * (items[first].centre[axis] - items[runner_up].centre[axis])
        return first if gap >= MARGIN else None
    down = superlative == "smallest"
    ordered = sorted(members, key=lambda i: items[i].wide if down else -items[i].wide)
    first, rest = ordered[0], ordered[1:]
    for i in rest:
        small, big = (first, i) if down else (i, first)
        if items[big].wide < RATIO * items[small].wide:
            return None
        if items[big].shape.radius < RATIO * items[small].shape.radius:
            return None
    return first


def _matching(description: Description, graph: SceneGraph) -> tuple[int, ...]:
    return tuple(i for i, item in enumerate(graph.objects) if description.matches(item))


def _only(members: tuple[int, ...]) -> int | None:
    return members[0] if len(members) == 1 else None


def _closest(graph: SceneGraph, members: tuple[int, ...], anchor: SceneObject) -> int | None:
    """The member whose centre is clearly nearest to the anchor's in canvas pixels, out of two or more."""
    if len(members) < 2:
        return None
    x, y = anchor.shape.x, anchor.shape.y
    distance = {i: math.hypot(graph.objects[i].shape.x - x, graph.objects[i].shape.y - y) for i in members}
    first, runner_up = sorted(members, key=distance.__getitem__)[:2]
    return first if distance[runner_up] >= RATIO * distance[first] else None


def _between(item: SceneObject, a: SceneObject, b: SceneObject) -> bool | None:
    """Whether a centre lies near the middle of the line between two others; None for borderline cases."""
    (x, y), (ax, ay), (bx, by) = item.centre, a.centre, b.centre
    length = math.hypot(bx - ax, by - ay)
    if length < 4 * MARGIN:
        return None
    along = ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length**2
    aside = abs((x - ax) * (by - ay) - (y - ay) * (bx - ax)) / length**2
    if 0.2 <= along <= 0.8 and aside <= 0.25:
        return True
    return False if not 0.05 <= along <= 0.95 or aside >= 0.4 else None
