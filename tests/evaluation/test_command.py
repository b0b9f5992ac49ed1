"""`pixelthink evaluate` with real, random models from folders: flags, files and refusals."""

import json
from pathlib import Path

import pytest

from pixelthink_jax import cli
from pixelthink_jax.commands import evaluate
from pixelthink_jax.evaluation.config import Generation
from tests.evaluation.tiny import tiny_policy, tiny_segmenter

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_policy().export(folder / "policy")
    tiny_segmenter().export(folder / "segmenter")
    return folder


def config(tmp_path: Path, models: Path, **changes: str) -> str:
    values = {
        "policy": str(models / "policy"),
        "segmenter": str(models / "segmenter"),
        "out": str(tmp_path / "out"),
        "data": "{name: shapereason, examples: 3}",
        "styles": "[free]",
        "generation": "{max_new_tokens: 8, batch_size: 2}",
    } | changes
    path = tmp_path / "eval.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
    return str(path)


def test_a_file_and_flags_over_it(tmp_path, models, capsys):
    flags = ["--styles", "none", "--data.examples", "2", "--generation.batch-size", "2"]
    assert cli.main(["evaluate", "--config", config(tmp_path, models), *flags]) == 0
    out = capsys.readouterr().out
    assert out.startswith("| chain | level | n |") and "| none | all | 2 |" in out
    saved = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert saved["about"]["data"]["examples"] == 2 and saved["about"]["styles"] == ["none"]
    assert "config" not in saved["about"]
    [row, _] = [json.loads(line) for line in (tmp_path / "out" / "rows_none.jsonl").read_text().splitlines()]
    assert row["text"].startswith("<think></think>\n") and row["completion_tokens"] <= 8
    assert row["union"] is not None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"policy": "nowhere"}, "model nowhere: no such folder"),
        ({"polcy": "x"}, "unknown key 'polcy'; did you mean 'policy'?"),
        ({"styles": "[quick]"}, "styles[0]: got 'quick', expected one of 'free'"),
        ({"data": "{name: shapereason, split: tset}"}, "data.split: got 'tset', expected one of train"),
        ({"data": "{name: jsonl, path: none.jsonl}"}, "none.jsonl: no such file"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, models, changes, says, capsys):
    assert cli.main(["evaluate", "--config", config(tmp_path, models, **changes)]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and says in captured.err
    assert not (tmp_path / "out").exists()


def test_an_out_that_is_a_file(tmp_path, models, capsys):
    (tmp_path / "out").touch()
    assert cli.main(["evaluate", "--config", config(tmp_path, models)]) == 2
    assert "a file, where a folder is to be written" in capsys.readouterr().err


def test_flags_of_every_setting(tmp_path, models):
    """Boxes only is `--segmenter None`; a flag that is not given keeps the value of the file."""
    argv = ["--config", config(tmp_path, models), "--segmenter", "None", "--styles", "free", "long"]
    args = cli._parse(evaluate, "evaluate", argv)
    assert args.segmenter is None and args.styles == ("free", "long")
    assert args.generation == Generation(max_new_tokens=8, batch_size=2) and args.data.examples == 3


def test_help_explains_the_settings(capsys):
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--help"])
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for text in (
        "None scores boxes only",
        "Questions decoded together",
        "YAML file of settings",
        "Of the bootstrap",
    ):
        assert text in out
