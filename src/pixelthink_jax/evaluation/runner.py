"""A policy, and where there is one a segmenter, over a dataset: batches in, one scored row per example out.

    examples -> greedy completions -> usable answer -> mask -> `scoring.Row`

Every example gives one row. The last batch is filled up by repeating its last example, so that one program is
compiled for all of them; what was repeated is not scored twice. Answers and masks are those of `segmentation.segment`,
found for a whole batch at once.
"""

from collections.abc import Callable

import numpy as np

from pixelthink_jax.answers import parse_completion, usable_answer, usable_targets
from pixelthink_jax.data.pipeline import ExampleSource
from pixelthink_jax.data.targets import FRAME
from pixelthink_jax.evaluation.config import Generation
from pixelthink_jax.evaluation.scoring import Judged, Row, score_row, thought
from pixelthink_jax.policy import Policy
from pixelthink_jax.processing.policy_format import frame_size
from pixelthink_jax.processing.processor import Processor
from pixelthink_jax.segmentation import answer_in_image, best_mask
from pixelthink_jax.segmenter import Segmenter
from pixelthink_jax.types import Completion, Example

Progress = Callable[[int, int], None]

_SEGMENTER_BATCH = 8


def evaluate_policy(
    policy: Policy,
    source: ExampleSource,
    *,
    segmenter: Segmenter | None = None,
    generation: Generation | None = None,
    on_progress: Progress | None = None,
) -> list[Row]:
    """One row for each example of `source`, in order.

    Args:
        policy: What is asked.
        source: The questions with their truth.
        segmenter: Draws the masks; None scores boxes only.
        generation: How the policy is asked.
        on_progress: Called with (examples done, examples in all) after each batch.

    Raises:
        InputError: An example has no truth to compare with, or an image or a question cannot be used.
    """
    generation = generation or Generation()
    rows: list[Row] = []
    room = min(generation.batch_size, len(source))
    while len(rows) < len(source):
        examples = [source[i] for i in range(len(rows), min(len(rows) + room, len(source)))]
        rows += _batch_rows(policy, segmenter, examples, generation, room)
        if on_progress:
            on_progress(len(rows), len(source))
    return rows


def _batch_rows(
    policy: Policy, segmenter: Segmenter | None, examples: list[Example], generation: Generation, room: int
) -> list[Row]:
    """Asks, reads, draws and scores one batch of at most `room` examples."""
    completions = _ask(policy, examples + examples[-1:] * (room - len(examples)), generation)
    judged = [_judge(policy.processor, *pair) for pair in zip(examples, completions, strict=False)]
    masks = None if segmenter is None else _masks(segmenter, examples, judged)
    return [
        score_row(
            example,
            judged[i],
            answer_format=policy.processor.format.answer_format,
            mask=None if masks is None else masks[i],
        )
        for i, example in enumerate(examples)
    ]


def _ask(policy: Policy, examples: list[Example], generation: Generation) -> list[Completion]:
    groups = policy.generate(
        [example.image for example in examples],
        [example.query for example in examples],
        max_new_tokens=generation.max_new_tokens,
        max_thinking_tokens=generation.max_thinking_tokens,
        instructions=[generation.instruction or example.instruction for example in examples],
        completion_prefix=generation.completion_prefix,
        batch_size=len(examples),
    )
    return [completion for [completion] in groups]


def _judge(processor: Processor, example: Example, completion: Completion) -> Judged:
    """Reads a completion: its box in the 840 frame, its objects in the image."""
    format, parsed = processor.format, parse_completion(completion.text)
    height, width = processor.resize(example.image).shape[:2]
    answer, error = usable_answer(parsed, answer_format=format.answer_format)
    if answer is not None:
        answer = processor.to_image_px(answer, image_size=(FRAME, FRAME), model_size=(width, height))
    frame = frame_size(format.coordinate_frame, model_size=(width, height))
    size = (example.image.shape[1], example.image.shape[0])
    written, _ = usable_targets(parsed, answer_format=format.answer_format)
    placed = [answer_in_image(target, frame=frame, image_size=size) for target in written]
    targets = tuple(target for target in placed if target is not None)
    if answer is not None and not targets:
        error = "the box of the answer lies outside the image"
    return Judged(
        completion=completion,
        parsed=parsed,
        answer=answer if targets else None,
        targets=targets,
        answer_error=error,
        thinking_tokens=processor.tokenizer.count(thought(parsed)),
    )


def _masks(segmenter: Segmenter, examples: list[Example], judged: list[Judged]) -> list[np.ndarray]:
    """The union of the masks of each completion's objects, empty where it has none."""
    masks = [np.zeros(example.image.shape[:2], bool) for example in examples]
    asked = [(i, target) for i, item in enumerate(judged) for target in item.targets]
    filled = asked + asked[-1:] * (-len(asked) % _SEGMENTER_BATCH)
    drawn = segmenter.predict_batch(
        [examples[i].image for i, _ in filled],
        [target.box_xyxy for _, target in filled],
        [target.points_xy for _, target in filled],
        as_given=True,
        batch_size=_SEGMENTER_BATCH,
    )
    for (i, _), found in zip(asked, drawn, strict=False):
        masks[i] |= best_mask(found)[0]
    return masks
