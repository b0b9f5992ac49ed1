"""One line of JSON a step, and the same numbers for TensorBoard."""

import json
from pathlib import Path


class RunLog:
    """Appends metrics to `folder/metrics.jsonl` and to TensorBoard event files in the same folder."""

    def __init__(self, folder: str | Path, *, resume_step: int = 0):
        """Opens the log; rows after `resume_step` are cut, so no step appears twice after a resume."""
        from tensorboardX import SummaryWriter

        self._path = Path(folder) / "metrics.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _cut_back(self._path, resume_step)
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder), purge_step=resume_step + 1)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Logs one step; the line is on disk when this returns."""
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes both logs."""
        self._file.close()
        self._board.close()


def read_log(folder: str | Path) -> list[dict[str, float]]:
    """The rows of a run's `metrics.jsonl`; a last line cut by a kill is left out."""
    path = Path(folder) / "metrics.jsonl"
    return _complete_rows(path) if path.is_file() else []


def _complete_rows(path: Path) -> list[dict[str, float]]:
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]  # the text after the last newline is incomplete


def _cut_back(path: Path, step: int) -> None:
    if not path.is_file():
        return
    rows = [row for row in _complete_rows(path) if row["step"] <= step]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)
