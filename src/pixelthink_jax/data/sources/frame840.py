"""The published 840x840 training sets: refCOCOg_9k_840, 2k_840, and the multi-object 1k and 7k of VisionReasoner.

Columns `id`, `problem`, `solution`, `image`, `img_height`, `img_width`. They hold no masks: where RefCOCOg's
`instances.json` is given, masks come from it by the annotation ids in `id`, drawn in the 840 frame of the picture.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from pixelthink_jax.answers import parse_objects, parse_solution
from pixelthink_jax.data.rows import cell_bytes, cell_image, make_example
from pixelthink_jax.data.sources.coco import Instances
from pixelthink_jax.data.sources.tables import Table, table_files
from pixelthink_jax.data.targets import FRAME
from pixelthink_jax.errors import InputError
from pixelthink_jax.types import Example

_COLUMNS = ("id", "problem", "solution", "image", "img_height", "img_width")


class Frame840Source:
    """Rows of an 840x840 set; `solution` is as published, a string or, for several objects, a JSON list."""

    def __init__(
        self,
        path: str | Path,
        split: str,
        *,
        several: bool,
        instances: str | Path | None = None,
        fields: dict[str, str] | None = None,
    ):
        """Opens the files.

        Args:
            path: Folder of parquet or arrow files, or one file.
            split: They have `train` only.
            several: Whether solutions are JSON lists of objects.
            instances: RefCOCOg's `instances.json`.
            fields: Columns that are called otherwise, by their published name.

        Raises:
            InputError: A file is missing or damaged, or a column is missing.
        """
        self._table = Table(table_files(path, split))
        self._columns = column_names(self._table, _COLUMNS, fields or {}, str(path))
        self._several = several
        self._instances = None if instances is None else Instances(instances)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Example:
        row, where = self._table.row(index), self._table.where(index)
        values = {name: row[column] for name, column in self._columns.items()}
        id, solution = str(values["id"]), values["solution"]
        _check_solution(solution, where, several=self._several)
        return make_example(
            where,
            id=id,
            image=cell_image(values["image"], where),
            query=values["problem"],
            mask=self._mask(id, values["img_width"], values["img_height"], where),
            solution=solution,
            metadata={"img_height": values["img_height"], "img_width": values["img_width"]},
        )

    def picture(self, index: int) -> bytes:
        """The encoded picture of a row."""
        return cell_bytes(self._table.row(index)[self._columns["image"]], self._table.where(index))

    def _mask(self, id: str, width: Any, height: Any, where: str) -> Bool[np.ndarray, "H W"] | None:
        """All objects of a row, or None where no annotations were given."""
        if self._instances is None:
            return None
        mask = np.zeros((FRAME, FRAME), bool)
        for annotation in annotation_ids(id, where):
            image = self._instances.image_of(annotation)
            if (image["width"], image["height"]) != (width, height):
                raise InputError(
                    f"{where}: its image was {width}x{height}, that of annotation {annotation} is "
                    f"{image['width']}x{image['height']}; files.instances belongs to another dataset"
                )
            mask |= self._instances.layers(annotation, framed=True) > 0
        return mask


def annotation_ids(id: str, where: str) -> list[int]:
    """The annotations that a row's name lists.

    Raises:
        InputError: It lists none.

    >>> annotation_ids("refcocog_161801_162109", "here")
    [161801, 162109]
    """
    numbers = id.split("_")[1:]
    if not numbers or not all(number.isdecimal() and number.isascii() for number in numbers):
        raise InputError(f"{where}: id {id!r:.60} names no annotations; expected refcocog_<annotation id>")
    return [int(number) for number in numbers]


def column_names(table: Table, wanted: tuple[str, ...], fields: dict[str, str], path: str) -> dict[str, str]:
    """The column of each role.

    Raises:
        InputError: One is not there.
    """
    for role in fields:
        if role not in wanted:
            raise InputError(f"files.fields: unknown role {role!r}; expected one of {', '.join(wanted)}")
    names = {role: fields.get(role, role) for role in wanted}
    missing = [column for column in names.values() if column not in table.columns]
    if missing:
        raise InputError(
            f"dataset {path}: no column {missing[0]!r} among {', '.join(table.columns)}; name it in files.fields "
            "(pixelthink prepare --inspect proposes a mapping)"
        )
    return names


def _check_solution(solution: Any, where: str, *, several: bool) -> None:
    if not isinstance(solution, str):
        raise InputError(f"{where}: solution is {solution!r:.60}, expected a text")
    try:
        if not several:
            parse_solution(solution)
        elif not solution.lstrip().startswith("[") or not parse_objects(solution):
            raise InputError(f"solution {solution[:80]!r}: expected a list of objects")
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
