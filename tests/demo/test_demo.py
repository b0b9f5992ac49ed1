"""The demonstration from end to end on random models, and the page it writes."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelthink_jax import Policy, cli
from pixelthink_jax.config import load_config
from pixelthink_jax.data.shapes import ShapeReason
from pixelthink_jax.demo import DemoConfig, demo_page, run_demo
from pixelthink_jax.demo.recipe import recipe
from pixelthink_jax.demo.scenes import SPLIT, first_of_each_level, photograph
from pixelthink_jax.errors import InputError
from pixelthink_jax.grpo import TrainConfig
from tests.evaluation.test_report import HOSTILE, Reader
from tests.evaluation.tiny import tiny_policy, tiny_segmenter

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> DemoConfig:
    folder = tmp_path_factory.mktemp("demo")
    tiny_policy().export(folder / "policy")
    tiny_segmenter().export(folder / "segmenter")
    return DemoConfig(
        out=folder / "out",
        scenes=3,
        steps=2,
        pictures=1,
        policy=folder / "policy",
        segmenter=folder / "segmenter",
        max_new_tokens=8,
    )


@pytest.fixture(scope="module")
def demo(config):
    seen = []
    # A random policy never stops by itself, so the completions of the recipe would take their whole length.
    short = lambda *args, **options: _shortened(recipe(*args, **options))  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pixelthink_jax.demo.run.recipe", short)
        found = run_demo(config, on_progress=lambda *row: seen.append(row[:3]))
    assert seen[-1] == ("pictures again", 4, 4)
    assert {("pictures", 4, 4), ("before", 3, 3), ("training", 2, 2), ("after", 3, 3)} <= set(seen)
    return found


def _shortened(settings: TrainConfig) -> TrainConfig:
    budget = replace(settings.reward.budget, easy=2.0, hard=6.0)
    return replace(
        settings,
        sampling=replace(settings.sampling, max_new_tokens=8),
        reward=replace(settings.reward, budget=budget),
        prompts_per_step=2,
        group_size=2,
    )


def test_the_report_stands_alone(demo, config):
    read = Reader(demo.report.read_text(encoding="utf-8"))
    assert read.tags.count("img") == 7 and not {"script", "link", "iframe"} & set(read.tags)
    assert read.tags.count("svg") == 4
    sources = [value for name, value in read.attributes if name in ("src", "href")]
    assert all(value.startswith("data:image/png;base64,") for value in sources)
    assert all(each.example.query in read.text for each in demo.shown)
    assert (
        "3 drawn scenes of the test split" in read.text
        and str(config.policy) in read.text
        and "95 % interval" in read.text
        and "1600 x 1200 pixels" in read.text
    )
    assert not re.search(r"https?://", read.text)


def test_the_numbers_lie_beside_it(demo, config):
    assert sorted(path.name for path in config.out.iterdir()) == [
        "photograph.png",
        "report.html",
        "rows_after.jsonl",
        "rows_before.jsonl",
        "summary.json",
        "table.md",
        "training",
    ]
    summary = json.loads((config.out / "summary.json").read_text())
    assert summary["styles"]["after"]["all"]["n"] == 3
    assert summary["about"]["changes"]["all"]["tokens"]["before"] == pytest.approx(
        np.mean([row.thinking_tokens for row in demo.before])
    )
    assert len(demo.history) == 2
    with Image.open(demo.photograph) as picture:
        assert picture.size == (1600, 1200)
        assert np.array_equal(np.asarray(picture), demo.shown[-1].example.image)
    Policy.from_pretrained(config.out / "training" / "policy")


def test_whatever_the_models_say_stays_text(demo, config):
    hostile = {"query": HOSTILE, "thinking": HOSTILE, "answer_error": HOSTILE}
    shown = tuple(
        replace(
            each,
            example=replace(each.example, query=HOSTILE),
            before=replace(each.before, **hostile),
            after=replace(each.after, **hostile),
        )
        for each in demo.shown
    )
    after = [replace(row, failure=HOSTILE) for row in demo.after]
    read = Reader(demo_page(replace(demo, shown=shown, after=after), config.training))
    assert "script" not in read.tags and read.tags.count("img") == 7
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    assert read.text.count("<script>alert(1)</script>") >= 3 * 7 + 1


def test_the_recipe_is_the_tiny_config():
    settings = load_config(TrainConfig, CONFIGS / "tiny.yaml")
    assert recipe(settings.out, settings.policy) == settings


def test_scenes_are_shown_in_order_of_level_and_not_chosen():
    examples = first_of_each_level(2)
    assert [example.level for example in examples] == ["easy", "easy", "medium", "medium", "hard", "hard"]
    world = ShapeReason(SPLIT)
    last = max(int(example.id.rsplit("-", 1)[1]) for example in examples)
    for level in ("easy", "medium", "hard"):
        matching = [row.id for row in (world[i] for i in range(last + 1)) if row.level == level]
        assert matching[:2] == [example.id for example in examples if example.level == level]


def test_the_photograph_is_a_scene_that_is_not_evaluated():
    example = photograph(after=100)
    assert (
        example.image.shape == (1200, 1600, 3)
        and example.mask is not None
        and example.mask.shape == (1200, 1600)
    )
    assert example.id.startswith(f"{SPLIT}-") and int(example.id.rsplit("-", 1)[1]) >= 100


def test_without_the_tiny_models_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pixelthink_jax.segmentation.loading.resources.files", lambda name: tmp_path)
    assert cli.main(["demo", "--out", str(tmp_path / "demo")]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "this installation has no such model" in captured.err
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"scenes": 0}, "scenes must be 1 to 500"), ({"scenes": 501}, "1 to 500"), ({"steps": 0}, "at least 1")],
)
def test_sizes_that_cannot_be(settings, message):
    with pytest.raises(InputError, match=message):
        DemoConfig(out=Path("demo"), **settings)


def test_the_command_prints_what_changed_and_the_place(config, demo, monkeypatch, capsys):
    monkeypatch.setattr("pixelthink_jax.demo.run_demo", lambda config, on_progress: demo)
    assert cli.main(["demo", "--out", str(config.out), "--scenes", "3"]) == 0
    out = capsys.readouterr().out
    assert "thinking tokens" in out and "gIoU" in out and str(demo.report.resolve()) in out
