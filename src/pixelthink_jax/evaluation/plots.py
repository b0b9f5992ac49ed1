"""Histograms and scatter plots for a report, made of markup alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pixelthink_jax.evaluation.html import Html, tag
from pixelthink_jax.evaluation.measures import histogram

_WIDTH, _HEIGHT = 420, 190
_LEFT, _BOTTOM, _TOP, _RIGHT = 46, 30, 10, 12
COLOURS = ("var(--bar)", "#d9822b", "#2f9e64", "#b04a9e", "#8a6d3b", "#777")


@dataclass(frozen=True)
class Point:
    """One run in a scatter plot: its place, and the interval across its second value; None draws no line."""

    name: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    hollow: bool = False


def histogram_figure(title: str, groups: Mapping[str, Sequence[float]], *, unit: str, bins: int = 20) -> Html:
    """One small histogram for each group, under each other, on one scale.

    Args:
        title: What is counted.
        groups: Values by name; empty groups are left out.
        unit: Of the values.
        bins: Bars.
    """
    filled = {name: values for name, values in groups.items() if len(values)}
    largest = max((float(np.max(values)) for values in filled.values()), default=1.0)
    drawn = [
        tag("div", tag("small", f"{name} ({len(values)})"), _bars(values, bins, largest, colour))
        for (name, values), colour in zip(filled.items(), _cycle(len(filled)), strict=True)
    ]
    scale = tag("small", f"0 to {largest:.0f} {unit}, {bins} bars; heights by the fullest bar of each")
    return tag("figure", tag("figcaption", tag("b", title)), *drawn, scale)


def scatter(title: str, points: Sequence[Point], *, x_label: str, y_label: str) -> Html:
    """Runs as points, with their intervals; hollow ones were measured by others."""
    if not points:
        return tag("figure", tag("figcaption", tag("b", title), tag("div", "no values", kind="soft")))
    x_end = max(max(p.x for p in points) * 1.1, 1.0)
    ends = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    low, high = min(ends), max(ends)
    low, high = low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1)
    parts: list[Html] = []
    for p, colour in zip(points, _cycle(len(points)), strict=True):
        x = _LEFT + p.x / x_end * (_WIDTH - _LEFT - _RIGHT)
        y, bottom, top = (
            _HEIGHT - _BOTTOM - (v - low) / (high - low) * (_HEIGHT - _BOTTOM - _TOP)
            for v in (p.y, p.y if p.low is None else p.low, p.y if p.high is None else p.high)
        )
        parts += [
            tag("line", x1=_f(x), x2=_f(x), y1=_f(bottom), y2=_f(top), stroke=colour),
            tag("circle", tag("title", p.name), cx=_f(x), cy=_f(y), r=4, stroke=colour,
                fill="none" if p.hollow else colour),
            _text(p.name, x + 6, y - 5, "start"),
        ]  # fmt: skip
    axes = [
        _text(f"{high:.1f}", _LEFT - 5, _TOP + 8, "end"),
        _text(f"{low:.1f}", _LEFT - 5, _HEIGHT - _BOTTOM, "end"),
        _text("0", _LEFT, _HEIGHT - _BOTTOM + 14, "start"),
        _text(f"{x_end:.0f}", _WIDTH - _RIGHT, _HEIGHT - _BOTTOM + 14, "end"),
        _text(x_label, (_WIDTH + _LEFT) / 2, _HEIGHT - 4, "middle"),
    ]
    picture = tag("svg", *parts, *axes, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=title)
    return tag(
        "figure", tag("figcaption", tag("b", title), tag("div", y_label, kind="soft")), picture, kind="large"
    )


def _bars(values: Sequence[float], bins: int, largest: float, colour: str) -> Html:
    _, counts = histogram(values, bins=bins, largest=largest)
    height, width = 46, _WIDTH / bins
    bars = [
        tag("rect", tag("title", int(count)), x=_f(i * width), y=_f(height - h), width=_f(width - 1), height=_f(h),
            fill=colour)
        for i, count in enumerate(counts)
        for h in [height * count / max(int(counts.max()), 1)]
    ]  # fmt: skip
    return tag("svg", *bars, viewBox=f"0 0 {_WIDTH} {height}", role="img")


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _text(text: str, x: float, y: float, anchor: str) -> Html:
    return tag("text", text, x=_f(x), y=_f(y), text_anchor=anchor, fill="var(--soft)", font_size=10)


def _f(value: float) -> str:
    return f"{value:.1f}"
