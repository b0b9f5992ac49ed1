"""ReasonSeg: LISA's folders of pictures and polygons, and the published exports with masks in a table.

Source of the drawing: dvlab-research/LISA @3cb2d43, `utils/data_processing.py` (`get_mask_from_json`).
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from pixelthink_jax.data.masks import IGNORE, Mask, check_polygon
from pixelthink_jax.data.polygon_fill import fill_polygon
from pixelthink_jax.data.rows import cell_bytes, cell_image, file_bytes, load_picture, make_example
from pixelthink_jax.data.sources.frame840 import column_names
from pixelthink_jax.data.sources.json_files import read_json
from pixelthink_jax.data.sources.tables import Table, table_files
from pixelthink_jax.errors import InputError
from pixelthink_jax.types import Example

_PICTURES = (".jpg", ".jpeg", ".png")
_EXPORT_COLUMNS = ("image", "text", "mask", "image_id")
_LARGEST = float(2**30)


def draw_shapes(shapes: Any, height: int, width: int, where: str) -> UInt8[np.ndarray, "H W"]:
    """The mask of a ReasonSeg record: 0 background, 1 target, 255 ignore.

    Shapes labelled `flag` are left out; the others are painted largest first, so that smaller ones stay on top; points
    are cut to whole pixels.

    Args:
        shapes: Records `{label, points}`.
        height: Of the upright image.
        width: Of the upright image.
        where: File, for messages.

    Raises:
        InputError: There is no polygon, or one is malformed or outside the image.

    >>> square = {"label": "target", "points": [[0.9, 0], [2, 0], [2, 1.9], [0, 1]]}
    >>> draw_shapes([square, {"label": "ignore", "points": [[1, 0], [1, 1], [1, 0]]}], 2, 4, "here").tolist()
    [[1, 255, 1, 0], [1, 255, 1, 0]]
    """
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise InputError(f"{where}: shapes is {shapes!r:.60}, expected a list of polygons")
    drawn: list[np.ndarray] = []
    values: list[int] = []
    for place, shape in enumerate(shapes):
        label = str(shape.get("label", "")).lower()
        if "flag" in label:
            continue
        drawn.append(_draw(shape.get("points"), height, width, f"{where}, shape {place}"))
        values.append(IGNORE if "ignore" in label else 1)
    if not drawn:
        raise InputError(f"{where}: it has no polygons; two files of the published test set have none")
    mask = np.zeros((height, width), np.uint8)
    for place in np.argsort([pixels.sum() for pixels in drawn])[::-1]:
        mask[drawn[place]] = values[place]
    return mask


def _draw(points: Any, height: int, width: int, where: str) -> np.ndarray:
    pairs = points if isinstance(points, list) else []
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise InputError(f"{where}: points is {points!r:.60}, expected pairs of numbers")
    flat = [number for pair in pairs for number in pair]
    check_polygon(flat, height, width, where)
    if max(map(abs, flat)) > _LARGEST:
        raise InputError(f"{where}: a point is {max(flat, key=abs)}, far outside the image")
    return fill_polygon(np.array(pairs, np.float64).astype(np.int32), height, width)


def simplest(mask: UInt8[np.ndarray, "H W"]) -> Mask:
    """A mask without ignore pixels as bool."""
    return mask if (mask == IGNORE).any() else mask.astype(bool)


class ReasonSegSource:
    """Pairs `<name>.jpg`, `<name>.json` of one split."""

    def __init__(self, path: str | Path, split: str, *, texts: Literal["first", "all"] | None = None):
        """Lists the pairs and counts their wordings.

        Args:
            path: Folder of the split, or the one that holds `train`, `val` and `test`.
            split: Name of the split.
            texts: `all` makes each rephrasing of a question a row; otherwise the first stands for it.

        Raises:
            InputError: There is no such folder, or nothing in it.
        """
        folder = Path(path) / split if (Path(path) / split).is_dir() else Path(path)
        names = {file.stem for file in folder.glob("*") if file.suffix.lower() in (*_PICTURES, ".json")}
        if not names:
            raise InputError(f"dataset {folder}: no pictures with .json files beside them")
        self._folder = folder
        self._rows = [(name, k) for name in sorted(names) for k in range(self._wordings(name, texts))]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        name, wording = self._rows[index]
        path = self._folder / f"{name}.json"
        record, where = _record(path), f"dataset {path}"
        image = load_picture(self._picture(name), where)
        height, width = image.shape[:2]
        return make_example(
            where,
            id=name if wording == 0 else f"{name}/{wording}",
            image=image,
            query=record["text"][wording],
            mask=simplest(draw_shapes(record.get("shapes"), height, width, where)),
            metadata={"image_id": name, "is_sentence": record.get("is_sentence")},
        )

    def picture(self, index: int) -> bytes:
        """The file of a row's picture."""
        path = self._picture(self._rows[index][0])
        return file_bytes(path, f"dataset {path}")

    def _wordings(self, name: str, texts: str | None) -> int:
        """Rows that a picture gives; one where its file cannot be read, so that the row names it."""
        if texts != "all":
            return 1
        try:
            return len(_record(self._folder / f"{name}.json")["text"])
        except InputError:
            return 1

    def _picture(self, name: str) -> Path:
        places = [self._folder / f"{name}{end}" for ending in _PICTURES for end in (ending, ending.upper())]
        return next((place for place in places if place.is_file()), places[0])


class ReasonSegExport:
    """Rows `{image, text, mask, image_id}` of a table; ignore pixels became target when it was made."""

    def __init__(self, path: str | Path, split: str, *, fields: dict[str, str] | None = None):
        """Opens the files.

        Raises:
            InputError: One is damaged, or a column is missing.
        """
        self._table = Table(table_files(path, split))
        self._columns = column_names(self._table, _EXPORT_COLUMNS, fields or {}, str(path))

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Example:
        row, where = self._table.row(index), self._table.where(index)
        values = {name: row[column] for name, column in self._columns.items()}
        mask = values["mask"]
        if not isinstance(mask, np.ndarray):
            raise InputError(f"{where}: mask is {mask!r:.60}, expected rows of true and false")
        return make_example(
            where,
            id=str(values["image_id"]),
            image=cell_image(values["image"], where),
            query=values["text"],
            mask=mask.astype(bool),
            metadata={"image_id": values["image_id"], "ann_id": row.get("ann_id")},
        )

    def picture(self, index: int) -> bytes:
        """The encoded picture of a row."""
        return cell_bytes(self._table.row(index)[self._columns["image"]], self._table.where(index))


def open_reasonseg(
    path: str | Path,
    split: str,
    *,
    texts: Literal["first", "all"] | None,
    fields: dict[str, str] | None = None,
) -> ReasonSegSource | ReasonSegExport:
    """The folder in whichever of the two forms it has.

    Raises:
        InputError: It is missing or has neither.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"dataset {path}: no such folder; check the path")
    if table_files(path, split):
        return ReasonSegExport(path, split, fields=fields)
    return ReasonSegSource(path, split, texts=texts)


def _record(path: Path) -> dict[str, Any]:
    record = read_json(path, fallback="cp1252")
    texts = record.get("text") if isinstance(record, dict) else None
    if not isinstance(texts, list) or not texts:
        raise InputError(f"dataset {path}: text is {texts!r:.60}, expected a list of questions")
    return record
