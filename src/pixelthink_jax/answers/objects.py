"""Lists of objects: the ground truth of the multi-object sets, and VisionReasoner's own reading of a completion.

Source: `verl/utils/reward_score/vision_reasoner.py` of VisionReasoner, as several public copies have it
(xVI-group-SCU/Dr-Seg @8cf047b, gaash-lab/QTrack @c47edd4).
"""

import json
from dataclasses import dataclass
from typing import Any

from pixelthink_jax.answers.parsing import ParsedCompletion, as_float, load_json
from pixelthink_jax.answers.strict import parse_solution
from pixelthink_jax.answers.tolerant import Target
from pixelthink_jax.errors import InputError
from pixelthink_jax.types import Box

MOST_OBJECTS = 120
"""Objects of a list that are looked at; the rest is cut off, as in the source."""

_REPEATS_ALLOWED = 1


@dataclass(frozen=True)
class ObjectsReading:
    """The view of VisionReasoner's reward.

    Attributes:
        thinking_format: The text is a thought and an answer in their tags.
        box_format: Share of the listed objects with a box of four values.
        point_format: Share with a point of two values.
        targets: The objects, one point each; None where the list or any object of it cannot be read.
        non_repeat: At most one sentence is said a second time.
    """

    thinking_format: bool
    box_format: float
    point_format: float
    targets: tuple[Target, ...] | None
    non_repeat: bool


def objects_reading(parsed: ParsedCompletion) -> ObjectsReading:
    """VisionReasoner's reward's reading of a completion.

    Numbers must be JSON numbers; one object that cannot be read costs all of them, as in the source. An empty list
    is read as no objects. An item that is no object counts as one without box and point; the source stops there.

    >>> from pixelthink_jax.answers import parse_completion
    >>> text = '<answer>[{"bbox_2d": [1, 2, 3, 4], "point_2d": [2, 3]}, {"bbox_2d": [1, 2, 3, 4]}]</answer>'
    >>> reading = objects_reading(parse_completion(text))
    >>> reading.box_format, reading.point_format, reading.targets
    (1.0, 0.5, None)
    """
    items = load_json(parsed.answer_text or "")
    if not isinstance(items, list):
        return ObjectsReading(parsed.thinking_format, 0.0, 0.0, None, says_once(parsed.text))
    found = [item if isinstance(item, dict) else {} for item in items]
    boxes, points = (
        sum(isinstance(item.get(key), list) and len(item[key]) == size for item in found)
        for key, size in (("bbox_2d", 4), ("point_2d", 2))
    )
    targets = [_target(item) for item in found]
    read = tuple(target for target in targets if target is not None)
    return ObjectsReading(
        thinking_format=parsed.thinking_format,
        box_format=boxes / max(len(found), 1),
        point_format=points / max(len(found), 1),
        targets=read[:MOST_OBJECTS] if len(read) == len(targets) else None,
        non_repeat=says_once(parsed.text),
    )


def says_once(text: str) -> bool:
    """Whether at most one sentence, by full stops, repeats an earlier one.

    >>> says_once("It is red. It is red. No."), says_once("It is red. It is red. It is red.")
    (True, False)
    """
    sentences = [sentence.strip() for sentence in text.split(".") if sentence.strip()]
    return len(sentences) - len(set(sentences)) <= _REPEATS_ALLOWED


def parse_objects(solution: str) -> tuple[Target, ...]:
    """Ground truth in either genuine form: a JSON list of objects, or one box with two points.

    An empty list says that the question has no target.

    Raises:
        InputError: It is neither.

    >>> parse_objects('[{"bbox_2d": [1, 2, 30, 40], "point_2d": [5, 6]}]')
    (Target(box_xyxy=(1.0, 2.0, 30.0, 40.0), points_xy=((5.0, 6.0),)),)
    >>> parse_objects("<box>(1,2),(30,40)</box><points>(5,6),(7,8)</points>")[0].points_xy
    ((5.0, 6.0), (7.0, 8.0))
    """
    if not solution.lstrip().startswith("["):
        answer = parse_solution(solution)
        return (Target(answer.box_xyxy, answer.points_xy),)
    try:
        items = json.loads(solution)
    except (ValueError, RecursionError) as error:
        raise InputError(f"solution {solution[:80]!r}: not valid JSON ({str(error)[:80]})") from error
    targets = [_target(item) if isinstance(item, dict) else None for item in items]
    read = tuple(target for target in targets if target is not None)
    if len(read) != len(targets):
        raise InputError(
            f"solution {solution[:80]!r}: expected a list of {{bbox_2d: 4 numbers, point_2d: 2 numbers}}"
        )
    return read


def enclosing_box(boxes: tuple[Box, ...]) -> Box | None:
    """The smallest box around all; None without any.

    >>> enclosing_box(((1, 2, 3, 4), (0, 3, 2, 9)))
    (0, 2, 3, 9)
    """
    if not boxes:
        return None
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def solution_box(solution: str) -> Box | None:
    """The box around all objects of a solution, in the 840 frame; None where it says that there is no target.

    Raises:
        InputError: It cannot be read.
    """
    return enclosing_box(tuple(target.box_xyxy for target in parse_objects(solution)))


def _target(item: dict[str, Any]) -> Target | None:
    """An object of a list; None where it is not four and two JSON numbers."""
    box, point = item.get("bbox_2d"), item.get("point_2d")
    if not isinstance(box, list) or not isinstance(point, list) or (len(box), len(point)) != (4, 2):
        return None
    if not all(isinstance(value, int | float) for value in (*box, *point)):
        return None
    x1, y1, x2, y2, x, y = (as_float(value) for value in (*box, *point))
    return Target(box_xyxy=(x1, y1, x2, y2), points_xy=((x, y),))
