"""SHA-256 of every file of a folder, in `checksums.json` beside them."""

import hashlib
import json
from pathlib import Path

from pixelthink_jax.errors import InputError

CHECKSUMS_FILE = "checksums.json"


def write_checksums(folder: str | Path) -> None:
    """Records the size and hash of every file of a folder."""
    folder = Path(folder)
    files = {name: _entry(folder / name) for name in _names(folder)}
    text = json.dumps({"files": files}, indent=2) + "\n"
    (folder / CHECKSUMS_FILE).write_text(text, encoding="utf-8")


def verify_checksums(folder: str | Path) -> int:
    """Reads every file of a folder again and returns how many are as recorded: all of them.

    Raises:
        InputError: There is no record, or a file is missing, changed or was not there before.
    """
    folder = Path(folder)
    path = folder / CHECKSUMS_FILE
    if not path.is_file():
        raise InputError(f"{folder}: no {CHECKSUMS_FILE}; only folders made by pixelthink convert have one")
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        recorded = {name: (entry["bytes"], entry["sha256"]) for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not readable ({error}); convert the folder again") from error
    present = set(_names(folder))
    for name in sorted(recorded.keys() ^ present):
        said = "is missing" if name in recorded else "was not there when the folder was made"
        raise InputError(f"{folder / name}: {said}; copy or convert the folder again")
    for name, expected in recorded.items():
        found = _entry(folder / name)
        if (found["bytes"], found["sha256"]) != expected:
            raise InputError(
                f"{folder / name}: {found['bytes']} bytes with hash {found['sha256']}, {CHECKSUMS_FILE} says "
                f"{expected[0]} bytes with {expected[1]}; copy or convert the folder again"
            )
    return len(recorded)


def _names(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path != folder / CHECKSUMS_FILE)
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def _entry(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
