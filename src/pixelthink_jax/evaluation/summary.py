"""Rows to numbers by level, each with a bootstrap interval.

Intervals are the 2.5 and 97.5 percentiles of the measure over resampled sets of examples. They say how much another
draw of examples would change the number, not how much another training run would.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pixelthink_jax.evaluation.rows import Row, counted

ALL = "all"
LEVELS = ("easy", "medium", "hard")

_CHUNK = 100


@dataclass(frozen=True)
class Estimate:
    """A measure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class LevelSummary:
    """The measures of one level.

    Attributes:
        n: Number of examples.
        giou: Mean mask IoU; None when no masks were made.
        ciou: Sum of intersections over sum of unions; None when no masks were made.
        valid: Share of strictly valid completions.
        answered: Share with a usable answer.
        box_accuracy: Share with a box IoU above 0.5.
        box_iou: Mean box IoU.
        words: Mean words of the thought.
        words_median: Their median.
        tokens: Mean tokens of the thought.
        tokens_median: Their median.
        completion_tokens: Mean tokens of the whole completion.
        uncertainty: Mean uncertainty.
        cut_off: Share that reached the token limit.
    """

    n: int
    giou: Estimate | None
    ciou: Estimate | None
    valid: Estimate
    answered: Estimate
    box_accuracy: Estimate
    box_iou: Estimate
    words: Estimate
    words_median: Estimate
    tokens: Estimate
    tokens_median: Estimate
    completion_tokens: Estimate
    uncertainty: Estimate
    cut_off: Estimate


def summarise(rows: Sequence[Row], *, resamples: int = 1000, seed: int = 0) -> dict[str, LevelSummary]:
    """Summaries of each level that occurs, easiest first, and of `all` rows.

    Raises:
        ValueError: There are no rows.
    """
    groups = by_level(rows)
    return {name: _summary(group, resamples, seed) for name, group in groups.items()}


def by_level(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each level that occurs, easiest first, and `all`; those that their protocol skips are left out.

    Raises:
        ValueError: There are no rows, or all are skipped.
    """
    kept = counted(rows)
    if not kept:
        raise ValueError(f"no row to summarise: {len(rows)} rows, all of them skipped")
    groups = {level: [row for row in kept if row.level == level] for level in LEVELS}
    return {level: group for level, group in groups.items() if group} | {ALL: kept}


def bootstrap(
    measure: Callable[..., np.ndarray],
    *columns: Float[np.ndarray, " n"],
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """A measure of examples with its 95 % percentile interval.

    Args:
        measure: Reduces columns `[r, n]` to `[r]`.
        columns: One value for each example; resampled together.
        resamples: Number of resampled sets.
        seed: Of the resampling.

    >>> estimate = bootstrap(lambda x: x.mean(-1), np.array([0.0, 1.0] * 50))
    >>> estimate.value, round(estimate.low, 1), round(estimate.high, 1)
    (0.5, 0.4, 0.6)
    """
    rng, count = np.random.default_rng(seed), len(columns[0])
    found: list[np.ndarray] = []
    # In parts: an index of every resample at once would not fit for large sets.
    for start in range(0, resamples, _CHUNK):
        index = rng.integers(count, size=(min(_CHUNK, resamples - start), count))
        found.append(measure(*(column[index] for column in columns)))
    low, high = np.percentile(np.concatenate(found), [2.5, 97.5])
    [value] = measure(*(column[None] for column in columns))
    return Estimate(float(value), float(low), float(high))


def _summary(rows: list[Row], resamples: int, seed: int) -> LevelSummary:
    def column(name: str) -> np.ndarray:
        return np.array([getattr(row, name) for row in rows], np.float64)

    def estimate(values: np.ndarray, measure: Callable[..., np.ndarray] = _mean) -> Estimate:
        return bootstrap(measure, values, resamples=resamples, seed=seed)

    scored = rows[0].mask_iou is not None
    totals = (column("intersection"), column("union"))
    words, tokens = column("thinking_words"), column("thinking_tokens")
    return LevelSummary(
        n=len(rows),
        giou=estimate(column("mask_iou")) if scored else None,
        ciou=bootstrap(_ratio, *totals, resamples=resamples, seed=seed) if scored else None,
        valid=estimate(column("valid")),
        answered=estimate(np.array([float(row.answer_error is None) for row in rows])),
        box_accuracy=estimate(column("box_correct")),
        box_iou=estimate(column("box_iou")),
        words=estimate(words),
        words_median=estimate(words, _median),
        tokens=estimate(tokens),
        tokens_median=estimate(tokens, _median),
        completion_tokens=estimate(column("completion_tokens")),
        uncertainty=estimate(column("uncertainty")),
        cut_off=estimate(np.array([float(row.finish_reason == "length") for row in rows])),
    )


def _mean(values: np.ndarray) -> np.ndarray:
    return values.mean(-1)


def _median(values: np.ndarray) -> np.ndarray:
    return np.median(values, -1)


def _ratio(intersections: np.ndarray, unions: np.ndarray) -> np.ndarray:
    """Sum over sum; 0 where every union is empty."""
    return intersections.sum(-1) / np.maximum(unions.sum(-1), 1)
