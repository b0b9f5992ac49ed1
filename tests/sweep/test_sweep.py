"""A sweep on a random policy: chosen on one split, reported on others, resumed without doing anything twice."""

import json
from pathlib import Path

import pytest
import yaml

from pixelthink_jax.config import from_tree, load_config
from pixelthink_jax.errors import InputError
from pixelthink_jax.sweep import SweepConfig, run_sweep
from pixelthink_jax.sweep.run import best_choice
from tests.evaluation.test_summary import row
from tests.evaluation.tiny import tiny_policy, tiny_segmenter

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    tiny_policy().export(folder / "policy")
    tiny_segmenter().export(folder / "segmenter")
    base = {
        "out": "unused",
        "policy": str(folder / "policy"),
        "data": {"split": "train"},
        "reward": {"budget": {"kind": "constant", "length": 4}, "length_unit": "response_tokens"},
        "sampling": {"max_new_tokens": 8},
        "optim": {"learning_rate": 1.0e-2},
        "steps": 1,
        "prompts_per_step": 2,
        "group_size": 2,
        "unroll": True,
    }
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    questions = {"name": "shapereason", "examples": 2}
    return {
        "out": str(folder / "out"),
        "base": str(folder / "base.yaml"),
        "seeds": [0, 1],
        "tune": {**questions, "split": "tuning"},
        "report": {"test": {**questions, "split": "test"}, "ood": {**questions, "split": "ood"}},
        "generation": {"max_new_tokens": 6, "batch_size": 2},
        "segmenter": str(folder / "segmenter"),
        "arms": {
            "chosen": {"about": "two rates", "choices": [{}, {"optim": {"learning_rate": 1.0e-3}}]},
            "brief": {"train": False, "generation": {"instruction": "Be brief."}},
        },
    }


@pytest.fixture(scope="module")
def sweep(tree):
    said = []
    config = from_tree(SweepConfig, tree)
    return config, run_sweep(config, on_progress=lambda arm, doing: said.append((arm, doing))), said


def test_every_arm_is_reported_on_every_set_with_every_seed(sweep):
    config, found, _ = sweep
    assert list(found) == ["as it came", "chosen", "brief"]
    assert {name: len(rows) for name, rows in found["chosen"].rows.items()} == {"test": 2, "ood": 2}
    assert {name: len(rows) for name, rows in found["brief"].rows.items()} == {"test": 1, "ood": 1}
    results = json.loads((Path(config.out) / "results.json").read_text())
    assert results["as it came"]["changes"]["test"]["all"]["giou"]["difference"]["value"] == 0
    text = (Path(config.out) / "results.md").read_text()
    assert "## test" in text and "## ood" in text and "| two rates |" in text
    assert (Path(config.out) / "results.png").stat().st_size > 1000


def test_choices_are_trained_with_the_first_seed_and_only_one_with_the_others(sweep):
    config, found, _ = sweep
    runs = {path.name for path in (Path(config.out) / "chosen").iterdir()}
    assert runs == {"choice0-seed0", "choice1-seed0", f"choice{found['chosen'].choice}-seed1"}
    tuned = sorted(path.parent.name for path in Path(config.out).rglob("rows_tune.jsonl"))
    assert tuned == ["choice0-seed0", "choice1-seed0", "start"]


def test_a_second_run_does_nothing_again_and_finds_the_same(sweep, monkeypatch):
    config, found, _ = sweep
    before = (Path(config.out) / "results.md").read_text()
    monkeypatch.setattr("pixelthink_jax.sweep.run.train", None)
    monkeypatch.setattr("pixelthink_jax.sweep.run.evaluate_policy", None)
    assert run_sweep(config) == found
    assert (Path(config.out) / "results.md").read_text() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tune": {"name": "shapereason", "split": "test"}}, "tune: split test only reports"),
        ({"report": {"mine": {"name": "shapereason", "split": "tuning"}}}, "report.mine is the tuning data"),
        (
            {"report": {"mine": {"name": "shapereason", "split": "train"}}},
            "arm chosen: trains on report.mine",
        ),
        ({"arms": {"a": {"train": False, "settings": {"steps": 2}}}}, "has no settings"),
        ({"arms": {"a": {"settings": {"stepz": 2}}}}, "arm a: unknown key 'stepz'; did you mean 'steps'"),
        ({"arms": {}}, "at least one arm"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(tree, change, message):
    with pytest.raises(InputError, match=message):
        from_tree(SweepConfig, {**tree, **change})


def test_settings_of_the_sweep_lie_between_the_base_and_an_arm(tree):
    config = from_tree(SweepConfig, {**tree, "settings": {"steps": 3, "optim": {"learning_rate": 0.5}}})
    first, second = (config.training("chosen", choice, 0) for choice in (0, 1))
    assert (first.steps, first.optim.learning_rate, first.group_size) == (3, 0.5, 2)
    assert (second.steps, second.optim.learning_rate) == (3, 1e-3)


def test_some_arms_are_run_into_the_folder_that_the_others_share(tree):
    config = from_tree(SweepConfig, tree)
    part = config.only(["brief"])
    assert list(part.arms) == ["brief"] and part.out == config.out
    with pytest.raises(InputError, match="no arm briefer in this sweep; it has chosen, brief"):
        config.only(["briefer"])


def test_a_choice_keeps_the_masks_first_and_shortens_second():
    def rows(iou, tokens):
        return [row(id="a", level="easy", mask_iou=iou, thinking_tokens=tokens)]

    start = rows(0.5, 40)
    assert best_choice(start, [rows(0.2, 5), rows(0.495, 20), rows(0.6, 40)], allowed_loss=0.02) == 1
    assert best_choice(start, [rows(0.2, 5), rows(0.3, 20), rows(0.31, 40)], allowed_loss=0.02) == 2


def test_the_shipped_sweep_reads(monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    config = load_config(SweepConfig, CONFIGS / "sweeps" / "ablation_tiny.yaml")
    assert config.tune.split == "tuning" and {data.split for data in config.report.values()} == {
        "test",
        "ood",
    }
    assert (
        len({str(config.training(arm, 0, 0).reward) for arm, each in config.arms.items() if each.train}) >= 11
    )
