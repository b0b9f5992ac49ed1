"""All numbers of one run, from its rows alone: what `summary.json` holds and the pages show."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pixelthink_jax.evaluation.efficiency import Efficiency, efficiency
from pixelthink_jax.evaluation.measures import Counts, LevelMeasures, level_measures, run_counts
from pixelthink_jax.evaluation.reasoning_scores import GAMMA, rst, sat, urss, weight_sweep
from pixelthink_jax.evaluation.rows import Row
from pixelthink_jax.evaluation.summary import LevelSummary, summarise


@dataclass(frozen=True)
class CostScores:
    """Scores against cost, of one level; see `reasoning_scores` for the formulas, which are reconstructed.

    Attributes:
        sat: Segmentation accuracy per token; None without masks.
        rst: Reasoning score per token; None where nobody judged.
        urss: Both, weighted by gamma; None where one is missing.
        sweep: `urss` by gamma; empty where it is None.
    """

    sat: float | None
    rst: float | None
    urss: float | None
    sweep: dict[float, float]


@dataclass(frozen=True)
class Details:
    """The numbers of one run.

    Attributes:
        counts: What became of the examples.
        summaries: By level.
        measures: By level.
        scores: By level; empty where the size of the policy is not known.
        efficiency: Cost in time and arithmetic.
        size_billions: Parameters of the policy, in billions, as the scores use them.
    """

    counts: Counts
    summaries: dict[str, LevelSummary]
    measures: dict[str, LevelMeasures]
    scores: dict[str, CostScores]
    efficiency: Efficiency
    size_billions: float | None

    def tree(self) -> dict[str, Any]:
        """All but the summaries as nested dictionaries, ready for JSON; what is not finite is null."""
        whole = dataclasses.asdict(self)
        del whole["summaries"]
        return _plain(whole)


def details_of(
    rows: Sequence[Row],
    *,
    bad: int = 0,
    size_billions: float | None = None,
    gflops: dict[str, float] | None = None,
    seed: int = 0,
) -> Details:
    """Computes every number of a run.

    Args:
        rows: One for each example.
        bad: Examples that could not be evaluated.
        size_billions: Parameters of the policy, in billions.
        gflops: From `efficiency.mean_gflops`.
        seed: Of the bootstrap.

    Raises:
        ValueError: No row counts.
    """
    summaries, measures = summarise(rows, seed=seed), level_measures(rows, seed=seed)
    scores = {}
    if size_billions is not None:
        scores = {
            level: cost_scores(summaries[level], found, size_billions) for level, found in measures.items()
        }
    return Details(
        counts=run_counts(rows, bad=bad),
        summaries=summaries,
        measures=measures,
        scores=scores,
        efficiency=efficiency(rows, gflops=gflops),
        size_billions=size_billions,
    )


def cost_scores(summary: LevelSummary, measures: LevelMeasures, size_billions: float) -> CostScores:
    """SAT, RST, URSS and its sweep; None where a policy does not think at all."""
    tokens, judged = summary.tokens.value, measures.reasoning.get("score")
    accuracy = None if summary.giou is None else sat(summary.giou.value, tokens, size_billions=size_billions)
    quality = None if judged is None else rst(judged.value, tokens, size_billions=size_billions)
    accuracy, quality = (None if v is None or math.isnan(v) else v for v in (accuracy, quality))
    if accuracy is None or quality is None:
        return CostScores(accuracy, quality, None, {})
    return CostScores(
        accuracy, quality, urss(accuracy, quality, gamma=GAMMA), weight_sweep(accuracy, quality)
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
