"""A whole evaluation on random models: stopped and continued, reported, compared; nothing it says is markup."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from pixelthink_jax import cli
from pixelthink_jax.data.config import DatasetConfig
from pixelthink_jax.data.sources import open_source
from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation import run
from pixelthink_jax.evaluation.config import EvalConfig, Generation, RScoreConfig
from pixelthink_jax.evaluation.details import details_of
from pixelthink_jax.evaluation.evaluation_page import evaluation_page, example_cards
from pixelthink_jax.evaluation.judging import reference_of
from pixelthink_jax.evaluation.protocols import PROTOCOLS
from pixelthink_jax.evaluation.published import published
from pixelthink_jax.evaluation.resume import StyleFiles
from pixelthink_jax.evaluation.rows import read_rows
from pixelthink_jax.evaluation.run import evaluate
from pixelthink_jax.evaluation.runner import evaluate_policy
from pixelthink_jax.evaluation.runs_page import runs_page
from pixelthink_jax.evaluation.saved_runs import read_runs
from pixelthink_jax.judge.config import EndpointConfig
from pixelthink_jax.types import Example
from tests.evaluation.test_report import HOSTILE, Reader
from tests.evaluation.tiny import BoxSegmenter, scripted_policy, tiny_policy, tiny_segmenter
from tests.judge.server import Act, Server, prompt_of
from tests.runtime.store import store  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny_policy().export(folder / "policy")
    tiny_segmenter().export(folder / "segmenter")
    return folder


def config(models, out, **changes) -> EvalConfig:
    return EvalConfig(
        **{
            "out": str(out),
            "policy": f"{models}/policy",
            "segmenter": f"{models}/segmenter",
            "data": DatasetConfig(examples=5),
            "generation": Generation(max_new_tokens=6, batch_size=2, batches_in_flight=1),
            "judge": "shapereason",
        }
        | changes
    )


@pytest.fixture(scope="module")
def finished(models, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "first"
    return out, evaluate(config(models, out))


def untimed(rows):
    return [dataclasses.replace(row, seconds={}) for row in rows]


class Counting(run.Evaluator):
    """Counts the examples that are asked, and stops where it is told to."""

    asked = 0
    stop_after = 10**9

    def windows(self, source, indices):
        for window in super().windows(source, indices):
            if Counting.asked >= Counting.stop_after:
                raise KeyboardInterrupt
            Counting.asked += len(window)
            yield window


@pytest.fixture
def counting(monkeypatch):
    monkeypatch.setattr(run, "Evaluator", Counting)
    Counting.asked, Counting.stop_after = 0, 10**9
    return Counting


def test_a_run_writes_what_every_number_is_made_from(finished):
    out, table = finished
    assert sorted(p.name for p in out.iterdir()) == [
        "evaluation.json", "report.html", "rows_free.jsonl", "summary.json", "table.md",
    ]  # fmt: skip
    rows = read_rows(out / "rows_free.jsonl")
    assert rows == table.rows["free"] and [row.index for row in rows] == list(range(5))
    summary = json.loads((out / "summary.json").read_text())
    found = details_of(rows, size_billions=summary["details"]["free"]["size_billions"])
    assert found.summaries == table.summaries["free"]
    assert summary["details"]["free"]["measures"] == json.loads(json.dumps(found.tree()["measures"]))
    assert summary["about"]["role"] == "report"
    assert {"reading", "image_encoding", "prefill", "decoding", "segmenter"} >= set(rows[0].seconds)
    assert set(summary["details"]["free"]["efficiency"]["gflops"]) >= {
        "image_encoding",
        "prefill",
        "decoding",
    }
    text = (out / "report.html").read_text()
    for heading in (
        "By difficulty",
        "Precision",
        "Lengths",
        "Time and arithmetic",
        "best",
        "reconstructed: SAT",
    ):
        assert heading in text


def test_a_killed_run_goes_on_and_asks_nothing_twice(models, tmp_path, finished, counting):
    settings = config(models, tmp_path / "out")
    counting.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        evaluate(settings)
    files = StyleFiles(tmp_path / "out", "free")
    assert len(files.unfinished.read_text().splitlines()) == 2 and not files.finished.exists()
    with files.unfinished.open("a") as file:
        file.write('{"id": "test-0-2", "lev')  # a line that the kill cut short
    counting.stop_after = 10**9
    table = evaluate(settings)
    assert counting.asked == 5 and not files.unfinished.exists()
    assert untimed(table.rows["free"]) == untimed(finished[1].rows["free"])
    evaluate(dataclasses.replace(settings, role="tune", seed=3))
    assert counting.asked == 5
    evaluate(dataclasses.replace(settings, styles=("free", "none")))
    assert counting.asked == 10


def test_an_evaluation_on_a_store_goes_on_there(models, store, finished, counting):  # noqa: F811
    shutil.copytree(models, store / "models")
    settings = config("fake://models", "fake://runs/out")
    counting.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        evaluate(settings)
    assert (store / "runs" / "out" / "rows_free.unfinished.jsonl").is_file()
    counting.stop_after = 10**9
    table = evaluate(settings)
    assert counting.asked == 5
    assert untimed(table.rows["free"]) == untimed(finished[1].rows["free"])
    assert read_runs(["fake://runs/out"])[0].rows == table.rows["free"]
    assert sorted(path.name for path in (store / "runs" / "out").iterdir()) == sorted(
        path.name for path in finished[0].iterdir()
    )


def test_unfinished_rows_of_other_settings_are_not_mixed_in(models, tmp_path, counting):
    settings = config(models, tmp_path / "out")
    counting.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        evaluate(settings)
    with pytest.raises(InputError, match="unfinished rows of an evaluation with other settings"):
        evaluate(dataclasses.replace(settings, protocol="lisa"))


def test_examples_that_cannot_be_evaluated_are_listed_where_asked(models, tmp_path, capsys):
    rows = [
        {"id": "gone", "image": "nowhere.png", "query": "a", "solution": "x"},
        {"id": "mute", "image": "a.png", "query": "...", "solution": "x"},
        {"id": "good", "image": "a.png", "query": "the cup",
         "solution": "<box>(1,2),(30,40)</box><points>(5,6),(7,8)</points>"},
    ]  # fmt: skip
    from PIL import Image

    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--policy", str(models / "policy"), "--segmenter", "None", "--data.name", "jsonl"]
    flags += ["--data.path", str(tmp_path / "rows.jsonl"), "--generation.max-new-tokens", "4"]
    flags += ["--out", str(tmp_path / "out")]
    assert cli.main(["evaluate", *flags]) == 2
    assert "nowhere.png" in capsys.readouterr().err
    assert cli.main(["evaluate", *flags, "--bad-rows", "count"]) == 0
    assert "3 examples: 1 counted (1 of them failed" in capsys.readouterr().out
    bad = [json.loads(line) for line in (tmp_path / "out" / "bad_free.jsonl").read_text().splitlines()]
    assert [item["index"] for item in bad] == [0, 1] and "empty" in bad[1]["problem"]


def test_runs_side_by_side(finished, models, tmp_path, capsys):
    out, _ = finished
    other = tmp_path / "other"
    evaluate(
        config(models, other, protocol="seg_zero", styles=("free", "none"), published="reasonseg_diff_test")
    )
    page = tmp_path / "pages" / "comparison.html"
    assert cli.main(["report", str(out), str(other), "--out", str(page)]) == 0
    printed = capsys.readouterr().out
    assert "other/none" in printed and "p = 1" in printed and "not significant" in printed
    read = Reader(page.read_text())
    for text in ("different protocols: pixelthink, seg_zero", "other/free against first", "Published numbers",
                 "PixelThink-7B (published)", "5 examples that both have"):  # fmt: skip
        assert text in read.text
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "no summary.json in it" in capsys.readouterr().err
    assert cli.main(["report", str(out), "--out", "gs://bucket/page.html"]) == 2
    assert "gs:/bucket: an address, and this writes to a folder" in capsys.readouterr().err


def test_no_text_of_a_model_or_a_dataset_is_markup(finished, tmp_path):
    out, table = finished
    rows = [
        dataclasses.replace(
            row, query=HOSTILE, text=f"<think>{HOSTILE}</think>", failure=HOSTILE, answer_error=HOSTILE, level=None,
            query_type=HOSTILE, skipped=HOSTILE if row.index == 4 else None, reasoning={"score": 1.0, HOSTILE: 0.5},
        )
        for row in table.rows["free"]
    ]  # fmt: skip
    about = json.loads((out / "summary.json").read_text())["about"] | {
        "policy": HOSTILE,
        "chosen_on": HOSTILE,
    }
    details = details_of(rows, size_billions=1.0)
    source = open_source("shapereason", split="test", examples=5)
    pages = [evaluation_page(about, {HOSTILE: rows}, {HOSTILE: details}, source)]
    [saved] = read_runs([out])
    hostile = dataclasses.replace(saved, name=HOSTILE, about=about, rows=rows, details=details)
    pages.append(runs_page([saved, hostile, hostile]))
    for page in pages:
        read = Reader(page)
        assert "script" not in read.tags and not [
            name for name, _ in read.attributes if name.startswith("on")
        ]
        assert "<script>alert(1)</script>" in read.text
        page.encode("utf-8")


def test_a_model_judges_the_thoughts_and_is_paid_once(models, finished, tmp_path):
    """RScore over a server, from rows that are there: replies are kept, failures counted, leave is asked for."""
    out = tmp_path / "judged"
    shutil.copytree(finished[0], out)
    policy_rows = untimed(read_rows(out / "rows_free.jsonl"))

    def asked(base_url: str, **changes) -> EvalConfig:
        backend = EndpointConfig(base_url=base_url, model="m", first_wait_s=0.01, retries=0, **changes)
        return config(models, out, judge=None, rscore=RScoreConfig(backend, attempts=2))

    def about(index: int) -> str:
        return f"Question: {policy_rows[index].query}\n"

    with pytest.raises(InputError, match="would be sent to https://vendor.com/v1; confirm it"):
        evaluate(asked("https://vendor.com/v1"))
    with pytest.raises(InputError, match="it never answered"):
        evaluate(asked("http://127.0.0.1:9/v1"))
    assert len(read_rows(out / "rows_free.jsonl")) == 5  # what was computed is kept
    with Server() as server:
        server.script = lambda request: Act(content="?") if about(1) in prompt_of(request) else None
        table = evaluate(asked(server.url, input_price=1.0, output_price=2.0))
        found = [row.reasoning and row.reasoning["score"] for row in table.rows["free"]]
        assert found == [0.8, None, 0.8, None, 0.8]  # the fourth example has no chain to be held against
        assert table.rows["free"][0].reasoning["completeness"] == 0.9
        assert (
            f"Reference reasoning: {reference_of(open_source('shapereason', split='test')[0], 'long')}"
            in prompt_of(next(request for request in server.seen if about(0) in prompt_of(request)))
        )
        judging = json.loads((out / "summary.json").read_text())["details"]["free"]["judging"]
        assert (judging["judged"], sum(judging["failed"].values()), judging["usage"]["calls"]) == (3, 2, 5)
        assert judging["cost"] == pytest.approx(5 * (100 + 2 * 20) / 1e6)
        details = details_of(table.rows["free"], size_billions=1.0)
        assert details.measures["all"].reasoning["score"].value == pytest.approx(0.8)
        server.script = lambda request: None
        again = evaluate(asked(server.url))
        assert len(server.seen) == 5 + 1 and sum(row.reasoning is not None for row in again.rows["free"]) == 4
        assert untimed([dataclasses.replace(row, reasoning=None) for row in again.rows["free"]]) == [
            dataclasses.replace(row, reasoning=None) for row in policy_rows
        ]
        assert evaluate(asked(server.url)).rows == again.rows and len(server.seen) == 6
    assert "m at http://127.0.0.1" in (out / "report.html").read_text()


def test_what_is_chosen_on_a_split_is_not_reported_on_it():
    with pytest.raises(InputError, match="chosen_on: the settings were chosen on test"):
        EvalConfig(chosen_on="test")
    assert EvalConfig(data=DatasetConfig(split="tuning"), chosen_on="tuning").split_role == "tune"
    assert EvalConfig(chosen_on="tuning").split_role == "report"
    assert all(row.source and (row.giou or row.ciou) for row in published("reasonseg_test"))


def test_masks_with_ignored_pixels_are_scored_by_protocol_and_pictured():
    mask = np.zeros((60, 80), np.uint8)
    mask[10:30, 10:50], mask[30:40, 10:50] = 1, 255
    example = Example("a", np.full((60, 80, 3), 90, np.uint8), "the cup", mask=mask)
    answer = '{"bbox": [105, 140, 525, 560], "points_1": [200, 200], "points_2": [300, 300]}'
    policy = scripted_policy(lambda image: f"<think>a</think><answer>{answer}</answer>")
    found = {
        name: evaluate_policy(policy, [example], segmenter=BoxSegmenter(), protocol=PROTOCOLS[name])[0]
        for name in ("pixelthink", "seg_zero", "lens")
    }
    assert [(row.intersection, row.union) for row in found.values()] == [
        (800, 800),
        (1200, 1200),
        (800, 1200),
    ]
    assert [row.target_pixels for row in found.values()] == [800, 1200, 800]
    assert all(row.box_iou > 0.6 for row in found.values())
    cards = example_cards([found["seg_zero"]], [example])
    assert Reader(cards).tags.count("img") == 1 and "all, best" in Reader(cards).text
