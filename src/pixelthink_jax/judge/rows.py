"""Rows of JSON that survive a kill: appended whole, and a torn last line is dropped when the file is opened."""

import json
from pathlib import Path
from typing import Any

from pixelthink_jax.errors import InputError


class RowFile:
    """A file of JSON objects, one a line."""

    def __init__(self, path: str | Path):
        """Nothing is read or written yet."""
        self._path = Path(path)

    def rows(self) -> list[dict[str, Any]]:
        """All complete rows.

        Raises:
            InputError: A complete line is not a JSON object.
        """
        if not self._path.is_file():
            return []
        lines = self._path.read_bytes().split(b"\n")[:-1]  # what follows the last newline was torn
        return [self._parse(number, line) for number, line in enumerate(lines, 1)]

    def cut_torn_line(self) -> None:
        """Drops what follows the last newline, so that the next row begins a line."""
        if self._path.is_file():
            with self._path.open("r+b") as file:
                file.truncate(file.read().rfind(b"\n") + 1)

    def append(self, row: dict[str, Any]) -> None:
        """Adds a row; it is in the file when this returns."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(
                f"{self._path}, line {number}: not valid JSON; remove the line, or choose another --out"
            ) from error
        if not isinstance(row, dict):
            raise InputError(f"{self._path}, line {number}: expected an object, got {type(row).__name__}")
        return row
