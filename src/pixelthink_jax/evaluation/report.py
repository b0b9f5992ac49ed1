"""Pieces of an evaluation report: measures by level with intervals, bars, and answers pictured against the truth."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from scipy.ndimage import binary_dilation

from pixelthink_jax.evaluation.comparison import Change
from pixelthink_jax.evaluation.html import Html, image, join, table, tag
from pixelthink_jax.evaluation.metrics import mask_iou
from pixelthink_jax.evaluation.rows import Row
from pixelthink_jax.evaluation.summary import ALL, Estimate, LevelSummary
from pixelthink_jax.segmentation import draw_overlay
from pixelthink_jax.types import Answer, Example, Segmentation

TRUTH_COLOUR = (255, 255, 255)

# Measure, heading, and whether it is a share.
_COLUMNS = (
    ("giou", "gIoU", True),
    ("ciou", "cIoU", True),
    ("valid", "valid answers", True),
    ("box_accuracy", "box IoU > 0.5", True),
    ("words", "words of thought", False),
    ("words_median", "median words", False),
    ("tokens", "tokens of thought", False),
    ("completion_tokens", "tokens in all", False),
)
_CAUSES = {
    "tags": "not one thought and one answer in their tags",
    "no_json": "no JSON object in the text",
    "invalid_json": "the object is not valid JSON",
    "no_box": "no box",
    "box_length": "a box that is not a list of four",
    "box_values": "a box that is not of finite numbers",
    "no_points": "not both points",
    "points_length": "a point that is not a list of two",
    "points_values": "a point that is not of whole numbers",
}
_TILES = ("giou", "ciou", "valid", "words")


def level_table(summaries: dict[str, LevelSummary]) -> Html:
    """Every measure by level, with its 95 % interval below it."""
    header = ["level", "n", *(heading for _, heading, _ in _COLUMNS)]
    rows = [
        [level, found.n, *(_cell(getattr(found, name), share) for name, _, share in _COLUMNS)]
        for level, found in summaries.items()
    ]
    return table(header, rows)


def tiles(found: LevelSummary) -> Html:
    """The four numbers to look at first."""
    shown = [(heading, getattr(found, name), share) for name, heading, share in _COLUMNS if name in _TILES]
    return tag(
        "div", *(tag("div", tag("b", _value(e, s)), h, kind="tile") for h, e, s in shown if e), kind="tiles"
    )


def bars(summaries: dict[str, LevelSummary], measure: str, *, limit: float | None = None) -> Html:
    """One bar for each level, with its interval as a line.

    Args:
        summaries: By level.
        measure: A field of `LevelSummary` that holds an estimate.
        limit: Right end of the scale; None is the largest upper bound.
    """
    share = {name: share for name, _, share in _COLUMNS}[measure]
    found = {level: getattr(summary, measure) for level, summary in summaries.items()}
    found = {level: estimate for level, estimate in found.items() if estimate is not None}
    end = limit or max((estimate.high for estimate in found.values()), default=0) or 1.0
    return table(["level", "", ""], [[level, _bar(e, end), _value(e, share)] for level, e in found.items()])


_CHANGES = (
    ("giou", "gIoU"),
    ("ciou", "cIoU"),
    ("valid", "valid answers"),
    ("box_accuracy", "box IoU > 0.5"),
    ("tokens", "tokens of thought"),
    ("words", "words of thought"),
)


def change_table(changes: Mapping[str, Mapping[str, Change]]) -> Html:
    """What changed by level: before and after, and below them the change with its paired 95 % interval."""
    rows = []
    for level, found in changes.items():
        n = next(iter(found.values())).n
        rows.append([level, n, *(_change_cell(found.get(name)) for name, _ in _CHANGES)])
    return table(["level", "n", *(heading for _, heading in _CHANGES)], rows)


def change_tiles(changes: Mapping[str, Mapping[str, Change]]) -> Html:
    """The changes to look at first: thought by level and in all, mask quality, valid answers."""
    shown = [
        (f"tokens of thought, {level}", _percent_change(found["tokens"])) for level, found in changes.items()
    ]
    whole = changes[ALL]
    shown += [
        (f"{heading}, all, in points", f"{100 * whole[name].difference.value:+.1f}")
        for name, heading in _CHANGES
        if name in ("giou", "valid") and name in whole
    ]
    return tag(
        "div", *(tag("div", tag("b", value), heading, kind="tile") for heading, value in shown), kind="tiles"
    )


def _percent_change(change: Change) -> str:
    return "-" if change.relative is None else f"{100 * change.relative.value:+.0f} %"


def _change_cell(change: Change | None) -> object:
    if change is None:
        return "-"
    estimate, factor, unit = change.difference, 100, " points"
    if change.relative is not None:
        estimate, unit = change.relative, " %"
        shown = f"{change.before:.0f} to {change.after:.0f}"
    else:
        shown = f"{100 * change.before:.1f} to {100 * change.after:.1f} %"
    low, high = (f"{factor * bound:+.1f}" for bound in (estimate.low, estimate.high))
    return join([shown, tag("small", f"{factor * estimate.value:+.1f}{unit} ({low} to {high})")])


def failure_table(rows: Sequence[Row]) -> Html:
    """How often each cause made a completion invalid, and how many ran into the token limit."""
    causes = Counter(row.failure for row in rows if row.failure)
    cut = sum(row.finish_reason == "length" for row in rows)
    counts = [
        *((_CAUSES.get(cause, cause), count) for cause, count in causes.most_common()),
        ("stopped by the token limit", cut),
        ("completions in all", len(rows)),
    ]
    return table(["cause", "completions"], counts)


def answer_card(
    example: Example, result: Segmentation, *, width: int, note: str = "", large: bool = False
) -> Html:
    """A figure of one answer: the picture, the question, the thought, and what came of it.

    Args:
        example: The question with its truth.
        result: The answer.
        width: Of the picture, in pixels.
        note: Words before the question.
        large: Over the whole width of the page.
    """
    # A mask of three values outlines its target pixels only.
    truth = None if example.mask is None else np.asarray(example.mask == 1)
    picture = answer_picture(example.image, result, truth, width=width)
    iou = None if example.mask is None else mask_iou(result.mask, example.mask)
    facts = [
        example.level,
        None if iou is None else f"mask IoU {iou:.2f}",
        f"{len(result.thinking.split())} words, {len(result.completion.token_ids)} tokens",
        f"uncertainty {result.completion.uncertainty:.2f}",
        f"{result.seconds['total']:.1f} s" if "total" in result.seconds else None,
        result.answer_error,
    ]
    caption = tag(
        "figcaption",
        tag("span", note, kind="soft") if note else "",
        tag("div", tag("b", result.query)),
        tag("blockquote", result.thinking or "(no thought)"),
        tag("div", " · ".join(str(fact) for fact in facts if fact), kind="soft"),
    )
    return tag(
        "figure", image(picture, alt=f"answer to: {result.query}"), caption, kind="large" if large else None
    )


def answer_picture(
    pixels: UInt8[np.ndarray, "H W 3"],
    result: Segmentation,
    truth: Bool[np.ndarray, "H W"] | None,
    *,
    width: int,
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Mask, box and points over the image, drawn at the size shown, with the truth outlined in white."""
    height = max(1, round(pixels.shape[0] * width / pixels.shape[1]))
    shown = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
    scale = (width / pixels.shape[1], height / pixels.shape[0])
    mask = _resized_mask(result.mask, (width, height))
    answer = None if result.answer is None else _scaled(result.answer, scale)
    picture = draw_overlay(shown, dataclasses.replace(result, mask=mask, answer=answer))
    if truth is not None:
        wanted = _resized_mask(truth, (width, height))
        line = max(1, round(max(width, height) / 300))
        picture[binary_dilation(wanted, iterations=line) & ~wanted] = TRUTH_COLOUR
    return picture


def legend() -> Html:
    """What the colours of `answer_picture` mean."""
    return tag(
        "p",
        "Red: the mask drawn. Green: the box, yellow: the two points the policy gave. White line: the true mask.",
        kind="soft",
    )


def _cell(estimate: Estimate | None, share: bool) -> object:
    if estimate is None:
        return "-"
    low, high = (_number(bound, share) for bound in (estimate.low, estimate.high))
    return join([_value(estimate, share), tag("small", f"{low} to {high}")])


def _value(estimate: Estimate, share: bool) -> str:
    return _number(estimate.value, share) + (" %" if share else "")


def _number(value: float, share: bool) -> str:
    return f"{100 * value:.1f}" if share else f"{value:.1f}"


def _bar(estimate: Estimate, end: float) -> Html:
    value, low, high = (100 * min(x / end, 1.0) for x in (estimate.value, estimate.low, estimate.high))
    filled = tag("i", style=f"width:{value:.1f}%")
    whisker = tag("u", style=f"left:{low:.1f}%;width:{max(high - low, 0.4):.1f}%")
    return tag("div", filled, whisker, kind="track")


def _scaled(answer: Answer, scale: tuple[float, float]) -> Answer:
    fx, fy = scale
    x1, y1, x2, y2 = answer.box_xyxy
    points = tuple((x * fx, y * fy) for x, y in answer.points_xy)
    return Answer((x1 * fx, y1 * fy, x2 * fx, y2 * fy), points)


def _resized_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST), bool)
