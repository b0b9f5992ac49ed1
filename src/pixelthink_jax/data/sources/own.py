"""One's own data: rows `{image, query, mask | polygon | rle | box}` in JSON lines, a folder, or a saved dataset.

The answer (box, two points) is computed from the mask where a row has no `solution`. A row with a `box` only is
pointed at as if the box were filled, and has no mask, so that mask measures are refused for it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pixelthink_jax.data.masks import IGNORE, Mask, count_layers, is_number
from pixelthink_jax.data.rows import (
    cell_bytes,
    cell_image,
    check_text,
    file_bytes,
    load_picture,
    make_example,
    mask_solution,
)
from pixelthink_jax.data.sources.json_files import parse_json, read_lines
from pixelthink_jax.data.sources.tables import Table, table_files
from pixelthink_jax.errors import InputError
from pixelthink_jax.types import Example

SHAPES = ("mask", "polygon", "rle", "box")
TEXTS = frozenset({"query", "completion", "solution", "instruction"})
KEYS = TEXTS | {"id", "image", "difficulty", *SHAPES}
_ROW_FILES = ("rows.jsonl", "metadata.jsonl")


class JsonlSource:
    """Rows `{"image": path, "query": text, ...}`, one JSON object a line.

    Paths are relative to the file; images and masks are read when a row is asked for. Other keys are those of `KEYS`.
    """

    def __init__(self, path: str | Path | None, fields: dict[str, str] | None = None):
        """Reads and checks the lines, not the images.

        Raises:
            InputError: The file is missing, or a line is not such a row; the message names the line.
        """
        self._path = Path(path or "")
        if not self._path.is_file():
            raise InputError(f"dataset {self._path}: no such file; expected JSON lines")
        columns = role_columns(fields)
        self._rows = [(where, _named(value, columns, where)) for where, value in read_lines(self._path)]
        if not self._rows:
            raise InputError(f"dataset {self._path}: it holds no rows")
        for where, row in self._rows:
            check_row(row, where)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        where, row = self._rows[index]
        image = load_picture(self._path.parent / row["image"], where)
        if isinstance(row.get("mask"), str):
            row = {**row, "mask": picture_mask(self._path.parent / row["mask"], where)}
        return own_example(row, image, where, str(row.get("id", index)))

    def picture(self, index: int) -> bytes:
        """The file of a row's picture."""
        where, row = self._rows[index]
        return file_bytes(self._path.parent / row["image"], where)


class OwnTable:
    """Rows of parquet or arrow files; columns that are no roles are left alone."""

    def __init__(self, path: str | Path, split: str, fields: dict[str, str] | None = None):
        """Opens the files.

        Raises:
            InputError: One is damaged, or there is no column for image or query.
        """
        self._table = Table(table_files(path, split))
        columns = {**{role: role for role in KEYS}, **role_columns(fields)}
        self._columns = {role: column for role, column in columns.items() if column in self._table.columns}
        missing = [role for role in ("image", "query") if role not in self._columns] + [
            f"{role} ({column})" for role, column in (fields or {}).items() if role not in self._columns
        ]
        if missing:
            raise InputError(
                f"dataset {path}: no column for {missing[0]} among {', '.join(self._table.columns)}; name it in "
                "files.fields (pixelthink prepare --inspect proposes a mapping)"
            )

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Example:
        raw, where = self._table.row(index), self._table.where(index)
        row = {role: raw[column] for role, column in self._columns.items() if raw[column] is not None}
        check_text(row.get("query"), where, "query")
        if isinstance(row.get("mask"), (dict, bytes)):
            data = row["mask"] if isinstance(row["mask"], bytes) else row["mask"].get("bytes")
            row["mask"] = picture_mask(data, where)
        return own_example(row, cell_image(row.get("image"), where), where, str(row.get("id", index)))

    def picture(self, index: int) -> bytes:
        """The encoded picture of a row."""
        return cell_bytes(self._table.row(index)[self._columns["image"]], self._table.where(index))


def open_own(path: str | Path, split: str, fields: dict[str, str] | None = None) -> JsonlSource | OwnTable:
    """A file of JSON lines, a folder with `rows.jsonl` or `metadata.jsonl`, or a folder of tables.

    Raises:
        InputError: It is none of these.
    """
    path = Path(path)
    if path.suffix in (".jsonl", ".json"):
        return JsonlSource(path, fields)
    roots = (path / split, path)
    found = next((root / name for root in roots for name in _ROW_FILES if (root / name).is_file()), None)
    if found is not None:
        given = {"image": "file_name"} if found.name == "metadata.jsonl" else {}
        return JsonlSource(found, {**given, **(fields or {})})
    if not path.exists() or not table_files(path, split):
        raise InputError(
            f"dataset {path}: expected a .jsonl file, a folder with {' or '.join(_ROW_FILES)}, or parquet or "
            "arrow files"
        )
    return OwnTable(path, split, fields)


def own_example(row: Mapping[str, Any], image: np.ndarray, where: str, id: str) -> Example:
    """A row with its picture as an example.

    Raises:
        InputError: Its shape is malformed, outside the picture or empty.
    """
    height, width = image.shape[:2]
    mask = shape_mask(row, height, width, where)
    solution = row.get("solution")
    if solution is None and mask is None and row.get("box") is not None:
        solution = mask_solution(_filled(row["box"], height, width, where))
    return make_example(
        where,
        id=id,
        image=image,
        query=row["query"],
        mask=mask,
        solution=solution,
        difficulty=row.get("difficulty"),
        completion=row.get("completion"),
        instruction=row.get("instruction"),
    )


def shape_mask(row: Mapping[str, Any], height: int, width: int, where: str) -> Mask | None:
    """The mask a row gives as an array, a run-length code or polygons; None if it gives none.

    Raises:
        InputError: It is malformed or outside the picture.
    """
    if row.get("mask") is not None:
        mask = row["mask"]
        if not isinstance(mask, np.ndarray):
            raise InputError(f"{where}: mask is {mask!r:.60}, expected a picture or rows of pixels")
        return three_states(mask)
    for key in ("rle", "polygon"):
        if row.get(key) is not None:
            value = row[key]
            value = parse_json(value, f"{where}, {key}") if isinstance(value, str) else value
            return count_layers(_parts(value), height, width, where) > 0
    return None


def three_states(values: np.ndarray) -> Mask:
    """Any pixels but 0 are target; of the three values 0, 1 and 255, the last is ignore.

    >>> three_states(np.array([[0, 255]], np.uint8)).tolist(), three_states(np.array([[1, 255]], np.uint8)).tolist()
    ([[False, True]], [[1, 255]])
    """
    if (
        values.dtype != bool
        and set(np.unique(values)) <= {0, 1, IGNORE}
        and {1, IGNORE} <= set(np.unique(values))
    ):
        return values.astype(np.uint8)
    return values != 0


def picture_mask(source: Any, where: str) -> Mask:
    """A mask from a picture: its grey levels, or its palette indices.

    Raises:
        InputError: It is missing or no picture.
    """
    import io

    load_picture(source, where)  # refuses what is damaged or too large, in one line
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
        return three_states(np.array(picture if picture.mode in ("1", "P") else picture.convert("L")))


def role_columns(fields: dict[str, str] | None) -> dict[str, str]:
    """Checked names of columns by role.

    Raises:
        InputError: A role is unknown.
    """
    unknown = sorted((fields or {}).keys() - KEYS)
    if unknown:
        raise InputError(
            f"files.fields: unknown role {unknown[0]!r}; expected one of {', '.join(sorted(KEYS))}"
        )
    return fields or {}


def check_row(row: Mapping[str, Any], where: str) -> None:
    """Refuses unknown keys and texts that are none.

    Raises:
        InputError: As said.
    """
    unknown = sorted(row.keys() - KEYS)
    if unknown:
        raise InputError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(sorted(KEYS))}")
    for key in sorted((TEXTS | {"image"}) & row.keys()):
        if not isinstance(row[key], str):
            raise InputError(f"{where}: {key} is {row[key]!r:.80}, expected a text")


def _named(row: Any, columns: dict[str, str], where: str) -> dict[str, Any]:
    """A row by role; what a mapping renames keeps its place under the role only."""
    names = {column: role for role, column in columns.items()}
    row = {names.get(key, key): value for key, value in row.items()} if isinstance(row, dict) else {}
    if not {"image", "query"} <= row.keys():
        raise InputError(f"{where}: expected an object with the keys image and query")
    return row


def _parts(value: Any) -> Any:
    """Polygons as COCO writes them, from these, from one flat list, or from pairs of one polygon."""
    if isinstance(value, list) and value and not isinstance(value[0], list):
        return [value]
    if isinstance(value, list) and value and all(isinstance(p, list) and len(p) == 2 for p in value):
        return [[number for pair in value for number in pair]]
    return value


def _filled(box: Any, height: int, width: int, where: str) -> np.ndarray:
    """A box of inclusive pixels `[x1, y1, x2, y2]` as a mask, cut to the picture."""
    if not isinstance(box, (list, tuple)) or len(box) != 4 or not all(map(is_number, box)):
        raise InputError(f"{where}: box is {box!r:.60}, expected [x1, y1, x2, y2] in pixels")
    x1, y1, x2, y2 = (int(np.clip(v, -1, side)) for v, side in zip(box, (width, height) * 2, strict=True))
    mask = np.zeros((height, width), bool)
    mask[max(y1, 0) : y2 + 1, max(x1, 0) : x2 + 1] = True
    if not mask.any():
        raise InputError(f"{where}: box {list(box)} is empty or outside the image of {width}x{height} pixels")
    return mask
