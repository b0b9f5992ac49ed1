"""JSON as datasets have it: a file, or one object a line; every mistake names file and line."""

import json
from pathlib import Path
from typing import Any

from pixelthink_jax.errors import InputError

MAX_BYTES = 2 << 30


def read_text(path: Path, *, fallback: str | None = None) -> str:
    """A text file in UTF-8, or in `fallback` where it is not.

    Raises:
        InputError: It is missing, too large, or in neither.
    """
    if not path.is_file():
        raise InputError(f"dataset {path}: no such file; check the path")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"dataset {path}: {path.stat().st_size} bytes, more than the limit {MAX_BYTES}")
    data = path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if fallback is None:
            raise InputError(f"dataset {path}: not UTF-8 text ({error.reason})") from error
    try:
        return data.decode(fallback)
    except UnicodeDecodeError as error:
        raise InputError(f"dataset {path}: neither UTF-8 nor {fallback} text ({error.reason})") from error


def read_json(path: Path, *, fallback: str | None = None) -> Any:
    """One JSON value.

    Raises:
        InputError: The file is missing or no JSON.
    """
    return parse_json(read_text(path, fallback=fallback), f"dataset {path}")


def read_lines(path: Path) -> list[tuple[str, Any]]:
    """The values of a file with one a line, each with file and line for messages.

    Raises:
        InputError: The file is missing, or a line is no JSON.
    """
    # Not `splitlines`: a text may hold other line separators, which JSON allows.
    lines = enumerate(read_text(path).split("\n"), 1)
    places = [(f"dataset {path}, line {number}", line) for number, line in lines if line.strip()]
    return [(where, parse_json(line, where)) for where, line in places]


def parse_json(text: str, where: str) -> Any:
    """A JSON value.

    Raises:
        InputError: It is none, or nested too deeply.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not valid JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: JSON that cannot be read ({str(error)[:80]})") from error
