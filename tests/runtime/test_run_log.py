import json
import sys
from pathlib import Path

import pytest

from pixelthink_jax.errors import InputError
from pixelthink_jax.runtime.run_log import RunLog, read_log


def write_steps(folder: Path, first: int, last: int, *, resume_step: int = 0) -> None:
    log = RunLog(folder, resume_step=resume_step)
    for step in range(first, last + 1):
        log.write(step, {"loss": 1 / step})
    log.close()


def test_rows_are_on_disk_when_write_returns(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "new" / "run")
    log.write(3, {"loss": 0.25, "tokens": 7.0})
    assert read_log(tmp_path / "new" / "run") == [{"step": 3, "loss": 0.25, "tokens": 7.0}]
    log.close()
    assert list((tmp_path / "new" / "run").glob("events.out.tfevents.*"))


def test_a_resumed_log_is_cut_back(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 7)
    write_steps(tmp_path, 5, 9, resume_step=4)
    assert [row["step"] for row in read_log(tmp_path)] == list(range(1, 10))


def test_a_log_without_a_checkpoint_begins_anew(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 7)
    write_steps(tmp_path, 1, 2)
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2]


@pytest.mark.parametrize("partial", ['{"step": 5, "lo', '{"step": 5, "loss": 0.2}', "{"])
def test_a_last_line_cut_by_a_kill(tmp_path: Path, partial: str) -> None:
    write_steps(tmp_path, 1, 4)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(partial)
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2, 3, 4]
    write_steps(tmp_path, 5, 6, resume_step=4)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_no_log_has_no_rows(tmp_path: Path) -> None:
    assert read_log(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text("")
    assert read_log(tmp_path) == []


class FakeWandb:
    """Weights & Biases as far as a log uses it."""

    def __init__(self) -> None:
        self.opened: dict[str, object] = {}
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.finished = False

    def init(self, **settings: object) -> "FakeWandb":
        self.opened = settings
        return self

    def log(self, metrics: dict[str, float], *, step: int) -> None:
        self.rows.append((step, metrics))

    def finish(self) -> None:
        self.finished = True


def test_metrics_go_to_weights_and_biases_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    log = RunLog(tmp_path / "run", wandb_project="pixels")
    log.write(1, {"reward": 2.0})
    log.close()
    assert fake.opened["project"] == "pixels" and fake.opened["id"] == "run" and fake.finished
    assert fake.rows == [(1, {"reward": 2.0})]


def test_without_it_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"pip install 'pixelthink_jax\[wandb\]'"):
        RunLog(tmp_path, wandb_project="pixels")
