"""One completion against one example: everything that is counted about it, in one flat row.

The box is judged in the 840 frame with the released reward's IoU of inclusive pixels (`metrics.box_iou`), the mask
at the size of the original image. Two readings of the text are kept apart: `valid` is the strict one, which the
reward pays for; box and mask come from the usable one, which is what `segment` would show. A completion without a
usable answer is scored as an empty mask and no box; it is never left out.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from pixelthink_jax.answers import (
    AnswerFormat,
    ParsedCompletion,
    Target,
    parse_solution,
    strict_reading,
    tolerant_reading,
)
from pixelthink_jax.data.targets import box_to_frame, mask_box
from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation.metrics import box_iou, intersection_union
from pixelthink_jax.types import Answer, Box, Completion, Example

BOX_THRESHOLD = 0.5


@dataclass(frozen=True)
class Row:
    """What is known about one completion.

    Attributes:
        id: The example's.
        level: Its difficulty level; None if unknown.
        query_type: Kind of question, where the dataset names one.
        query: The question.
        text: The completion.
        valid: The strict reading finds thought and answer in their format.
        failure: First cause by which the strict reading fails; None for a valid completion.
        answer_error: Why there is no usable answer; None when there is one.
        box_iou: With the true box, in the 840 frame; 0 without a usable answer.
        box_correct: `box_iou` is above 0.5.
        points_in_box: Both points lie inside the completion's own box, edges included.
        mask_iou: With the true mask; None when no masks were made.
        intersection: Pixels in both masks.
        union: Pixels in either; all of the true mask without a usable answer.
        thinking_words: Words of the thought, an unclosed one included.
        thinking_tokens: Its tokens.
        completion_tokens: Tokens of the whole completion, the end token included.
        uncertainty: Mean of one minus the top-two probability gap.
        finish_reason: `stop` or `length`.
    """

    id: str
    level: str | None
    query_type: str | None
    query: str
    text: str
    valid: bool
    failure: str | None
    answer_error: str | None
    box_iou: float
    box_correct: bool
    points_in_box: bool
    mask_iou: float | None
    intersection: int | None
    union: int | None
    thinking_words: int
    thinking_tokens: int
    completion_tokens: int
    uncertainty: float
    finish_reason: str


@dataclass(frozen=True)
class Judged:
    """A completion as read, before it is compared with the truth.

    Attributes:
        completion: The text with its token statistics.
        parsed: The parsed text.
        answer: Box and points of the first usable object, in the 840 frame; None without one.
        targets: All usable objects, in pixels of the image, clipped to it.
        answer_error: Why there is none; None when there is one.
        thinking_tokens: Tokens of the thought.
    """

    completion: Completion
    parsed: ParsedCompletion
    answer: Answer | None
    targets: tuple[Target, ...]
    answer_error: str | None
    thinking_tokens: int


def score_row(
    example: Example,
    judged: Judged,
    *,
    answer_format: AnswerFormat = "pixelthink_json",
    mask: Bool[np.ndarray, "H W"] | None = None,
) -> Row:
    """Compares one completion with one example.

    Args:
        example: Needs a solution or a mask.
        judged: The completion.
        answer_format: Format the policy was asked to answer in.
        mask: Predicted mask at the size of the example's image; None where no masks are made.

    Raises:
        InputError: The example has no truth to compare with.
    """
    answer, completion = judged.answer, judged.completion
    failure = strict_failure(judged.parsed, answer_format=answer_format)
    overlap = box_iou(answer.box_xyxy, true_box(example)) if answer else 0.0
    intersection, union, iou = (None, None, None) if mask is None else _mask_scores(example, mask, answer)
    return Row(
        id=example.id,
        level=example.level,
        query_type=_text_or_none(example.metadata.get("query_type")),
        query=example.query,
        text=completion.text,
        valid=failure is None,
        failure=failure,
        answer_error=judged.answer_error,
        box_iou=overlap,
        box_correct=overlap > BOX_THRESHOLD,
        points_in_box=answer is not None and _points_in_box(answer),
        mask_iou=iou,
        intersection=intersection,
        union=union,
        thinking_words=len(thought(judged.parsed).split()),
        thinking_tokens=judged.thinking_tokens,
        completion_tokens=len(completion.token_ids),
        uncertainty=completion.uncertainty,
        finish_reason=completion.finish_reason,
    )


def strict_failure(
    parsed: ParsedCompletion, *, answer_format: AnswerFormat = "pixelthink_json"
) -> str | None:
    """Why a completion is not in the format asked for; None if it is.

    >>> from pixelthink_jax.answers import parse_completion
    >>> strict_failure(parse_completion('<think>red</think><answer>{"bbox": [1, 2, 3]}</answer>'))
    'box_length'
    """
    if answer_format == "vision_reasoner_json":
        return (
            "tags"
            if not parsed.thinking_format
            else tolerant_reading(parsed, protocol="vision_reasoner").failure
        )
    reading = strict_reading(parsed)
    if reading.thinking_format and reading.answer_format:
        return None
    return reading.failures[0]


def thought(parsed: ParsedCompletion) -> str:
    """Text of the thought; one that was never closed goes on to the answer or the end.

    >>> from pixelthink_jax.answers import parse_completion
    >>> thought(parse_completion("<think>it is the red one, no, the"))
    'it is the red one, no, the'
    """
    if parsed.thinking is not None:
        return parsed.thinking
    return parsed.text.partition("<think>")[2].partition("<answer>")[0].strip()


def true_box(example: Example) -> Box:
    """The box to find, in the 840 frame: the solution's, or that of the mask.

    Raises:
        InputError: The example has neither, its solution is malformed, or its mask empty.
    """
    if example.solution is not None:
        return parse_solution(example.solution).box_xyxy
    if example.mask is None or not example.mask.any():
        raise InputError(
            f"example {example.id}: it has no solution and no target pixels; evaluation needs one of them"
        )
    height, width = example.mask.shape
    x1, y1, x2, y2 = box_to_frame(mask_box(example.mask), width, height)
    return float(x1), float(y1), float(x2), float(y2)


def _mask_scores(
    example: Example, mask: Bool[np.ndarray, "H W"], answer: Answer | None
) -> tuple[int, int, float]:
    """Intersection, union and IoU; an empty union is a hit for an answer that draws nothing, a miss for no answer."""
    if example.mask is None:
        raise InputError(f"example {example.id}: it has no mask; set segmenter to null to score boxes only")
    intersection, union = intersection_union(mask, example.mask)
    return intersection, union, intersection / union if union else float(answer is not None)


def _points_in_box(answer: Answer) -> bool:
    x1, y1, x2, y2 = answer.box_xyxy
    return all(x1 <= x <= x2 and y1 <= y <= y2 for x, y in answer.points_xy)


def _text_or_none(value: object) -> str | None:
    return None if value is None else str(value)
