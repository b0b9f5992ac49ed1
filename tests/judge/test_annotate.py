"""A whole run against a server: files, resume, failures, leave to send, cost, and what reads the result."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelthink_jax import cli
from pixelthink_jax.data.config import DatasetConfig
from pixelthink_jax.errors import InputError
from pixelthink_jax.grpo.difficulty import from_file
from pixelthink_jax.judge import annotate as run
from pixelthink_jax.judge.config import AnnotateConfig, EndpointConfig, PromptsConfig
from pixelthink_jax.types import Example
from tests.judge.server import CHAINS, SCORES, Act, Server, prompt_of


@pytest.fixture
def rows(tmp_path) -> Path:
    """Six questions about pictures of several sizes."""
    lines = []
    for i in range(6):
        Image.fromarray(np.full((20 + i, 31, 3), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
        solution = "<box>(84,0),(420,840)</box><points>(1,2),(3,4)</points>"
        lines.append({"id": f"id{i}", "image": f"{i}.png", "query": f"object {i}", "solution": solution})
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def config(rows: Path, server: Server, **changes) -> AnnotateConfig:
    backend = {
        "base_url": server.url,
        "model": "m",
        "first_wait_s": 0.01,
        "timeout_s": 2.0,
        "workers": 3,
        "retries": 1,
    } | changes.pop("backend", {})
    return AnnotateConfig(
        out=str(rows.parent / "out"),
        data=DatasetConfig(name="jsonl", path=str(rows), examples=changes.pop("examples", None)),
        backend=EndpointConfig(**backend),
        **changes,
    )


def annotate(settings: AnnotateConfig, **more) -> run.Summary:
    return run.annotate(settings, run.plan_annotation(settings), **more)


def read(rows: Path, name: str = "annotations") -> list[dict]:
    path = rows.parent / "out" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_every_row_is_scored_and_explained(rows):
    seen = []
    with Server() as server:
        summary = annotate(config(rows, server), on_progress=lambda *counts: seen.append(counts))
    assert (summary.rows, summary.annotated, summary.failed) == (6, 6, 0) and seen[-1] == (6, 0, 6)
    assert (summary.usage.calls, summary.usage.input_tokens, summary.usage.output_tokens) == (12, 1200, 240)
    written = sorted(read(rows), key=lambda row: row["row"])
    assert [row["image_id"] for row in written] == [f"id{i}" for i in range(6)]
    first = written[0]
    assert {key: first[key] for key in SCORES} == SCORES and {key: first[key] for key in CHAINS} == CHAINS
    assert (first["difficulty_score_model"], first["level"], first["query"]) == (4.5, "medium", "object 0")
    assert "m at http" in first["judge"] and first["prompts"] == "pixelthink-jax-1"
    assert all("from 10% to 50% of the width" in prompt_of(request) for request in server.seen)
    assert json.loads((rows.parent / "out" / "summary.json").read_text())["annotated"] == 6


def test_training_reads_the_scores(rows):
    with Server() as server:
        annotate(config(rows, server, tasks=("difficulty",), examples=1))
    scores = from_file(rows.parent / "out" / "annotations.jsonl")
    examples = [Example(name, np.zeros((2, 2, 3), np.uint8), "q") for name in ("id0", "id5")]
    np.testing.assert_array_equal(scores(examples, np.zeros((2, 1))), np.array([4.5, np.nan], np.float32))


def test_a_stopped_run_asks_only_for_what_is_missing(rows):
    with Server() as server:
        # Whoever asks about object 4 finds the door closed: the run ends, and what was answered is kept.
        closed = Act(status=403, body=b"{}", delay=0.3)
        server.script = lambda request: closed if "object 4" in prompt_of(request) else None
        settings = config(rows, server, backend={"workers": 1})
        with pytest.raises(InputError, match="does not accept the key"):
            annotate(settings)
        kept = {row["row"] for row in read(rows)}
        assert kept == {0, 1, 2, 3}
        with (rows.parent / "out" / "annotations.jsonl").open("a") as file:
            file.write('{"row": 5, "image_id": "id5", "diff')  # as a kill leaves it
        server.script, before = lambda request: None, len(server.seen)
        summary = annotate(settings)
        assert (summary.annotated, summary.failed) == (6, 0) and len(server.seen) - before == 4
        again = annotate(settings)
    assert again == summary and len(server.seen) - before == 4
    assert sorted(row["row"] for row in read(rows)) == list(range(6))


def test_replies_of_a_row_cut_off_are_not_paid_twice(rows):
    with Server() as server:
        server.script = lambda request: Act(status=403, body=b"{}") if len(server.seen) == 2 else None
        settings = config(rows, server, examples=1)
        with pytest.raises(InputError):
            annotate(settings)
        assert read(rows) == []
        summary = annotate(settings)
    assert (summary.usage.cached, summary.usage.calls, len(server.seen)) == (1, 1, 3)


def test_failed_rows_are_named_counted_and_asked_again(rows):
    (rows.parent / "3.png").write_bytes(b"no image")
    with Server() as server:
        nonsense = Act(content='{"scene_complexity": "high"}')
        server.script = lambda request: nonsense if "object 1" in prompt_of(request) else None
        settings = config(rows, server, attempts=2)
        summary = annotate(settings)
        assert (summary.annotated, summary.failed) == (4, 2) and summary.usage.bad_answers == 4
        failures = {row["row"]: row for row in read(rows, "failures")}
        assert failures[1]["image_id"] == "id1"
        assert failures[1]["problem"].startswith("difficulty: no usable answer in 2 attempts: segment")
        assert "3.png: not an image file" in failures[3]["problem"]
        server.script = lambda request: None
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(rows.parent / "3.png")
        mended = annotate(settings)
    assert (mended.annotated, mended.failed) == (6, 0)
    assert mended.usage.calls == 12 + 4 and mended.usage.bad_answers == 4  # what failed was paid too


def test_many_failures_in_a_row_end_the_run(rows):
    with Server() as server:
        server.script = lambda request: Act(status=400, body=b'{"error": {"message": "no response_format"}}')
        with pytest.raises(InputError, match="3 rows failed one after another.*no response_format"):
            annotate(config(rows, server, stop_after=3))
    assert len(read(rows, "failures")) == 3


def test_other_settings_need_another_folder(rows):
    with Server() as server:
        settings = config(rows, server, examples=2)
        annotate(settings)
        more = dataclasses.replace(settings, data=dataclasses.replace(settings.data, examples=3), attempts=1)
        assert annotate(more).annotated == 3
        other = dataclasses.replace(settings, prompts=PromptsConfig(difficulty="Rate {query}"))
        with pytest.raises(InputError, match="it holds a run with prompts .*choose another --out"):
            run.plan_annotation(other)


def test_prompts_of_ones_own(rows):
    with Server() as server:
        server.script = lambda request: Act(content=json.dumps(SCORES))
        own = PromptsConfig(difficulty='How hard is {query}? "scene_complexity"')
        annotate(config(rows, server, prompts=own, tasks=("difficulty",), examples=1))
    assert prompt_of(server.seen[0]).startswith("How hard is object 0?")
    assert read(rows)[0]["prompts"] == "pixelthink-jax-1, changed"


def test_the_estimate_asks_nobody_and_knows_only_given_prices(rows):
    with Server() as server:
        plan = run.plan_annotation(config(rows, server))
        priced = run.plan_annotation(config(rows, server, backend={"input_price": 1.0, "output_price": 2.0}))
    assert not server.seen and not (rows.parent / "out").exists()
    assert (plan.estimate.calls, plan.estimate.rows, plan.estimate.sampled) == (12, 6, 6)
    assert (
        plan.estimate.output_tokens == 12 * 1024
        and "unknown; give backend.input_price" in plan.estimate.text()
    )
    tokens = priced.estimate.input_tokens
    assert priced.estimate.cost == pytest.approx((tokens + 2 * 12 * 1024) / 1e6)


def test_images_leave_this_machine_only_with_leave(rows, tmp_path):
    with Server() as server:
        settings = config(rows, server)
        plan = dataclasses.replace(run.plan_annotation(settings), leaves_for="https://vendor.example/v1")
        with pytest.raises(InputError, match="images of 6 rows would be sent to https://vendor.example/v1"):
            run.annotate(settings, plan)
        assert not server.seen and not (tmp_path / "out").exists()
        assert run.annotate(settings, plan, confirmed=True).annotated == 6
    remote = dataclasses.replace(settings, backend=EndpointConfig(base_url="https://vendor.example/v1"))
    remote = dataclasses.replace(remote, out=str(tmp_path / "elsewhere"))
    assert run.plan_annotation(remote).leaves_for == "https://vendor.example/v1"


def command_file(rows: Path, server: Server, **backend) -> str:
    path = rows.parent / "annotate.yaml"
    values = {"base_url": server.url, "model": "m", "first_wait_s": 0.01} | backend
    tree = {"out": str(rows.parent / "out"), "data": {"name": "jsonl", "path": str(rows)}, "backend": values}
    path.write_text(json.dumps(tree))
    return str(path)


def test_the_command(rows, capsys, monkeypatch):
    monkeypatch.setenv("VENDOR_KEY", "sk-Secret")
    with Server(key="sk-Secret") as server:
        file = command_file(rows, server, api_key_env="VENDOR_KEY", input_price=1.0, output_price=10.0)
        assert cli.main(["annotate", "--config", file, "--estimate"]) == 0
        assert "calls   12 (6 rows)" in capsys.readouterr().out and not server.seen
        assert cli.main(["annotate", "--config", file, "--data.examples", "5"]) == 0
    out = capsys.readouterr().out
    assert "5 of 5 rows annotated, 0 failed; 10 calls" in out and "1000 tokens in, 200 out, 0.00 USD" in out
    for path in (rows.parent / "out").rglob("*"):
        assert path.is_dir() or "sk-Secret" not in path.read_text()


def test_the_command_says_1_when_rows_failed(rows, capsys):
    (rows.parent / "0.png").unlink()
    with Server() as server:
        assert cli.main(["annotate", "--config", command_file(rows, server)]) == 1
    assert "5 of 6 rows annotated, 1 failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("backend", "says"),
    [
        ({"base_url": "http://vendor.example/v1"}, "would leave this machine for http://vendor.example/v1 (not encr"),
        ({"api_key_env": "NOT_THERE"}, "NOT_THERE is not set"),
        ({"base_url": "http://127.0.0.1:1/v1"}, "it never answered"),
        ({"kind": "locl"}, "kind: got 'locl', expected one of 'endpoint', 'local'"),
        ({"kind": "local", "base_url": "x"}, "base_url"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(rows, capsys, backend, says):
    with Server() as server:
        file = command_file(rows, server, **backend)
        assert cli.main(["annotate", "--config", file]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and says in captured.err and not server.seen


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("n\n", 2), ("", 2)])
def test_somebody_is_asked(rows, capsys, monkeypatch, answer, status):
    class Terminal:
        def isatty(self):
            return True

        def readline(self):
            return answer

    monkeypatch.setattr("sys.stdin", Terminal())
    # As if the address were elsewhere; it is still this server.
    monkeypatch.setattr(run, "is_this_machine", lambda url: False)
    with Server() as server:
        assert cli.main(["annotate", "--config", command_file(rows, server)]) == status
    assert "The images of 6 rows leave this machine for http://127" in capsys.readouterr().err
    assert len(server.seen) == (12 if status == 0 else 0)


def test_without_a_config(capsys):
    assert cli.main(["annotate"]) == 2
    assert "--config is missing" in capsys.readouterr().err
