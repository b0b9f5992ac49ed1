"""The folder of an evaluation: what has been computed stays, and is not computed twice.

`evaluation.json` says what is being evaluated, with the size and time of every file of models and data. While a chain
style runs, its rows are appended to `rows_<style>.unfinished.jsonl` window by window; when it is done they become
`rows_<style>.jsonl`, in the order of the dataset. A run of the same evaluation goes on where the last one stopped; one
of another is refused while rows are unfinished, and otherwise replaces what is there.
"""

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from pixelthink_jax import __version__
from pixelthink_jax.config import to_tree
from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation.config import EvalConfig, Style
from pixelthink_jax.evaluation.rows import Row, read_rows, write_rows, write_text
from pixelthink_jax.evaluation.runner import BadExample
from pixelthink_jax.runtime.remote import on_this_machine

_NAME = "evaluation.json"
# Settings that change no row: what is asked of the rows afterwards, and which of them are there.
_FREE = (
    "out",
    "styles",
    "judge",
    "rscore",
    "size_billions",
    "role",
    "chosen_on",
    "published",
    "mesh",
    "seed",
    "bad_rows",
)


@dataclasses.dataclass(frozen=True)
class StyleFiles:
    """The files of one chain style.

    Attributes:
        folder: Of the evaluation.
        style: The chain style.
    """

    folder: Path
    style: str

    @property
    def finished(self) -> Path:
        """Rows of the whole dataset."""
        return self.folder / f"rows_{self.style}.jsonl"

    @property
    def unfinished(self) -> Path:
        """Rows so far."""
        return self.folder / f"rows_{self.style}.unfinished.jsonl"

    @property
    def bad(self) -> Path:
        """Examples that could not be evaluated."""
        return self.folder / f"bad_{self.style}.jsonl"

    def load(self) -> tuple[list[Row], list[BadExample]]:
        """What is there; the line that a kill cut short is dropped, from the file too."""
        rows = next((read_rows(p) for p in (self.finished, self.unfinished) if p.is_file()), [])
        if self.unfinished.is_file():
            write_rows(self.unfinished, rows)
        lines = (
            self.bad.read_text(encoding="utf-8").rpartition("\n")[0].split("\n") if self.bad.is_file() else []
        )
        return rows, [BadExample(**json.loads(line)) for line in lines if line]

    def append(self, found: Iterable[Row | BadExample]) -> None:
        """Adds one window, on the disk before this returns."""
        rows = [item for item in found if isinstance(item, Row)]
        bad = [item for item in found if isinstance(item, BadExample)]
        _append(self.bad, "".join(json.dumps(dataclasses.asdict(item)) + "\n" for item in bad))
        _append(self.unfinished, "".join(row.line() for row in rows))

    def finish(self, rows: list[Row]) -> None:
        """Makes the rows final."""
        write_rows(self.finished, rows)
        self.unfinished.unlink(missing_ok=True)


def claim_folder(folder: Path, config: EvalConfig, sources: Iterable[str | Path | None]) -> None:
    """Makes the folder ready for an evaluation, and says so in `evaluation.json`.

    Args:
        folder: Of the evaluation; made if absent.
        config: The evaluation.
        sources: Folders and files of models and data, whose change makes it another evaluation.

    Raises:
        InputError: The folder holds unfinished rows of another evaluation.
    """
    wanted = {
        "settings": {key: value for key, value in to_tree(config).items() if key not in _FREE},
        "files": [stamp(on_this_machine(source)) for source in sources if source is not None],
        "version": __version__,
    }
    path = folder / _NAME
    known = _read(path)
    if known != json.loads(json.dumps(wanted)):
        files = [StyleFiles(folder, style) for style in get_args(Style)]
        unfinished = [each.unfinished for each in files if each.unfinished.is_file()]
        if unfinished:
            raise InputError(
                f"{unfinished[0]}: unfinished rows of an evaluation with other settings, models or data; finish that "
                "one, remove its folder, or give another out"
            )
        for each in files:
            each.finished.unlink(missing_ok=True)
            each.bad.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(wanted, indent=1) + "\n")


def stamp(path: Path) -> dict[str, Any]:
    """Name, size and time of a file, or of the files of a folder: enough to see that it is another one."""
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    return {str(path): [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files]}


def _read(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{path}: not valid JSON ({error}); remove the folder, or give another out"
        ) from error


def _append(path: Path, text: str) -> None:
    if not text:
        return
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
