"""A policy, and where there is one a segmenter, over a dataset: batches in, one scored row per example out.

    examples -> greedy completions -> the protocol's reading -> masks -> `rows.Row`

Every example gives one row, also one that the protocol skips. Examples are read some batches at a time and handed to
the policy longest first; within one call the policy refills its batches with what is left of the others
(`rl.refill`), so that few rows wait for a long one.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pixelthink_jax.answers import parse_completion
from pixelthink_jax.data.pipeline import ExampleSource
from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation.config import Generation
from pixelthink_jax.evaluation.protocols import PROTOCOLS, EvaluationProtocol, read_answer
from pixelthink_jax.evaluation.rows import Row
from pixelthink_jax.evaluation.scoring import Drawn, Judged, score_row, true_box
from pixelthink_jax.policy import Policy
from pixelthink_jax.processing.processor import Processor
from pixelthink_jax.processing.prompts import user_text
from pixelthink_jax.runtime.hosts import agreed, share, together
from pixelthink_jax.segmentation import best_masks
from pixelthink_jax.segmenter import Segmenter
from pixelthink_jax.types import Completion, Example

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BadExample:
    """An example that could not be evaluated, and why.

    Attributes:
        index: Its place in the dataset.
        problem: One line.
    """

    index: int
    problem: str


@dataclass(frozen=True)
class Evaluator:
    """What every batch of an evaluation uses.

    Attributes:
        policy: What is asked.
        segmenter: Draws the masks; None scores boxes only.
        generation: How the policy is asked.
        protocol: How answers are read and scored.
        keep_going: Examples that cannot be evaluated are handed out as `BadExample` instead of ending the run.
    """

    policy: Policy
    segmenter: Segmenter | None = None
    generation: Generation = Generation()
    protocol: EvaluationProtocol = PROTOCOLS["pixelthink"]
    keep_going: bool = False

    def windows(self, source: ExampleSource, indices: Sequence[int]) -> Iterator[list[Row | BadExample]]:
        """Rows of the examples at `indices`, some batches at a time, in their order.

        Raises:
            InputError: An example has no truth to compare with, or an image or a question cannot be used.
        """
        room = self.generation.batch_size * self.generation.batches_in_flight
        for start in range(0, len(indices), room):
            yield self._window(source, indices[start : start + room])

    def _window(self, source: ExampleSource, indices: Sequence[int]) -> list[Row | BadExample]:
        """Each process reads and scores its share, and all get to know all rows."""
        own = [indices[i] for i in share(len(indices))]
        read, bad = agreed(lambda: self._read(source, own))
        read.sort(key=lambda item: expected_length(item[1]), reverse=True)
        completions = ask(self.policy, [example for _, example, _ in read], self.generation)
        parts = together(lambda: bad | self._rows(read, completions))
        found = {index: item for part in parts for index, item in part.items()}
        return [found[index] for index in indices]

    def _read(
        self, source: ExampleSource, indices: Sequence[int]
    ) -> tuple[list[tuple[int, Example, float]], dict[int, Row | BadExample]]:
        """The examples at `indices` with the seconds each took, and those that cannot be evaluated."""
        examples: list[tuple[int, Example, float]] = []
        bad: dict[int, Row | BadExample] = {}
        for index in indices:
            start = time.perf_counter()
            try:
                example = source[index]
                # A question that cannot be asked is found here, before it would stop a whole batch.
                user_text(self.policy.processor.format.prompt, example.query)
                true_box(example)
            except InputError as error:
                bad[index] = self._bad(index, error)
                continue
            examples.append((index, example, time.perf_counter() - start))
        return examples, bad

    def _rows(
        self, read: list[tuple[int, Example, float]], completions: Sequence[Completion]
    ) -> dict[int, Row | BadExample]:
        """Reads, draws and scores."""
        examples = [example for _, example, _ in read]
        judged = [self._judge(*pair) for pair in zip(examples, completions, strict=True)]
        drawn = [None] * len(examples) if self.segmenter is None else draw(self.segmenter, examples, judged)
        rows: dict[int, Row | BadExample] = {}
        for (index, example, seconds), said, masks in zip(read, judged, drawn, strict=True):
            try:
                rows[index] = score_row(
                    example,
                    said,
                    answer_format=self.policy.processor.format.answer_format,
                    protocol=self.protocol,
                    drawn=masks,
                    index=index,
                    seconds={"reading": seconds},
                )
            except InputError as error:
                rows[index] = self._bad(index, error)
        return rows

    def _judge(self, example: Example, completion: Completion) -> Judged:
        processor, parsed = self.policy.processor, parse_completion(completion.text)
        reading = read_answer(
            parsed,
            self.protocol,
            processor.format,
            image_size=(example.image.shape[1], example.image.shape[0]),
            model_size=_model_size(processor, example),
        )
        return Judged(
            completion=completion,
            parsed=parsed,
            answer=reading.answer,
            targets=reading.targets,
            answer_error=reading.error,
            thinking_tokens=processor.tokenizer.count(reading.thinking),
            boxes_840=reading.boxes_840,
            thinking=reading.thinking,
        )

    def _bad(self, index: int, error: InputError) -> BadExample:
        if not self.keep_going:
            raise error
        return BadExample(index, str(error))


def evaluate_policy(
    policy: Policy,
    source: ExampleSource,
    *,
    segmenter: Segmenter | None = None,
    generation: Generation | None = None,
    protocol: EvaluationProtocol = PROTOCOLS["pixelthink"],
    on_progress: Progress | None = None,
) -> list[Row]:
    """One row for each example of `source`, in order.

    Args:
        policy: What is asked.
        source: The questions with their truth.
        segmenter: Draws the masks; None scores boxes only.
        generation: How the policy is asked.
        protocol: How answers are read and scored.
        on_progress: Called with (examples done, examples in all) after each window of batches.

    Raises:
        InputError: An example has no truth to compare with, or an image or a question cannot be used.
    """
    evaluator = Evaluator(policy, segmenter, generation or Generation(), protocol)
    rows: list[Row] = []
    for window in evaluator.windows(source, range(len(source))):
        rows += (row for row in window if isinstance(row, Row))
        if on_progress:
            on_progress(len(rows), len(source))
    return rows


def expected_length(example: Example) -> float:
    """What the length of a completion is guessed from: the difficulty where it is known, then the words of the query.

    A guess only: what it gets wrong is made up for by refilling, and nothing but time depends on it.

    >>> expected_length(Example("a", np.zeros((1, 1, 3), np.uint8), "the red cup", difficulty=4.0))
    4.03
    """
    return (example.difficulty or 0.0) + min(len(example.query.split()), 99) / 100


def ask(policy: Policy, examples: Sequence[Example], generation: Generation) -> list[Completion]:
    """One greedy completion for each example; a policy on several processes is asked by all of them at once."""
    if not examples and not policy.spans_processes:
        return []
    groups = policy.generate(
        [example.image for example in examples],
        [example.query for example in examples],
        max_new_tokens=generation.max_new_tokens,
        max_thinking_tokens=generation.max_thinking_tokens,
        instructions=[generation.instruction or example.instruction for example in examples],
        completion_prefix=generation.completion_prefix,
        batch_size=generation.batch_size,
    )
    return [completion for [completion] in groups]


def draw(segmenter: Segmenter, examples: Sequence[Example], judged: Sequence[Judged]) -> list[Drawn]:
    """The union of the masks of each completion's objects, empty where it has none."""
    start = time.perf_counter()
    masks = [np.zeros(example.image.shape[:2], bool) for example in examples]
    scores: list[list[float]] = [[] for _ in examples]
    asked = [(i, target) for i, item in enumerate(judged) for target in item.targets]
    found = best_masks(segmenter, [(examples[i].image, target) for i, target in asked])
    for (i, _), (mask, score) in zip(asked, found, strict=True):
        masks[i] |= mask
        scores[i].append(score)
    drawn = sum(map(bool, scores))
    share = (time.perf_counter() - start) / max(drawn, 1)
    return [
        Drawn(mask, float(np.mean(rated)) if rated else 0.0, share if rated else 0.0)
        for mask, rated in zip(masks, scores, strict=True)
    ]


def _model_size(processor: Processor, example: Example) -> tuple[int, int]:
    """`(width, height)` of the image as the policy sees it."""
    height, width = processor.resize(example.image).shape[:2]
    return width, height
