"""A completion as a protocol reads it: objects in pixels of the image, the thought, or why it fails."""

from dataclasses import dataclass

from pixelthink_jax.answers import (
    AnswerFormat,
    ParsedCompletion,
    Target,
    listed_boxes,
    tolerant_reading,
    two_points,
    usable_answer,
    usable_targets,
)
from pixelthink_jax.data.targets import FRAME
from pixelthink_jax.evaluation.protocols.protocol import EvaluationProtocol
from pixelthink_jax.processing.policy_format import PolicyFormat, frame_size
from pixelthink_jax.processing.processor import scale_coordinate, to_image_px
from pixelthink_jax.segmentation import answer_in_image
from pixelthink_jax.types import Answer, Box


@dataclass(frozen=True)
class Reading:
    """What a protocol sees in a completion.

    Attributes:
        answer: Box and points of the first object, in the 840 frame; None without one.
        targets: All objects, in pixels of the image; what the segmenter is given.
        boxes_840: The box of each object, in the 840 frame.
        error: Why the completion fails; None if it does not. A completion that says in its format that nothing is
            there has no targets and no error.
        thinking: The thought by the protocol's rule.
    """

    answer: Answer | None
    targets: tuple[Target, ...]
    boxes_840: tuple[Box, ...]
    error: str | None
    thinking: str


def read_answer(
    parsed: ParsedCompletion,
    protocol: EvaluationProtocol,
    format: PolicyFormat,
    *,
    image_size: tuple[int, int],
    model_size: tuple[int, int],
) -> Reading:
    """Reads a completion.

    Args:
        parsed: The completion.
        protocol: Whose rules.
        format: The policy's frame and answer format.
        image_size: `(width, height)` of the original image.
        model_size: `(width, height)` of the image the model saw.
    """
    frame = frame_size(format.coordinate_frame, model_size=model_size)
    if protocol.reading == "usable":
        return _usable(parsed, format.answer_format, frame, image_size)
    reading = tolerant_reading(parsed, protocol=protocol.reading)
    placed = tuple(_scaled(target, protocol, frame, image_size) for target in reading.targets)
    boxes = tuple(_box_840(target.box_xyxy, image_size) for target in placed)
    return Reading(
        answer=_first(placed, image_size), targets=placed, boxes_840=boxes, error=reading.failure,
        thinking=reading.thinking,
    )  # fmt: skip


def thought(parsed: ParsedCompletion) -> str:
    """Text of the thought; one that was never closed goes on to the answer or the end.

    >>> from pixelthink_jax.answers import parse_completion
    >>> thought(parse_completion("<think>it is the red one, no, the"))
    'it is the red one, no, the'
    """
    if parsed.thinking is not None:
        return parsed.thinking
    return parsed.text.partition("<think>")[2].partition("<answer>")[0].strip()


def _usable(
    parsed: ParsedCompletion, answer_format: AnswerFormat, frame: tuple[int, int], image_size: tuple[int, int]
) -> Reading:
    """Our own reading; the first object is judged where it was written, the drawn ones are clipped to the image."""
    answer, error = usable_answer(parsed, answer_format=answer_format)
    if answer is not None:
        answer = to_image_px(answer, frame=frame, image_size=(FRAME, FRAME))
    written, _ = usable_targets(parsed, answer_format=answer_format)
    placed = [answer_in_image(target, frame=frame, image_size=image_size) for target in written]
    targets = tuple(target for target in placed if target is not None)
    if answer is not None and not targets:
        error = "the box of the answer lies outside the image"
    if not written and _says_nothing(parsed, answer_format):
        error = None
    return Reading(
        answer=answer if targets else None,
        targets=targets,
        boxes_840=tuple(_box_840(target.box_xyxy, image_size) for target in targets),
        error=error,
        thinking=thought(parsed),
    )


def _says_nothing(parsed: ParsedCompletion, answer_format: AnswerFormat) -> bool:
    """Whether the answer is an empty list, in a format that has lists."""
    if answer_format != "vision_reasoner_json":
        return answer_format == "qwen_vl_json" and listed_boxes(parsed) == []
    reading = tolerant_reading(parsed, protocol="vision_reasoner")
    return reading.failure is None and not reading.targets


def _scaled(
    target: Target, protocol: EvaluationProtocol, frame: tuple[int, int], image_size: tuple[int, int]
) -> Target:
    """An object in pixels of the image, rounded as the protocol does and clipped nowhere."""
    fx, fy = image_size[0] / frame[0], image_size[1] / frame[1]
    x1, y1, x2, y2 = (
        scale_coordinate(v, f, protocol.rounding)
        for v, f in zip(target.box_xyxy, (fx, fy, fx, fy), strict=True)
    )
    points = tuple(
        (scale_coordinate(x, fx, protocol.rounding), scale_coordinate(y, fy, protocol.rounding))
        for x, y in target.points_xy
    )
    return Target(box_xyxy=(x1, y1, x2, y2), points_xy=points)


def _box_840(box: Box, image_size: tuple[int, int]) -> Box:
    """A box from pixels of the image to the 840 frame."""
    fx, fy = FRAME / image_size[0], FRAME / image_size[1]
    return box[0] * fx, box[1] * fy, box[2] * fx, box[3] * fy


def _first(targets: tuple[Target, ...], image_size: tuple[int, int]) -> Answer | None:
    if not targets:
        return None
    fx, fy = FRAME / image_size[0], FRAME / image_size[1]
    points = tuple((x * fx, y * fy) for x, y in two_points(targets[0].points_xy))
    return Answer(_box_840(targets[0].box_xyxy, image_size), points)
