"""Reading the small JSON files of a model folder, with one-line errors."""

import json
from pathlib import Path
from typing import Any

from pixelthink_jax.errors import InputError


def require_file(folder: Path, name: str, *, remedy: str) -> Path:
    """The path of a file that must exist.

    Raises:
        InputError: The folder or the file is missing.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected a local Hugging Face model folder")
    path = folder / name
    if not path.is_file():
        raise InputError(f"{folder}: {name} is missing; {remedy}")
    return path


def read_json(path: Path, *, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON object of a file, or `default` where there is no file.

    Raises:
        InputError: The file is missing and there is no default, is not JSON, or is not an object.
    """
    if not path.is_file():
        if default is None:
            raise InputError(f"{path}: no such file")
        return default
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); copy the file again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes a JSON object, indented, with a final newline."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
