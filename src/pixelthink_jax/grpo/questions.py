"""The questions of each step: rows of a dataset in a resumable order, bad ones stopped at or counted."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from pixelthink_jax.data.pipeline import ExampleSource, example_stream
from pixelthink_jax.errors import InputError
from pixelthink_jax.grpo.config import TrainConfig
from pixelthink_jax.grpo.difficulty import Difficulty, usable
from pixelthink_jax.types import Example

_NOTHING_TRIED = np.zeros((1, 1), np.float32)


@dataclass(frozen=True)
class _Unreadable(Example):
    """What stands in the stream for a row that could not be read."""

    error: InputError | None = None


class _Guarded:
    """A source whose unreadable rows are marks instead of errors, so that a stream gets past them."""

    def __init__(self, source: ExampleSource):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        try:
            return self._source[index]
        except InputError as error:
            return _Unreadable(f"row {index}", np.zeros((1, 1, 3), np.uint8), "", error=error)


class Questions:
    """An endless stream of steps' questions.

    Attributes:
        skipped: Rows left out so far, by cause.
    """

    def __init__(
        self,
        source: ExampleSource,
        config: TrainConfig,
        difficulty: Difficulty,
        *,
        state: dict[str, Any] | None = None,
    ):
        """Reads `source` shuffled by the seed, from `state` on where one is given."""
        self._config, self._difficulty = config, difficulty
        self._stream = example_stream(_Guarded(source), seed=config.seed)
        self._length, self._in_a_row = len(source), 0
        self.skipped: Counter[str] = Counter()
        if state is not None:
            self._stream.set_state(state["stream"])
            self.skipped.update(state["skipped"])

    def state(self) -> dict[str, Any]:
        """Where the stream stands, as JSON."""
        return {"stream": self._stream.get_state(), "skipped": dict(self.skipped)}

    def next_step(self) -> list[Example]:
        """The questions of one step.

        Raises:
            InputError: A row cannot be used and the config says to stop, or no row can be used at all.
        """
        examples: list[Example] = []
        while len(examples) < self._config.prompts_per_step:
            [row] = next(self._stream)
            cause = self._trouble(row)
            if cause is None:
                examples.append(row)
                self._in_a_row = 0
                continue
            self.skipped[cause] += 1
            self._in_a_row += 1
            if self._in_a_row >= self._length:
                raise InputError(f"data: none of its {self._length} rows can be used ({dict(self.skipped)})")
        return examples

    def close(self) -> None:
        """Ends the stream."""
        self._stream.close()

    def _trouble(self, row: Example) -> str | None:
        """Why a row is left out; None if it is not."""
        if isinstance(row, _Unreadable):
            return self._bad("unreadable", row.error)
        try:
            if row.solution is None:
                raise InputError(f"example {row.id}: it has no solution; training needs one in every row")
            self._config.reward.check_solution(row.solution)
        except InputError as error:
            return self._bad("no_solution", error)
        settings = self._config.difficulty
        if settings.source == "self" or settings.missing == "released":
            return None
        score = float(self._difficulty([row], _NOTHING_TRIED)[0])
        if usable(score):
            return None
        if settings.missing == "error":
            raise InputError(
                f"example {row.id}: its difficulty is {score}, expected a number from 1 to 10; set "
                "difficulty.missing to skip or released, or difficulty.source to self"
            )
        return "no_difficulty"

    def _bad(self, cause: str, error: InputError | None) -> str:
        if self._config.bad_rows == "stop":
            raise InputError(f"data: {error}; set bad_rows to skip to leave such rows out") from error
        return cause
