"""The usable reading: what `segment` can make of a completion; ours, no published protocol reads so."""

from collections.abc import Mapping
from itertools import islice
from typing import Any, Literal

from pixelthink_jax.answers.parsing import (
    VALUE_ERRORS,
    FailureCause,
    ParsedCompletion,
    bounded,
    brace_spans,
    load_json,
)
from pixelthink_jax.answers.tolerant import Target
from pixelthink_jax.types import Answer, Point

AnswerFormat = Literal["pixelthink_json", "vision_reasoner_json", "qwen_vl_json"]

# A text with more `{...}` than this is degenerate; the rest is not read.
_MOST_RECORDS = 256


def usable_targets(
    parsed: ParsedCompletion, *, answer_format: AnswerFormat = "pixelthink_json"
) -> tuple[tuple[Target, ...], str | None]:
    """Every object that can be understood, or why there is none.

    JSON is looked for inside `<answer>`, then after the thought, then anywhere; single quotes are accepted. A
    box needs four finite numbers under a key containing "bbox", and one or two points under keys containing
    "point", which `qwen_vl_json` does without; corners in the wrong order are swapped.

    Args:
        parsed: The completion.
        answer_format: `pixelthink_json` takes the first object, the others all of them.

    Returns:
        The objects in the policy's frame and None, or no objects and one line of explanation.
    """
    places = [parsed.answer_text, parsed.text.rpartition("</think>")[2], parsed.text]
    error = "the completion holds no JSON object"
    for place in places:
        records = _records(place or "")
        found = [_usable_target(record, points_needed=answer_format != "qwen_vl_json") for record in records]
        targets = tuple(t for t in found if isinstance(t, Target))
        if targets:
            return (targets[:1] if answer_format == "pixelthink_json" else targets), None
        error = next((t for t in found if isinstance(t, str)), error)
    return (), error


def usable_answer(
    parsed: ParsedCompletion, *, answer_format: AnswerFormat = "pixelthink_json"
) -> tuple[Answer | None, str | None]:
    """The first usable object as a box and its points, or why there is none.

    An object with one point has it repeated. See `usable_targets` for what is accepted.

    >>> from pixelthink_jax.answers import parse_completion
    >>> text = "<answer>{'bbox': [9, 2, 3, 4], 'points_1': [1, 2], 'points_2': [3, 4]}</answer>"
    >>> usable_answer(parse_completion(text))[0]
    Answer(box_xyxy=(3.0, 2.0, 9.0, 4.0), points_xy=((1.0, 2.0), (3.0, 4.0)))
    >>> usable_answer(parse_completion("<think>hm"))
    (None, 'the completion holds no JSON object')
    """
    targets, error = usable_targets(parsed, answer_format=answer_format)
    if not targets:
        return None, error
    return Answer(targets[0].box_xyxy, two_points(targets[0].points_xy)), None


def two_points(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """The first and the last point, which may be one; none where there are none.

    >>> two_points(((1.0, 2.0),)), two_points(())
    (((1.0, 2.0), (1.0, 2.0)), ())
    """
    return (points[0], points[-1]) if points else ()


def boxes_failure(parsed: ParsedCompletion) -> FailureCause | None:
    r"""Why a completion is not what an untuned Qwen2.5-VL is asked for, a JSON list of boxes in a fence or bare.

    >>> from pixelthink_jax.answers import parse_completion
    >>> boxes_failure(parse_completion('```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "cup"}]\n```'))
    >>> boxes_failure(parse_completion("It is on the left."))
    'invalid_json'
    """
    items = listed_boxes(parsed)
    if items is None:
        return "invalid_json"
    if not isinstance(items, list):
        return "not_a_list"
    boxes = (item.get("bbox_2d") if isinstance(item, dict) else None for item in items)
    return None if all(_finite_numbers(box, 4) is not None for box in boxes) else "object_values"


def listed_boxes(parsed: ParsedCompletion) -> Any:
    """The JSON of a completion that is nothing else, without its fence; None where it is none."""
    text = parsed.text.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json")
    return load_json(text)


def _records(text: str) -> list[Mapping[str, Any]]:
    """JSON objects of a text: a whole list or object, else each `{...}` up to its first `}`."""
    whole = load_json(text)
    if isinstance(whole, dict):
        return [whole]
    if isinstance(whole, list):
        return [item for item in whole if isinstance(item, dict)]
    records = []
    for start, end in islice(brace_spans(text), _MOST_RECORDS):
        # The innermost `{` is the one that can be an object: text before it may hold stray braces.
        source = text[text.rindex("{", start, end) : end]
        value = load_json(source)
        if value is None:
            value = load_json(source.replace("'", '"'))
        if isinstance(value, dict):
            records.append(value)
    return records


def _usable_target(record: Mapping[str, Any], *, points_needed: bool) -> Target | str:
    """A target, or one line that says what is missing."""
    box_key = next((key for key in record if "bbox" in key.lower()), None)
    if box_key is None:
        return "the answer has no box"
    box = _finite_numbers(record[box_key], 4)
    if box is None:
        return "the box of the answer is not four numbers"
    point_keys = [key for key in record if "point" in key.lower()][:2]
    points = [_finite_numbers(record[key], 2) for key in point_keys]
    if not points and points_needed:
        return "the answer has no points"
    if any(point is None for point in points):
        return "a point of the answer is not two numbers"
    x1, y1, x2, y2 = box
    ordered = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    return Target(box_xyxy=ordered, points_xy=tuple((p[0], p[1]) for p in points if p is not None))


def _finite_numbers(values: Any, count: int) -> tuple[float, ...] | None:
    """Exactly `count` bounded numbers, numeric strings allowed."""
    if not isinstance(values, list) or len(values) != count:
        return None
    try:
        return tuple(bounded(v if isinstance(v, int | float) else float(v)) for v in values)
    except VALUE_ERRORS:
        return None
