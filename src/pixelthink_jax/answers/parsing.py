"""One parse of a completion: tags, words and the JSON object, found in linear time and without raising.

The regular expressions of the released code take quadratic time on hostile text; the scans here find the same
matches in one pass. Source of the patterns: songw-zju/PixelThink @052d9de (`seg_pixelthink.py`, `length.py`),
Seg-Zero @42a3345.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pixelthink_jax.types import Point

FailureCause = Literal[
    "tags",  # not `<think>...</think><answer>...</answer>` and nothing else
    "no_thinking",  # no `<think>` text of the form the reading asks for
    "no_answer_tag",
    "no_json",
    "invalid_json",
    "no_box",
    "box_length",
    "box_values",
    "no_points",
    "points_length",
    "points_values",
    "not_a_list",
    "object_values",
]

# What reading a value of unknown kind can raise: wrong type, missing key, NaN, infinity, deep nesting.
VALUE_ERRORS = (TypeError, ValueError, KeyError, IndexError, OverflowError, RecursionError)
# Larger coordinates overflow when scaled.
_LARGEST = 1e300

_TAGS_BETWEEN = re.compile(r"</think>\s*<answer>")


@dataclass(frozen=True)
class ParsedCompletion:
    """What every reading needs, found in one pass over the text.

    Attributes:
        text: The completion, special tokens removed.
        thinking: Text of the first `<think>...</think>`, stripped; None without a closed one.
        thinking_format: The text is `<think>...</think>`, white space, `<answer>...</answer>`, and nothing
            else.
        payload: The JSON object of the first non-empty `{...}`; None if there is none.
        payload_failure: `no_json` or `invalid_json` where `payload` is None.
        answer_text: Text of the first `<answer>...</answer>`, stripped; None without a closed one.
        response_words: Words of the whole text.
        thinking_words: Words of `thinking`.
    """

    text: str
    thinking: str | None
    thinking_format: bool
    payload: Mapping[str, Any] | None
    payload_failure: FailureCause | None
    answer_text: str | None
    response_words: int
    thinking_words: int


def parse_completion(text: str) -> ParsedCompletion:
    """Finds tags, words and the JSON object of a completion; never raises.

    >>> parsed = parse_completion('<think>red one</think><answer>{"bbox": [1, 2, 3, 4]}</answer>')
    >>> parsed.thinking, parsed.thinking_format, dict(parsed.payload), parsed.response_words
    ('red one', True, {'bbox': [1, 2, 3, 4]}, 6)
    """
    thinking = _between(text, "<think>", "</think>")
    payload, failure = _payload(text)
    return ParsedCompletion(
        text=text,
        thinking=thinking,
        thinking_format=_has_tag_format(text),
        payload=payload,
        payload_failure=failure,
        answer_text=_between(text, "<answer>", "</answer>"),
        response_words=len(text.split()),
        thinking_words=len(thinking.split()) if thinking else 0,
    )


def _has_tag_format(text: str) -> bool:
    r"""`re.fullmatch(r"<think>.*?</think>\s*<answer>.*?</answer>", text, re.DOTALL)` in linear time."""
    head, tail = "<think>", "</answer>"
    if not (text.startswith(head) and text.endswith(tail) and len(text) >= len(head) + len(tail)):
        return False
    return _TAGS_BETWEEN.search(text, len(head), len(text) - len(tail)) is not None


def _between(text: str, opening: str, closing: str) -> str | None:
    """Stripped text of the first `opening ... closing`, as a lazy DOTALL search finds it."""
    start = text.find(opening)
    end = text.find(closing, start + len(opening)) if start >= 0 else -1
    return text[start + len(opening) : end].strip() if end >= 0 else None


def plain_thinking(text: str) -> str | None:
    """First match of `<think>([^<]+)</think>`."""
    start = text.find("<think>")
    while start >= 0:
        begin = start + len("<think>")
        end = text.find("<", begin)
        if end > begin and text.startswith("</think>", end):
            return text[begin:end]
        start = text.find("<think>", begin)
    return None


def brace_spans(text: str) -> Iterator[tuple[int, int]]:
    """Spans of the matches of `{[^}]+}`: from a `{` to the next `}`, with something between.

    >>> list(brace_spans("{} {a{b} {c}"))
    [(3, 8), (9, 12)]
    """
    start = text.find("{")
    while start >= 0:
        end = text.find("}", start + 1)
        if end < 0:
            return
        if end > start + 1:
            yield start, end + 1
        start = text.find("{", end)


def load_json(source: str) -> Any:
    """The parsed value; None where it is not JSON, nests too deeply or has a number of too many digits."""
    try:
        return json.loads(source)
    except VALUE_ERRORS:
        return None


def _payload(text: str) -> tuple[Mapping[str, Any] | None, FailureCause | None]:
    span = next(brace_spans(text), None)
    if span is None:
        return None, "no_json"
    value = load_json(text[slice(*span)])
    return (value, None) if isinstance(value, dict) else (None, "invalid_json")


def as_float(value: int | float) -> float:
    """A float; whole numbers too large for one become infinite, which compares the same."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def bounded(value: int | float) -> float:
    """A float that survives scaling to any image.

    Raises:
        OverflowError: It is not finite or above 1e300.
    """
    number = float(value)
    if not abs(number) <= _LARGEST:
        raise OverflowError(number)
    return number


def int_point(values: Any, convert: Callable[[int], float]) -> Point:
    """`[int(v[0]), int(v[1])]` with Python's own rules; raises one of `VALUE_ERRORS`."""
    return convert(int(values[0])), convert(int(values[1]))
