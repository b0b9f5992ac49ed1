"""The results of a sweep: one table, one figure, and the numbers behind both."""

import dataclasses
import json
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np

from pixelthink_jax.evaluation.comparison import Change, compare
from pixelthink_jax.evaluation.rows import Row
from pixelthink_jax.evaluation.summary import ALL, LEVELS


@dataclass(frozen=True)
class ArmRows:
    """Rows of one arm.

    Attributes:
        choice: Number of the choice that was taken.
        rows: By reported set of questions, one list a seed.
    """

    choice: int
    rows: dict[str, list[list[Row]]]


Changes = dict[str, dict[str, Change]]


def write_results(out: Path, found: dict[str, ArmRows], abouts: dict[str, str], *, start: str) -> None:
    """Writes `results.md`, `results.json` and `results.png`."""
    changes = {
        arm: {name: compare(found[start].rows[name][0], *rows) for name, rows in each.rows.items()}
        for arm, each in found.items()
    }
    parts = [
        f"## {name}\n\n{_table({a: c[name] for a, c in changes.items()}, found, abouts, name, start=start)}"
        for name in found[start].rows
    ]
    (out / "results.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    tree = {
        arm: {
            "about": abouts[arm],
            "choice": found[arm].choice,
            "changes": {
                name: {
                    level: {m: dataclasses.asdict(c) for m, c in measures.items()}
                    for level, measures in levels.items()
                }
                for name, levels in sets.items()
            },
        }
        for arm, sets in changes.items()
    }
    (out / "results.json").write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    _draw(out / "results.png", changes, start=start)


def _table(
    changes: dict[str, Changes], found: dict[str, ArmRows], abouts: dict[str, str], name: str, *, start: str
) -> str:
    head = [
        "arm",
        "what",
        "seeds",
        "gIoU",
        "change of gIoU",
        "valid",
        *(f"tokens, {x}" for x in (*LEVELS, ALL)),
    ]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for arm, levels in changes.items():
        whole, seeds = levels[ALL], found[arm].rows[name]
        spread = [100 * float(np.mean([row.mask_iou or 0.0 for row in rows])) for rows in seeds]
        each = f" ({min(spread):.1f} to {max(spread):.1f})" if len(seeds) > 1 else ""
        giou = whole["giou"]
        low, high = (100 * bound for bound in (giou.difference.low, giou.difference.high))
        cells = [
            arm,
            abouts[arm],
            str(len(seeds)),
            f"{100 * giou.after:.1f}{each}",
            "-" if arm == start else f"{100 * giou.difference.value:+.1f} ({low:+.1f} to {high:+.1f})",
            f"{100 * whole['valid'].after:.1f}",
        ]
        for level in (*LEVELS, ALL):
            cells.append(_tokens(levels[level]["tokens"], alone=arm == start) if level in levels else "-")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _tokens(change: Change, *, alone: bool) -> str:
    share = "" if alone or change.relative is None else f" ({100 * change.relative.value:+.0f} %)"
    return f"{change.after:.0f}{share}"


_NEAR = 0.1
"""gIoU from the start within which an arm is drawn once more, larger."""


def _draw(path: Path, changes: dict[str, dict[str, Changes]], *, start: str) -> None:
    """Mask quality against length of thought: a column for each set of questions, a point for each arm.

    The second row holds the arms whose masks stay near those of the start, which crowd in one corner of the first.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(changes[start])
    figure, axes = plt.subplots(2, len(names), figsize=(5 * len(names) + 2.5, 8), squeeze=False)
    looks = [(f"C{colour}", marker) for marker in "os^D" for colour in range(10)]
    for column, name in enumerate(names):
        origin = changes[start][name][ALL]["giou"].after
        for (arm, sets), (colour, marker) in zip(changes.items(), cycle(looks), strict=False):
            tokens, giou = sets[name][ALL]["tokens"].after, sets[name][ALL]["giou"]
            below = giou.difference.value - giou.difference.low
            above = giou.difference.high - giou.difference.value
            for axis in axes[: 2 if abs(giou.after - origin) <= _NEAR else 1, column]:
                axis.errorbar(
                    tokens,
                    giou.after,
                    yerr=[[below], [above]],
                    fmt=marker,
                    color=colour,
                    capsize=2,
                    label=arm,
                )
        for axis, title in zip(axes[:, column], (name, f"{name}, near the start"), strict=True):
            axis.set(title=title, xlabel="mean tokens of thought", ylabel="gIoU")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="center right", fontsize=8)
    figure.tight_layout(rect=(0, 0, 1 - 2.2 / figure.get_figwidth(), 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)
