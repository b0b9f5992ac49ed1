"""The benchmarks on models too small to tell anything: that they time what they say, and in turns."""

import dataclasses
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from pixelthink_jax import bench, cli
from pixelthink_jax.bench import encoding, generation, timing
from tests.evaluation.tiny import tiny_segmenter

MODEL = dataclasses.replace(
    generation.MODEL,
    text=dataclasses.replace(
        generation.MODEL.text,
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        mrope_section=(1, 1, 2),
    ),
    vision=dataclasses.replace(
        generation.MODEL.vision,
        depth=1,
        hidden_size=16,
        intermediate_size=24,
        num_heads=2,
        out_hidden_size=16,
        full_attention_blocks=(0,),
    ),
    image_token_id=60,
    video_token_id=61,
    vision_start_token_id=62,
    vision_end_token_id=63,
)


def test_a_grpo_step_is_timed_shared_repeated_and_against_a_rival():
    seen = []

    class Rival:
        def __init__(self, folder):
            assert (folder / "model.safetensors").is_file()

        def grpo_step(
            self, input_ids, attention_mask, pixel_values, image_grid_thw, advantages, *, new_tokens
        ):
            seen.append((input_ids, pixel_values, image_grid_thw, advantages, new_tokens))

    rows = bench.measure_grpo(
        prompts=2, group_size=3, new_tokens=4, rounds=1, rival=("rival", Rival), model=MODEL, image_side=56
    )
    ours = ["shared prefix", "repeated prompts"]
    assert [row.contestant for row in rows] == [*ours, *ours, *ours, "rival"]
    assert [row.task for row in rows[::2]] == ["rollout", "reference and update", "whole step", "whole step"]
    assert rows[0].per_second == pytest.approx(24 / rows[0].seconds)
    input_ids, pixel_values, grids, advantages, new_tokens = seen[-1]
    assert (input_ids == 60).sum(axis=1).tolist() == [4] * 6 and grids.tolist() == [[1, 4, 4]] * 6
    assert (input_ids[0] == input_ids[2]).all() and (input_ids[2] != input_ids[3]).any()
    assert pixel_values.shape == (6 * 16, 1176) and advantages.shape == (6,) and new_tokens == 4


def test_contestants_are_timed_in_turns_after_a_warm_up(monkeypatch):
    calls, clock = [], iter(range(100))
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    contestants = {name: lambda name=name: calls.append(name) for name in "ab"}
    rows = timing.measurements("task", contestants, rounds=2, count=10, unit="tokens")
    assert calls == ["a", "b", "a", "b", "a", "b"]
    assert rows[1] == timing.Measurement("task", "b", 1.0, 1.0, 1.0, 10.0, "tokens")


def test_generation_decodes_what_it_says_against_a_rival_with_the_same_weights():
    seen = []

    class Rival:
        def __init__(self, folder):
            assert (folder / "model.safetensors").is_file() and (folder / "config.json").is_file()

        def generate(self, input_ids, attention_mask, pixel_values, image_grid_thw, *, new_tokens):
            seen.append((input_ids, pixel_values, image_grid_thw, new_tokens))

    rows = bench.measure_generation(
        batch_sizes=(2,), rounds=1, new_tokens=3, rival=("rival", Rival), model=MODEL, image_side=56
    )
    assert [(row.task, row.contestant, row.unit) for row in rows] == [
        ("generate, batch 2, 3 tokens each", "pixelthink", "tokens"),
        ("generate, batch 2, 3 tokens each", "rival", "tokens"),
    ]
    assert rows[0].per_second == pytest.approx(6 / rows[0].seconds)
    input_ids, pixel_values, grids, new_tokens = seen[-1]
    assert (input_ids == 60).sum(axis=1).tolist() == [4, 4] and input_ids.shape == (
        2,
        generation.TEXT_TOKENS + 6,
    )
    assert pixel_values.shape == (32, MODEL.vision.patch_dim) and grids.tolist() == [[1, 4, 4]] * 2
    assert new_tokens == 3


def test_encoding_takes_the_same_pixels():
    seen = []

    class Rival:
        def __init__(self, folder):
            assert (folder / "model.safetensors").is_file()

        def embed(self, pixels):
            seen.append(pixels)

    rows = encoding.measure_encoding(model=tiny_segmenter().config, rounds=1, rival=("rival", Rival))
    assert [row.contestant for row in rows] == ["pixelthink", "rival"]
    assert seen[0].shape == (1, 64, 64, 3) and seen[0].dtype == np.float32


def test_the_command_prints_a_table_or_json(capsys, monkeypatch):
    rows = [
        timing.Measurement("t", name, 2.0, 1.0, 3.0, 32.0 / i, "tokens") for i, name in ((1, "a"), (2, "b"))
    ]
    asked = []
    monkeypatch.setattr(bench, "measure_generation", lambda **settings: asked.append(settings) or rows)
    assert cli.main(["bench", "generate", "--batch-sizes", "1", "4", "--rounds", "2"]) == 0
    assert asked == [{"batch_sizes": (1, 4), "rounds": 2, "new_tokens": 64, "rival": None}]
    assert capsys.readouterr().out.endswith("t: 2.00 times as fast as b\n")
    monkeypatch.setattr(bench, "measure_encoding", lambda **settings: rows[:1])
    assert cli.main(["bench", "segmenter", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["measurements"][0]["contestant"] == "a" and printed["machine"]["cores"] >= 1


def test_the_command_refuses_in_one_line(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for flags, says in (
        (["generate", "--against", "transformers"], "PyTorch is not installed here"),
        (["train"], "invalid choice 'train'"),
        (["generate", "--rounds", "0"], "rounds must be at least 1"),
        (["generate", "--batch-sizes", "0"], "batch sizes must be at least 1"),
    ):
        assert cli.main(["bench", *flags]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1 and says in printed.err
