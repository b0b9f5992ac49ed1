"""Counts, precision, lengths, cost and scores of rows whose answers are known."""

import json
import math
import time

import numpy as np
import pytest

from pixelthink_jax.data.shapes import ShapeReason
from pixelthink_jax.evaluation.comparison import compare, p_value, paired
from pixelthink_jax.evaluation.details import details_of
from pixelthink_jax.evaluation.efficiency import answer_flops, efficiency, mean_gflops, segmenter_flops
from pixelthink_jax.evaluation.measures import level_measures, run_counts
from pixelthink_jax.evaluation.metrics import intersection_union
from pixelthink_jax.evaluation.reasoning_scores import sat, urss
from pixelthink_jax.evaluation.shapereason_judge import asked_of, judge_rows, judge_thought
from pixelthink_jax.models.qwen_vl import QwenVLConfig
from pixelthink_jax.rl.flops import GroupShape, forward_flops
from tests.evaluation.test_summary import row
from tests.evaluation.tiny import tiny_policy, tiny_segmenter

ROWS = [
    row(id="a", mask_iou=0.95, target_pixels=10, mask_pixels=9, seconds={"decoding": 1.0}, decode_slots=80.0),
    row(id="b", mask_iou=0.55, target_pixels=10, mask_pixels=5, seconds={"decoding": 3.0}, decode_slots=80.0),
    row(
        id="c",
        level="hard",
        mask_iou=0.0,
        target_pixels=9,
        mask_pixels=0,
        answer_error="no_json",
        valid=False,
    ),
    row(id="d", level="hard", mask_iou=1.0, target_pixels=0, mask_pixels=0, thinking_tokens=100),
    row(id="e", mask_iou=0.0, skipped="empty union", thinking_tokens=9999),
]


def test_counts_are_by_cause():
    counts = run_counts(ROWS, bad=2)
    assert (counts.examples, counts.skipped, counts.failed, counts.invalid) == (7, {"empty union": 1}, 1, 1)
    assert "7 examples: 4 counted (1 of them failed" in counts.line() and "2 could not" in counts.line()


def test_precision_and_questions_without_a_target():
    found = level_measures(ROWS)
    assert list(found) == ["easy", "hard", "all"]
    assert [found["all"].precision[t].value for t in (0.5, 0.6, 0.9)] == [0.75, 0.5, 0.5]
    assert found["hard"].no_target.value == 1.0 and found["easy"].no_target is None
    assert found["all"].target_found.value == pytest.approx(2 / 3)
    assert found["all"].lengths["thinking_tokens"].largest == 100  # what is skipped is in no average
    assert found["hard"].lengths["thinking_tokens"].percentiles[50] == 56


def test_skipped_rows_are_compared_nowhere():
    other = [row(id=r.id, level=r.level, mask_iou=1.0) for r in reversed(ROWS)]
    before, after = paired(ROWS, other)
    assert [r.id for r in before] == [r.id for r in after] == ["a", "b", "c", "d"]
    assert compare(ROWS, [row(id=r.id, mask_iou=1.0) for r in ROWS])["all"]["giou"].n == 4


def test_p_values_are_uniform_without_a_difference_and_small_with_one():
    rng = np.random.default_rng(0)
    flat = [p_value(*rng.normal(size=(2, 60)), resamples=400) for _ in range(60)]
    assert 0.3 < np.mean(flat) < 0.7 and np.mean(np.array(flat) < 0.05) < 0.15
    base = rng.normal(size=60)
    assert p_value(base, base + 0.5 + 0.1 * rng.normal(size=60)) < 0.001


def test_cost_by_stage():
    found = efficiency(ROWS, gflops={"decoding": 2.0})
    assert found.seconds_mean["decoding"] == pytest.approx(4 / 5) and found.images_per_second == 5 / 4
    assert found.tokens_per_second == 5 * 40 / 4 and found.decode_busy == 200 / 160
    assert found.tokens_per_correct_mask == pytest.approx(200 / 3)
    assert efficiency([row()]).images_per_second is None


def test_flops_of_an_answer_are_those_of_a_group_of_one():
    config = QwenVLConfig()
    parts = answer_flops(config, prompt_tokens=970, completion_tokens=120, grid=(1, 60, 60))
    group = GroupShape(prompt_tokens=970, completion_tokens=(120,), grids=((1, 60, 60),))
    assert sum(parts.values()) == forward_flops(config, [group])
    known = [row(prompt_tokens=40, image_grid=[1, 4, 4], boxes_xyxy=[[0, 0, 1, 1]] * 2)]
    found = mean_gflops(known, tiny_policy().config, tiny_segmenter())
    assert (
        found["segmenter"] == pytest.approx(2 * segmenter_flops(tiny_segmenter()) / 1e9)
        and found["segmenter"] > 0
    )
    assert mean_gflops([row()], tiny_policy().config) == {}


def test_scores_against_cost():
    """The published pairs, to the digits of the figure they were read from."""
    assert sat(0.582, 90.58, size_billions=7) == pytest.approx(0.871, rel=0.015)
    assert sat(0.6017, 47.66, size_billions=7) == pytest.approx(1.228, rel=0.015)
    assert [round(urss(*pair), 2) for pair in ((0.871, 1.138), (1.228, 1.419))] == [0.95, 1.29]
    judged = [row(id=str(i), mask_iou=0.5, thinking_tokens=16, reasoning={"score": 0.8}) for i in range(4)]
    found = details_of(judged, size_billions=2.0)
    scores = found.scores["all"]
    assert (scores.sat, scores.rst) == pytest.approx((50 / 8, 80 / 8))
    assert scores.urss == pytest.approx(0.7 * scores.sat + 0.3 * scores.rst)
    assert scores.sweep[1.0] == scores.sat and scores.sweep[0.0] == scores.rst
    json.dumps(found.tree(), allow_nan=False)
    silent = details_of([row(thinking_tokens=0)], size_billions=2.0).scores["all"]
    assert (silent.sat, silent.urss) == (None, None) and math.isnan(sat(0.5, 0, size_billions=1))


def chains(style: str, count: int = 30) -> list[str]:
    world = ShapeReason("test", chain_style=style)
    return [
        (world[i].completion or "").partition("<think>")[2].partition("</think>")[0] for i in range(count)
    ]


@pytest.mark.parametrize(
    ("style", "least"), [("long", 0.99), ("medium", 0.95), ("short", 0.7), ("none", 0.0)]
)
def test_true_chains_are_judged_right_and_those_of_another_scene_wrong(style, least):
    said = chains(style)
    own = [judge_thought(text, asked_of(f"test-0-{i}"))["score"] for i, text in enumerate(said)]
    strange = [judge_thought(text, asked_of(f"test-0-{i + 40}"))["score"] for i, text in enumerate(said)]
    assert np.mean(own) >= least and np.mean(strange) < 0.1
    assert style != "none" or max(own) == 0.0


def test_a_false_statement_costs_what_it_should():
    text, asked = chains("long", 1)[0], asked_of("test-0-0")
    assert judge_thought(text, asked)["score"] == 1.0
    turned = text.replace(" yes", " NO").replace(" no", " yes").replace(" NO", " no")
    assert judge_thought(turned, asked)["facts"] <= judge_thought(text, asked)["facts"]
    moved = " ".join(str(int(w) + 200) if w.isdigit() else w for w in text.split())
    assert judge_thought(moved, asked)["target"] == 0.0
    half = text[: len(text) // 2]
    assert judge_thought(half, asked)["score"] < 1.0
    other = [
        row(id="coco-3", text="x"),
        row(id="test-0-0", text=f"<think>{text}</think>"),
        row(id="test-0-999999"),
    ]
    assert [r.reasoning and r.reasoning["score"] for r in judge_rows(other)] == [None, 1.0, None]


def test_a_thousand_masks_of_a_megapixel_take_seconds():
    rng = np.random.default_rng(0)
    masks, target = rng.random((4, 1024, 1024)) < 0.3, (rng.random((1024, 1024)) < 0.3).astype(np.uint8)
    target[:100] = 255
    start = time.process_time()
    for i in range(100):
        intersection_union(masks[i % 4], target)
    assert (time.process_time() - start) * 10 < 20  # a few seconds on a free core
