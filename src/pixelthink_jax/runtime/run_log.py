"""One line of JSON a step, and the same numbers for TensorBoard."""

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pixelthink_jax.errors import InputError


class JsonLines:
    """A file of JSON rows, each with its `step`, appended to step by step."""

    def __init__(self, path: str | Path, *, resume_step: int = 0):
        """Opens the file; rows after `resume_step` are cut, so no step appears twice after a resume."""
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _cut_back(self._path, resume_step)
        self._file = self._path.open("a", encoding="utf-8")

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends rows; they are on disk when this returns."""
        self._file.write("".join(json.dumps(row) + "\n" for row in rows))
        self._file.flush()

    def rows(self) -> list[dict[str, Any]]:
        """All rows so far."""
        return _complete_rows(self._path)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class RunLog:
    """Appends metrics to `folder/metrics.jsonl`, to TensorBoard event files there, and to Weights & Biases if asked."""

    def __init__(self, folder: str | Path, *, resume_step: int = 0, wandb_project: str | None = None):
        """Opens the log; rows after `resume_step` are cut, so no step appears twice after a resume.

        Raises:
            InputError: A project is given and the package `wandb` is not installed.
        """
        from tensorboardX import SummaryWriter

        self._wandb = None if wandb_project is None else _open_wandb(wandb_project, Path(folder))

        self._lines = JsonLines(Path(folder) / "metrics.jsonl", resume_step=resume_step)
        self._board = SummaryWriter(str(folder), purge_step=resume_step + 1)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Logs one step; the line is on disk when this returns."""
        self._lines.write([{"step": step, **metrics}])
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(metrics, step=step)

    def rows(self) -> list[dict[str, float]]:
        """The metrics of every step so far."""
        return self._lines.rows()

    def close(self) -> None:
        """Flushes and closes all of them."""
        self._lines.close()
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _open_wandb(project: str, folder: Path) -> Any:
    """The run of a folder, the same one after a resume."""
    try:
        wandb = importlib.import_module("wandb")
    except ImportError as error:
        raise InputError(
            "wandb_project: Weights & Biases is not installed; pip install 'pixelthink_jax[wandb]', or leave it out"
        ) from error
    return wandb.init(project=project, dir=str(folder), id=folder.name, name=folder.name, resume="allow")


def read_log(folder: str | Path) -> list[dict[str, float]]:
    """The rows of a run's `metrics.jsonl`; a last line cut by a kill is left out."""
    path = Path(folder) / "metrics.jsonl"
    return _complete_rows(path) if path.is_file() else []


def _complete_rows(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]  # the text after the last newline is incomplete


def _cut_back(path: Path, step: int) -> None:
    if not path.is_file():
        return
    rows = [row for row in _complete_rows(path) if row["step"] <= step]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)
