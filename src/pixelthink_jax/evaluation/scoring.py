"""One completion against one example: everything that is counted about it, in one flat row.

The box is judged in the 840 frame with the released reward's IoU of inclusive pixels (`metrics.box_iou`), the mask
at the size of the original image. Two readings of the text are kept apart: `valid` is the strict one, which the
reward pays for; box and mask come from the protocol's. A completion without an answer is scored as an empty mask and
no box; only a protocol that says so leaves an example out, and the row says why.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from pixelthink_jax.answers import (
    AnswerFormat,
    ParsedCompletion,
    Target,
    boxes_failure,
    enclosing_box,
    solution_box,
    strict_reading,
    tolerant_reading,
)
from pixelthink_jax.data.targets import box_to_frame, mask_box
from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation.metrics import box_iou, exclusive_box_iou
from pixelthink_jax.evaluation.protocols import PROTOCOLS, EvaluationProtocol, score_mask
from pixelthink_jax.evaluation.protocols.masks import target_pixels
from pixelthink_jax.evaluation.protocols.reading import thought
from pixelthink_jax.evaluation.rows import Row, encode_mask
from pixelthink_jax.types import Answer, Box, Completion, Example

BOX_THRESHOLD = 0.5


@dataclass(frozen=True)
class Judged:
    """A completion as read, before it is compared with the truth.

    Attributes:
        completion: The text with its token statistics.
        parsed: The parsed text.
        answer: Box and points of the first object, in the 840 frame; None without one.
        targets: All objects, in pixels of the image, as the segmenter is given them.
        answer_error: Why there is none; None when there is one.
        thinking_tokens: Tokens of the thought.
        boxes_840: The box of each object, in the 840 frame.
        thinking: The thought by the protocol's rule; None takes `protocols.reading.thought`.
    """

    completion: Completion
    parsed: ParsedCompletion
    answer: Answer | None
    targets: tuple[Target, ...]
    answer_error: str | None
    thinking_tokens: int
    boxes_840: tuple[Box, ...] = ()
    thinking: str | None = None


@dataclass(frozen=True)
class Drawn:
    """What the segmenter made of a completion's objects.

    Attributes:
        mask: bool `[H, W]`, the union of their masks; all False without objects.
        score: Mean predicted IoU; 0 without objects.
        seconds: Its share of the segmenter's time.
    """

    mask: np.ndarray
    score: float = 0.0
    seconds: float = 0.0


def score_row(
    example: Example,
    judged: Judged,
    *,
    answer_format: AnswerFormat = "pixelthink_json",
    mask: Bool[np.ndarray, "H W"] | None = None,
    protocol: EvaluationProtocol = PROTOCOLS["pixelthink"],
    drawn: Drawn | None = None,
    index: int = -1,
    seconds: dict[str, float] | None = None,
) -> Row:
    """Compares one completion with one example.

    Args:
        example: Needs a solution or a mask; a mask without target pixels and no solution is a question without a
            target.
        judged: The completion.
        answer_format: Format the policy was asked to answer in.
        mask: Predicted mask at the size of the example's image; None where no masks are made.
        protocol: How masks are scored.
        drawn: The mask with its score and time, in place of `mask`.
        index: Place of the example in its dataset.
        seconds: Time by stage beside what the completion and the mask say themselves.

    Raises:
        InputError: The example has no truth to compare with, or its mask is not of its image.
    """
    drawn = Drawn(mask) if drawn is None and mask is not None else drawn
    failure = strict_failure(judged.parsed, answer_format=answer_format)
    thinking = thought(judged.parsed) if judged.thinking is None else judged.thinking
    overlap, found = _box_scores(example, judged, protocol)
    completion, cost = judged.completion, judged.completion.cost
    spent = dict(seconds or {}) | (cost.seconds if cost else {})
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
        box_correct=found,
        points_in_box=judged.answer is not None and _points_in_box(judged.answer),
        thinking_words=len(thinking.split()),
        thinking_tokens=judged.thinking_tokens,
        completion_tokens=len(completion.token_ids),
        uncertainty=completion.uncertainty,
        finish_reason=completion.finish_reason,
        response_words=judged.parsed.response_words,
        index=index,
        difficulty=example.difficulty,
        protocol=protocol.name,
        boxes_xyxy=[list(target.box_xyxy) for target in judged.targets],
        points_xy=[[list(point) for point in target.points_xy] for target in judged.targets],
        image_size=[example.image.shape[1], example.image.shape[0]],
        prompt_tokens=cost.prompt_tokens if cost else 0,
        image_grid=list(cost.image_grid) if cost else [],
        decode_slots=cost.decode_slots if cost else 0.0,
        seconds=spent if drawn is None else spent | {"segmenter": drawn.seconds},
        **_mask_fields(example, judged, drawn, protocol),
    )


def strict_failure(
    parsed: ParsedCompletion, *, answer_format: AnswerFormat = "pixelthink_json"
) -> str | None:
    """Why a completion is not in the format asked for; None if it is.

    >>> from pixelthink_jax.answers import parse_completion
    >>> strict_failure(parse_completion('<think>red</think><answer>{"bbox": [1, 2, 3]}</answer>'))
    'box_length'
    """
    if answer_format == "qwen_vl_json":
        return boxes_failure(parsed)
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


def true_box(example: Example) -> Box | None:
    """The box to find, in the 840 frame: around the objects of the solution or the mask; None without a target.

    Raises:
        InputError: The example has neither, or its solution is malformed.
    """
    if example.solution is not None:
        return solution_box(example.solution)
    if example.mask is None:
        raise InputError(
            f"example {example.id}: it has no solution and no mask; evaluation needs one of them"
        )
    wanted = example.mask == 1
    if not wanted.any():
        return None
    height, width = wanted.shape
    x1, y1, x2, y2 = box_to_frame(mask_box(wanted), width, height)
    return float(x1), float(y1), float(x2), float(y2)


def _box_scores(example: Example, judged: Judged, protocol: EvaluationProtocol) -> tuple[float, bool]:
    """Box IoU, and whether the box was found; where there is none to find, whether none was given."""
    truth = true_box(example)
    if truth is None:
        return 0.0, not judged.boxes_840 and judged.answer_error is None
    if protocol.any_box:
        overlap = max((exclusive_box_iou(box, truth) for box in judged.boxes_840), default=0.0)
    else:
        given = enclosing_box(judged.boxes_840[1:] and judged.boxes_840)
        overlap = box_iou(given or judged.answer.box_xyxy, truth) if judged.answer else 0.0
    return overlap, overlap > BOX_THRESHOLD


def _mask_fields(example: Example, judged: Judged, drawn: Drawn | None, protocol: EvaluationProtocol) -> dict:
    """Everything a row says about masks."""
    if drawn is None:
        return {"mask_iou": None, "intersection": None, "union": None}
    if example.mask is None:
        raise InputError(f"example {example.id}: it has no mask; set segmenter to null to score boxes only")
    try:
        scored = score_mask(
            drawn.mask,
            example.mask,
            protocol,
            answered=judged.answer_error is None,
            boxes=len(judged.boxes_840),
        )
    except InputError as error:
        raise InputError(f"example {example.id}: {error}") from error
    return {
        "mask_iou": scored.iou,
        "intersection": scored.intersection,
        "union": scored.union,
        "skipped": scored.skipped,
        "mask_score": drawn.score,
        "mask_counts": encode_mask(drawn.mask),
        "mask_pixels": int(np.count_nonzero(drawn.mask)),
        "target_pixels": target_pixels(example.mask, protocol.ignore),
    }


def _points_in_box(answer: Answer) -> bool:
    x1, y1, x2, y2 = answer.box_xyxy
    return bool(answer.points_xy) and all(x1 <= x <= x2 and y1 <= y <= y2 for x, y in answer.points_xy)


def _text_or_none(value: object) -> str | None:
    return None if value is None else str(value)
