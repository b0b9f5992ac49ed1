"""The tolerant readings: what the evaluation scripts see in a completion.

Sources: Seg-Zero @42a3345 `evaluation.py` and `evaluation_visionreasoner.py`, VisionReasoner @c013132. A
completion that makes a script raise is a named failure here.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

from pixelthink_jax.answers.parsing import (
    VALUE_ERRORS,
    FailureCause,
    ParsedCompletion,
    bounded,
    int_point,
    plain_thinking,
)
from pixelthink_jax.types import Box, Point

Protocol = Literal["seg_zero", "seg_zero_multi", "vision_reasoner"]


@dataclass(frozen=True)
class Target:
    """One object: a box and the points inside it, in the policy's frame."""

    box_xyxy: Box
    points_xy: tuple[Point, ...]


@dataclass(frozen=True)
class TolerantReading:
    """An evaluation script's view.

    Attributes:
        thinking: The chain of thought by that script's rule.
        targets: Objects found, in the policy's frame; empty on failure or where the policy says there is
            nothing.
        failure: Why the script would score this completion 0; None if it would not.
    """

    thinking: str
    targets: tuple[Target, ...]
    failure: FailureCause | None


def tolerant_reading(parsed: ParsedCompletion, *, protocol: Protocol = "seg_zero") -> TolerantReading:
    """An evaluation script's reading of a completion.

    Args:
        parsed: The completion.
        protocol: `seg_zero` is Seg-Zero's `evaluation.py`: first `{...}`, the first key containing "bbox",
            the first two keys containing "points", values through `int`, and a non-empty thought without `<`
            required. `seg_zero_multi` is its `evaluation_visionreasoner.py`: the list of objects inside
            `<answer>`. `vision_reasoner` is VisionReasoner's own: the same list, all text before `<answer>`
            the thought.

    >>> from pixelthink_jax.answers import parse_completion
    >>> text = '<think>a</think>{"Bbox": [1, 2, 3, 4], "points_1": [1, 2], "points_2": [3, 4]}'
    >>> tolerant_reading(parse_completion(text)).targets[0].points_xy
    ((1.0, 2.0), (3.0, 4.0))
    """
    if protocol == "seg_zero":
        return _seg_zero(parsed)
    if protocol == "seg_zero_multi":
        thinking = plain_thinking(parsed.text) or ""
    else:
        thinking = parsed.text.partition("<answer>")[0].strip() if "<answer>" in parsed.text else ""
    targets, failure = _object_list(parsed.answer_text)
    return TolerantReading(thinking, targets, failure)


def _seg_zero(parsed: ParsedCompletion) -> TolerantReading:
    thinking = plain_thinking(parsed.text)
    target, failure = _seg_zero_target(parsed)
    if failure is None and thinking is None:
        failure = "no_thinking"
    if failure is not None or target is None:
        # The script's handler also discards the thought of a failed completion.
        return TolerantReading("", (), failure)
    return TolerantReading(thinking or "", (target,), None)


def _seg_zero_target(parsed: ParsedCompletion) -> tuple[Target | None, FailureCause | None]:
    payload = parsed.payload
    if payload is None:
        return None, parsed.payload_failure
    box_key = next((key for key in payload if "bbox" in key.lower()), None)
    if box_key is None:
        return None, "no_box"
    try:
        values = payload[box_key]
        if len(values) != 4:
            return None, "box_length"
        x1, y1, x2, y2 = (bounded(int(values[i])) for i in range(4))
    except VALUE_ERRORS:
        return None, "box_values"
    point_keys = [key for key in payload if "points" in key.lower()][:2]
    if len(point_keys) < 2:
        return None, "no_points"
    try:
        first, second = (int_point(payload[key], bounded) for key in point_keys)
    except VALUE_ERRORS:
        return None, "points_values"
    return Target(box_xyxy=(x1, y1, x2, y2), points_xy=(first, second)), None


def _object_list(answer_text: str | None) -> tuple[tuple[Target, ...], FailureCause | None]:
    if answer_text is None:
        return (), "no_answer_tag"
    try:
        objects = json.loads(answer_text)
    except VALUE_ERRORS:
        return (), "invalid_json"
    if not isinstance(objects, list):
        return (), "not_a_list"
    try:
        return tuple(_listed_target(item) for item in objects), None
    except VALUE_ERRORS:
        return (), "object_values"


def _listed_target(item: Any) -> Target:
    """One object of VisionReasoner's list; raises one of `VALUE_ERRORS`."""
    # `value * 1.0` as in the script, where a numeric string is an error.
    x1, y1, x2, y2 = (bounded(item["bbox_2d"][i] * 1.0) for i in range(4))
    x, y = (bounded(item["point_2d"][i] * 1.0) for i in range(2))
    return Target(box_xyxy=(x1, y1, x2, y2), points_xy=((x, y),))
