"""Finished evaluations read back from their folders, ready to be compared."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation.details import Details, details_of
from pixelthink_jax.evaluation.rows import Row, read_rows
from pixelthink_jax.runtime.remote import on_this_machine


@dataclass(frozen=True)
class SavedRun:
    """One chain style of one evaluation.

    Attributes:
        name: Its folder, and the style where the folder has several.
        about: The settings it was made with.
        rows: One for each example.
        details: Its numbers, computed again from the rows.
    """

    name: str
    about: dict[str, Any]
    rows: list[Row]
    details: Details


def read_runs(folders: Sequence[str | Path]) -> list[SavedRun]:
    """Every chain style of every folder, in order; folders of an object store are copied here.

    Raises:
        InputError: A folder holds no finished evaluation.
    """
    paths = [on_this_machine(folder) for folder in folders]
    last = Counter(path.resolve().name for path in paths)
    runs: list[SavedRun] = []
    for path in paths:
        name = path.resolve().name if last[path.resolve().name] == 1 else str(path)
        runs += _runs_of(path, name)
    return runs


def _runs_of(folder: Path, name: str) -> list[SavedRun]:
    path = folder / "summary.json"
    if not path.is_file():
        raise InputError(
            f"{folder}: no summary.json in it; give the out folder of a finished pixelthink evaluate"
        )
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        about, details = tree["about"], tree.get("details", {})
        styles = list(tree["styles"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not the summary of an evaluation ({error!r})") from error
    runs = []
    for style in styles:
        rows_path = folder / f"rows_{style}.jsonl"
        if not rows_path.is_file():
            raise InputError(f"{rows_path}: no such file; run pixelthink evaluate again to finish it")
        rows, known = read_rows(rows_path), details.get(style, {})
        found = details_of(
            rows,
            bad=known.get("counts", {}).get("bad", 0),
            size_billions=known.get("size_billions"),
            gflops=known.get("efficiency", {}).get("gflops"),
            seed=about.get("seed", 0),
        )
        runs.append(SavedRun(name if len(styles) == 1 else f"{name}/{style}", about, rows, found))
    return runs
