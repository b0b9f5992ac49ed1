"""Paired changes: exact on known rows, and narrower than unpaired intervals."""

import numpy as np
import pytest

from pixelthink_jax.evaluation.comparison import compare
from tests.evaluation.test_summary import row


def rows(ious, tokens, *, levels=("easy", "hard")):
    return [
        row(
            id=str(i),
            level=levels[i % len(levels)],
            mask_iou=float(iou),
            intersection=int(100 * iou),
            union=100,
            thinking_tokens=int(length),
        )
        for i, (iou, length) in enumerate(zip(ious, tokens, strict=True))
    ]


def test_changes_by_level():
    found = compare(rows([0.2, 0.4, 0.6, 0.8], [10, 20, 30, 40]), rows([0.3, 0.4, 0.7, 0.8], [5, 20, 15, 40]))
    assert list(found) == ["easy", "hard", "all"]
    easy = found["easy"]
    assert (easy["giou"].before, easy["giou"].after) == pytest.approx((0.4, 0.5))
    assert easy["giou"].difference.value == pytest.approx(0.1)
    assert (easy["giou"].difference.low, easy["giou"].difference.high) == pytest.approx((0.1, 0.1))
    assert easy["giou"].relative is None
    assert easy["tokens"].relative.value == pytest.approx(-0.5)
    assert found["hard"]["tokens"].relative.value == 0
    assert found["all"]["tokens"].relative.value == pytest.approx(-0.2)
    assert found["all"]["ciou"].difference.value == pytest.approx(0.05)


def test_pairing_takes_out_what_both_have_in_common():
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    before, after = rows(hard, [9] * 200), rows(np.clip(hard + rng.normal(0.02, 0.01, 200), 0, 1), [9] * 200)
    change = compare(before, after)["all"]["giou"].difference
    assert change.low > 0.015 and change.high < 0.025
    assert np.std(hard) / 200**0.5 > 0.02  # one policy's own standard error


def test_several_runs_are_averaged_example_by_example():
    before = rows([0.2, 0.4], [10, 20])
    found = compare(before, rows([0.2, 0.6], [5, 20]), rows([0.4, 0.6], [5, 10]))["all"]
    assert found["giou"].after == pytest.approx(0.45) and found["tokens"].after == 10
    assert found["giou"].difference.low >= 0.1 - 1e-9  # of the examples' means, 0.1 and 0.2


def test_without_masks_or_lengths():
    plain = [row(id="a", mask_iou=None, thinking_tokens=0)]
    found = compare(plain, plain)["all"]
    assert "giou" not in found and found["tokens"].relative is None


def test_rows_must_be_paired():
    for other in ([], rows([0.1], [1]), list(reversed(rows([0.1, 0.2], [1, 2])))):
        with pytest.raises(ValueError, match="the same examples in the same order"):
            compare(rows([0.1, 0.2], [1, 2]), other)
