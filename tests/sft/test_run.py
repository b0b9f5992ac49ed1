import dataclasses
import functools
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from pixelthink_jax.config import from_tree
from pixelthink_jax.convert import convert
from pixelthink_jax.errors import InputError
from pixelthink_jax.policy import Policy
from pixelthink_jax.runtime.meter import Meter
from pixelthink_jax.runtime.optim import OptimConfig
from pixelthink_jax.runtime.run_log import read_log
from pixelthink_jax.sft import run
from pixelthink_jax.sft.config import SftConfig
from pixelthink_jax.sft.data import open_data
from pixelthink_jax.sft.new_policy import new_policy
from pixelthink_jax.sft.run import run_sft
from pixelthink_jax.types import Example
from tests.rl.tiny_policy import pictures, tiny_policy

MODEL = {
    "text": {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_layers": 1,
        "num_heads": 2,
        "num_kv_heads": 1,
        "mrope_section": [1, 1, 2],
    },
    "vision": {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 16,
        "patch_size": 7,
        "window_size": 28,
        "full_attention_blocks": [0],
    },
    "dtype": "float32",
}
NEW = {"model": MODEL, "image_size": 28, "max_vocab": 300}
ANSWERS = ("left", "<think> red cup</think>", "cup near the cup", "of the cup left", "<answer>", "of")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of four thousand numbers, and ten questions about pictures of 28 x 28 pixels."""
    folder = tmp_path_factory.mktemp("sft")
    tiny_policy().export(folder / "start")
    rows = []
    for i, picture in enumerate(pictures([(28, 28)] * 10)):
        Image.fromarray(picture).save(folder / f"{i}.png")
        rows.append({"image": f"{i}.png", "query": "the cup", "completion": ANSWERS[i % 6] * (1 + i // 6)})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def config(folder: Path, out: str, **values: Any) -> SftConfig:
    data = {"name": "jsonl", "path": str(folder / "rows.jsonl")}
    tree = {
        "out": str(folder / out),
        "policy": str(folder / "start"),
        "stages": [
            {"name": "first", "steps": 4, "data": [data]},
            {"name": "second", "steps": 3, "data": [{**data, "examples": 5}]},
        ],
        "optim": {"learning_rate": 0.01, "warmup_steps": 2, "decay": "linear", "weight_decay": 0.1},
        "length_buckets": [64],
        "tokens_per_batch": 128,
        "chunk_rows": 6,
        "log_every": 1,
        "checkpoint_every": 2,
    }
    return from_tree(SftConfig, {**tree, **values})


class Killed(Exception):
    """Ends a run from outside."""


def stop_at(last: int) -> Callable[[int, dict[str, float]], None]:
    def on_log(step: int, _: dict[str, float]) -> None:
        if step == last:
            os.kill(os.getpid(), signal.SIGTERM)

    return on_log


def kill_at(last: int) -> Callable[[int, dict[str, float]], None]:
    def on_log(step: int, _: dict[str, float]) -> None:
        if step == last:
            raise Killed

    return on_log


def metrics(out: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds_per_step"} for row in read_log(out)]


@pytest.fixture
def compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run of a test gets the same compiled step; the optimizer follows from the configuration alone."""
    make_optimizer = functools.cache(run.make_optimizer)
    make_train_step = functools.cache(run.make_train_step)
    monkeypatch.setattr(run, "make_optimizer", make_optimizer)
    monkeypatch.setattr(run, "make_train_step", make_train_step)


@pytest.mark.usefixtures("compiled_once")
def test_killed_runs_go_on_as_if_they_had_not_been(folder: Path) -> None:
    whole = run_sft(config(folder, "whole"))
    broken = config(folder, "broken")
    stopped = run_sft(broken, on_log=stop_at(1))
    assert stopped.steps == 1 and (folder / "broken" / "checkpoints" / "1").is_dir()
    shutil.rmtree(folder / "broken" / "policy")
    # The first kill leaves the checkpoint of step 2, inside a chunk of the first stage; the second that of
    # step 4, between the stages.
    for last in (3, 5):
        with pytest.raises(Killed):
            run_sft(broken, on_log=kill_at(last))
        assert max(row["step"] for row in read_log(folder / "broken")) == last
        assert not (folder / "broken" / "policy").exists()
    joined = run_sft(broken)
    assert metrics(folder / "broken") == metrics(folder / "whole")
    assert [row["step"] for row in metrics(folder / "whole")] == list(range(1, 8))
    assert [row["stage"] for row in metrics(folder / "whole")] == [0.0] * 4 + [1.0] * 3
    assert joined.steps == whole.steps == 7
    jax.tree.map(np.testing.assert_array_equal, joined.policy.params, whole.policy.params)
    convert(folder / "whole", folder / "whole" / "converted")
    written = ("broken/policy", "whole/policy", "whole/converted")
    weights = [(folder / out / "model.safetensors").read_bytes() for out in written]
    assert weights[0] == weights[1] == weights[2]
    losses = [row["loss"] for row in metrics(folder / "whole")]
    assert losses[-1] < losses[0]
    # A finished run is not run again, and its policy loads.
    again = run_sft(broken, on_log=kill_at(1))
    jax.tree.map(np.testing.assert_array_equal, again.policy.params, whole.policy.params)
    assert metrics(folder / "broken") == metrics(folder / "whole")
    loaded = Policy.from_pretrained(folder / "broken" / "policy", dtype=None)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, whole.policy.params)
    assert loaded.processor.format == tiny_policy().processor.format


def fake_step(loss: float) -> Callable[..., Any]:
    """A train step that learns nothing."""
    values = {"loss": np.float32(loss), "token_accuracy": np.float32(0), "tokens": np.float32(1)}
    return lambda *_, **__: lambda state, frozen, batch: (state, dict(values))


def test_a_loss_that_is_not_finite_stops_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "make_train_step", fake_step(float("nan")))
    with pytest.raises(InputError, match="step 2: the loss is nan; lower optim.learning_rate"):
        run_sft(config(folder, "nan", log_every=2))
    assert not list((folder / "nan" / "checkpoints").glob("[0-9]*"))


def test_the_last_steps_are_logged_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "make_train_step", fake_step(1.5))
    run_sft(config(folder, "last", log_every=3, checkpoint_every=3))
    assert [row["step"] for row in read_log(folder / "last")] == [3, 6, 7]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "0.png", "query": "the cup"}, "it has no completion"),
        ({"image": "gone.png", "query": "the cup", "completion": "left"}, "gone.png"),
        (
            {"image": "0.png", "query": "the cup", "completion": "cup " * 99},
            "longer than the largest length bucket",
        ),
    ],
)
def test_bad_rows_stop_the_run(
    folder: Path, row: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "make_train_step", fake_step(1.5))
    (folder / "bad.jsonl").write_text(json.dumps(row) + "\n")
    stage = {"name": "a", "steps": 3, "data": [{"name": "jsonl", "path": str(folder / "bad.jsonl")}]}
    with pytest.raises(InputError, match=message):
        run_sft(config(folder, "bad", stages=[stage]))


def test_another_optimizer_does_not_take_a_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "make_train_step", fake_step(1.5))
    settings = config(folder, "swap")
    run_sft(settings)
    with pytest.raises(InputError, match="does not fit this run's model and optimizer"):
        run_sft(dataclasses.replace(settings, optim=OptimConfig(kind="muon")))


def test_metrics_are_averaged_between_rows() -> None:
    meter = Meter(2, last=5)
    rows = [meter.update(step, {"loss": np.float32(step)}) for step in range(1, 6)]
    assert [row and row["loss"] for row in rows] == [None, 1.5, None, 3.5, 5.0]


def test_a_new_policy_has_the_words_of_its_data(folder: Path) -> None:
    policy = new_policy(config(folder, "new", policy=None, new_policy=NEW))
    tokenizer = policy.processor.tokenizer
    assert policy.config.text.vocab_size == tokenizer.vocab_size <= 300
    assert policy.config.eos_token_id == tokenizer.special.end_of_turn
    assert policy.config.image_token_id == tokenizer.special.image_pad
    assert tokenizer.count(" cup") == 1
    assert policy.params["text"]["embed"].shape == (tokenizer.vocab_size, 16)
    prompt = policy.processor.prompt(pictures([(60, 90)])[0], "the cup")
    assert prompt.image.shape == (28, 28, 3)
    assert (prompt.input_ids == policy.config.image_token_id).sum() == 4


def test_a_resumed_run_keeps_its_vocabulary_whatever_its_stages_have_become(folder: Path) -> None:
    texts = folder / "texts.jsonl"
    texts.write_text((folder / "rows.jsonl").read_text().replace("cup", "saucer"))
    other = {"name": "later", "steps": 1, "data": [{"name": "jsonl", "path": str(texts)}]}
    kept = folder / "kept"
    first = new_policy(config(folder, "a", policy=None, new_policy=NEW), tokenizer_folder=kept)
    changed = config(folder, "a", policy=None, new_policy=NEW, stages=[other])
    again = new_policy(changed, tokenizer_folder=kept)
    counted = [policy.processor.tokenizer.count(" cup") for policy in (first, again, new_policy(changed))]
    assert counted[:2] == [1, 1] and counted[2] > 1


def test_what_is_given_of_a_completion_bears_no_loss() -> None:
    processor = tiny_policy().processor
    whole = Example("a", pictures([(28, 28)])[0], "the cup", completion="<think> red cup</think> left of")
    begun = dataclasses.replace(whole, given="<think> red cup")
    plain, partly = run.encode_example(whole, processor), run.encode_example(begun, processor)
    np.testing.assert_array_equal(plain.input_ids, partly.input_ids)
    learned = processor.tokenizer.decode(partly.input_ids[partly.given_tokens :])
    assert learned == "</think> left of"
    # A given text that ends inside a token leaves that token to be learned.
    inside = run.encode_example(dataclasses.replace(whole, given="<think> red cu"), processor)
    assert plain.given_tokens < inside.given_tokens < partly.given_tokens


def test_datasets_of_a_stage_are_mixed(folder: Path) -> None:
    rows = {"name": "jsonl", "path": str(folder / "rows.jsonl")}
    stage = {"name": "a", "steps": 1, "data": [{**rows, "examples": 6}, {**rows, "given_until": "near"}]}
    parts = config(folder, "mixed", stages=[stage]).stages[0].data
    mixed = open_data(parts, None)
    assert len(mixed) == 6
    assert any(mixed[i].given for i in range(6)) and not all(mixed[i].given for i in range(6))


def test_a_new_policy_is_made_by_one_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match="new_policy: 2 processes would each count a vocabulary"):
        run_sft(config(folder, "many", policy=None, new_policy=NEW))
