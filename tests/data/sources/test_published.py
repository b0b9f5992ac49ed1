"""The published formats, made as their publishers make them, and what is said of files that are damaged."""

import collections
import json
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelthink_jax.config import from_tree
from pixelthink_jax.data.config import DatasetConfig, FilesConfig
from pixelthink_jax.data.inspection import inspect_path
from pixelthink_jax.data.masks import pack_mask
from pixelthink_jax.data.rows import file_bytes
from pixelthink_jax.data.sources import open_files, open_source
from pixelthink_jax.data.sources.plain_pickle import read_plain_pickle
from pixelthink_jax.data.sources.reasonseg import draw_shapes
from pixelthink_jax.data.targets import mask_box
from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation.metrics import mask_iou
from pixelthink_jax.evaluation.scoring import true_box
from pixelthink_jax.grpo.config import TrainConfig
from pixelthink_jax.judge.config import AnnotateConfig
from pixelthink_jax.sft.config import SftConfig
from tests.data.sources.genuine import (
    SOLUTION,
    SQUARE,
    TRIANGLE,
    export_table,
    frame840_table,
    instances,
    picture,
    shape,
    write_arrow,
    write_grefcoco,
    write_parquet,
    write_reasonseg,
    write_refcoco,
)

SAMPLES = Path(__file__).parents[4] / "shared" / "samples"
IDS = ["refcocog_1", "refcocog_2", "refcocog_2_1"]
OBJECTS = json.dumps([{"bbox_2d": [1, 2, 30, 40], "point_2d": [5, 6]}])


def refuses(says: str, call, *names: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
    for name in names:
        assert name in str(caught.value)


@pytest.mark.parametrize("write", [write_parquet, write_arrow])
def test_840_rows_without_masks_and_with_those_of_the_annotations(tmp_path, write):
    write(frame840_table([SOLUTION] * 3, IDS), tmp_path / "set")
    plain = open_source("refcocog_840", path=tmp_path / "set")
    assert [plain[i].id for i in (2, 0, 1)] == [IDS[2], IDS[0], IDS[1]] and len(plain) == 3
    row = plain[1]
    assert (row.query, row.solution, row.mask, row.image.shape) == ("object 1", SOLUTION, None, (840, 840, 3))
    (tmp_path / "instances.json").write_text(json.dumps(instances((1, [SQUARE]), (2, [TRIANGLE]))))
    files = FilesConfig(instances=str(tmp_path / "instances.json"))
    joined = [open_source("refcocog_840", path=tmp_path / "set", files=files)[i].mask for i in range(3)]
    assert mask_box(joined[0]) == (168, 105, 486, 503)  # 10..29 of 50 and 5..24 of 40, in 840
    assert np.array_equal(joined[2], joined[0] | joined[1])


def test_840_rows_that_do_not_fit_their_annotations(tmp_path):
    write_parquet(frame840_table([SOLUTION] * 2, ["refcocog_9", "shoe"]), tmp_path)
    (tmp_path / "instances.json").write_text(json.dumps(instances((1, [SQUARE]))))
    rows = open_source(
        "refcocog_840", path=tmp_path, files=FilesConfig(instances=str(tmp_path / "instances.json"))
    )
    refuses("annotation 9: it is not there", lambda: rows[0])
    refuses("names no annotations", lambda: rows[1], "parquet, row 1")


def test_several_objects(tmp_path):
    write_parquet(frame840_table([OBJECTS, SOLUTION, "[]"], IDS), tmp_path)
    rows = open_source("multi_object_840", path=tmp_path)
    assert json.loads(rows[0].solution or "")[0]["point_2d"] == [5, 6]
    refuses("expected a list of", lambda: rows[1], "row 1")
    refuses("expected a list of", lambda: rows[2], "row 2")
    refuses("no readable box", lambda: open_source("refcocog_840", path=tmp_path)[0], "row 0")


def test_damaged_tables(tmp_path):
    path = write_parquet(frame840_table([SOLUTION] * 2, IDS[:2]), tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    refuses("truncated", lambda: open_source("refcocog_840", path=tmp_path), path.name)
    middle = len(data) // 3
    path.write_bytes(data[:middle] + b"\xff" * 2000 + data[middle + 2000 :])
    refuses("damaged", lambda: open_source("refcocog_840", path=tmp_path)[0], path.name)
    arrow = write_arrow(frame840_table([SOLUTION] * 2, IDS[:2]), tmp_path / "arrow")
    arrow.write_bytes(arrow.read_bytes()[:-9000])
    refuses("truncated", lambda: open_source("refcocog_840", path=tmp_path / "arrow"), arrow.name)
    refuses("no parquet or arrow", lambda: open_source("refcocog_840", path=tmp_path / "none"))


def test_columns_may_be_called_otherwise(tmp_path):
    table = frame840_table([SOLUTION], IDS[:1]).rename_columns(
        ["id", "question", "solution", "image", "img_height", "img_width"]
    )
    write_parquet(table, tmp_path)
    refuses("no column 'problem' among id, question", lambda: open_source("refcocog_840", path=tmp_path))
    files = FilesConfig(fields={"problem": "question"})
    assert open_source("refcocog_840", path=tmp_path, files=files)[0].query == "object 0"
    refuses(
        "unknown role 'quest'",
        lambda: open_source("refcocog_840", path=tmp_path, files=FilesConfig(fields={"quest": "id"})),
    )


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_refcoco_gives_a_row_for_each_expression(tmp_path, protocol):
    root = write_refcoco(tmp_path, protocol=protocol)
    for path in (root, root / "refcocog"):
        rows = open_source("refcocog", path=path)
        assert [rows[i].id for i in range(3)] == ["refcocog_1/10", "refcocog_1/11", "refcocog_2/20"]
        assert [rows[i].query for i in range(3)] == ["left cat", "the cat", "a dog?"]
    first = open_source("refcocog", path=root, files=FilesConfig(texts="first"))
    assert [first[i].id for i in range(2)] == ["refcocog_1", "refcocog_2"]
    assert mask_box(first[0].mask) == (10, 5, 28, 23)
    assert first[0].solution and first[0].solution.startswith("<box>(168,105),(470,483)</box>")
    val = open_source("refcocog", path=root, split="val")[0]
    assert val.query == "the café sign" and val.mask is not None and val.mask.sum() == 40
    refuses(
        "no split 'testA'; expected one of train, val",
        lambda: open_source("refcocog", path=root, split="testA"),
    )


def test_an_expression_of_grefcoco_means_any_number_of_objects(tmp_path):
    root = write_grefcoco(tmp_path)
    for path in (root, root / "grefcoco"):
        rows = open_source("grefcoco", path=path)
        assert [rows[i].id for i in range(3)] == ["grefcoco_0/0", "grefcoco_1/10", "grefcoco_2/20"]
    masks = [rows[i].mask for i in range(3)]
    assert all(mask is not None for mask in masks) and not masks[2].any()
    assert mask_box(masks[0]) == (10, 5, 43, 36) and mask_box(masks[1]) == (10, 5, 28, 23)
    first = json.loads(rows[0].solution or "")
    assert [item["bbox_2d"] for item in first] == [[168, 105, 470, 483], [504, 420, 722, 756]]
    assert json.loads(rows[1].solution or "") == first[:1] and rows[2].solution == "[]"
    assert true_box(rows[0]) == (168, 105, 722, 756) and true_box(rows[2]) is None
    assert rows.picture(2) == rows.picture(0)
    assert inspect_path(root).config == {"name": "grefcoco", "path": str(root), "split": "val"}
    path = root / "grefcoco" / "grefs(unc).json"
    whole = json.loads(path.read_text())
    for wrong, says in (
        ({"ann_id": [1, -1]}, "record 0: expected ref_id, ann_id, split"),
        ({"ann_id": []}, "record 0: expected ref_id"),
        ({"ref_id": None}, "record 0: expected ref_id"),
        ({"ann_id": [-1], "image_id": 8}, "reference 0: image 8 is not in"),
        ({"ann_id": [9]}, "annotation 9: it is not there"),
    ):
        path.write_text(json.dumps([whole[0] | wrong, *whole[1:]]))
        refuses(says, lambda: open_source("grefcoco", path=root)[0])
    path.write_text(json.dumps(whole))
    for place, wrong, says in (
        ("images", {"width": 10**30}, "is said to have"),
        ("images", {"file_name": None}, "or without name and size"),
        ("images", {"file_name": "\ud83d.jpg"}, r"\\ud83d.jpg"),
        ("annotations", {"image_id": []}, "image \\[\\] is not in"),
        ("annotations", {"segmentation": [[0, 0, 1e30, 0, 9, 9]]}, "reaches far outside"),
        ("annotations", {"segmentation": {"size": [[], 50], "counts": [2000]}}, "an RLE of size"),
    ):
        tree = instances((1, [SQUARE]), (2, [TRIANGLE]))
        tree[place][0] |= wrong
        (root / "grefcoco" / "instances.json").write_text(json.dumps(tree))
        refuses(says, lambda: open_source("grefcoco", path=root)[0])
    refuses("cannot be read", lambda: file_bytes(tmp_path / "none.jpg", "here"), "here")


def test_a_pickle_with_code_runs_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    root = write_refcoco(tmp_path / "data")
    path = root / "refcocog" / "refs(umd).p"
    for content in ([Evil()], [collections.OrderedDict(a=1)], [np.int64(3)]):
        path.write_bytes(pickle.dumps(content))
        refuses(
            "refused, a pickle of plain values", lambda: open_source("refcocog", path=root), "refs(umd).p"
        )
    assert not (tmp_path / "ran").exists()
    path.write_bytes(pickle.dumps([{"ann_id": 1}])[:-4])
    refuses("damaged", lambda: open_source("refcocog", path=root))
    path.write_bytes(pickle.dumps([{"ann_id": 1}]))
    refuses("record 0: expected ann_id, split", lambda: open_source("refcocog", path=root))


def test_texts_of_python_2_are_read(tmp_path):
    old = b"(dp0\nS'sent'\np1\nS'caf\\xc3\\xa9'\np2\ns."  # pickle.dumps of Python 2, protocol 0
    (tmp_path / "a.p").write_bytes(old)
    assert read_plain_pickle(tmp_path / "a.p") == {"sent": "café"}
    (tmp_path / "a.p").write_bytes(old.replace(b"\\xc3\\xa9", b"\\xe9"))
    assert read_plain_pickle(tmp_path / "a.p") == {"sent": "café"}


def test_reasonseg_paints_the_largest_first_and_drops_flags(tmp_path):
    big, small = [(2, 2), (40, 2), (40, 30), (2, 30)], [(10.9, 10.9), (20, 10), (20, 20), (10, 20)]
    write_reasonseg(
        tmp_path / "val", "a", [shape("Ignore", *small), shape("target", *big), shape("flag", *big)]
    )
    row = open_source("reasonseg", path=tmp_path, split="val")[0]
    assert row.mask is not None and row.mask.dtype == np.uint8
    assert (row.mask[2:31, 2:41] > 0).all() and row.mask[10, 10] == 255 and row.mask[9, 9] == 1
    assert (row.id, row.query) == ("a", "what is it?")
    assert true_box(row) == (34.0, 42.0, 672.0, 630.0)


def test_reasonseg_texts_and_encodings(tmp_path):
    shapes = [shape("target", (1, 1), (9, 1), (9, 9))]
    folder = write_reasonseg(tmp_path, "b", shapes, "one", "two")
    path = folder / "b.json"
    path.write_bytes(path.read_text().replace("two", "the café’s").encode("cp1252"))
    assert len(open_source("reasonseg", path=folder)) == 1
    rows = open_source("reasonseg", path=folder, files=FilesConfig(texts="all"))
    assert [(rows[i].id, rows[i].query) for i in range(2)] == [("b", "one"), ("b/1", "the café’s")]


def test_reasonseg_rows_that_cannot_be_used(tmp_path):
    write_reasonseg(tmp_path, "a", [])
    write_reasonseg(tmp_path, "b", [shape("target", (1, 1), (9, 9))])
    write_reasonseg(tmp_path, "c", [shape("target", (100, 1), (109, 9), (120, 3))])
    write_reasonseg(tmp_path, "d", [shape("ignore", (1, 1), (9, 1), (9, 9))])
    write_reasonseg(tmp_path, "e", [shape("target", (1, 1), (9, 1), (9, 9))], " ")
    write_reasonseg(tmp_path, "f", [shape("target", (1, 1), (9, 1), (9, 9))], "\ud83d")
    for name in ("g", "h", "i"):
        write_reasonseg(tmp_path, name, [shape("target", (1, 1), (9, 1), (9, 9))])
    (tmp_path / "g.jpg").unlink()
    (tmp_path / "h.json").unlink()
    (tmp_path / "i.json").write_text('{"text": ["q"], "shapes": [')
    rows = open_source("reasonseg", path=tmp_path)
    for index, says in enumerate(
        [
            "a.json: it has no polygons",
            "b.json, shape 0: a polygon of 2 points",
            "c.json, shape 0: a polygon lies outside",
            "d.json: the mask is empty",
            "e.json: query is empty",
            "f.json: query holds half of a surrogate pair",
            "g.json: .*g.jpg: no such image",
            "h.json: no such file",
            "i.json: not valid JSON",
        ]
    ):
        refuses(says, lambda index=index: rows[index])


def test_reasonseg_exports_whatever_their_split_is_called(tmp_path):
    mask = [[False] * 6, [True] * 6, [False] * 6, [False] * 6]
    upright, rotated = picture(4, 6), picture(4, 6, form="JPEG", orientation=6)
    ragged, empty = [[True], [True, False]], [[False] * 6] * 4
    table = export_table(
        [mask, mask, ragged, empty, None, mask],
        [upright, rotated, upright, upright, upright, None],
        list("abcdef"),
    )
    write_parquet(table, tmp_path / "ReasonSeg_val" / "data", "test")
    rows = open_source("reasonseg", path=tmp_path / "ReasonSeg_val", split="val")
    assert rows[0].mask is not None and np.array_equal(rows[0].mask, mask) and rows[0].query == "what is a?"
    for index, says in enumerate(
        [
            "the mask is 6x4, the upright image 4x6; a rotation tag",
            "differ in length",
            "is empty",
            "mask is None",
            "image is None",
        ],
        start=1,
    ):
        refuses(says, lambda index=index: rows[index], f"row {index}")


def test_an_oversized_picture_is_refused(tmp_path):
    folder = write_reasonseg(tmp_path, "a", [shape("target", (1, 1), (9, 1), (9, 9))])
    header = struct.pack(">II5B", 20000, 20000, 8, 0, 0, 0, 0)  # the size is refused before any pixel is read
    chunk = (
        struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    )
    (folder / "a.jpg").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT")
    refuses("a.json: .*a.jpg: too many pixels", lambda: open_source("reasonseg", path=folder)[0])


def test_reasonseg_diff_with_names_of_its_own(tmp_path):
    write_reasonseg(tmp_path / "val", "a", [shape("target", (1, 1), (9, 1), (9, 9))])
    write_reasonseg(tmp_path / "val", "b", [shape("target", (1, 1), (9, 1), (9, 9))])
    path = tmp_path / "diff.jsonl"
    path.write_text(json.dumps({"image_id": "a.jpg", "score": 5.25, "short_cot": "s", "reasoning_long": "l"}))
    files = FilesConfig(annotations=str(path), fields={"difficulty": "score", "short": "short_cot"})
    rows = open_source("reasonseg_diff", path=tmp_path, split="val", files=files)
    assert (rows[0].difficulty, rows[0].level) == (5.25, "hard")
    assert (rows[0].metadata["reasoning_short"], rows[0].metadata["reasoning_long"]) == ("s", "l")
    refuses("example b: .*no record of it", lambda: rows[1])
    path.write_text('{"image_id": "a", "difficulty_score_model": 11}')
    bad = FilesConfig(annotations=str(path))
    refuses(
        "line 1: difficulty is 11",
        lambda: open_source("reasonseg_diff", path=tmp_path, split="val", files=bad),
    )


def test_every_kind_of_config_can_name_them():
    tree = {"name": "reasonseg", "path": "DIR", "split": "val", "files": {"texts": "all"}}
    assert from_tree(DatasetConfig, tree).files == FilesConfig(texts="all")
    trained = tree | {"split": "train"}
    sft = {"out": "o", "policy": "p", "stages": [{"name": "s", "steps": 1, "data": [trained]}]}
    assert from_tree(TrainConfig, {"out": "o", "data": trained}).data.name == "reasonseg"
    assert from_tree(SftConfig, sft).stages[0].data[0].files.texts == "all"
    assert from_tree(AnnotateConfig, {"data": trained}).data == from_tree(DatasetConfig, trained)
    for wrong, says in (({"path": None}, "needs a path"), ({"name": "reasonseg_diff"}, "files.annotations")):
        refuses(says, lambda wrong=wrong: from_tree(DatasetConfig, tree | wrong))
    for name, split in (
        ("reasonseg", "val"),
        ("refcoco", "testB"),
        ("grefcoco", "val"),
        ("array_record", "test"),
    ):
        held_out, says = tree | {"name": name, "split": split}, f"{name}, split {split}, only reports"
        grpo = {"out": "o", "data": held_out}
        refuses(says, lambda grpo=grpo: from_tree(TrainConfig, grpo), "train on another")
        sft["stages"][0]["data"] = [held_out]
        refuses(says, lambda: from_tree(SftConfig, sft))
    own = {"name": "own", "path": "rows.jsonl"}
    assert (
        from_tree(TrainConfig, {"out": "o", "data": own}).data.split == "test"
    )  # of one's own nothing is known
    refuses("'coco': expected", lambda: open_files("coco", "DIR", "val", FilesConfig()))


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="samples are not here")
def test_the_golden_reasonseg_mask():
    record = json.loads((SAMPLES / "reasonseg_format_example1.json").read_text())
    golden = json.loads((SAMPLES / "golden_reasonseg_format.json").read_text())["example1"]
    mask = draw_shapes(record["shapes"], golden["height"], golden["width"], "here")
    packed = json.loads(pack_mask(mask))
    assert packed["target"] == golden["target_rle"]["counts"]
    assert packed["ignore"] == golden["ignore_rle"]["counts"]
    assert mask_iou(mask > 0, mask, ignore="target") == 1.0


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="samples are not here")
def test_the_golden_refcoco_solutions_through_the_reader(tmp_path):
    layout = json.loads((SAMPLES / "mini_refcoco_39769.json").read_text())
    golden = {row["ann_id"]: row for row in json.loads((SAMPLES / "golden_refcoco_39769.json").read_text())}
    folder = tmp_path / "refcocog"
    (folder / "images").mkdir(parents=True)
    (folder / "refs(umd).p").write_bytes(pickle.dumps(layout["refs"], protocol=2))
    (folder / "instances.json").write_text(json.dumps(layout["instances"]))
    Image.new("RGB", (640, 480)).save(folder / "images" / layout["instances"]["images"][0]["file_name"])
    rows = open_source("refcocog", path=tmp_path, files=FilesConfig(texts="first"))
    assert len(rows) == 2
    for row in (rows[0], rows[1]):
        if row.metadata["ann_id"] not in golden:
            continue
        expected = golden[row.metadata["ann_id"]]
        assert row.solution == expected["solution_segzero"]
        assert row.mask is not None
        assert json.loads(pack_mask(row.mask))["target"] == expected["rle"]["counts"]
