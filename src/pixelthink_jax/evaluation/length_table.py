"""The same questions under forced chain lengths: does thinking longer help, and where (design section 6).

A style is forced by its first words, because every style of the shape world's chains opens in its own way. `free`
leaves the policy to itself.
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pixelthink_jax.data.pipeline import ExampleSource
from pixelthink_jax.data.shapes import OPENINGS
from pixelthink_jax.evaluation.config import Generation, Style
from pixelthink_jax.evaluation.rows import Row, write_rows, write_text
from pixelthink_jax.evaluation.runner import evaluate_policy
from pixelthink_jax.evaluation.summary import Estimate, LevelSummary, summarise
from pixelthink_jax.policy import Policy
from pixelthink_jax.segmenter import Segmenter

StyleProgress = Callable[[str, int, int], None]

_SHARES = ("box_accuracy", "giou", "ciou", "valid")


@dataclass(frozen=True)
class LengthTable:
    """Rows and summaries by chain style.

    Attributes:
        rows: One for each example, in the order of the dataset.
        summaries: By level, for each style.
        details: Further numbers for each style, ready for JSON; empty where none were asked for.
    """

    rows: dict[str, list[Row]]
    summaries: dict[str, dict[str, LevelSummary]]
    details: dict[str, dict[str, Any]] = field(default_factory=dict)

    def markdown(self) -> str:
        """Style by level, shares in per cent with 95 % intervals."""
        lines = [
            "| chain | level | n | box IoU > 0.5 | gIoU | cIoU | valid | mean words | median words | mean tokens |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for style, levels in self.summaries.items():
            for level, found in levels.items():
                shares = [per_cent(getattr(found, name)) for name in _SHARES]
                lengths = [number(found.words), f"{found.words_median.value:.0f}", number(found.tokens)]
                lines.append(f"| {' | '.join([style, level, str(found.n), *shares, *lengths])} |")
        return "\n".join(lines)

    def tree(self) -> dict[str, Any]:
        """The summaries as plain nested dictionaries."""
        return {
            style: {level: dataclasses.asdict(found) for level, found in levels.items()}
            for style, levels in self.summaries.items()
        }

    def save(self, folder: str | Path, *, about: dict[str, Any]) -> None:
        """Writes `rows_<style>.jsonl`, `summary.json` and `table.md`.

        Args:
            folder: Made if absent; files of an earlier evaluation are replaced.
            about: What was evaluated, kept beside the numbers.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for style, rows in self.rows.items():
            write_rows(folder / f"rows_{style}.jsonl", rows)
        tree = {"about": about, "styles": self.tree()} | ({"details": self.details} if self.details else {})
        write_text(folder / "summary.json", json.dumps(tree, indent=1) + "\n")
        write_text(folder / "table.md", self.markdown() + "\n")


def forced_length_table(
    policy: Policy,
    source: ExampleSource,
    *,
    styles: tuple[Style, ...] = ("none", "short", "medium", "long"),
    segmenter: Segmenter | None = None,
    generation: Generation | None = None,
    seed: int = 0,
    on_progress: StyleProgress | None = None,
) -> LengthTable:
    """Evaluates a policy once for each chain style.

    Args:
        policy: What is asked.
        source: The questions with their truth.
        styles: Which styles, see `EvalConfig`.
        segmenter: Draws the masks; None scores boxes only.
        generation: How the policy is asked; its prefix counts for `free` only.
        seed: Of the bootstrap.
        on_progress: Called with (style, examples done, examples in all) after each batch.
    """
    base = generation or Generation()
    rows: dict[str, list[Row]] = {}
    for style in styles:
        prefix = base.completion_prefix if style == "free" else style_prefix(style)
        progress = None if on_progress is None else _bind(on_progress, style)
        rows[style] = evaluate_policy(
            policy,
            source,
            segmenter=segmenter,
            generation=dataclasses.replace(base, completion_prefix=prefix),
            on_progress=progress,
        )
    return LengthTable(rows, {style: summarise(found, seed=seed) for style, found in rows.items()})


def style_prefix(style: str) -> str:
    r"""The text that forces a chain style.

    The line break after an empty thought belongs to it: tokenizers join it to the `>` before it.

    >>> style_prefix("none"), style_prefix("long")
    ('<think></think>\n', '<think>There are')
    """
    return "<think></think>\n" if style == "none" else f"<think>{OPENINGS[style]}"


def headline(summaries: dict[str, LevelSummary]) -> str:
    """The measures to look at first, by level, for a terminal."""
    names = ("giou", "ciou", "valid", "box_accuracy")
    lines = [f"{'level':<8}{'n':>5}{'gIoU':>8}{'cIoU':>8}{'valid':>8}{'box>0.5':>9}{'words':>8}{'tokens':>8}"]
    for level, found in summaries.items():
        shares = [getattr(found, name) for name in names]
        texts = ["-" if share is None else f"{100 * share.value:.1f}" for share in shares]
        cells = [f"{text:>{width}}" for text, width in zip(texts, (8, 8, 8, 9), strict=True)]
        lengths = f"{found.words.value:>8.1f}{found.tokens.value:>8.1f}"
        lines.append(f"{level:<8}{found.n:>5}{''.join(cells)}{lengths}")
    return "\n".join(lines)


def per_cent(estimate: Estimate | None) -> str:
    """A share in per cent with its interval.

    >>> per_cent(Estimate(0.5, 0.4, 0.61)), per_cent(None)
    ('50.0 (40.0 to 61.0)', '-')
    """
    if estimate is None:
        return "-"
    value, low, high = (100 * x for x in (estimate.value, estimate.low, estimate.high))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def number(estimate: Estimate) -> str:
    """A count with its interval.

    >>> number(Estimate(102.34, 99.0, 104.0))
    '102.3 (99.0 to 104.0)'
    """
    return f"{estimate.value:.1f} ({estimate.low:.1f} to {estimate.high:.1f})"


def _bind(on_progress: StyleProgress, style: str) -> Callable[[int, int], None]:
    return lambda done, total: on_progress(style, done, total)
