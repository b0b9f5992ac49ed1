"""A GRPO run on a random policy: it pays, learns, resumes bit for bit, stops cleanly, and says what is wrong."""

import json
import os
import shutil
import signal
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest

from pixelthink_jax import Policy
from pixelthink_jax.convert import convert, convert_adapter
from pixelthink_jax.data.config import DatasetConfig
from pixelthink_jax.data.shapes import ShapeReason
from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation.config import Generation
from pixelthink_jax.grpo import TrainConfig, train
from pixelthink_jax.grpo.config import DifficultyConfig, HeldOutConfig
from pixelthink_jax.grpo.dry_run import dry_run
from pixelthink_jax.models.qwen_vl import LoraConfig
from pixelthink_jax.processing.policy_format import FORMATS, PolicyFormat
from pixelthink_jax.rl.budgets import ConstantBudget
from pixelthink_jax.rl.length import NoPenalty
from pixelthink_jax.rl.rewards import RewardConfig
from pixelthink_jax.rl.sampling import SamplingConfig
from pixelthink_jax.runtime.optim import OptimConfig
from pixelthink_jax.runtime.run_log import read_log
from tests.data.sources.genuine import frame840_table, write_parquet
from tests.evaluation.tiny import tiny_policy
from tests.grpo.holes import WithHoles
from tests.runtime.store import store  # noqa: F401 - a fixture

TIMED = ("seconds/", "tokens_per_second", "update_tflops_per_second")


@cache
def policy_folder(root: Path) -> Path:
    folder = root / "policy"
    tiny_policy().export(folder)
    return folder


@pytest.fixture
def config(tmp_path_factory, tmp_path):
    folder = policy_folder(tmp_path_factory.getbasetemp())
    return TrainConfig(
        out=str(tmp_path / "run"),
        policy=str(folder),
        data=DatasetConfig(split="tuning"),
        reward=RewardConfig(budget=ConstantBudget(4.0), length_unit="response_tokens"),
        sampling=SamplingConfig(max_new_tokens=12),
        optim=OptimConfig(learning_rate=3e-3),
        steps=4,
        prompts_per_step=2,
        group_size=3,
        unroll=True,
        evaluation=HeldOutConfig(
            DatasetConfig(split="validation", examples=2),
            2,
            Generation(max_new_tokens=8, batch_size=2),
            None,
        ),
        samples_every=2,
        checkpoint_every=1,
    )


def vowels(completions, examples):
    """A reward that a random policy can earn: the share of `e` in its text."""
    assert len(completions) == len(examples)
    return [[text.count("e") / max(len(text), 1) for text in group] for group in completions]


def untimed(rows):
    return [{k: v for k, v in row.items() if not k.startswith(TIMED)} for row in rows]


def test_a_run_logs_every_step_and_leaves_a_policy_that_loads(config):
    seen = []
    settings = replace(config, profile_steps=(2, 3))
    run = train(
        settings, reward=vowels, callbacks=[lambda step, metrics, rows: seen.append((step, len(rows)))]
    )
    assert run.finished
    assert list((Path(config.out) / "profile").rglob("*.xplane.pb"))
    assert seen == [(step, 6) for step in range(1, 5)]
    assert [row["step"] for row in run.history] == [1, 2, 3, 4]
    assert read_log(config.out) == run.history
    assert {"reward", "kl", "sampler_drift", "thinking_tokens", "reward/vowels"} <= run.history[0].keys()
    assert [("evaluation/box_accuracy/all" in row) for row in run.history] == [False, True, False, True]
    assert max(row["sampler_drift"] for row in run.history) < 1e-4
    rows = [json.loads(line) for line in (Path(config.out) / "completions.jsonl").read_text().splitlines()]
    assert len(rows) == 24
    assert [row["step"] for row in rows if "text" in row] == [1] * 6 + [2] * 6 + [4] * 6
    loaded = Policy.from_pretrained(Path(config.out) / "policy", dtype="float32")
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), loaded.params, tiny_policy().params)
    assert max(jax.tree.leaves(moved)) > 1e-3
    assert "4 of 4 steps" in (Path(config.out) / "policy" / "README.md").read_text()


def test_a_dry_run_says_what_the_run_takes_and_keeps_nothing(config, tmp_path):
    before = set(tmp_path.rglob("*"))
    found = dry_run(replace(config, steps=101))
    assert set(tmp_path.rglob("*")) == before
    assert len(found.hosts) == 1 and jax.__version__ in found.hosts[0] and "MiB/s" in found.checkpoint
    assert found.row["id"].startswith("tuning-") and found.row["query"] and "reward" in found.row
    assert len(found.steps) == 2 and found.host_bytes > 2**27
    first, warm = (step["seconds/step"] for step in found.steps)
    assert found.seconds == pytest.approx(first + 100 * warm)
    assert found.device_bytes is None  # the CPU does not tell
    with pytest.raises(InputError, match="gone: no such folder"):
        dry_run(replace(config, policy=str(tmp_path / "gone")))


def test_a_stopped_run_continues_bit_for_bit(config, tmp_path):
    whole = train(config, reward=vowels)
    broken = replace(config, out=str(tmp_path / "broken"))

    def stop(step, metrics, rows):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    first = train(broken, reward=vowels, callbacks=[stop])
    assert not first.finished
    assert [row["step"] for row in first.history] == [1, 2]
    # A row that was logged after the last checkpoint, as a kill would leave it, is made again.
    with (Path(broken.out) / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 3, "reward": -1.0}) + "\n")
    second = train(broken, reward=vowels)
    assert untimed(second.history) == untimed(whole.history)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), second.policy.params, whole.policy.params)
    assert all(jax.tree.leaves(same))


def test_a_run_lives_on_an_object_store(config, store):  # noqa: F811
    shutil.copytree(config.policy, store / "models" / "start")
    away = replace(config, out="fake://runs/mine", policy="fake://models/start", evaluation=HeldOutConfig())

    def stop(step, metrics, rows):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    assert not train(away, callbacks=[stop]).finished
    assert (store / "runs" / "mine" / "checkpoints" / "1").is_dir()
    history = train(replace(away, steps=2)).history
    assert [row["step"] for row in history] == [1, 2]
    assert read_log(store / "runs" / "mine") == history
    assert len((store / "runs" / "mine" / "completions.jsonl").read_text().splitlines()) == 12
    Policy.from_pretrained("fake://runs/mine/policy", dtype="float32")


def test_dynamic_sampling_asks_other_questions_where_all_are_paid_alike(config):
    """Half of the questions are paid alike; those that are kept are the others, and the step has its usual size."""

    def odd_rows(completions, examples):
        odd = [int(example.id.rsplit("-", 1)[1]) % 2 for example in examples]
        return [[5.0 + o * j for j in range(len(group))] for o, group in zip(odd, completions, strict=True)]

    free = RewardConfig(penalty=NoPenalty())
    settings = replace(config, reward=free, more_rollouts=4, steps=2, evaluation=HeldOutConfig())
    run = train(settings, reward=odd_rows)
    rows = [json.loads(line) for line in (Path(config.out) / "completions.jsonl").read_text().splitlines()]
    assert {int(row["id"].rsplit("-", 1)[1]) % 2 for row in rows} == {1}
    assert len(rows) == 2 * 2 * 3
    assert all(row["groups_without_signal"] == 0 for row in run.history)
    assert sum(row["groups_left_out"] for row in run.history) > 0


def test_a_checkpoint_of_another_config_is_refused(config):
    train(replace(config, steps=1))
    with pytest.raises(InputError, match="was made with group_size = 3, this config says 2"):
        train(replace(config, steps=2, group_size=2))


def test_a_reward_that_can_be_earned_rises(config):
    settings = replace(
        config,
        steps=30,
        prompts_per_step=4,
        group_size=8,
        optim=OptimConfig(learning_rate=2e-2),
        evaluation=HeldOutConfig(),
        checkpoint_every=30,
    )
    history = train(settings, reward=vowels).history
    earned = [row["reward/vowels"] for row in history]
    assert np.mean(earned[-5:]) > np.mean(earned[:5]) + 0.05


def test_bad_rows_are_left_out_and_counted_in_the_log(config):
    rows = WithHoles(ShapeReason("tuning"), difficulty=None)
    short = replace(config, evaluation=HeldOutConfig(), steps=3)
    skip = replace(short, out=config.out + "2", difficulty=DifficultyConfig(missing="skip"))
    assert train(skip, dataset=rows).history[-1]["skipped/no_difficulty"] > 0
    released = replace(short, out=config.out + "3", difficulty=DifficultyConfig(missing="released"))
    assert sum(row["missing_difficulty"] for row in train(released, dataset=rows).history) > 0


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2, alpha=4.0, targets=("q_proj", "up_proj"))])
def test_bfloat16_trains_the_text_or_an_adapter_of_it(config, lora, tmp_path):
    settings = replace(
        config,
        dtype="bfloat16",
        lora=lora,
        freeze_vision=True,
        steps=2,
        optim=OptimConfig(learning_rate=1e-2),
        evaluation=HeldOutConfig(),
    )
    run = train(settings, reward=vowels)
    start = Policy.from_pretrained(config.policy, dtype="bfloat16")
    same = jax.tree.map(
        lambda a, b: bool((a == b).all()), run.policy.params["vision"], start.params["vision"]
    )
    assert all(jax.tree.leaves(same))
    restored = train(settings, reward=vowels)  # nothing is left to do: the state comes from the checkpoint
    assert [row["loss"] for row in restored.history] == [row["loss"] for row in run.history]
    assert run.history[1]["kl"] > 0  # the policy has left the reference
    assert run.history[0]["kl"] == pytest.approx(0.0, abs=1e-4)
    convert(config.out, tmp_path / "converted")
    ways = [tmp_path / "converted", Path(config.out) / "policy"]
    assert len({(folder / "model.safetensors").read_bytes() for folder in ways}) == 1
    if lora is not None:
        convert_adapter(config.out, tmp_path / "adapter")
        ways = [tmp_path / "adapter", Path(config.out) / "adapter"]
        assert len({(folder / "adapter_model.safetensors").read_bytes() for folder in ways}) == 1
        merged = start.with_adapter(Path(config.out) / "adapter")
        exported = Policy.from_pretrained(Path(config.out) / "policy", dtype="bfloat16")
        same = jax.tree.map(lambda a, b: bool((a == b).all()), merged.params, exported.params)
        assert all(jax.tree.leaves(same))


def test_a_broken_reward_is_named(config):
    with pytest.raises(InputError, match=r"custom reward broken: raised ZeroDivisionError"):
        train(config, reward=broken)
    with pytest.raises(
        InputError, match=r"custom reward flat: returned shape \(2,\), expected .* = \(2, 3\)"
    ):
        train(config, reward=flat)


def broken(completions, examples):
    return 1 / 0


def flat(completions, examples):
    return [0.0] * len(completions)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"micro_batches": 3}, "must divide prompts_per_step"),
        ({"sampling": SamplingConfig(12, temperature=0.0)}, "temperature 0"),
        ({"reward": RewardConfig()}, "largest budget 256 exceeds sampling.max_new_tokens 12"),
        ({"profile_steps": (3, 2)}, "profile_steps"),
        ({"data": DatasetConfig(split="test")}, "only reports"),
        ({"data": DatasetConfig(split="validation")}, "is the training data"),
    ],
)
def test_combinations_that_cannot_work_are_refused(config, change, words):
    with pytest.raises(InputError, match=words):
        replace(config, **change)


def test_not_finite_stops_with_step_and_examples_and_keeps_the_checkpoint(config):
    torn = replace(config, evaluation=HeldOutConfig(), optim=OptimConfig(learning_rate=1e30))
    with pytest.raises(
        InputError, match=r"step 2: loss is nan, with the examples tuning-0-\d+, tuning-0-\d+; "
    ):
        train(torn, reward=vowels)
    assert [row["step"] for row in read_log(torn.out)] == [1]
    assert sorted(path.name for path in (Path(torn.out) / "checkpoints").iterdir()) == ["1"]


def test_lists_of_objects_are_trained_on(config, tmp_path):
    """The multi-object sets from parquet to an exported policy that keeps the format it was asked in."""
    objects = json.dumps([{"bbox_2d": [1, 2, 30, 40], "point_2d": [5, 6]}] * 2)
    write_parquet(frame840_table([objects] * 4, [f"refcocog_{i}" for i in range(4)]), tmp_path / "set")
    data = DatasetConfig(name="multi_object_840", split="train", path=str(tmp_path / "set"))
    settings = replace(
        config,
        data=data,
        format="vision_reasoner",
        reward=replace(config.reward, accuracy="vision_reasoner"),
        difficulty=DifficultyConfig(source="self"),
        sampling=SamplingConfig(max_new_tokens=4),
        steps=1,
        evaluation=HeldOutConfig(),
    )
    with pytest.raises(
        InputError, match="reads vision_reasoner_json, the policy is asked for pixelthink_json"
    ):
        train(replace(settings, format=None))
    with pytest.raises(InputError, match="lists objects; set reward.accuracy to vision_reasoner"):
        train(replace(settings, format=None, reward=config.reward))

    def answer(completions, examples):
        return [[float(text.count("e")) for text in group] for group in completions]

    [row] = train(settings, reward=answer).history
    assert row["non_repeat"] == 1.0 and row["answer_format"] == 0.0
    assert PolicyFormat.from_pretrained(Path(config.out) / "policy") == FORMATS["vision_reasoner"]
