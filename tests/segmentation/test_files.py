"""What an answer leaves on disk, and what it does not."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelthink_jax.errors import InputError
from pixelthink_jax.segmentation import draw_overlay, result_record, write_segmentation
from pixelthink_jax.segmentation.overlay import BOX_COLOUR, MASK_COLOUR
from pixelthink_jax.types import Answer, Completion, Segmentation

IMAGE = np.full((30, 50, 3), 100, np.uint8)
KEYS = [
    "query",
    "thinking",
    "answer_text",
    "answer_error",
    "box_xyxy",
    "points_xy",
    "mask_score",
    "completion_tokens",
    "thinking_tokens",
    "thinking_words",
    "uncertainty",
    "seconds",
]


def answered(text: str = "<think>one two</think><answer>{}</answer>", *, found: bool = True) -> Segmentation:
    mask = np.zeros((30, 50), bool)
    mask[5:25, 10:40] = found
    completion = Completion(text, np.arange(7, dtype=np.int32), np.zeros(7, np.float32), 0.125, "stop")
    answer = Answer(box_xyxy=(10.0, 5.0, 50.0, 30.0), points_xy=((12.5, 9.0), (30.0, 20.0)))
    return Segmentation(
        query="what ‹is› it?",
        completion=completion,
        thinking="one two" if found else "",
        answer=answer if found else None,
        answer_error=None if found else "nothing",
        mask=mask,
        mask_score=0.75 if found else 0.0,
        thinking_tokens=2 if found else 0,
        seconds={"image": 0.1, "policy": 2.0, "segmenter": 0.3, "total": 2.4},
    )


def test_the_three_files(tmp_path):
    out = tmp_path / "deep" / "out"
    write_segmentation(answered(), IMAGE, out)
    assert sorted(path.name for path in out.iterdir()) == ["mask.png", "overlay.png", "result.json"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    record = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert list(record) == KEYS
    assert (
        record["query"] == "what ‹is› it?"
        and record["answer_text"] == "{}"
        and record["answer_error"] is None
    )
    assert record["box_xyxy"] == [10.0, 5.0, 50.0, 30.0] and record["points_xy"] == [
        [12.5, 9.0],
        [30.0, 20.0],
    ]
    assert (record["completion_tokens"], record["thinking_tokens"], record["thinking_words"]) == (7, 2, 2)
    assert (record["mask_score"], record["uncertainty"]) == (0.75, 0.125)
    with Image.open(out / "mask.png") as mask, Image.open(out / "overlay.png") as overlay:
        assert mask.mode == "L" and mask.size == overlay.size == (50, 30) and overlay.mode == "RGB"
        assert np.array_equal(np.array(mask), answered().mask * 255)


def test_no_answer(tmp_path):
    result = answered("<think>hm</think> I do not know", found=False)
    record = result_record(result)
    assert record["box_xyxy"] is record["points_xy"] is None
    assert (record["answer_error"], record["answer_text"]) == ("nothing", "I do not know")
    write_segmentation(result, IMAGE, tmp_path)
    with Image.open(tmp_path / "mask.png") as mask, Image.open(tmp_path / "overlay.png") as overlay:
        assert not np.array(mask).any() and np.array_equal(np.array(overlay), IMAGE)


def test_an_earlier_answer_is_replaced_and_other_files_stay(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "result.json").write_text("old")
    write_segmentation(answered(), IMAGE, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert json.loads((tmp_path / "result.json").read_text())["mask_score"] == 0.75


def test_a_mistake_leaves_nothing(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(InputError, match="file: a file, where a folder is to be written"):
            write_segmentation(answered(), IMAGE, place)
    with pytest.raises(
        InputError, match="gs:/bucket/out: an address, and this writes to a folder of this machine"
    ):
        write_segmentation(answered(), IMAGE, Path("gs://bucket/out"))
    with pytest.raises(ValueError, match="differ in size"):
        write_segmentation(answered(), IMAGE[1:], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_overlay_draws_over_a_copy():
    image = IMAGE.copy()
    picture = draw_overlay(image, answered())
    assert np.array_equal(image, IMAGE) and picture.shape == IMAGE.shape
    assert tuple(picture[0, 0]) == (100, 100, 100)
    assert (
        tuple(picture[5, 45]) == tuple(picture[29, 49]) == BOX_COLOUR
    )  # the corner beyond the last pixel is drawn on it
    assert tuple(picture[24, 30]) == MASK_COLOUR  # the mask's edge
    assert tuple(picture[15, 20]) not in {(100, 100, 100), MASK_COLOUR}  # its inside
