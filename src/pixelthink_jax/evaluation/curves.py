"""Curves of a run for a report: one small drawing for each measure, made of markup alone."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from pixelthink_jax.evaluation.html import Html, tag

_WIDTH, _HEIGHT = 320, 150
_LEFT, _BOTTOM, _TOP = 44, 20, 8
_COLOURS = ("var(--bar)", "#d9822b", "#2f9e64", "#b04a9e")


def smoothed(values: Sequence[float], *, window: int) -> Float[np.ndarray, " n"]:
    """Mean of each value and those before it, at most `window`.

    >>> smoothed([1.0, 3.0, 5.0], window=2).tolist()
    [1.0, 2.0, 4.0]
    """
    total = np.cumsum(np.asarray(values, np.float64))
    before = np.concatenate([np.zeros(window), total])[: len(total)]
    return (total - before) / np.minimum(np.arange(1, len(total) + 1), window)


def curve(
    title: str, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, window: int = 1
) -> Html:
    """A figure of lines over steps.

    Args:
        title: What is measured.
        series: Steps and values of each line, by its name; lines without a point are left out.
        window: Steps of the running mean that is drawn.
    """
    lines = {name: (x, smoothed(y, window=window)) for name, (x, y) in series.items() if len(y)}
    if not lines:
        return tag("figure", tag("figcaption", tag("b", title), tag("div", "no values", kind="soft")))
    ys = np.concatenate([y for _, y in lines.values()])
    xs = np.concatenate([np.asarray(x, np.float64) for x, _ in lines.values()])
    x_range, y_range = (float(xs.min()), float(xs.max())), (float(ys.min()), float(ys.max()))
    drawn = [
        tag("polyline", points=_points(x, y, x_range, y_range), fill="none", stroke=colour, stroke_width=2)
        for (x, y), colour in zip(lines.values(), _COLOURS, strict=False)
    ]
    labels = [
        _label(_number(y_range[1]), _LEFT - 5, _TOP + 8, "end"),
        _label(_number(y_range[0]), _LEFT - 5, _HEIGHT - _BOTTOM, "end"),
        _label(f"{x_range[0]:.0f}", _LEFT, _HEIGHT - 5, "start"),
        _label(f"step {x_range[1]:.0f}", _WIDTH - 2, _HEIGHT - 5, "end"),
    ]
    names = [
        tag("span", tag("span", "—", style=f"color:{colour}"), f" {name} ")
        for name, colour in zip(lines, _COLOURS, strict=False)
        if len(lines) > 1
    ]
    picture = tag("svg", *drawn, *labels, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=title)
    return tag("figure", tag("figcaption", tag("b", title)), picture, tag("div", *names, kind="soft"))


def _points(
    x: Sequence[float],
    y: Float[np.ndarray, " n"],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
) -> str:
    right = _LEFT + (np.asarray(x, np.float64) - x_range[0]) / _span(x_range) * (_WIDTH - _LEFT - 2)
    down = _HEIGHT - _BOTTOM - (y - y_range[0]) / _span(y_range) * (_HEIGHT - _BOTTOM - _TOP)
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(right, down, strict=True))


def _span(ends: tuple[float, float]) -> float:
    return ends[1] - ends[0] or 1.0


def _label(text: str, x: float, y: float, anchor: str) -> Html:
    return tag("text", text, x=x, y=y, text_anchor=anchor, fill="var(--soft)", font_size=11)


def _number(value: float) -> str:
    return f"{value:.3g}"
