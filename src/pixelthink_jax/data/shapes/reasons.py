"""Sentences of reasoning about one question: every statement next to the evidence it copies.

Objects go by their place in a left-to-right list (`first`, `second`, ...). Numbers are plain integers of the
840 frame. Words are lower case, few and simple, so that a tiny tokenizer spends one token on each.

An object's place is said in one form, the list's (`third at 490 120`), wherever it is needed. Forms of their own
(`third has y 120`) are shorter, but a small model had not learned to fill them in after 25,000 steps.
"""

from pixelthink_jax.data.shapes.queries import ORDERS, RELATIONS, Anchor, Description, Query, Trace
from pixelthink_jax.data.shapes.scene import SceneGraph, SceneObject
from pixelthink_jax.data.targets import FRAME

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
BETTER = {
    "leftmost": "left of",
    "rightmost": "right of",
    "highest": "above",
    "lowest": "below",
    "largest": "larger than",
    "smallest": "smaller than",
    "closest": "closer than",
}
"""What an object must be beside the best so far, for each superlative."""

Names = dict[int, str]
"""Object index to ordinal, for the objects a chain mentions."""


def join(words: list[str]) -> str:
    """Words with `and` between them.

    >>> join(["first", "third", "fourth"])
    'first and third and fourth'
    """
    return " and ".join(words)


def box_numbers(item: SceneObject) -> str:
    """The object's box as four plain integers, in tens."""
    return " ".join(str(value) for value in item.said_box)


def centre_numbers(item: SceneObject) -> str:
    """The middle of the object's box as two plain integers, in tens."""
    return f"{item.centre[0]} {item.centre[1]}"


def placed(index: int, graph: SceneGraph, names: Names) -> str:
    """An object by its name and place: `third at 490 120`."""
    return f"{names[index]} at {centre_numbers(graph.objects[index])}"


def described(index: int, graph: SceneGraph, names: Names) -> str:
    """An object by its name, place, width and kind.

    Place before kind: finding the next object to the right is then one step, and reading off what is there another.
    """
    item = graph.objects[index]
    return f"{placed(index, graph, names)} wide {item.wide} a {item.shape.phrase}"


def listed(graph: SceneGraph, names: Names) -> list[str]:
    """One sentence per mentioned object: all that later steps compare."""
    return [f"{described(i, graph, names)}." for i in names]


def plural(description: Description) -> str:
    """The description as a plural noun phrase.

    >>> plural(Description(colour="red", kind="cross"))
    'red crosses'
    """
    words = description.words
    return words + ("es" if words.endswith("s") else "s")


def steps(query: Query, trace: Trace, graph: SceneGraph, names: Names) -> list[str]:
    """The full derivation: anchor, candidates, link, pick.

    Whatever is found is found by looking through the list: each object is held against one word or number at a time,
    with a verdict after each, so that no step asks for more than one comparison.
    """
    if query.odd is not None:
        return _count_values(query.odd, graph, names)
    if query.type == "attributes":
        return _search(query.description, graph, names)
    said = _anchor_steps(query.anchor, trace, graph, names) if query.anchor else []
    if query.between is not None and trace.second is not None:
        said += _search(query.between, graph, names)
        said.append(f"the {query.between.words} is the {names[trace.second]}.")
    if query.description.given and query.description != _searched(query):
        said += _search(query.description, graph, names)
    if query.description.given:
        found = join([names[i] for i in trace.candidates])
        said.append(f"the {plural(query.description)} are {found}.")
    said += _link_steps(query, trace, graph, names)
    if query.superlative is not None:
        said += comparison(query.superlative, graph, trace.linked, names)
        said.append(f"so the {query.superlative} is the {names[trace.answer]}.")
    return said


def _searched(query: Query) -> Description | None:
    """The description that the anchor's search has already looked for."""
    anchor = query.anchor
    return anchor.description if anchor is not None and anchor.like is None else None


def _search(description: Description, graph: SceneGraph, names: Names) -> list[str]:
    """Every object against a description."""
    return [f"{name} is {_verdicts(description, graph.objects[i])}." for i, name in names.items()]


def _verdicts(description: Description, item: SceneObject) -> str:
    """An object's attributes against those asked for, up to the first that differs: `small yes green no`."""
    said = []
    for attribute, wanted in description.given.items():
        value = item.value(attribute)
        said += [value, "yes" if value == wanted else "no"]
        if value != wanted:
            break
    return " ".join(said)


def _anchor_steps(anchor: Anchor, trace: Trace, graph: SceneGraph, names: Names) -> list[str]:
    """How the object the question refers to is found."""
    found = f"{placed(trace.anchor, graph, names)}." if trace.anchor is not None else ""
    if anchor.like is not None and anchor.other is not None and trace.second is not None:
        second, value = names[trace.second], graph.objects[trace.second].value(anchor.like)
        return [
            *_search(anchor.other, graph, names),
            f"the {anchor.other.words} is the {second}.",
            f"it is {value}.",
            f"the other {value} shape is {found}",
        ]
    said = _search(anchor.description, graph, names) if anchor.description.given else []
    if anchor.superlative is None:
        return [*said, f"the {anchor.description.words} is {found}"]
    if anchor.description.given:
        said.append(
            f"the {plural(anchor.description)} are {join([names[i] for i in trace.anchor_candidates])}."
        )
    said += comparison(anchor.superlative, graph, trace.anchor_candidates, names)
    return [*said, f"so the {anchor.superlative} is {found}"]


def _link_steps(query: Query, trace: Trace, graph: SceneGraph, names: Names) -> list[str]:
    """Each candidate against the anchor."""
    if trace.anchor is None:
        return []
    anchor, anchor_name = graph.objects[trace.anchor], names[trace.anchor]
    kept = {i: "yes" if i in trace.linked else "no" for i in trace.candidates}
    if query.same is not None:
        value = anchor.value(query.same)
        checks = [f"{names[i]} is {graph.objects[i].value(query.same)} {kept[i]}." for i in trace.candidates]
        return [f"the {anchor_name} is {value}.", *checks]
    if query.relation is not None:
        against = f"{query.relation} {anchor.centre[RELATIONS[query.relation][0]]}"
        return [f"{placed(i, graph, names)} {against} {kept[i]}." for i in trace.candidates]
    if query.between is not None:
        return [f"{names[i]} is between {kept[i]}." for i in trace.candidates]
    return []


def comparison(superlative: str, graph: SceneGraph, members: tuple[int, ...], names: Names) -> list[str]:
    """The measure that decides a superlative, for each member, beside the best so far, and which is better."""
    if superlative == "closest":
        return [f"{placed(i, graph, names)}." for i in members]
    said, best = [], None
    for i in members:
        measure, sign = _measure(superlative, graph.objects[i])
        better = best is None or measure * sign > best * sign
        against = "" if best is None else f" {BETTER[superlative]} {best}"
        width = "" if superlative in ORDERS else f" wide {measure}"
        said.append(f"{placed(i, graph, names)}{width}{against} {'yes' if better else 'no'}.")
        best = measure if better else best
    return said


def _measure(superlative: str, item: SceneObject) -> tuple[int, int]:
    """What a superlative compares, and 1 where more is better, -1 where less is."""
    if superlative in ORDERS:
        axis, sign = ORDERS[superlative]
        return item.centre[axis], sign
    return item.wide, 1 if superlative == "largest" else -1


def _count_values(attribute: str, graph: SceneGraph, names: Names) -> list[str]:
    """Each object's value of an attribute, and whether no other object has it."""
    values = {i: graph.objects[i].value(attribute) for i in names}
    alone = {i: list(values.values()).count(value) == 1 for i, value in values.items()}
    said = [f"{name} is {values[i]} {'only' if alone[i] else 'no'}." for i, name in names.items()]
    single = next(value for i, value in values.items() if alone[i])
    return [*said, f"so {single} appears once."]


def rejection(query: Query, trace: Trace, graph: SceneGraph, index: int, names: Names) -> str:
    """Why an object other than the answer is not the answer."""
    item = graph.objects[index]
    start = f"{names[index]} is not it because"
    if index == trace.anchor or (query.between is not None and index == trace.second):
        return f"{start} the question names it."
    for attribute, value in query.description.given.items():
        if item.value(attribute) != value:
            return f"{start} it is {item.value(attribute)} and not {value}."
    if query.odd is not None:
        value = item.value(query.odd)
        return f"{start} there is more than one {value}{' shape' if query.odd == 'colour' else ''}."
    if index not in trace.linked:
        if query.same is not None and trace.anchor is not None:
            value = graph.objects[trace.anchor].value(query.same)
            return f"{start} it is {item.value(query.same)} and not {value}."
        if query.between is not None:
            return f"{start} it is not between them."
        anchor = "" if trace.anchor is None else names[trace.anchor]
        return f"{start} it is not {query.relation} the {anchor}."
    superlative = query.superlative or "leftmost"
    better = (
        f"{BETTER[superlative]} it" if superlative in ORDERS else BETTER[superlative].removesuffix(" than")
    )
    return f"{start} the {names[trace.answer]} is {better}."


def evidence(query: Query, trace: Trace, graph: SceneGraph, names: Names) -> str:
    """The one statement that decides, for a chain that mentions only some objects."""
    answer, name = graph.objects[trace.answer], names[trace.answer]
    if query.odd is not None:
        return f"no other shape is {'a ' if query.odd == 'kind' else ''}{answer.value(query.odd)}."
    if query.superlative is not None and query.superlative != "closest":
        rivals = tuple(i for i in trace.linked if i in names)
        return " ".join(comparison(query.superlative, graph, rivals, names))
    if trace.anchor is None or trace.anchor not in names:
        return f"the {name} is the {query.description.words}."
    anchor, anchor_name = graph.objects[trace.anchor], names[trace.anchor]
    if query.same is not None:
        return (
            f"the {anchor_name} is {anchor.value(query.same)} and the {name} is {answer.value(query.same)}."
        )
    if query.relation is not None:
        here, there = (placed(i, graph, names) for i in (trace.answer, trace.anchor))
        return f"{here} is {query.relation} {there}."
    word = "between them" if query.between is not None else "closer"
    return f"the {name} is {word}."


def region(item: SceneObject) -> str:
    """Which ninth of the picture an object is in, such as `top left`."""
    x, y = item.centre
    row = ("top", "middle", "bottom")[min(y * 3 // FRAME, 2)]
    return f"{row} {('left', 'centre', 'right')[min(x * 3 // FRAME, 2)]}"
