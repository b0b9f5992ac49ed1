"""What a report says beyond `summary`: precision at thresholds, questions without a target, lengths, counts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from pixelthink_jax.evaluation.rows import Row, counted
from pixelthink_jax.evaluation.summary import Estimate, bootstrap, by_level

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
PERCENTILES = (10, 25, 50, 75, 90, 95, 99)


@dataclass(frozen=True)
class Counts:
    """What became of the examples of a run.

    Attributes:
        examples: In all.
        skipped: Left out of the averages, by cause.
        failed: Counted as a miss because no answer was found.
        invalid: Not in the format asked for, by the strict reading; they may still have been answered.
        cut_off: Reached the token limit.
        bad: Could not be evaluated at all, and have no row.
    """

    examples: int
    skipped: dict[str, int]
    failed: int
    invalid: int
    cut_off: int
    bad: int = 0

    def line(self) -> str:
        """The counts in one line.

        >>> Counts(10, {"empty union": 1}, 2, 3, 0).line()
        '10 examples: 9 counted (2 of them failed: no answer found), 1 skipped (1 empty union), 3 invalid, 0 cut off'
        """
        skipped = sum(self.skipped.values())
        causes = ", ".join(f"{count} {cause}" for cause, count in self.skipped.items())
        said = f"{self.examples} examples: {self.examples - skipped - self.bad} counted ({self.failed} of them failed: "
        said += (
            f"no answer found), {skipped} skipped{f' ({causes})' if causes else ''}, {self.invalid} invalid, "
        )
        said += f"{self.cut_off} cut off"
        return said + (f", {self.bad} could not be evaluated" if self.bad else "")


@dataclass(frozen=True)
class Lengths:
    """A distribution of lengths: mean, percentiles and largest."""

    mean: float
    percentiles: dict[int, float]
    largest: float


@dataclass(frozen=True)
class LevelMeasures:
    """Measures of one level.

    Attributes:
        precision: Share of masks whose IoU reaches each threshold; empty without masks.
        no_target: N-Acc: mean IoU, which is 0 or 1, over questions without a target; None where there are none.
        target_found: T-Acc: share of questions with a target for which something was drawn; None without masks.
        lengths: Of `thinking_tokens`, `thinking_words`, `completion_tokens` and `response_words`.
        reasoning: Means of the judged parts of the thoughts, `score` among them; empty where nobody judged.
    """

    precision: dict[float, Estimate]
    no_target: Estimate | None
    target_found: Estimate | None
    lengths: dict[str, Lengths]
    reasoning: dict[str, Estimate]


_LENGTHS = ("thinking_tokens", "thinking_words", "completion_tokens", "response_words")


def run_counts(rows: Sequence[Row], *, bad: int = 0) -> Counts:
    """What became of the examples."""
    causes = sorted({row.skipped for row in rows if row.skipped is not None})
    kept = counted(rows)
    return Counts(
        examples=len(rows) + bad,
        skipped={cause: sum(row.skipped == cause for row in rows) for cause in causes},
        failed=sum(row.answer_error is not None for row in kept),
        invalid=sum(not row.valid for row in kept),
        cut_off=sum(row.finish_reason == "length" for row in kept),
        bad=bad,
    )


def level_measures(rows: Sequence[Row], *, resamples: int = 1000, seed: int = 0) -> dict[str, LevelMeasures]:
    """Measures of each level that occurs and of all rows, skipped ones left out."""
    return {name: _measures(group, resamples, seed) for name, group in by_level(rows).items()}


def lengths(values: Sequence[float]) -> Lengths:
    """Mean, percentiles and largest.

    >>> lengths([1, 2, 3, 10]).percentiles[50]
    2.5
    """
    array = np.asarray(values, np.float64)
    found = {p: float(np.percentile(array, p)) for p in PERCENTILES}
    return Lengths(float(array.mean()), found, float(array.max()))


def histogram(
    values: Sequence[float], *, bins: int = 20, largest: float | None = None
) -> tuple[Float[np.ndarray, " e"], Int[np.ndarray, " n"]]:
    """Edges and counts of equal bins from 0 to the largest value.

    >>> [part.tolist() for part in histogram([0, 1, 3], bins=2)]
    [[0.0, 1.5, 3.0], [2, 1]]
    """
    end = max(float(np.max(values)) if largest is None else largest, 1.0)
    counts, edges = np.histogram(np.asarray(values, np.float64), bins=bins, range=(0.0, end))
    return edges, counts


def _measures(rows: list[Row], resamples: int, seed: int) -> LevelMeasures:
    def share(values: list[float]) -> Estimate | None:
        if not values:
            return None
        return bootstrap(lambda x: x.mean(-1), np.array(values, np.float64), resamples=resamples, seed=seed)

    ious = [row.mask_iou for row in rows if row.mask_iou is not None]
    precision = {t: share([float(iou >= t) for iou in ious]) for t in THRESHOLDS}
    judged = [row.reasoning for row in rows if row.reasoning is not None]
    parts = sorted({part for found in judged for part in found})
    reasoning = {part: share([found[part] for found in judged if part in found]) for part in parts}
    return LevelMeasures(
        precision={t: found for t, found in precision.items() if found is not None},
        no_target=share(
            [row.mask_iou for row in rows if row.target_pixels == 0 and row.mask_iou is not None]
        ),
        target_found=share([float(bool(row.mask_pixels)) for row in rows if row.target_pixels]),
        lengths={name: lengths([getattr(row, name) for row in rows]) for name in _LENGTHS},
        reasoning={part: found for part, found in reasoning.items() if found is not None},
    )
