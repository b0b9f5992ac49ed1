"""One's own rows, in each of the forms a mask may have and each of the places rows may be in."""

import io
import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pixelthink_jax.data.config import FilesConfig
from pixelthink_jax.data.sources import open_source
from pixelthink_jax.errors import InputError
from tests.data.sources.genuine import image_struct, picture, write_arrow, write_parquet

TARGET = np.zeros((10, 12), np.uint8)
TARGET[2:5, 3:9] = 1


def png(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG")
    return buffer.getvalue()


def write(folder, *rows: dict, name: str = "rows.jsonl"):
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(picture(10, 12))
    (folder / "m.png").write_bytes(png(TARGET * 255))
    lines = [{"image": "a.png", "query": "q"} | row for row in rows]
    (folder / name).write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_each_form_of_a_mask_gives_mask_and_solution(tmp_path):
    runs = [22, 3, 7, 3, 7, 3, 7, 3, 7, 3, 7, 3, 45]
    runs[0] = 32
    runs[-1] = 120 - sum(runs[:-1])
    polygon = [[3, 2], [9, 2], [9, 5], [3, 5]]
    rows = write(
        tmp_path / "d",
        {"mask": "m.png"},
        {"polygon": polygon},
        {"polygon": [sum(polygon, [])]},
        {"rle": {"size": [10, 12], "counts": runs}},
        {"box": [3, 2, 8, 4], "difficulty": 4},
    )
    source = open_source("own", path=rows)
    for index in range(4):
        row = source[index]
        assert row.mask is not None and np.array_equal(row.mask, TARGET), index
        assert row.solution and row.solution.startswith("<box>(210,168),(560,336)</box>")
    boxed = source[4]
    assert boxed.mask is None and (boxed.solution or "").startswith("<box>(210,168),(560,336)</box>")
    assert boxed.level == "medium"
    assert open_source("jsonl", path=rows / "rows.jsonl")[3].solution == source[3].solution


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"polygon": [[1, 1], [2, 2]]}, "2 points"),
        ({"polygon": "[[1, 1"}, "polygon: not valid JSON"),
        ({"polygon": [[50, 1], [60, 1], [60, 9]]}, "outside its image"),
        ({"box": [5, 5, 2, 2]}, "empty or outside"),
        ({"box": [20, 20, 30, 30]}, "empty or outside"),
        ({"box": [1, 2, 3]}, "expected .x1, y1, x2, y2"),
        ({"mask": "gone.png"}, "gone.png: no such image"),
        ({"rle": {"size": [10, 12], "counts": [120]}}, "mask is empty"),
        ({"difficulty": 0.5}, "expected a number from 1 to 10"),
        ({"query": " "}, "query is empty"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, row, says):
    source = open_source("own", path=write(tmp_path / "d", {}, row))
    with pytest.raises(InputError, match=f"rows.jsonl, line 2.*{says}") as caught:
        source[1]
    assert "\n" not in str(caught.value)


def test_an_image_folder_with_metadata(tmp_path):
    write(tmp_path / "d")
    line = {"file_name": "a.png", "question": "what?", "bbox": [3, 2, 8, 4]}
    (tmp_path / "d" / "metadata.jsonl").write_text(json.dumps(line))
    (tmp_path / "d" / "rows.jsonl").unlink()
    files = FilesConfig(fields={"query": "question", "box": "bbox"})
    row = open_source("own", path=tmp_path / "d", files=files)[0]
    assert row.query == "what?" and row.solution is not None


def test_saved_datasets_with_masks_in_three_states(tmp_path):
    states = TARGET.copy()
    states[7, 7] = 255
    table = pa.table(
        {
            "image": image_struct(*[picture(10, 12)] * 3),
            "question": ["a", "b", "c"],
            "mask": image_struct(png(TARGET * 255), png(states), None),
            "extra": [1, 2, 3],
        }
    )
    write_arrow(table, tmp_path / "saved" / "train")
    write_parquet(table.slice(0, 1), tmp_path / "saved" / "val", "val")
    files = FilesConfig(fields={"query": "question"})
    rows = open_source("own", path=tmp_path / "saved", files=files)
    assert [rows[i].query for i in range(3)] == ["a", "b", "c"]
    assert np.array_equal(rows[0].mask, TARGET == 1) and np.array_equal(rows[1].mask, states)
    assert rows[2].mask is None and rows[2].solution is None
    assert len(open_source("own", path=tmp_path / "saved", split="val", files=files)) == 1
    with pytest.raises(InputError, match="no split 'test'; expected one of"):
        open_source("own", path=tmp_path / "saved", split="test", files=files)
    with pytest.raises(InputError, match="no column for query"):
        open_source("own", path=tmp_path / "saved")
    with pytest.raises(InputError, match="unknown role 'masc'"):
        open_source("own", path=tmp_path / "saved", files=FilesConfig(fields={"masc": "mask"}))
    with pytest.raises(InputError, match=r"expected a .jsonl file"):
        open_source("own", path=tmp_path / "nothing")
