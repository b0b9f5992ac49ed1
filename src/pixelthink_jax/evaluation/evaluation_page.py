"""`report.html` of an evaluation: every number with its interval, the distributions, and answers to look at."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pixelthink_jax import __version__
from pixelthink_jax.answers import parse_completion, two_points
from pixelthink_jax.data.pipeline import ExampleSource
from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation import report, report_tables
from pixelthink_jax.evaluation.details import Details
from pixelthink_jax.evaluation.html import Html, page, table, tag
from pixelthink_jax.evaluation.plots import Point, histogram_figure, scatter
from pixelthink_jax.evaluation.protocols import evaluation_protocol
from pixelthink_jax.evaluation.protocols.reading import thought
from pixelthink_jax.evaluation.published import PublishedKey, published
from pixelthink_jax.evaluation.rows import Row, counted, decode_mask
from pixelthink_jax.evaluation.summary import ALL, LEVELS, by_level
from pixelthink_jax.types import Answer, Completion, Example, Segmentation

_WIDTH = 480
_SHOWN = 2


def evaluation_page(
    about: Mapping[str, Any],
    rows: Mapping[str, Sequence[Row]],
    details: Mapping[str, Details],
    source: ExampleSource,
    *,
    reference: PublishedKey | None = None,
) -> str:
    """The whole page.

    Args:
        about: The settings, as `summary.json` keeps them.
        rows: By chain style.
        details: By chain style.
        source: The questions, for the pictures.
        reference: Whose published numbers to set beside; None sets none.
    """
    first = next(iter(rows))
    return page(
        f"Evaluation of {about['policy']}",
        tag("h1", f"Evaluation of {about['policy']}"),
        about_run(about),
        report.tiles(details[first].summaries[ALL]),
        tag("h2", "What became of the examples"),
        report_tables.counts_table({style: found.counts for style, found in details.items()}),
        *(part for style in rows for part in _style_parts(style, rows[style], details[style], len(rows))),
        tag("h2", "Accuracy against length of thought"),
        accuracy_plot(details, reference),
        tag("h2", "Time and arithmetic"),
        report_tables.efficiency_table({style: found.efficiency for style, found in details.items()}),
        tag("h2", "Scores against cost"),
        report_tables.scores_table(details),
        *_published_parts(reference),
        tag("h2", f"The best and the worst answers ({first})"),
        report.legend(),
        example_cards(rows[first], source),
    )


def about_run(about: Mapping[str, Any]) -> Html:
    """What was asked of whom, under which protocol, and which split chose the settings."""
    data, protocol = about["data"], evaluation_protocol(about.get("protocol", "pixelthink"))
    split = " ".join(str(data[key]) for key in ("name", "split", "path") if data.get(key))
    chosen = about.get("chosen_on")
    role = "chooses settings" if about.get("role") == "tune" else "is reported on"
    said = f"settings were chosen on {chosen}" if chosen else "which split chose the settings is not stated"
    facts = [
        ("policy", about["policy"]),
        ("segmenter", about["segmenter"] or "none: boxes only"),
        ("questions", f"{split} (this split {role}; {said})"),
        ("protocol", f"{protocol.name}: {protocol.about}"),
        ("judge of the thoughts", judge_name(about)),
        ("version", f"pixelthink_jax {__version__}"),
    ]
    return table(["", ""], facts)


def judge_name(about: Mapping[str, Any]) -> str:
    """Who judged the thoughts, as reports say it.

    >>> judge_name({"rscore": {"backend": {"model": "m", "base_url": "http://localhost"}, "reference": "long"}})
    'm at http://localhost, against the long reference chains; the form is ours'
    """
    asked = about.get("rscore")
    if not asked:
        return about.get("judge") or "none"
    backend = asked["backend"]
    who = backend["policy"] if "policy" in backend else f"{backend['model']} at {backend['base_url']}"
    return f"{who}, against the {asked['reference']} reference chains; the form is ours"


def accuracy_plot(details: Mapping[str, Details], key: str | None = None) -> Html:
    """gIoU, or box accuracy without masks, against mean tokens of thought; published points are hollow."""
    masked = all(found.summaries[ALL].giou is not None for found in details.values())
    points = []
    for name, found in details.items():
        whole = found.summaries[ALL]
        accuracy = whole.giou if masked else whole.box_accuracy
        if accuracy is not None:
            value, low, high = (100 * v for v in (accuracy.value, accuracy.low, accuracy.high))
            points.append(Point(name, whole.tokens.value, value, low, high))
    points += [
        Point(f"{row.method} (published)", row.tokens, row.giou, hollow=True)
        for row in (published(key) if key and masked else ())
        if row.tokens is not None and row.giou is not None
    ]
    label = "gIoU, %" if masked else "boxes of IoU above 0.5, %"
    return scatter("Accuracy against tokens", points, x_label="mean tokens of thought", y_label=label)


def example_cards(rows: Sequence[Row], source: ExampleSource) -> Html:
    """The best and worst answers of each level, pictured against the truth."""
    cards = []
    for level, group in by_level(rows).items():
        if level == ALL and any(row.level in LEVELS for row in group):
            continue
        ranked = sorted((row for row in group if row.index >= 0), key=_quality, reverse=True)
        chosen = {row.index: ("best", row) for row in ranked[:_SHOWN]}
        for row in ranked[-_SHOWN:]:
            chosen.setdefault(row.index, ("worst", row))
        for note, row in chosen.values():
            try:
                example = source[row.index]
            except InputError as error:  # its rows are there, its picture no longer is
                cards.append(tag("figure", tag("b", row.query), tag("div", str(error), kind="soft")))
                continue
            fits = example.mask is not None and example.mask.shape == example.image.shape[:2]
            shown = example if fits else _without_mask(example)
            cards.append(
                report.answer_card(
                    shown, answer_of(row, example.image), width=_WIDTH, note=f"{level}, {note}"
                )
            )
    return tag("div", *cards, kind="cards")


def answer_of(row: Row, image: np.ndarray) -> Segmentation:
    """The answer that a row tells of, ready to be pictured."""
    mask = np.zeros(image.shape[:2], bool)
    if row.mask_counts is not None:
        mask = decode_mask(row.mask_counts, (row.image_size[0], row.image_size[1]))
    answer = None
    if row.boxes_xyxy:
        x1, y1, x2, y2 = row.boxes_xyxy[0]
        points = tuple((x, y) for of_object in row.points_xy for x, y in of_object)
        answer = Answer((x1, y1, x2, y2), two_points(points))
    tokens = np.zeros(row.completion_tokens, np.int32)
    finish = "length" if row.finish_reason == "length" else "stop"
    return Segmentation(
        query=row.query,
        completion=Completion(row.text, tokens, tokens.astype(np.float32), row.uncertainty, finish),
        thinking=thought(parse_completion(row.text)),
        answer=answer,
        answer_error=row.answer_error,
        mask=mask,
        mask_score=row.mask_score or 0.0,
        thinking_tokens=row.thinking_tokens,
        seconds={},
    )


def _style_parts(style: str, rows: Sequence[Row], found: Details, styles: int) -> list[Html]:
    """The tables and distributions of one chain style."""
    suffix = f" ({style})" if styles > 1 else ""
    groups = by_level(rows)
    parts = [
        tag("h2", f"By difficulty of the question{suffix}"),
        report.level_table(found.summaries),
        tag("h2", f"Precision of the masks{suffix}"),
        report_tables.precision_table(found.measures),
        tag("h2", f"Lengths{suffix}"),
        report_tables.lengths_table(found.measures),
        tag(
            "div",
            *(
                histogram_figure(
                    heading,
                    {level: [getattr(row, name) for row in group] for level, group in groups.items()},
                    unit=unit,
                )
                for heading, name, unit in (
                    ("thought", "thinking_tokens", "tokens"),
                    ("whole completion", "completion_tokens", "tokens"),
                )
            ),
            kind="cards",
        ),
        tag("h2", f"Answers that were not in the format{suffix}"),
        report.failure_table(counted(rows)),
    ]
    judged = found.measures[ALL].reasoning
    if judged:
        header = ["level", *judged]
        table_rows = [
            [level, *(report_tables.share(m.reasoning.get(part)) for part in judged)]
            for level, m in found.measures.items()
        ]
        parts += [tag("h2", f"Quality of the thoughts{suffix}"), table(header, table_rows)]
    return parts


def _published_parts(key: str | None) -> list[Html]:
    known = published(key) if key else ()
    return [tag("h2", f"Published numbers: {key}"), report_tables.published_table(known)] if known else []


def _quality(row: Row) -> float:
    return row.box_iou if row.mask_iou is None else row.mask_iou


def _without_mask(example: Example) -> Example:
    return dataclasses.replace(example, mask=None)
