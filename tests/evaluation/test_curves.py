"""Curves hold every point, whatever its size, and escape their names."""

import re

from pixelthink_jax.evaluation.curves import curve
from pixelthink_jax.evaluation.html import page
from tests.evaluation.test_report import HOSTILE, Reader


def points(text):
    return [
        [tuple(map(float, p.split(","))) for p in line.split()]
        for line in re.findall(r'points="([^"]*)"', text)
    ]


def test_lines_stay_inside_the_drawing_and_keep_their_order():
    drawn = curve(
        "tokens", {"easy": ([1, 2, 3], [50.0, 20.0, 5.0]), "hard": ([2, 3], [90.0, 80.0]), "none": ([], [])}
    )
    easy, hard = points(drawn)
    assert [x for x, _ in easy] == sorted(x for x, _ in easy) and [y for _, y in easy] == sorted(
        y for _, y in easy
    )
    assert all(0 <= x <= 320 and 0 <= y <= 150 for x, y in (*easy, *hard))
    assert hard[0][1] < easy[0][1]  # the page counts downwards
    assert "hard" in drawn and "absent" not in drawn


def test_one_point_and_none():
    assert len(points(curve("flat", {"a": ([1], [2.0])}))[0]) == 1
    assert "no values" in curve("empty", {})


def test_names_are_text():
    read = Reader(page("x", curve(HOSTILE, {HOSTILE: ([1, 2], [1.0, 2.0]), "b": ([1], [1.0])})))
    assert "script" not in read.tags and not [name for name, _ in read.attributes if name.startswith("on")]
