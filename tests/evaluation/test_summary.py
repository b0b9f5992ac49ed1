"""Numbers by level, and their intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelthink_jax.evaluation.rows import Row
from pixelthink_jax.evaluation.summary import bootstrap, summarise


def row(**changes) -> Row:
    values = {
        "id": "a",
        "level": "easy",
        "query_type": None,
        "query": "?",
        "text": "",
        "valid": True,
        "failure": None,
        "answer_error": None,
        "box_iou": 0.8,
        "box_correct": True,
        "points_in_box": True,
        "mask_iou": 0.5,
        "intersection": 1,
        "union": 2,
        "thinking_words": 10,
        "thinking_tokens": 12,
        "completion_tokens": 40,
        "uncertainty": 0.1,
        "finish_reason": "stop",
    }
    return Row(**values | changes)


ROWS = [
    row(),
    row(
        level="hard",
        valid=False,
        answer_error="no",
        box_correct=False,
        mask_iou=0.0,
        intersection=0,
        union=98,
    ),
    row(level="hard", thinking_words=40, finish_reason="length", mask_iou=1.0, intersection=0, union=0),
]


def test_every_row_counts_on_its_level_and_in_all():
    found = summarise(ROWS)
    assert list(found) == ["easy", "hard", "all"]
    assert [summary.n for summary in found.values()] == [1, 2, 3]
    assert found["all"].giou.value == 0.5 and found["all"].ciou.value == 0.01
    assert found["hard"].valid.value == found["hard"].answered.value == found["hard"].cut_off.value == 0.5
    assert found["hard"].words.value == 25 and found["all"].words_median.value == 10


def test_rows_of_unknown_level_count_in_all():
    found = summarise([row(level=None), row()])
    assert list(found) == ["easy", "all"] and found["all"].n == 2


def test_no_masks_no_mask_measures():
    found = summarise([row(mask_iou=None, intersection=None, union=None)])["all"]
    assert found.giou is None and found.ciou is None and found.box_accuracy.value == 1.0


def test_nothing_cannot_be_summarised():
    with pytest.raises(ValueError, match="no row to summarise"):
        summarise([])


@settings(max_examples=20)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.integers(0, 5))
def test_the_interval_holds_the_value_and_repeats(values, seed):
    column = np.array(values)
    estimate = bootstrap(lambda x: x.mean(-1), column, resamples=200, seed=seed)
    assert min(values) - 1e-9 <= estimate.low <= estimate.high <= max(values) + 1e-9
    assert estimate == bootstrap(lambda x: x.mean(-1), column, resamples=200, seed=seed)


def test_the_interval_is_that_of_the_normal_law():
    values = np.random.default_rng(0).normal(size=400)
    estimate = bootstrap(lambda x: x.mean(-1), values, resamples=2000)
    half = 1.96 * values.std() / 20
    assert estimate.low == pytest.approx(estimate.value - half, abs=0.015)
    assert estimate.high == pytest.approx(estimate.value + half, abs=0.015)


def test_columns_are_resampled_together():
    column = np.random.default_rng(1).random(50)
    estimate = bootstrap(lambda a, b: a.sum(-1) / b.sum(-1), column, 2 * column)
    assert estimate.low == pytest.approx(0.5) and estimate.high == pytest.approx(0.5)
