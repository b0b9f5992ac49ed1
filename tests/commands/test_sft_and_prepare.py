"""The commands that hand a config over to the library: what reaches it, and what is refused before."""

from pathlib import Path

import pytest

from pixelthink_jax import cli
from pixelthink_jax.commands import INTERRUPTED
from pixelthink_jax.config import load_config
from pixelthink_jax.data import shapes_builder
from pixelthink_jax.sft import run
from pixelthink_jax.sft.config import SftConfig
from pixelthink_jax.train_segmenter import run as segmenter_run
from pixelthink_jax.train_segmenter.config import SegmenterConfig
from tests.evaluation.tiny import tiny_policy, tiny_segmenter

CONFIG = Path(__file__).parents[2] / "configs" / "sft_tiny.yaml"


@pytest.fixture
def runs(monkeypatch) -> list[SftConfig]:
    """The configs that would have been trained."""
    seen = []

    def train(config: SftConfig, *, on_log) -> run.SftRun:
        seen.append(config)
        on_log(config.log_every, {"loss": 1.0, "seconds_per_step": 0.1})
        return run.SftRun(tiny_policy(), steps=3)

    monkeypatch.setattr(run, "run_sft", train)
    return seen


def test_the_file_is_the_run(runs, capsys):
    assert cli.main(["sft", "--config", str(CONFIG)]) == INTERRUPTED
    assert runs == [load_config(SftConfig, CONFIG)]
    assert type(runs[0]) is SftConfig
    said = capsys.readouterr().out
    assert said.startswith(f"interrupted; the same command continues; trained for 3 of {runs[0].steps} steps")
    assert f"the policy is in {runs[0].out}/policy" in said


def test_flags_are_laid_over_the_file(runs, tmp_path):
    flags = [
        "--optim.learning-rate",
        "1e-5",
        f"--config={CONFIG}",
        "--stages.0.steps",
        "7",
        "--out",
        str(tmp_path),
    ]
    assert cli.main(["sft", *flags]) == INTERRUPTED
    [config], file = runs, load_config(SftConfig, CONFIG)
    assert config.optim.learning_rate == 1e-5 and config.optim.kind == file.optim.kind
    assert config.stages[0].steps == 7 and config.stages[1:] == file.stages[1:]
    assert config.out == str(tmp_path) and config.new_policy == file.new_policy


@pytest.mark.parametrize(
    ("text", "flags", "says"),
    [
        (None, [], "--config is missing"),
        (None, ["--config", "none.yaml"], "none.yaml: no such file"),
        ("out: x\nstages: []\nnew_policy: null\npolicy: p\n", [], "at least one stage"),
        ("out: x\nlearning_rate: 1\n", [], "unknown key 'learning_rate'"),
        (
            "out: x\npolicy: p\nstages: [{name: a, steps: 1}]\n",
            ["--optim.learning-rate", "-1"],
            "must be positive",
        ),
        ("out: x\npolicy: p\nstages: [{name: a, steps: 1}]\n", ["--stages.0.stepz", "1"], "--stages.0.stepz"),
    ],
)
def test_mistakes_are_one_line(runs, tmp_path, text, flags, says, capsys):
    if text is not None:
        (tmp_path / "run.yaml").write_text(text)
        flags = ["--config", str(tmp_path / "run.yaml"), *flags]
    assert cli.main(["sft", *flags]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and says in printed.err
    assert not runs


def test_train_segmenter_runs_its_file_under_its_flags(tmp_path, monkeypatch, capsys):
    seen = []

    def train(config: SegmenterConfig, *, on_log) -> segmenter_run.SegmenterRun:
        seen.append(config)
        on_log(config.log_every, {"iou": 0.5, "seconds_per_step": 0.1})
        return segmenter_run.SegmenterRun(tiny_segmenter(), {"iou": 0.75}, config.steps)

    monkeypatch.setattr(segmenter_run, "run_train_segmenter", train)
    path = CONFIG.with_name("segmenter_tiny.yaml")
    assert cli.main(["train-segmenter", "--config", str(path)]) == 0
    assert (
        cli.main(["train-segmenter", "--config", str(path), "--prompts.objects", "2", "--out", str(tmp_path)])
        == 0
    )
    file = load_config(SegmenterConfig, path)
    assert seen[0] == file and type(seen[0]) is SegmenterConfig
    assert seen[1].prompts.objects == 2 and seen[1].model == file.model and seen[1].out == str(tmp_path)
    assert "iou 0.7500" in capsys.readouterr().out
    assert cli.main(["train-segmenter"]) == 2
    assert "--config is missing" in capsys.readouterr().err


def test_prepare_hands_over_its_flags(tmp_path, monkeypatch, capsys):
    seen = []

    def build(out, sizes, **settings):
        seen.append((out, sizes, settings))
        return Path(out) / "shape_reason" / "1.0.0"

    monkeypatch.setattr(shapes_builder, "build_shapereason", build)
    assert cli.main(["prepare", "shapes", "--out", str(tmp_path), "--sizes", "train", "20", "ood", "5"]) == 0
    assert cli.main(["prepare", "shapes", "--out", str(tmp_path), "--seed", "3"]) == 0
    assert seen == [
        (tmp_path, {"train": 20, "ood": 5}, {"seed": 0}),
        (tmp_path, shapes_builder.SMALL_SIZES, {"seed": 3}),
    ]
    assert f"path: {tmp_path}/shape_reason/1.0.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["squares", "--out", "x"], "invalid choice 'squares'"),
        (["shapes"], "--out"),
        (["shapes", "--out", "x", "--sizes", "dev", "3"], "expected one of"),
        (["shapes", "--out", "FILE"], "a file, where a folder is to be written"),
    ],
)
def test_prepare_refuses_in_one_line(tmp_path, flags, says, capsys):
    (tmp_path / "file").touch()
    flags = [str(tmp_path / "file") if flag == "FILE" else flag for flag in flags]
    assert cli.main(["prepare", *flags]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and says in printed.err
