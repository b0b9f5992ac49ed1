"""Many questions for one process: a folder of images, or a JSONL file of rows."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelthink_jax.errors import InputError

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Question:
    """One image and one question.

    Attributes:
        name: Unique among the questions, and fit to name a folder.
        image: Path of the image.
        query: The question in words.
    """

    name: str
    image: Path
    query: str


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be asked, and why."""

    name: str
    problem: str


def folder_questions(folder: Path, query: str) -> list[Question]:
    """The same question about every image of a folder, by file name.

    Raises:
        InputError: The folder holds no image file.
    """
    images = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )
    if not images:
        raise InputError(f"{folder}: no image file in it; expected {', '.join(sorted(IMAGE_SUFFIXES))}")
    stems = Counter(path.stem for path in images)
    return [Question(path.stem if stems[path.stem] == 1 else path.name, path, query) for path in images]


def read_rows(path: Path) -> list[Question | BadRow]:
    """The rows of a JSONL file, in order: `{"image": ..., "query": ...}`, and `"id"` where the answer needs a name.

    Image paths are relative to the file; other keys are left alone; empty lines are skipped. A row without an id is
    named after its line.

    Raises:
        InputError: The file cannot be read or has no rows.
    """
    if not path.is_file():
        raise InputError(f'{path}: no such file; give a JSONL file of {{"image": ..., "query": ...}} rows')
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text: {error}") from error
    rows = list(_rows(lines, path.parent))
    if not rows:
        raise InputError(f"{path}: no rows in it; write one JSON object a line")
    return rows


def _rows(lines: list[str], folder: Path) -> Iterator[Question | BadRow]:
    """Rows with unique names; of two that share one the later is bad."""
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _row(line, f"line-{number:06d}", folder)
        if isinstance(row, Question) and row.name in seen:
            row = BadRow(
                f"line-{number:06d}", f"id {row.name!r} is that of line {seen[row.name]}; make ids unique"
            )
        seen.setdefault(row.name, number)
        yield row


def _row(line: str, name: str, folder: Path) -> Question | BadRow:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadRow(name, f"not JSON ({error})")
    if not isinstance(values, dict):
        return BadRow(name, f"expected an object with image and query, got {type(values).__name__}")
    for key in ("image", "query"):
        if not isinstance(values.get(key), str) or not values[key].strip():
            return BadRow(name, f"{key} is {values.get(key)!r:.80}; expected a text")
    given = values.get("id")
    if given is not None:
        if not _names_a_folder(given):
            return BadRow(name, f"id {given!r:.80} cannot name a folder; use letters, digits, '-' and '_'")
        name = str(given)
    return Question(name, folder / values["image"], values["query"])


def _names_a_folder(given: Any) -> bool:
    """Whether an id is one plain part of a path, so that no row writes outside the output folder."""
    if isinstance(given, bool) or not isinstance(given, (str, int)):
        return False
    text = str(given)
    return (
        0 < len(text) <= 100
        and text.isprintable()
        and not text.startswith(".")
        and not set(text) & set("/\\:")
    )
