"""Sources made of sources: cut short, mixed, with beginnings given."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from pixelthink_jax.data.pipeline import ExampleSource
from pixelthink_jax.types import Example

_GOLDEN_RATIO = (5**0.5 - 1) / 2


class FirstExamples:
    """The first rows of a source."""

    def __init__(self, source: ExampleSource, count: int):
        """Keeps at most `count` rows."""
        self._source, self._count = source, min(count, len(source))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._source[index]


class FirstPictures(FirstExamples):
    """The first rows of a source that has encoded pictures."""

    def __init__(self, source: Any, count: int):
        """Keeps at most `count` rows."""
        super().__init__(source, count)
        self.picture = source.picture


class GivenBeginnings:
    """Rows whose completions are given up to a phrase; a completion without it is not."""

    def __init__(self, source: ExampleSource, phrase: str):
        """Looks for the first occurrence of `phrase`."""
        self._source, self._phrase = source, phrase

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        example = self._source[index]
        before, found, _ = (example.completion or "").partition(self._phrase)
        return dataclasses.replace(example, given=before.rstrip()) if found else example


class MixedSource:
    """Several sources as one: row `i` is row `i` of one of them, each drawn evenly by its weight.

    >>> "".join(MixedSource(["aaaaaaaa", "bbbbbbbb"], [3, 1])[i] for i in range(8))
    'aaaabaab'
    """

    def __init__(self, sources: Sequence[Any], weights: Sequence[float]):
        """As long as its shortest source, so that every row exists."""
        self._sources = list(sources)
        self._ends = np.cumsum(weights)[:-1] / np.sum(weights)

    def __len__(self) -> int:
        return min(len(source) for source in self._sources)

    def __getitem__(self, index: int) -> Any:
        # Multiples of the golden ratio, modulo 1, fill [0, 1) evenly from any place on.
        place = (index * _GOLDEN_RATIO + 0.5) % 1.0
        return self._sources[int(np.searchsorted(self._ends, place, side="right"))][index]
