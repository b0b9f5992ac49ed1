"""The results of a sweep: one table, one figure, and the numbers behind both."""

import dataclasses
import json
from dataclasses import dataclass
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
        f"## {name}\n\n{_table({a: c[name] for a, c in changes.items()}, found, abouts, name)}"
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
    _draw(out / "results.png", changes)


def _table(changes: dict[str, Changes], found: dict[str, ArmRows], abouts: dict[str, str], name: str) -> str:
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
            f"{100 * giou.difference.value:+.1f} ({low:+.1f} to {high:+.1f})",
            f"{100 * whole['valid'].after:.1f}",
        ]
        cells += [_tokens(levels[level]["tokens"]) if level in levels else "-" for level in (*LEVELS, ALL)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _tokens(change: Change) -> str:
    share = "" if change.relative is None else f" ({100 * change.relative.value:+.0f} %)"
    return f"{change.after:.0f}{share}"


def _draw(path: Path, changes: dict[str, dict[str, Changes]]) -> None:
    """Mask quality against length of thought, a panel for each set of questions and a point for each arm."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(next(iter(changes.values())))
    figure, axes = plt.subplots(1, len(names), figsize=(6 * len(names), 4.5), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        for arm, sets in changes.items():
            tokens, giou = sets[name][ALL]["tokens"].after, sets[name][ALL]["giou"]
            middle = giou.after
            low = middle - (giou.difference.value - giou.difference.low)
            high = middle + (giou.difference.high - giou.difference.value)
            axis.errorbar(tokens, middle, yerr=[[middle - low], [high - middle]], fmt="o", capsize=2)
            axis.annotate(arm, (tokens, middle), xytext=(4, 4), textcoords="offset points", fontsize=7)
        axis.set(title=name, xlabel="mean tokens of thought", ylabel="gIoU")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
