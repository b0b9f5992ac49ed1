"""An offline judge of thoughts about the shape world: are the right objects and the right relation named?

The scene graph of a row is known (`data.shapes`), so a thought can be held against it exactly, without a server. It is
ours; the paper's RScore comes from a large model with prompts that could not be read.

An object is named by what it looks like beside where it is (`a small blue ring ... at 510 440`, in either order), and
the name is right if an object of the scene looks so and its centre is near. What is judged, each in [0, 1]:

* `target`: the last object that is named is the answer.
* `objects`: share of the objects the question turns on (its anchors and the answer) that are named. Completeness.
* `relation`: the relation, superlative or shared attribute of the question is spoken of, and at least one object it
  turns on is named; left out where the question has none.
* `facts`: share of the named objects, and of the comparisons of two numbers with a verdict, that are true.
* `score`: the mean of those that apply; 0 for a thought that names nothing.

Length plays no part: brevity is measured in tokens, and reported apart.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from pixelthink_jax.answers import parse_completion
from pixelthink_jax.data.shapes import ShapeReason
from pixelthink_jax.data.shapes.geometry import KINDS
from pixelthink_jax.data.shapes.queries import RELATIONS, Query
from pixelthink_jax.data.shapes.reasons import BETTER
from pixelthink_jax.data.shapes.scene import COLOURS, SIZES, SceneGraph
from pixelthink_jax.data.shapes.world import SPLIT_SIZES, Asked
from pixelthink_jax.evaluation.protocols.reading import thought
from pixelthink_jax.evaluation.rows import Row

NEAR = 60
"""Units of the 840 frame, on either axis, by which a centre may be off and still mean its object."""

_LOOK = rf"({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(KINDS)})"
_NAMED = re.compile(rf"at (\d+) (\d+)(?: wide \d+)? an? {_LOOK}|{_LOOK} at (\d+) (\d+)")
_COMPARED = re.compile(
    rf"at (\d+) (\d+)(?: wide (\d+))? ({'|'.join([*RELATIONS, 'larger than', 'smaller than'])}) (\d+) (yes|no)"
)
_ID = re.compile(rf"({'|'.join(SPLIT_SIZES)})-(\d+)-(\d+)")


def judge_rows(rows: Iterable[Row]) -> list[Row]:
    """Rows with their thoughts judged; those that are not of the shape world are left as they are."""
    judged = []
    for row in rows:
        asked = asked_of(row.id)
        thinking = thought(parse_completion(row.text))
        judged.append(row if asked is None else replace(row, reasoning=judge_thought(thinking, asked)))
    return judged


@lru_cache(maxsize=4096)
def asked_of(example_id: str) -> Asked | None:
    """The scene and question of a row by its id; None for a row of another dataset.

    >>> asked_of("test-0-3").query.type == ShapeReason("test")[3].metadata["query_type"], asked_of("coco-1")
    (True, None)
    """
    match = _ID.fullmatch(example_id)
    if match is None:
        return None
    split, seed, index = match.group(1), int(match.group(2)), int(match.group(3))
    return ShapeReason(split, seed=seed).asked(index) if index < SPLIT_SIZES[split] else None


def judge_thought(thinking: str, asked: Asked) -> dict[str, float]:
    """Parts of the quality of a thought, and `score`, see the module.

    >>> asked = asked_of("test-0-3")
    >>> judge_thought("", asked)["score"]
    0.0
    >>> text = ShapeReason("test", chain_style="long")[3].completion
    >>> judge_thought(text.partition("<think>")[2].partition("</think>")[0], asked)["score"]
    1.0
    """
    named = named_objects(thinking, asked.graph)
    found = [index for index in named if index is not None]
    trace = asked.trace
    needed = {i for i in (trace.anchor, trace.second, trace.answer) if i is not None}
    truths = [index is not None for index in named] + list(_comparisons(thinking))
    parts = {
        "target": float(bool(named) and named[-1] == trace.answer),
        "objects": len(needed & set(found)) / len(needed),
        "facts": float(np.mean(truths)) if truths else 0.0,
    }
    words = relation_words(asked.query)
    if words:
        # A relation between the wrong things is not the question's.
        parts["relation"] = float(bool(needed & set(found)) and any(word in thinking for word in words))
    return parts | {"score": float(np.mean(list(parts.values()))) if named else 0.0}


def named_objects(thinking: str, graph: SceneGraph) -> list[int | None]:
    """Objects in the order they are named; None for a name that fits no object of the scene."""
    found = []
    for match in _NAMED.finditer(thinking):
        x1, y1, *first, size, colour, kind, x2, y2 = match.groups()
        look = tuple(first) if x1 is not None else (size, colour, kind)
        place = (int(x1), int(y1)) if x1 is not None else (int(x2), int(y2))
        found.append(_object(look, place, graph))
    return found


def relation_words(query: Query) -> tuple[str, ...]:
    """Words of which a thought that uses the question's relation must say one; none where it has no relation."""
    words: list[str] = []
    if query.relation is not None:
        words.append(query.relation)
    for superlative in (query.superlative, query.anchor.superlative if query.anchor else None):
        if superlative is not None:
            words += [superlative, BETTER[superlative]]
    if query.same is not None:
        words.append(f"same {query.same}")
    if query.between is not None:
        words.append("between")
    if query.odd is not None:
        words += ["appears once", "no other shape"]
    return tuple(words)


def _object(look: Sequence[str], place: tuple[int, int], graph: SceneGraph) -> int | None:
    """The nearest object that looks so, if it is near."""

    def away(index: int) -> int:
        x, y = graph.objects[index].centre
        return max(abs(x - place[0]), abs(y - place[1]))

    alike = [
        i for i, item in enumerate(graph.objects)
        if (item.value("size"), item.value("colour"), item.value("kind")) == tuple(look)
    ]  # fmt: skip
    best = min(alike, key=away, default=None)
    return best if best is not None and away(best) <= NEAR else None


def _comparisons(thinking: str) -> Iterable[bool]:
    """Of every number that is compared with another: whether its verdict is right."""
    for x, y, wide, relation, other, verdict in _COMPARED.findall(thinking):
        if relation in RELATIONS:
            axis, sign = RELATIONS[relation]
            value = int((x, y)[axis])
        elif wide:
            value, sign = int(wide), 1 if relation == "larger than" else -1
        else:
            continue
        yield (sign * (value - int(other)) > 0) == (verdict == "yes")
