"""`pixelthink report`: several evaluations side by side, each against the first, example by example."""

from collections.abc import Sequence

import numpy as np

from pixelthink_jax.evaluation import report, report_tables
from pixelthink_jax.evaluation.comparison import compare, p_value, paired
from pixelthink_jax.evaluation.evaluation_page import about_run, accuracy_plot
from pixelthink_jax.evaluation.html import Html, page, table, tag
from pixelthink_jax.evaluation.plots import histogram_figure
from pixelthink_jax.evaluation.published import published
from pixelthink_jax.evaluation.rows import Row, counted
from pixelthink_jax.evaluation.saved_runs import SavedRun
from pixelthink_jax.evaluation.summary import ALL

_MEASURES = (
    ("giou", "gIoU", True),
    ("ciou", "cIoU", True),
    ("valid", "valid answers", True),
    ("box_accuracy", "box IoU > 0.5", True),
    ("tokens", "tokens of thought", False),
    ("tokens_median", "median tokens", False),
)


def runs_page(runs: Sequence[SavedRun]) -> str:
    """The whole page; the first run is what the others are compared with."""
    details = {run.name: run.details for run in runs}
    keys = list(dict.fromkeys(str(key) for run in runs if (key := run.about.get("published"))))
    return page(
        "Evaluations compared",
        tag("h1", "Evaluations compared"),
        *_warnings(runs),
        tag("h2", "All examples"),
        _side_by_side(runs),
        *(part for run in runs[1:] for part in _against(runs[0], run)),
        tag("h2", "Accuracy against length of thought"),
        accuracy_plot(details, keys[0] if len(keys) == 1 else None),
        tag("h2", "Lengths of thought"),
        histogram_figure(
            "tokens of thought",
            {run.name: [row.thinking_tokens for row in counted(run.rows)] for run in runs},
            unit="tokens",
        ),
        tag("h2", "What became of the examples"),
        report_tables.counts_table({name: found.counts for name, found in details.items()}),
        tag("h2", "Time and arithmetic"),
        report_tables.efficiency_table({name: found.efficiency for name, found in details.items()}),
        tag("h2", "Scores against cost"),
        report_tables.scores_table(details),
        *(
            part
            for key in keys
            for part in (
                tag("h2", f"Published numbers: {key}"),
                report_tables.published_table(published(key)),
            )
        ),
        tag("h2", "What was run"),
        *(part for run in runs for part in (tag("h3", run.name), about_run(run.about))),
    )


def comparison_lines(runs: Sequence[SavedRun]) -> list[str]:
    """The table for a terminal: gIoU, tokens, and the change against the first run."""
    lines = [f"{'run':24} {'n':>5} {'gIoU':>6} {'valid':>6} {'tokens':>7}  against the first"]
    for run in runs:
        whole = run.details.summaries[ALL]
        giou = "-" if whole.giou is None else f"{100 * whole.giou.value:.1f}"
        head = (
            f"{run.name:24} {whole.n:5d} {giou:>6} {100 * whole.valid.value:6.1f} {whole.tokens.value:7.1f}"
        )
        lines.append(head if run is runs[0] else f"{head}  {_change_text(runs[0], run)}")
    return lines


def _side_by_side(runs: Sequence[SavedRun]) -> Html:
    rows = []
    for run in runs:
        whole = run.details.summaries[ALL]
        cells = []
        for name, _, is_share in _MEASURES:
            found = getattr(whole, name)
            cells.append(report_tables.share(found) if is_share else f"{found.value:.1f}")
        rows.append([run.name, run.about.get("protocol", "pixelthink"), whole.n, *cells])
    return table(["run", "protocol", "n", *(heading for _, heading, _ in _MEASURES)], rows)


def _against(first: SavedRun, other: SavedRun) -> list[Html]:
    """What changed, with paired intervals."""
    before, after = paired(first.rows, other.rows)
    heading = tag("h2", f"{other.name} against {first.name}")
    if not before:
        return [heading, tag("p", "They have no example in common, so nothing is paired.")]
    note = f"{len(before)} examples that both have. Intervals and p by paired bootstrap over them: "
    note += "another draw of examples, not another training run."
    return [
        heading,
        report.change_table(compare(before, after)),
        tag("p", _change_text(first, other)),
        tag("p", note, kind="soft"),
    ]


def _change_text(first: SavedRun, other: SavedRun) -> str:
    before, after = paired(first.rows, other.rows)
    if not before:
        return "no example in common"
    masked = all(row.mask_iou is not None for row in (*before, *after))
    name = "gIoU" if masked else "box accuracy"
    a, b = _values(before, masked), _values(after, masked)
    p = p_value(a, b)
    said = "significant at 5 %" if p < 0.05 else "not significant"
    return f"{name} {100 * float(np.mean(b - a)):+.1f} points, p = {p:.2g} ({said}, {len(before)} examples)"


def _values(rows: Sequence[Row], masked: bool) -> np.ndarray:
    return np.array([row.mask_iou if masked else row.box_correct for row in rows], np.float64)


def _warnings(runs: Sequence[SavedRun]) -> list[Html]:
    """What makes a comparison less than fair."""
    said = []
    for key, what in (("protocol", "protocols"), ("segmenter", "segmenters"), ("dtype", "precisions")):
        found = sorted({str(run.about.get(key)) for run in runs})
        if len(found) > 1:
            said.append(f"The runs have different {what}: {', '.join(found)}.")
    said += [
        f"{run.name} is on a split that chooses settings; its numbers are no result."
        for run in runs
        if run.about.get("role") == "tune"
    ]
    return [tag("p", tag("b", text)) for text in said]
