import json

import pyarrow as pa
import pytest

from pixelthink_jax.data.config import FilesConfig
from pixelthink_jax.data.inspection import inspect_path
from pixelthink_jax.data.sources import open_source
from pixelthink_jax.errors import InputError
from tests.data.sources.genuine import (
    SOLUTION,
    SQUARE,
    frame840_table,
    image_struct,
    instances,
    picture,
    write_parquet,
    write_refcoco,
)


def test_published_tables_are_known_by_their_columns(tmp_path):
    write_parquet(frame840_table([SOLUTION], ["refcocog_1"]), tmp_path / "one")
    write_parquet(frame840_table(['[{"bbox_2d": [1, 2, 3, 4]}]'], ["refcocog_1"]), tmp_path / "more")
    found = inspect_path(tmp_path / "one")
    assert (found.config or {})["name"] == "refcocog_840" and found.rows == 1
    assert "<box>" in found.columns["solution"] and "bytes" in found.columns["image"]
    assert (inspect_path(tmp_path / "more").config or {})["name"] == "multi_object_840"


def test_a_proposed_mapping_works_as_it_is(tmp_path):
    table = pa.table(
        {
            "img": image_struct(picture(10, 12)),
            "Question": ["a\nb"],
            "bbox_xyxy": [[1, 2, 5, 6]],
            "note": ["x"],
        }
    )
    write_parquet(table, tmp_path, "validation")
    found = inspect_path(tmp_path)
    assert found.config is not None
    assert found.config["files"] == {"fields": {"image": "img", "query": "Question", "box": "bbox_xyxy"}}
    assert found.config["split"] == "validation" and "\n" not in found.columns["Question"]
    settings = {**found.config, "files": FilesConfig(**found.config["files"])}
    assert open_source(**settings)[0].query == "a\nb"


def test_files_that_stand_beside_a_dataset(tmp_path):
    root = write_refcoco(tmp_path)
    assert (inspect_path(root).config or {})["name"] == "refcocog"
    (tmp_path / "i.json").write_text(json.dumps(instances((1, [SQUARE]))))
    assert "instances" in inspect_path(tmp_path / "i.json").remarks[0]
    (tmp_path / "d.json").write_text(json.dumps([{"image_id": "refcocog_1", "difficulty_score_model": 3.2}]))
    found = inspect_path(tmp_path / "d.json")
    assert found.config is None and "source: file" in found.remarks[1]
    (tmp_path / "x.txt").touch()
    (tmp_path / "empty").mkdir()
    for path in ("x.txt", "empty", "none"):
        with pytest.raises(InputError):
            inspect_path(tmp_path / path)
