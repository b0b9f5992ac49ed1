"""Datasets by name, as random-access sources of `Example`."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pixelthink_jax.data.pipeline import ExampleSource
from pixelthink_jax.data.shapes import ShapeReason
from pixelthink_jax.errors import InputError
from pixelthink_jax.processing.images import load_image
from pixelthink_jax.types import Example

_GOLDEN_RATIO = (5**0.5 - 1) / 2


def open_source(
    name: str,
    *,
    split: str = "train",
    task: str = "reason",
    path: str | Path | None = None,
    examples: int | None = None,
    chain_style: str | None = None,
    level: str | None = None,
    brief: bool = False,
    most_objects: int | None = None,
    render_size: tuple[int, int] | None = None,
) -> ExampleSource:
    """Opens a dataset.

    Args:
        name: `shapereason` (rendered on demand), `array_record` (a folder of `pixelthink prepare`), or
            `jsonl`.
        split: Split of the dataset; `jsonl` has none.
        task: Of `shapereason`, one of `shapes.world.TASKS`.
        path: Folder or file; `shapereason` has none.
        examples: Keep only that many, from the start.
        chain_style: Of `shapereason` with `reason`: the style of every chain; None draws it.
        level: Of `shapereason` with `reason`: questions of that level only.
        brief: Of `shapereason` with `reason`: every row asks for brevity.
        most_objects: Of `shapereason` but with `reason`: scenes of at most that many objects.
        render_size: `(width, height)` at which `shapereason` draws its pictures; None draws canvas size.

    Raises:
        InputError: The dataset is unknown, or its file cannot be read.
    """
    if name == "shapereason":
        source: ExampleSource = ShapeReason(
            split,
            task=task,
            chain_style=chain_style,
            level=level,
            brief=brief,
            render_size=render_size,
            most_objects=most_objects,
        )
    elif name == "array_record":
        from pixelthink_jax.data.shapes_builder import read_shapereason

        if path is None:
            raise InputError("dataset array_record: give the folder that `pixelthink prepare` made")
        source = read_shapereason(path, split)
    elif name == "jsonl":
        source = JsonlSource(path)
    else:
        raise InputError(f"dataset {name!r}: expected shapereason, array_record or jsonl")
    return source if examples is None else FirstExamples(source, examples)


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


class JsonlSource:
    """Rows `{"image": path, "query": text, "completion": text, ...}`, one JSON object a line.

    Image paths are relative to the file; images are read when a row is asked for. Other keys that are fields
    of `Example` (`id`, `solution`, `difficulty`, `instruction`) are taken too.
    """

    _KEYS = frozenset({"id", "image", "query", "completion", "solution", "difficulty", "instruction"})
    _TEXTS = frozenset({"image", "query", "completion", "solution", "instruction"})

    def __init__(self, path: str | Path | None):
        """Reads and checks the lines, not the images.

        Raises:
            InputError: The file is missing, or a line is not such a row; the message names the line.
        """
        self._path = Path(path or "")
        if not self._path.is_file():
            raise InputError(f"dataset {self._path}: no such file; expected JSON lines")
        try:
            # Not `splitlines`: a text may hold other line separators, which JSON allows.
            lines = self._path.read_text(encoding="utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise InputError(f"dataset {self._path}: not UTF-8 text ({error.reason})") from error
        self._rows = [self._parse(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        if not self._rows:
            raise InputError(f"dataset {self._path}: it holds no rows")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        row = self._rows[index]
        image = load_image(self._path.parent / row["image"])
        known = {key: row[key] for key in self._KEYS - {"image", "id"} if key in row}
        return Example(id=str(row.get("id", index)), image=image, **known)

    def _parse(self, number: int, line: str) -> Mapping[str, Any]:
        where = f"dataset {self._path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: not valid JSON ({error.msg})") from error
        if not isinstance(row, dict) or not {"image", "query"} <= row.keys():
            raise InputError(f"{where}: expected an object with the keys image and query")
        unknown = sorted(row.keys() - self._KEYS)
        if unknown:
            raise InputError(
                f"{where}: unknown key {unknown[0]!r}; known are {', '.join(sorted(self._KEYS))}"
            )
        for key in sorted(self._TEXTS & row.keys()):
            if not isinstance(row[key], str):
                raise InputError(f"{where}: {key} is {row[key]!r:.80}, expected a text")
        return row
