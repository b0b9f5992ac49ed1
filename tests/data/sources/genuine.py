"""Small datasets in the genuine formats, written as their publishers write them."""

import functools
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SQUARE = [10.0, 5.0, 29.0, 5.0, 29.0, 24.0, 10.0, 24.0]
TRIANGLE = [30.0, 20.0, 44.0, 20.0, 30.0, 38.0]
SOLUTION = "<box>(10,20),(300,400)</box><points>(50,60),(200,300)</points>"


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@functools.lru_cache
def picture(height: int, width: int, *, form: str = "PNG", orientation: int | None = None) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(pixels(height, width)).save(buffer, format=form, exif=exif)
    return buffer.getvalue()


def image_struct(*data: bytes | None) -> pa.Array:
    """A column as `datasets.Image` stores it."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([None if d is None else {"bytes": d, "path": None} for d in data], kind)


def frame840_table(solutions: list[str], ids: list[str]) -> pa.Table:
    n = len(ids)
    return pa.table(
        {
            "id": ids,
            "problem": [f"object {i}" for i in range(n)],
            "solution": solutions,
            "image": image_struct(*[picture(840, 840, form="JPEG")] * n),
            "img_height": pa.array([40] * n, pa.int64()),
            "img_width": pa.array([50] * n, pa.int64()),
        }
    )


def write_parquet(table: pa.Table, folder: Path, split: str = "train", *, group: int = 2) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}-00000-of-00001.parquet"
    pq.write_table(table, path, row_group_size=group)
    return path


def write_arrow(table: pa.Table, folder: Path) -> Path:
    """As `save_to_disk` does: a stream."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "data-00000-of-00001.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    return path


def export_table(masks: list[Any], images: list[bytes | None], names: list[str]) -> pa.Table:
    return pa.table(
        {
            "image": image_struct(*images),
            "text": [f"what is {name}?" for name in names],
            "mask": pa.array(masks, pa.list_(pa.list_(pa.bool_()))),
            "image_id": names,
            "ann_id": names,
            "img_height": pa.array([4] * len(names), pa.int64()),
            "img_width": pa.array([6] * len(names), pa.int64()),
        }
    )


def ref(annotation: int, split: str, *sentences: str) -> dict[str, Any]:
    return {
        "ref_id": annotation,
        "ann_id": annotation,
        "category_id": 1,
        "image_id": 7,
        "file_name": f"COCO_train2014_000000000007_{annotation}.jpg",
        "split": split,
        "sent_ids": list(range(len(sentences))),
        "sentences": [
            {"sent_id": 10 * annotation + i, "raw": s, "sent": s.lower().strip("."), "tokens": s.split()}
            for i, s in enumerate(sentences)
        ],
    }


def instances(*annotations: tuple[int, Any]) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "COCO_train2014_000000000007.jpg", "height": 40, "width": 50}],
        "annotations": [
            {"id": id, "image_id": 7, "category_id": 1, "iscrowd": 0, "segmentation": segmentation}
            for id, segmentation in annotations
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }


def write_refcoco(root: Path, name: str = "refcocog", *, protocol: int = 0) -> Path:
    """References in the oldest pickle protocol, as Python 2 wrote them."""
    folder = root / name
    folder.mkdir(parents=True)
    refs = [
        ref(1, "train", "Left cat.", "The cat"),
        ref(2, "train", "A Dog?"),
        ref(3, "val", "the café sign"),
    ]
    by = "umd" if name == "refcocog" else "unc"
    (folder / f"refs({by}).p").write_bytes(pickle.dumps(refs, protocol=protocol))
    tree = instances((1, [SQUARE]), (2, [SQUARE, TRIANGLE]), (3, {"size": [40, 50], "counts": [0, 40, 1960]}))
    (folder / "instances.json").write_text(json.dumps(tree))
    images = root / "images" / "mscoco" / "images" / "train2014"
    images.mkdir(parents=True, exist_ok=True)
    (images / "COCO_train2014_000000000007.jpg").write_bytes(picture(40, 50, form="JPEG"))
    return root


def write_grefcoco(root: Path) -> Path:
    """References of two, one and no objects, in JSON as they were published."""
    folder = root / "grefcoco"
    folder.mkdir(parents=True)
    write_refcoco(root / "plain")
    several = {"ref_id": 0, "ann_id": [1, 2], "category_id": [1, 1], "no_target": False}
    nothing = {"ref_id": 2, "ann_id": [-1], "category_id": [-1], "no_target": True}
    refs = [
        ref(0, "train", "Both things.") | several,
        ref(1, "train", "The left one") | {"ann_id": [1], "category_id": [1], "no_target": False},
        ref(2, "train", "the elephant") | nothing,
        ref(3, "val", "the elephant") | nothing | {"ref_id": 3},
    ]
    (folder / "grefs(unc).json").write_text(json.dumps(refs))
    (folder / "instances.json").write_text(json.dumps(instances((1, [SQUARE]), (2, [TRIANGLE]))))
    (root / "plain" / "images").rename(root / "images")
    return root


def shape(label: str, *points: tuple[float, float]) -> dict[str, Any]:
    return {
        "label": label,
        "labels": [label],
        "shape_type": "polygon",
        "image_name": "a.jpg",
        "points": [list(p) for p in points],
        "group_id": None,
        "group_ids": [None],
        "flags": {},
    }


def write_reasonseg(folder: Path, name: str, shapes: list[dict[str, Any]], *texts: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.jpg").write_bytes(picture(40, 50, form="JPEG"))
    record = {"text": list(texts) or ["what is it?"], "is_sentence": True, "shapes": shapes}
    (folder / f"{name}.json").write_text(json.dumps(record))
    return folder
