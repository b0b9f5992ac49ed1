"""The strict reading: what the released reward sees in a completion, odd cases included.

Source: songw-zju/PixelThink @052d9de, `seg_pixelthink.py`, where four functions parse the text again and
swallow every exception. Here each failure has a name, so that it can be counted, and the values are equal.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pixelthink_jax.answers.parsing import VALUE_ERRORS, FailureCause, ParsedCompletion, as_float, int_point
from pixelthink_jax.errors import InputError
from pixelthink_jax.types import Answer, Box, Point

_SOLUTION_BOX = re.compile(r"<box>\((\d+),(\d+)\),\((\d+),(\d+)\)</box>")
_SOLUTION_POINTS = re.compile(r"<points>\((\d+),(\d+)\),\((\d+),(\d+)\)</points>")


@dataclass(frozen=True)
class StrictReading:
    """The released reward's view; None where every term that needs the value is 0.

    Attributes:
        thinking_format: R_think.
        answer_format: R_answer.
        box_xyxy: The four numbers of `bbox` as written (may be NaN, infinite, inverted).
        points_xy: Two points truncated to whole numbers.
        failures: Every cause found; empty for a flawless answer.
    """

    thinking_format: bool
    answer_format: bool
    box_xyxy: Box | None
    points_xy: tuple[Point, Point] | None
    failures: tuple[FailureCause, ...]


def strict_reading(parsed: ParsedCompletion) -> StrictReading:
    """The released reward's reading of a completion.

    Points may be numeric strings and are truncated by `int`; box elements must be JSON numbers (or booleans);
    a point list of another length loses the format but keeps its first two values. Whole numbers beyond float
    become infinite.

    >>> from pixelthink_jax.answers import parse_completion
    >>> text = '{"bbox": [1, 2, 3, 4], "points_1": ["1", 2.9, 7], "points_2": "99"}'
    >>> reading = strict_reading(parse_completion(text))
    >>> reading.box_xyxy, reading.points_xy, reading.answer_format, reading.thinking_format
    ((1.0, 2.0, 3.0, 4.0), ((1.0, 2.0), (9.0, 9.0)), False, False)
    """
    failures: list[FailureCause] = []
    if not parsed.thinking_format:
        failures.append("tags")
    if parsed.payload is None:
        failures.append(parsed.payload_failure or "no_json")
        return StrictReading(parsed.thinking_format, False, None, None, tuple(failures))
    box, box_failure = _strict_box(parsed.payload)
    points, points_failure = _strict_points(parsed.payload)
    failures.extend(cause for cause in (box_failure, points_failure) if cause is not None)
    lengths = {"bbox": 4, "points_1": 2, "points_2": 2}
    values = parsed.payload
    answer_format = all(isinstance(values.get(k), list) and len(values[k]) == n for k, n in lengths.items())
    return StrictReading(parsed.thinking_format, answer_format, box, points, tuple(failures))


def parse_solution(text: str) -> Answer:
    """Ground truth in the genuine form, in the 840 frame.

    Args:
        text: Holds `<box>(x1,y1),(x2,y2)</box>` and `<points>(x,y),(x,y)</points>`, unsigned integers, no
            spaces.

    Raises:
        InputError: Either part is missing or malformed; the released code gives such a row reward 0 in
            silence.

    >>> parse_solution("<box>(24,95),(417,819)</box><points>(116,483),(186,315)</points>").points_xy
    ((116.0, 483.0), (186.0, 315.0))
    """
    box, points = _SOLUTION_BOX.search(text), _SOLUTION_POINTS.search(text)
    if box is None or points is None:
        part = "box" if box is None else "points"
        raise InputError(
            f"solution {text[:120]!r}: no readable {part}; expected "
            "<box>(x1,y1),(x2,y2)</box><points>(x,y),(x,y)</points> with unsigned integers and no spaces"
        )
    try:
        x1, y1, x2, y2 = (float(int(v)) for v in box.groups())
        px1, py1, px2, py2 = (float(int(v)) for v in points.groups())
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"solution {text[:120]!r}: a number is too large; expected pixels of the 840 frame"
        ) from error
    return Answer(box_xyxy=(x1, y1, x2, y2), points_xy=((px1, py1), (px2, py2)))


def _strict_box(payload: Mapping[str, Any]) -> tuple[Box | None, FailureCause | None]:
    values = payload.get("bbox")
    if "bbox" not in payload:
        return None, "no_box"
    if not isinstance(values, list) or len(values) != 4:
        # A text or object of length 4 passes the released length test, then fails in the arithmetic: terms 0.
        return None, "box_length"
    # Strings, null and lists cannot be compared with the target's integers: all terms 0.
    if not all(isinstance(v, int | float) for v in values):
        return None, "box_values"
    x1, y1, x2, y2 = (as_float(v) for v in values)
    cause = None if all(math.isfinite(v) for v in (x1, y1, x2, y2)) else "box_values"
    return (x1, y1, x2, y2), cause


def _strict_points(payload: Mapping[str, Any]) -> tuple[tuple[Point, Point] | None, FailureCause | None]:
    if "points_1" not in payload or "points_2" not in payload:
        return None, "no_points"
    try:
        first, second = (int_point(payload[key], as_float) for key in ("points_1", "points_2"))
    except VALUE_ERRORS:
        return None, "points_values"
    proper = all(
        isinstance(payload[key], list) and len(payload[key]) == 2 for key in ("points_1", "points_2")
    )
    return (first, second), None if proper else "points_length"
