"""What a file or folder holds, and how a config would name it: `pixelthink prepare --inspect`."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pixelthink_jax.data.sources.json_files import read_json, read_lines
from pixelthink_jax.data.sources.plain_pickle import read_plain_pickle
from pixelthink_jax.data.sources.refcoco import REFS_FILES, refs_file
from pixelthink_jax.data.sources.tables import Table, table_files
from pixelthink_jax.errors import InputError

_SYNONYMS = {
    "image": ("image", "image_path", "img", "picture", "file_name", "filename", "image_file"),
    "query": ("query", "problem", "question", "text", "expression", "sentence", "caption", "prompt", "sent"),
    "mask": ("mask", "mask_path", "segmentation_mask", "gt_mask", "masks"),
    "polygon": ("polygon", "polygons", "segmentation", "segments"),
    "rle": ("rle", "mask_rle", "counts"),
    "box": ("box", "bbox", "box_xyxy", "bbox_xyxy", "bbox_2d"),
    "id": ("id", "image_id", "ann_id", "uid"),
    "difficulty": ("difficulty", "difficulty_score_model", "difficulty_score", "score"),
    "solution": ("solution", "answer", "ground_truth"),
    "completion": ("completion", "response", "output"),
    "short": ("reasoning_short", "short", "short_reference", "short_cot", "short_reasoning"),
    "long": ("reasoning_long", "long", "long_reference", "long_cot", "long_reasoning"),
}
_FRAME840 = {"id", "problem", "solution", "image"}
_EXPORT = {"image", "text", "mask", "image_id"}
_OWN = ("image", "query", "mask", "polygon", "rle", "box", "id", "difficulty", "solution", "completion")


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        kind: In words.
        rows: How many.
        columns: Type and a shortened value of the first row, by column.
        config: What to write under `data`; None if it is nothing to train or evaluate on by itself.
        remarks: Anything else to know.
    """

    kind: str
    rows: int
    columns: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    remarks: tuple[str, ...] = ()


def inspect_path(path: str | Path) -> Inspection:
    """Looks into a file or folder.

    Raises:
        InputError: It is missing, damaged, or of no known kind.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder; check the path")
    if path.suffix in (".parquet", ".arrow"):
        return _table(path, [path])
    if path.suffix in (".p", ".pkl", ".pickle"):
        return _records(path, _listed(read_plain_pickle(path), path), "references of the refer toolkit")
    if path.suffix == ".jsonl":
        return _records(path, [value for _, value in read_lines(path)], "JSON lines")
    if path.suffix == ".json":
        return _json(path)
    raise InputError(f"{path}: expected .parquet, .arrow, .json, .jsonl or .p, or a folder of them")


def propose_fields(columns: Iterable[str], roles: Iterable[str]) -> dict[str, str]:
    """The column that most likely plays each role, where one does.

    >>> propose_fields(["Image", "question", "gt_mask", "note"], ["image", "query", "mask", "box"])
    {'image': 'Image', 'query': 'question', 'mask': 'gt_mask'}
    """
    by_name = {column.lower(): column for column in reversed(list(columns))}
    found = {}
    for role in roles:
        name = next((name for name in _SYNONYMS[role] if name in by_name), None)
        if name is not None:
            found[role] = by_name[name]
    return found


def _folder(path: Path) -> Inspection:
    if (path / "dataset_info.json").is_file() and list(path.glob("*.array_record*")):
        splits = {
            s["name"]: s.get("shardLengths", []) for s in read_json(path / "dataset_info.json")["splits"]
        }
        rows = sum(int(n) for lengths in splits.values() for n in lengths)
        config = {"name": "array_record", "path": str(path), "split": next(iter(splits))}
        return Inspection(
            "a dataset of pixelthink prepare", rows, config=config, remarks=(f"splits: {', '.join(splits)}",)
        )
    name = next((n for n in REFS_FILES if path.name == n or (path / n).is_dir()), None)
    if name is not None:
        folder = path / name if (path / name).is_dir() else path
        found = inspect_path(refs_file(folder, name))
        return Inspection(
            found.kind, found.rows, found.columns, {"name": name, "path": str(path), "split": "val"}
        )
    if table_files(path, _first_split(path)):
        return _table(path, table_files(path, _first_split(path)))
    lines = next((path / n for n in ("rows.jsonl", "metadata.jsonl") if (path / n).is_file()), None)
    if lines is not None:
        return _records(path, [value for _, value in read_lines(lines)], f"a folder with {lines.name}")
    return _reasonseg(path)


def _reasonseg(path: Path) -> Inspection:
    splits = [s for s in ("train", "val", "test") if (path / s).is_dir()]
    folders = [path / s for s in splits] or [path]
    files = [file for folder in folders for file in sorted(folder.glob("*.json"))]
    record = read_json(files[0], fallback="cp1252") if files else None
    if not isinstance(record, dict) or "shapes" not in record:
        raise InputError(f"{path}: nothing in it looks like a dataset; see docs/data.md for the formats")
    config = {"name": "reasonseg", "path": str(path), "split": splits[0] if splits else path.name}
    return Inspection("ReasonSeg: pictures and polygons", len(files), _columns(record), config)


def _table(path: Path, files: list[Path]) -> Inspection:
    table = Table(files)
    first = table.row(0) if len(table) else {}
    columns = {name: f"{kind}: {_short(first.get(name))}" for name, kind in table.columns.items()}
    names = set(table.columns)
    config: dict[str, Any] = {"name": "own", "path": str(path), "split": _split_name(files[0])}
    if names >= _FRAME840:
        several = str(first.get("solution", "")).lstrip().startswith("[")
        config["name"] = "multi_object_840" if several else "refcocog_840"
    elif names >= _EXPORT:
        config["name"] = "reasonseg"
    else:
        _add_fields(config, propose_fields(table.columns, _OWN))
    return Inspection(
        f"{len(files)} {files[0].suffix[1:]} file(s)", len(table), columns, config, _doubts(config, names)
    )


def _records(path: Path, records: list[Any], kind: str) -> Inspection:
    first = records[0] if records and isinstance(records[0], dict) else {}
    if "sentences" in first or not first:
        return Inspection(kind, len(records), _columns(first))
    if "query" in propose_fields(first, ("query",)) and "image" in propose_fields(first, ("image",)):
        config: dict[str, Any] = {"name": "own", "path": str(path)}
        _add_fields(config, propose_fields(first, _OWN))
        return Inspection(kind, len(records), _columns(first), config, _doubts(config, set(first)))
    fields = propose_fields(first, ("id", "difficulty", "short", "long"))
    remark = f"scores or annotations: files: {{annotations: {path}, fields: {json.dumps(fields)}}}"
    remarks = (remark, f"or difficulty: {{source: file, path: {path}}}") if "difficulty" in fields else ()
    return Inspection(kind, len(records), _columns(first), None, remarks)


def _json(path: Path) -> Inspection:
    tree = read_json(path)
    if isinstance(tree, dict) and {"images", "annotations"} <= tree.keys():
        annotations = tree["annotations"] if isinstance(tree["annotations"], list) else []
        first = annotations[0] if annotations else {}
        remark = f"masks of 840x840 sets: files: {{instances: {path}}}"
        return Inspection("COCO instances", len(annotations), _columns(first), None, (remark,))
    if isinstance(tree, dict) and "shapes" in tree:
        return Inspection("one ReasonSeg record", 1, _columns(tree), None, ("give its folder",))
    return _records(path, _listed(tree, path), "a JSON list")


def _listed(tree: Any, path: Path) -> list[Any]:
    if isinstance(tree, dict) and tree:
        return [{"id": key, "difficulty": value} for key, value in tree.items()]
    if not isinstance(tree, list):
        raise InputError(f"{path}: expected a list of records, got {type(tree).__name__}")
    return tree


def _columns(record: Any) -> dict[str, str]:
    if not isinstance(record, Mapping):
        return {}
    return {str(key): f"{type(value).__name__}: {_short(value)}" for key, value in record.items()}


def _add_fields(config: dict[str, Any], fields: dict[str, str]) -> None:
    renamed = {role: column for role, column in fields.items() if role != column}
    if renamed:
        config["files"] = {"fields": renamed}


def _doubts(config: dict[str, Any], names: set[str]) -> tuple[str, ...]:
    """What a proposed mapping lacks."""
    if config["name"] != "own":
        return ()
    found = propose_fields(names, _OWN)
    missing = [role for role in ("image", "query") if role not in found]
    shape = not set(found) & {"mask", "polygon", "rle", "box", "solution"}
    return tuple(f"no column looks like {role}: name it in files.fields" for role in missing) + (
        ("no column looks like a mask, polygon, rle, box or solution: nothing to score or train on",)
        if shape
        else ()
    )


def _first_split(path: Path) -> str | None:
    files = sorted(f for end in ("parquet", "arrow") for f in path.rglob(f"*.{end}"))
    return _split_name(files[0]) if files else None


def _split_name(file: Path) -> str:
    name = file.stem.partition("-")[0]
    return file.parent.name if name == "data" else name


def _short(value: Any) -> str:
    """A value in a few words, control characters escaped."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_short(item)}" for key, item in list(value.items())[:4]) + "}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = ascii(value) if not isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
