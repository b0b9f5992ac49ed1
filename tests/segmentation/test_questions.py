"""Rows and folders of questions: what is read, and how bad rows are told."""

import json

import pytest

from pixelthink_jax.errors import InputError
from pixelthink_jax.segmentation.questions import BadRow, Question, folder_questions, read_rows


def test_rows_are_named_and_found_beside_the_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"image": "a/b.png", "query": "it", "difficulty": 3},
        {"image": "/c.png", "query": "that", "id": 7},
    ]
    path.write_text("\ufeff" + "\n\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    first, second = read_rows(path)
    assert first == Question("line-000001", tmp_path / "a" / "b.png", "it")
    assert isinstance(second, Question)
    assert (second.name, str(second.image), second.query) == ("7", "/c.png", "that")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "got list"),
        ('{"query": "it"}', "image is None; expected a text"),
        ('{"image": "a.png", "query": " "}', "query is ' '; expected a text"),
        ('{"image": 3, "query": "it"}', "image is 3"),
        ('{"image": "a.png", "query": "it", "id": "../up"}', "id '../up' cannot name a folder"),
        ('{"image": "a.png", "query": "it", "id": ".."}', "id '..' cannot name a folder"),
        ('{"image": "a.png", "query": "it", "id": true}', "id True cannot name a folder"),
        ('{"image": "a.png", "query": "it", "id": ""}', "id '' cannot name a folder"),
        ('{"image": "a.png", "query": "it", "id": "one"}', "id 'one' is that of line 1"),
    ],
)
def test_bad_rows_are_told_apart(tmp_path, line, says):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"image": "a.png", "query": "it", "id": "one"}\n' + line)
    good, bad = read_rows(path)
    assert isinstance(good, Question) and isinstance(bad, BadRow)
    assert bad.name == "line-000002" and says in bad.problem


def test_a_file_without_rows_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_rows(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n \n")
    with pytest.raises(InputError, match="no rows in it"):
        read_rows(tmp_path / "empty.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(InputError, match="not UTF-8"):
        read_rows(tmp_path / "latin.jsonl")


def test_a_folder_asks_the_same_of_every_image(tmp_path):
    for name in ("b.png", "a.JPG", "b.webp", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "c.png").mkdir()
    questions = folder_questions(tmp_path, "it")
    assert [(q.name, q.image.name, q.query) for q in questions] == [
        ("a", "a.JPG", "it"),
        ("b.png", "b.png", "it"),
        ("b.webp", "b.webp", "it"),
    ]
    with pytest.raises(InputError, match="no image file in it"):
        folder_questions(tmp_path / "c.png", "it")
