"""Two policies on the same examples: what changed, with paired bootstrap intervals.

An interval is that of the change when another draw of the same examples is asked of both, which is much narrower than
the two policies' own intervals suggest: most of their spread is that of the examples, and common to both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pixelthink_jax.evaluation.rows import Row
from pixelthink_jax.evaluation.summary import ALL, LEVELS, Estimate, bootstrap

Columns = tuple[Float[np.ndarray, " n"], ...]
Measure = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Change:
    """One measure of two policies.

    Attributes:
        n: Number of examples.
        before: Of the first.
        after: Of the second.
        difference: Second minus first.
        relative: Second over first, minus one; None for shares, and where the first is 0.
    """

    n: int
    before: float
    after: float
    difference: Estimate
    relative: Estimate | None


def _mean(values: np.ndarray) -> np.ndarray:
    return values.mean(-1)


def _ratio(intersections: np.ndarray, unions: np.ndarray) -> np.ndarray:
    return intersections.sum(-1) / np.maximum(unions.sum(-1), 1)


# Measure, the fields of a row it is made from, how, and whether it is a share.
_MEASURES: dict[str, tuple[tuple[str, ...], Measure, bool]] = {
    "giou": (("mask_iou",), _mean, True),
    "ciou": (("intersection", "union"), _ratio, True),
    "valid": (("valid",), _mean, True),
    "box_accuracy": (("box_correct",), _mean, True),
    "tokens": (("thinking_tokens",), _mean, False),
    "words": (("thinking_words",), _mean, False),
    "completion_tokens": (("completion_tokens",), _mean, False),
}


def compare(
    before: Sequence[Row], *after: Sequence[Row], resamples: int = 2000, seed: int = 0
) -> dict[str, dict[str, Change]]:
    """Changes by level, easiest first and `all` last, and by measure; measures of masks only where both have them.

    Args:
        before: Rows of the first policy.
        after: Rows of the second, or of several, such as one for each seed: they are averaged example by example, so
            that an interval is that of another draw of examples and does not shrink with the number of seeds.
        resamples: Resampled sets.
        seed: Of the resampling.

    Raises:
        ValueError: The rows are not of the same examples in the same order, or there are none.
    """
    ids = [row.id for row in before]
    if not before or not after or any([row.id for row in rows] != ids for rows in after):
        raise ValueError("compare needs rows of the same examples in the same order")
    # What one of them leaves out of its averages is compared in none.
    kept = [i for i in range(len(ids)) if all(rows[i].skipped is None for rows in (before, *after))]
    if not kept:
        raise ValueError("compare needs an example that no run skips")
    before, after = [before[i] for i in kept], tuple([rows[i] for i in kept] for rows in after)
    chosen = {level: [i for i, row in enumerate(before) if row.level == level] for level in LEVELS}
    chosen = {level: index for level, index in chosen.items() if index} | {ALL: list(range(len(before)))}
    return {
        level: _changes(
            [before[i] for i in index], [[rows[i] for i in index] for rows in after], resamples, seed
        )
        for level, index in chosen.items()
    }


def p_value(
    before: Float[np.ndarray, " n"], after: Float[np.ndarray, " n"], *, resamples: int = 10000, seed: int = 0
) -> float:
    """Two-sided paired bootstrap: how often another draw of the same examples would turn the sign of the change.

    Args:
        before: A measure of each example under the first run.
        after: The same under the second, in the same order.
        resamples: Resampled sets; no smaller p than one over them is claimed.
        seed: Of the resampling.

    Returns:
        Twice the share of resampled mean differences on the other side of zero, at most 1.

    >>> p_value(np.zeros(20), np.ones(20)), p_value(np.arange(9.0), np.arange(9.0))
    (0.0002, 1.0)
    """
    difference, rng = (
        np.asarray(after, np.float64) - np.asarray(before, np.float64),
        np.random.default_rng(seed),
    )
    means: list[np.ndarray] = []
    for start in range(0, resamples, 500):
        index = rng.integers(len(difference), size=(min(500, resamples - start), len(difference)))
        means.append(difference[index].mean(-1))
    found = np.concatenate(means)
    tail = max(min(float(np.mean(found <= 0)), float(np.mean(found >= 0))), 1 / resamples)
    return min(2 * tail, 1.0)


def paired(first: Sequence[Row], second: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Rows of the examples that both runs have and neither skips, in the order of the first."""
    others = {row.id: row for row in second if row.skipped is None}
    kept = [row for row in first if row.skipped is None and row.id in others]
    return kept, [others[row.id] for row in kept]


def change_lines(changes: dict[str, dict[str, Change]]) -> list[str]:
    """Changes as a table for a terminal: gIoU, valid answers and tokens of thought, before and after, by level."""
    lines = [f"{'level':8} {'n':>4} {'gIoU':>14} {'valid %':>14} {'thinking tokens':>22}"]
    for level, found in changes.items():
        tokens = found["tokens"]
        cells = [f"{level:8} {tokens.n:4d}"]
        for name in ("giou", "valid"):
            change = found.get(name)
            pair = "-" if change is None else f"{100 * change.before:.1f} -> {100 * change.after:.1f}"
            cells.append(f"{pair:>14}")
        share = "" if tokens.relative is None else f" ({100 * tokens.relative.value:+.0f} %)"
        cells.append(f"{f'{tokens.before:.0f} -> {tokens.after:.0f}{share}':>22}")
        lines.append(" ".join(cells))
    return lines


def _changes(before: list[Row], after: list[list[Row]], resamples: int, seed: int) -> dict[str, Change]:
    masked = all(row.mask_iou is not None for rows in (before, *after) for row in rows)
    return {
        name: _change(_columns([before], fields), _columns(after, fields), measure, share, resamples, seed)
        for name, (fields, measure, share) in _MEASURES.items()
        if masked or name not in ("giou", "ciou")
    }


def _columns(runs: list[list[Row]], fields: tuple[str, ...]) -> Columns:
    """Values of each field, averaged over runs."""
    values = (
        np.array([[getattr(row, name) for row in rows] for rows in runs], np.float64) for name in fields
    )
    return tuple(np.asarray(column.mean(axis=0)) for column in values)


def _change(
    before: Columns, after: Columns, measure: Measure, share: bool, resamples: int, seed: int
) -> Change:
    width = len(before)

    def difference(*columns: np.ndarray) -> np.ndarray:
        return measure(*columns[width:]) - measure(*columns[:width])

    def relative(*columns: np.ndarray) -> np.ndarray:
        first, second = measure(*columns[:width]), measure(*columns[width:])
        return np.divide(second, first, out=np.ones_like(first), where=first > 0) - 1

    first, second = (float(measure(*(column[None] for column in side))[0]) for side in (before, after))
    both = (*before, *after)
    return Change(
        n=len(before[0]),
        before=first,
        after=second,
        difference=bootstrap(difference, *both, resamples=resamples, seed=seed),
        relative=None if share or not first else bootstrap(relative, *both, resamples=resamples, seed=seed),
    )
