"""Tables of a report beyond those of `report`: counts, precision, lengths, cost, scores, published numbers."""

from collections.abc import Mapping, Sequence

from pixelthink_jax.evaluation.details import CostScores, Details
from pixelthink_jax.evaluation.efficiency import STAGES, Efficiency
from pixelthink_jax.evaluation.html import Html, join, table, tag
from pixelthink_jax.evaluation.measures import PERCENTILES, THRESHOLDS, Counts, LevelMeasures
from pixelthink_jax.evaluation.published import Published
from pixelthink_jax.evaluation.reasoning_scores import formula
from pixelthink_jax.evaluation.summary import Estimate

_STAGE_NAMES = {
    "reading": "reading data",
    "image_encoding": "encoding the image",
    "prefill": "prompt",
    "decoding": "decoding",
    "segmenter": "segmenter",
}
_LENGTH_NAMES = {
    "thinking_tokens": "tokens of thought",
    "thinking_words": "words of thought",
    "completion_tokens": "tokens in all",
    "response_words": "words in all",
}


def counts_table(counts: Mapping[str, Counts]) -> Html:
    """What became of the examples, by run."""
    header = ["run", "examples", "failed", "invalid", "cut off", "skipped", "not evaluated"]
    rows = [
        [name, c.examples, c.failed, c.invalid, c.cut_off, _causes(c.skipped), c.bad]
        for name, c in counts.items()
    ]
    return table(header, rows)


def precision_table(measures: Mapping[str, LevelMeasures]) -> Html:
    """Share of masks above each threshold, and what was done where there is no target."""
    header = ["level", *(f"P@{t:g}" for t in THRESHOLDS), "N-Acc", "T-Acc"]
    rows = [
        [
            level,
            *(share(found.precision.get(t)) for t in THRESHOLDS),
            share(found.no_target),
            share(found.target_found),
        ]
        for level, found in measures.items()
    ]
    return table(header, rows)


def lengths_table(measures: Mapping[str, LevelMeasures]) -> Html:
    """Mean and percentiles of every length, by level."""
    header = ["level", "", "mean", *("median" if p == 50 else f"{p} %" for p in PERCENTILES), "largest"]
    rows = [
        [
            level,
            heading,
            f"{found.lengths[name].mean:.1f}",
            *(f"{found.lengths[name].percentiles[p]:.0f}" for p in PERCENTILES),
            f"{found.lengths[name].largest:.0f}",
        ]
        for level, found in measures.items()
        for name, heading in _LENGTH_NAMES.items()
    ]
    return table(header, rows)


def efficiency_table(runs: Mapping[str, Efficiency]) -> Html:
    """Time and arithmetic by stage, throughput, and tokens for each right mask, by run."""
    rows: list[list[object]] = []
    for stage in STAGES:
        cells = [_stage(found, stage) for found in runs.values()]
        if any(cell != "-" for cell in cells):
            rows.append([_STAGE_NAMES[stage], *cells])
    for heading, name, form in (
        ("images a second", "images_per_second", "{:.2f}"),
        ("tokens a second while decoding", "tokens_per_second", "{:.0f}"),
        ("decode steps that made a token, %", "decode_busy", "{:.1%}"),
        ("tokens for each mask of IoU 0.5 or more", "tokens_per_correct_mask", "{:.0f}"),
    ):
        values = [getattr(found, name) for found in runs.values()]
        rows.append([heading, *("-" if value is None else form.format(value) for value in values)])
    return table(["an image", *runs], rows)


def scores_table(details: Mapping[str, Details]) -> Html:
    """SAT, RST and URSS with the formula that was used, and the ranking under other weights."""
    whole = {name: found.scores["all"] for name, found in details.items() if "all" in found.scores}
    if not whole:
        return tag(
            "p", "The size of the policy is not known, so there are no scores against cost.", kind="soft"
        )
    gammas = sorted({gamma for found in whole.values() for gamma in found.sweep})
    judged = {name: found.measures["all"].reasoning.get("score") for name, found in details.items()}
    header = ["run", "RScore", "SAT", "RST", "URSS", *(f"URSS at gamma {gamma:g}" for gamma in gammas)]
    rows = [[name, share(judged[name]), *_scores(found, gammas)] for name, found in whole.items()]
    sizes = ", ".join(
        f"{name}: {found.size_billions:.3g}" for name, found in details.items() if found.size_billions
    )
    return tag(
        "div",
        table(header, rows),
        tag("p", f"{formula()}. Billions of parameters: {sizes}.", kind="soft"),
    )


def published_table(rows: Sequence[Published]) -> Html:
    """Numbers of others, marked so."""
    shown = [
        [
            tag("i", f"{row.method} (published)"),
            *(_plain(v) for v in (row.giou, row.ciou, row.tokens)),
            row.source,
        ]
        for row in rows
    ]
    note = "Measured by others under their own protocols; not by this program."
    return tag(
        "div",
        table(["method", "gIoU", "cIoU", "tokens of thought", "source"], shown),
        tag("p", note, kind="soft"),
    )


def share(estimate: Estimate | None) -> object:
    """A share in per cent with its interval below."""
    if estimate is None:
        return "-"
    low, high = (f"{100 * bound:.1f}" for bound in (estimate.low, estimate.high))
    return join([f"{100 * estimate.value:.1f}", tag("small", f"{low} to {high}")])


def _scores(found: CostScores, gammas: Sequence[float]) -> list[str]:
    values = (found.sat, found.rst, found.urss, *(found.sweep.get(gamma) for gamma in gammas))
    return ["-" if value is None else f"{value:.3g}" for value in values]


def _stage(found: Efficiency, stage: str) -> object:
    if stage not in found.seconds_mean:
        return "-"
    arithmetic = f", {found.gflops[stage]:.3g} GFLOPs" if stage in found.gflops else ""
    median, mean = 1000 * found.seconds_median[stage], 1000 * found.seconds_mean[stage]
    return join([f"{median:.1f} ms", tag("small", f"mean {mean:.1f} ms{arithmetic}")])


def _causes(causes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {cause}" for cause, count in causes.items()) or "0"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
