"""Reasoning chains in four styles, for supervised warm-up.

The style is drawn independently of the question, and so is the length within a style: a chain is first
derived, then filled with further true checks up to a length that depends on the number of objects only; a share of
the long ones stops at the derivation, whatever the question. Each style has its own first words, so a forced prefix
forces the style.
"""

import numpy as np

from pixelthink_jax.data.shapes.asking import Descriptions
from pixelthink_jax.data.shapes.queries import Query, Trace
from pixelthink_jax.data.shapes.reasons import (
    ORDINALS,
    Names,
    box_numbers,
    centre_numbers,
    described,
    evidence,
    listed,
    region,
    rejection,
    steps,
)
from pixelthink_jax.data.shapes.scene import SceneGraph
from pixelthink_jax.data.shapes.wording import canonical

STYLES = {"none": 0.16, "short": 0.12, "medium": 0.14, "long": 0.58}
"""Share of each style among ordinary rows."""

OPENINGS = {"none": "", "short": "It is", "medium": "Looking for", "long": "There are"}
"""First words of a chain in each style."""

LIST_OPENING = "There are shapes."
"""What stands before the list of a long chain. It says no number: one that is guessed before anything was looked at
makes the list too short or too long."""

LIST_QUERY = "list every shape"
"""The query of the dense target of pre-training."""

POINT = "point to"
"""First words of the queries of the other two dense targets."""

BRIEF = "Be brief."
"""Instruction of the rows whose chain is none or short."""

MEDIUM_WORDS = (38, 66)
LONG_WORDS_BASE, LONG_WORDS_PER_OBJECT, LONG_WORDS_SPREAD = 92, 12, 14

DIRECT_SHARE = 0.35
"""Share of the long chains without further checks. Completions of one question then differ in length by what did not
matter, which is what a length reward can tell apart; else only a chain that overlooks an object is shorter."""


def sample_style(rng: np.random.Generator, *, brief: bool = False) -> str:
    """A style by the shares of `STYLES`; with `brief` only none or short, in their proportion."""
    names = ["none", "short"] if brief else list(STYLES)
    weights = np.array([STYLES[name] for name in names])
    return names[int(rng.choice(len(names), p=weights / weights.sum()))]


def chain(query: Query, trace: Trace, graph: SceneGraph, style: str, rng: np.random.Generator) -> str:
    """The thought that leads from a scene to the answer of a question.

    Raises:
        ValueError: The style is not one of `STYLES`.
    """
    if style == "none":
        return ""
    if style == "short":
        return _short(trace, graph, rng)
    if style == "medium":
        return _medium(query, trace, graph, rng)
    if style == "long":
        return _long(query, trace, graph, rng)
    raise ValueError(f"unknown chain style {style!r}; expected one of {', '.join(STYLES)}")


def listing(graph: SceneGraph) -> str:
    """Every object and its place, left to right, as long chains list them: a dense target of pre-training."""
    return " ".join(listed(graph, _all_names(graph)))


def pointing(graph: SceneGraph, rng: np.random.Generator) -> tuple[str, str]:
    """A query that describes the objects in random order, each by words that fit it alone, and the boxes asked for.

    What is said of an object is copied from the query, and its box has to be looked up by those words: the two things
    that answering a plain question without a chain takes. Objects that look alike have no words of their own and are
    left out; a scene of nothing else is listed.

    Returns:
        The query and the target.
    """
    offers = Descriptions(graph).single
    asked, said = [], []
    for i in rng.permutation(len(graph.objects)).tolist():
        fitting = [description for description in offers if description.matches(graph.objects[i])]
        if fitting:
            asked.append(fitting[int(rng.integers(len(fitting)))].words)
            said.append(f"{asked[-1]} at {box_numbers(graph.objects[i])}.")
    if not asked:
        return LIST_QUERY, listing(graph)
    return f"{POINT} {', '.join(asked)}", " ".join(said)


def finding(graph: SceneGraph, rng: np.random.Generator) -> tuple[str, str]:
    """A query that describes one object by words that fit it alone, and nothing but its box.

    It is the step that `pointing` leaves out: the words are not said again, so they have to be looked up where they
    stand in the question, as a plain answer does. A scene of nothing but look-alikes is listed.

    Returns:
        The query and the target.
    """
    single = Descriptions(graph).single
    if not single:
        return LIST_QUERY, listing(graph)
    asked = single[int(rng.integers(len(single)))]
    [item] = [item for item in graph.objects if asked.matches(item)]
    return f"{POINT} {asked.words}", f"at {box_numbers(item)}."


def _short(trace: Trace, graph: SceneGraph, rng: np.random.Generator) -> str:
    item = graph.objects[trace.answer]
    tails = (
        "",
        f" in the {region(item)}",
        f" in the {region(item)} part of the picture",
        f" and {item.wide} wide",
    )
    return f"It is the {item.shape.phrase} at {centre_numbers(item)}{tails[int(rng.integers(len(tails)))]}."


def _medium(query: Query, trace: Trace, graph: SceneGraph, rng: np.random.Generator) -> str:
    target = int(rng.integers(*MEDIUM_WORDS))
    for room in (4, 3, 2):
        names = _names(_mentioned(query, trace, graph, room))
        core = [
            f"Looking for {canonical(query)}.",
            *listed(graph, names),
            evidence(query, trace, graph, names),
        ]
        end = f"so it is {described(trace.answer, graph, names)}."
        if _words([*core, end]) <= target + 4:
            break
    return " ".join([*_filled(core, end, target, query, trace, graph, names), end])


def _mentioned(query: Query, trace: Trace, graph: SceneGraph, room: int) -> list[int]:
    """The answer, its anchors, then the closest rivals, at most `room` objects."""
    order = [trace.answer, trace.anchor, *([trace.second] if query.between is not None else [])]
    order += [*trace.linked, *trace.candidates, *trace.anchor_candidates]
    answer = graph.objects[trace.answer].shape
    rest = [i for i in range(len(graph.objects)) if i not in order]
    order += sorted(rest, key=lambda i: _likeness(answer, graph.objects[i].shape), reverse=True)
    return list(dict.fromkeys(i for i in order if i is not None))[:room]


def _likeness(a: object, b: object) -> int:
    return sum(getattr(a, name) == getattr(b, name) for name in ("size", "colour", "kind"))


def _long(query: Query, trace: Trace, graph: SceneGraph, rng: np.random.Generator) -> str:
    mean = LONG_WORDS_BASE + LONG_WORDS_PER_OBJECT * len(graph.objects)
    target = int(mean + LONG_WORDS_SPREAD * np.clip(rng.normal(), -2, 2))
    names = _all_names(graph)
    core = [LIST_OPENING, *listed(graph, names), f"the question asks for {canonical(query)}."]
    core += steps(query, trace, graph, names)
    end = f"so the answer is {described(trace.answer, graph, names)}."
    if rng.random() < DIRECT_SHARE:
        return " ".join([*core, end])
    return " ".join([*_filled(core, end, target, query, trace, graph, names), end])


def _filled(
    core: list[str],
    end: str,
    target: int,
    query: Query,
    trace: Trace,
    graph: SceneGraph,
    names: Names,
) -> list[str]:
    """The derivation and further checks, in list order, until the chain with its end is about `target` words long."""
    checks = [rejection(query, trace, graph, i, names) for i in names if i != trace.answer]
    places = [f"{names[i]} is in the {region(graph.objects[i])}." for i in names]
    said, used = list(core), _words([*core, end])
    for sentence in [*checks, *places]:
        words = len(sentence.split())
        if used + words > target + 3:
            continue
        said.append(sentence)
        used += words
    return said


def _words(sentences: list[str]) -> int:
    return sum(len(sentence.split()) for sentence in sentences)


def _names(indices: list[int]) -> Names:
    return {index: ORDINALS[place] for place, index in enumerate(sorted(indices))}


def _all_names(graph: SceneGraph) -> Names:
    return _names(list(range(len(graph.objects))))
