import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pixelthink_jax.data.shapes import ShapeReason
from pixelthink_jax.data.sources import (
    FirstExamples,
    GivenBeginnings,
    JsonlSource,
    MixedSource,
    open_source,
)
from pixelthink_jax.errors import InputError


def write(folder: Path, *rows: dict[str, Any] | str) -> Path:
    """A file of rows, with the picture they name beside it."""
    Image.fromarray(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)).save(folder / "a.png")
    path = folder / "rows.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_rows_of_a_file(tmp_path: Path) -> None:
    full = {
        "id": 7,
        "image": "a.png",
        "query": "the cup",
        "completion": "left",
        "solution": "<box>",
        "difficulty": 3,
        "instruction": "Be brief.",
    }
    source = open_source("jsonl", path=write(tmp_path, full, "", {"image": "a.png", "query": "é"}))
    assert len(source) == 2
    first, second = source[0], source[1]
    assert (first.id, first.query, first.completion, first.solution) == ("7", "the cup", "left", "<box>")
    assert (first.difficulty, first.instruction, first.mask) == (3, "Be brief.", None)
    assert first.image.tolist() == np.arange(18).reshape(2, 3, 3).tolist()
    assert (second.id, second.query, second.completion) == ("1", "é", None)


def test_a_text_may_hold_any_line_separator(tmp_path: Path) -> None:
    text = "a\u2028b\u0085c\x0cd\ne"
    source = JsonlSource(write(tmp_path, {"image": "a.png", "query": text}))
    assert [source[i].query for i in range(len(source))] == [text]


def test_windows_line_ends(tmp_path: Path) -> None:
    path = write(tmp_path, {"image": "a.png", "query": "x"}, {"image": "a.png", "query": "y"})
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert [JsonlSource(path)[i].query for i in range(2)] == ["x", "y"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"image": "a.png", "que', "line 2: not valid JSON"),
        ("[1]", "line 2: expected an object with the keys image and query"),
        ({"image": "a.png"}, "line 2: expected an object with the keys image and query"),
        (
            {"image": "a.png", "query": "x", "answer": "y"},
            "line 2: unknown key 'answer'; known are box",
        ),
        ({"image": 3, "query": "x"}, "line 2: image is 3, expected a text"),
        ({"image": "a.png", "query": ["x"]}, "line 2: query is"),
        ({"image": "a.png", "query": "x", "completion": None}, "line 2: completion is None"),
    ],
)
def test_lines_that_are_no_rows(tmp_path: Path, row: dict[str, Any] | str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        JsonlSource(write(tmp_path, {"image": "a.png", "query": "x"}, row))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_datasets(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.jsonl: no such file"):
        open_source("jsonl", path=tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="jsonl: give its path"):
        open_source("jsonl", path=None)
    with pytest.raises(InputError, match="it holds no rows"):
        JsonlSource(write(tmp_path, "", "  "))
    path = write(tmp_path, "")
    path.write_bytes(b'{"query": "\xe9"}')
    with pytest.raises(InputError, match="not UTF-8"):
        JsonlSource(path)
    with pytest.raises(InputError, match="'coco': expected shapereason, array_record, jsonl"):
        open_source("coco", path=tmp_path)
    with pytest.raises(InputError, match="array_record"):
        open_source("array_record")


def test_an_image_is_read_when_its_row_is(tmp_path: Path) -> None:
    source = JsonlSource(write(tmp_path, {"image": "gone.png", "query": "x"}))
    with pytest.raises(InputError, match=r"gone.png"):
        source[0]


def test_the_first_examples() -> None:
    rows = open_source("shapereason", split="validation", examples=3)
    assert isinstance(rows, FirstExamples)
    assert len(rows) == 3
    assert rows[2].id == ShapeReason("validation")[2].id
    for index in (3, -1):
        with pytest.raises(IndexError):
            rows[index]
    assert len(FirstExamples(rows, 99)) == 3


def test_shapes_are_drawn_at_the_size_that_is_asked_for() -> None:
    small = open_source("shapereason", split="test", render_size=(64, 64), task="listing")[0]
    assert small.image.shape == (64, 64, 3)


def test_a_beginning_is_given_up_to_the_phrase_and_only_there(tmp_path: Path) -> None:
    rows = ({"image": "a.png", "query": "q", "completion": text} for text in ("one two. so three so", "four"))
    source = GivenBeginnings(open_source("jsonl", path=write(tmp_path, *rows)), "so")
    assert [(row.given, row.completion) for row in (source[0], source[1])] == [
        ("one two.", "one two. so three so"),
        ("", "four"),
    ]


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (0.2, 0.5, 0.3)])
def test_a_mixture_keeps_its_shares_from_any_place_on(weights: tuple[float, ...]) -> None:
    mixed = MixedSource([[k] * 900 for k in range(len(weights))], weights)
    assert len(mixed) == 900
    for start in (0, 123, 700):
        drawn = [mixed[i] for i in range(start, start + 200)]
        for k, weight in enumerate(weights):
            assert drawn.count(k) / 200 == pytest.approx(weight / sum(weights), abs=0.02)
