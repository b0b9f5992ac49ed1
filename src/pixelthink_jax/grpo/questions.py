"""The questions of each step: rows of a dataset in a resumable order, bad ones stopped at or counted."""

from collections import Counter
from typing import Any, cast

import numpy as np

from pixelthink_jax.data.pipeline import ExampleSource, example_stream
from pixelthink_jax.errors import InputError
from pixelthink_jax.grpo.config import TrainConfig
from pixelthink_jax.grpo.difficulty import Difficulty, usable
from pixelthink_jax.runtime.hosts import joined, share, together
from pixelthink_jax.types import Example

_NOTHING_TRIED = np.zeros((1, 1), np.float32)


class _Places:
    """A source of nothing but the numbers of its rows; they are read where they are needed."""

    def __init__(self, length: int):
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self._length:
            raise IndexError(index)
        return index


class Questions:
    """An endless stream of steps' questions, the same whatever the number of processes; each reads its share of them.

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
        self._source, self._config, self._difficulty = source, config, difficulty
        self._stream = example_stream(cast(Any, _Places(len(source))), seed=config.seed)
        self._length, self._in_a_row = len(source), 0
        self.skipped: Counter[str] = Counter()
        if state is not None:
            self._stream.set_state(state["stream"])
            self.skipped.update(state["skipped"])

    def state(self) -> dict[str, Any]:
        """Where the stream stands, as JSON."""
        return {"stream": self._stream.get_state(), "skipped": dict(self.skipped)}

    def next_step(self) -> list[Example]:
        """This process's share of the questions of one step.

        Raises:
            InputError: A row cannot be used and the config says to stop, or no row can be used at all.
        """
        chosen: list[int] = []
        read: dict[int, Example] = {}
        while len(chosen) < self._config.prompts_per_step:
            drawn = [self._next_place() for _ in range(self._config.prompts_per_step - len(chosen))]
            causes = joined(
                together(lambda drawn=drawn: [self._look(drawn[i], read) for i in share(len(drawn))])
            )
            for place, cause in zip(drawn, causes, strict=True):
                if cause is None:
                    chosen.append(place)
                    self._in_a_row = 0
                    continue
                self.skipped[cause] += 1
                self._in_a_row += 1
                if self._in_a_row >= self._length:
                    raise InputError(
                        f"data: none of its {self._length} rows can be used ({dict(self.skipped)})"
                    )
        # Where rows were left out, some of those that take their place were read by another process.
        return [read[i] if i in read else self._source[i] for i in (chosen[j] for j in share(len(chosen)))]

    def close(self) -> None:
        """Ends the stream."""
        self._stream.close()

    def _next_place(self) -> int:
        [place] = next(self._stream)
        return int(place)

    def _look(self, place: int, read: dict[int, Example]) -> str | None:
        """Reads a row; why it is left out, None if it is not."""
        try:
            row = self._source[place]
        except InputError as error:
            return self._bad("unreadable", error)
        read[place] = row
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
