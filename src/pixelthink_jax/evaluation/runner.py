"""A policy, and where there is one a segmenter, over a dataset: batches in, one scored outcome per example out.

    examples -> greedy completions -> usable answer -> mask -> `scoring.Row`

Every example gives one outcome. The last batch is filled up by repeating its last example, so that one program is
compiled for all of them; what was repeated is not scored twice.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from pixelthink_jax.answers import parse_completion, usable_answer
from pixelthink_jax.data.pipeline import ExampleSource
from pixelthink_jax.data.targets import FRAME
from pixelthink_jax.evaluation.config import Generation
from pixelthink_jax.evaluation.scoring import Judged, Row, score_row, thought
from pixelthink_jax.processing.processor import Processor
from pixelthink_jax.types import Answer, Completion, Example, Masks

Progress = Callable[[int, int], None]

_SEGMENTER_BATCH = 8


@runtime_checkable
class AnswersQuestions(Protocol):
    """The part of `Policy` that evaluation uses."""

    @property
    def processor(self) -> Processor:
        """Tokenizer, image settings and answer format."""
        ...

    def generate(
        self,
        images: Sequence[np.ndarray],
        queries: Sequence[str],
        *,
        max_new_tokens: int,
        max_thinking_tokens: int | None = None,
        instructions: Sequence[str | None] | None = None,
        completion_prefix: str = "",
        batch_size: int = 16,
    ) -> list[tuple[Completion, ...]]:
        """Greedy completions."""
        ...


@runtime_checkable
class DrawsMasks(Protocol):
    """The part of `Segmenter` that evaluation uses."""

    def predict_batch(
        self,
        images: Sequence[np.ndarray],
        boxes_xyxy: Sequence[object],
        points_xy: Sequence[object],
        *,
        as_given: bool = False,
        batch_size: int = 8,
    ) -> list[Masks]:
        """Three masks for each image."""
        ...


@dataclass(frozen=True)
class Outcome:
    """One example with what the models made of it.

    Attributes:
        example: The question and its truth.
        judged: The completion, and its answer in the 840 frame.
        answer: The answer in pixels of the example's image; None without a usable one.
        mask: bool `[H, W]`; None without a segmenter or a usable answer.
        row: The scores.
    """

    example: Example
    judged: Judged
    answer: Answer | None
    mask: np.ndarray | None
    row: Row


def evaluate_policy(
    policy: AnswersQuestions,
    source: ExampleSource,
    *,
    segmenter: DrawsMasks | None = None,
    generation: Generation | None = None,
    on_progress: Progress | None = None,
) -> list[Row]:
    """The rows of all examples of `source`; see `outcomes`.

    Args:
        policy: What is asked.
        source: The questions with their truth.
        segmenter: Draws the masks; None scores boxes only.
        generation: How the policy is asked.
        on_progress: Called with (examples done, examples in all) after each batch.
    """
    rows: list[Row] = []
    step = (generation or Generation()).batch_size
    for outcome in outcomes(policy, source, segmenter=segmenter, generation=generation):
        rows.append(outcome.row)
        if on_progress and (len(rows) % step == 0 or len(rows) == len(source)):
            on_progress(len(rows), len(source))
    return rows


def outcomes(
    policy: AnswersQuestions,
    source: ExampleSource,
    *,
    segmenter: DrawsMasks | None = None,
    generation: Generation | None = None,
) -> Iterator[Outcome]:
    """Yields one outcome for each example of `source`, in order.

    Raises:
        InputError: An example has no truth to compare with, or an image or a question cannot be used.
    """
    generation = generation or Generation()
    for start in range(0, len(source), generation.batch_size):
        examples = [source[i] for i in range(start, min(start + generation.batch_size, len(source)))]
        room = min(generation.batch_size, len(source))
        filled = examples + examples[-1:] * (room - len(examples))
        judged = _judge(policy, filled, generation)[: len(examples)]
        yield from _score(policy.processor, segmenter, examples, judged)


def answer_mask(masks: Masks) -> np.ndarray:
    """The mask with the highest predicted IoU; on a tie the later one, as the released evaluation takes it."""
    count = len(masks.iou_predictions)
    return masks.masks[count - 1 - int(np.argmax(masks.iou_predictions[::-1]))]


def _judge(policy: AnswersQuestions, examples: list[Example], generation: Generation) -> list[Judged]:
    """Asks the policy and reads its answers into the 840 frame."""
    groups = policy.generate(
        [example.image for example in examples],
        [example.query for example in examples],
        max_new_tokens=generation.max_new_tokens,
        max_thinking_tokens=generation.max_thinking_tokens,
        instructions=[generation.instruction or example.instruction for example in examples],
        completion_prefix=generation.completion_prefix,
        batch_size=len(examples),
    )
    return [
        _judged(policy.processor, example, completion)
        for example, (completion, *_) in zip(examples, groups, strict=True)
    ]


def _judged(processor: Processor, example: Example, completion: Completion) -> Judged:
    parsed = parse_completion(completion.text)
    answer, error = usable_answer(parsed, answer_format=processor.format.answer_format)
    if answer is not None:
        answer = processor.to_image_px(
            answer, image_size=(FRAME, FRAME), model_size=_model_size(processor, example.image)
        )
    return Judged(completion, parsed, answer, error, processor.tokenizer.count(thought(parsed)))


def _model_size(processor: Processor, image: np.ndarray) -> tuple[int, int]:
    """Width and height of the image as the model sees it."""
    height, width = processor.resize(image).shape[:2]
    return width, height


def _score(
    processor: Processor, segmenter: DrawsMasks | None, examples: list[Example], judged: list[Judged]
) -> Iterator[Outcome]:
    answers = [_in_image(item.answer, example) for item, example in zip(judged, examples, strict=True)]
    masks = _masks(segmenter, examples, answers) if segmenter else [None] * len(examples)
    for example, item, answer, mask in zip(examples, judged, answers, masks, strict=True):
        row = score_row(
            example,
            item,
            answer_format=processor.format.answer_format,
            mask=mask,
            with_masks=segmenter is not None,
        )
        yield Outcome(example, item, answer, mask, row)


def _in_image(answer: Answer | None, example: Example) -> Answer | None:
    """An answer of the 840 frame in pixels of the example's image."""
    if answer is None:
        return None
    height, width = example.image.shape[:2]
    fx, fy = width / FRAME, height / FRAME
    x1, y1, x2, y2 = answer.box_xyxy
    (ax, ay), (bx, by) = answer.points_xy
    return Answer((x1 * fx, y1 * fy, x2 * fx, y2 * fy), ((ax * fx, ay * fy), (bx * fx, by * fy)))


def _masks(
    segmenter: DrawsMasks, examples: list[Example], answers: list[Answer | None]
) -> list[np.ndarray | None]:
    """A mask for every answer; the batch is filled up to whole segmenter batches, as in `outcomes`."""
    asked = [(i, answer) for i, answer in enumerate(answers) if answer is not None]
    if not asked:
        return [None] * len(examples)
    filled = asked + asked[-1:] * (-len(asked) % _SEGMENTER_BATCH)
    drawn = segmenter.predict_batch(
        [examples[i].image for i, _ in filled],
        [answer.box_xyxy for _, answer in filled],
        [answer.points_xy for _, answer in filled],
        as_given=True,
        batch_size=_SEGMENTER_BATCH,
    )
    masks: list[np.ndarray | None] = [None] * len(examples)
    for (i, _), found in zip(asked, drawn, strict=False):
        masks[i] = answer_mask(found)
    return masks
