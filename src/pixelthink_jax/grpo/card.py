"""The model card of a trained policy: what it was made from, how, and what was measured."""

from pathlib import Path

import numpy as np
import yaml

from pixelthink_jax.config import to_tree
from pixelthink_jax.evaluation.length_table import headline
from pixelthink_jax.evaluation.summary import LevelSummary
from pixelthink_jax.grpo.config import TrainConfig
from pixelthink_jax.runtime.meter import Metrics

_SHOWN = ("reward", "box_iou", "thinking_tokens", "length_score", "over_budget", "kl", "entropy")
_MEANT_OVER = 10


def write_card(
    folder: Path, config: TrainConfig, history: list[Metrics], summaries: dict[str, LevelSummary] | None
) -> None:
    """Writes `README.md` into a policy folder."""
    (folder / "README.md").write_text(card(config, history, summaries), encoding="utf-8")


def card(config: TrainConfig, history: list[Metrics], summaries: dict[str, LevelSummary] | None) -> str:
    """The card as Markdown."""
    parts = [
        f"# A policy trained with GRPO from {config.policy}",
        f"Made by `pixelthink train` (pixelthink_jax): {len(history)} of {config.steps} steps of "
        f"{config.prompts_per_step} questions with {config.group_size} completions each, on {config.data.name}, "
        f"split {config.data.split}.",
        "## Training",
        _training_table(history),
    ]
    if summaries is not None:
        data = config.evaluation.data
        parts += [
            f"## Held-out numbers\n{data.name}, split {data.split}:",
            f"```\n{headline(summaries)}\n```",
        ]
    settings = yaml.safe_dump(to_tree(config), sort_keys=False, allow_unicode=True)
    return "\n\n".join([*parts, "## Config", f"```yaml\n{settings}```"]) + "\n"


def _training_table(history: list[Metrics]) -> str:
    """Means of the first and the last steps."""
    if not history:
        return "No step was made."
    lines = [f"| metric | first {_MEANT_OVER} steps | last {_MEANT_OVER} steps |", "|---|---|---|"]
    for name in _SHOWN:
        ends = [
            [row[name] for row in rows if name in row]
            for rows in (history[:_MEANT_OVER], history[-_MEANT_OVER:])
        ]
        if all(ends):
            lines.append(f"| {name} | {np.mean(ends[0]):.4g} | {np.mean(ends[1]):.4g} |")
    return "\n".join(lines)
