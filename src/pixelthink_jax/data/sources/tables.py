"""Rows of parquet and arrow folders by index, as the datasets library publishes and saves them."""

import re
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pixelthink_jax.errors import InputError

_PART = re.compile(r"(?P<split>.+?)-\d{5}(-of-\d{5})?$")


def table_files(path: str | Path, split: str | None = None) -> list[Path]:
    """The parquet and arrow files of a split, in order.

    A folder with one split only gives that one, whatever it is called: the published ReasonSeg exports call theirs
    `test` in the validation set too.

    Raises:
        InputError: The folder has several splits, and not the one asked for.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix in (".parquet", ".arrow") and not file.name.startswith("cache-")
    )
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(_split_of(file, path), []).append(file)
    if split in splits:
        return splits[split]
    if len(splits) > 1:
        raise InputError(f"dataset {path}: it has no split {split!r}; expected one of {', '.join(splits)}")
    return files


def _split_of(file: Path, root: Path) -> str:
    """`test` of `test-00000-of-00001.parquet` and of `test/data-00000-of-00001.arrow`."""
    found = _PART.match(file.stem)
    name = found["split"] if found else file.stem
    return file.parent.name if name in ("data", "dataset") and file.parent != root else name


class Table:
    """Rows of several files as one sequence of dictionaries.

    An arrow file is mapped; of a parquet file the last row group read is kept, so rows are best asked for in order.
    Nested lists of two levels come as arrays, all else as plain Python values.
    """

    def __init__(self, files: list[Path]):
        """Opens the files' headers.

        Raises:
            InputError: There are none, or one is damaged.
        """
        if not files:
            raise InputError("dataset: no parquet or arrow files; give the folder that holds them")
        self._files = files
        self._open: dict[int, Any] = {}
        self._group: tuple[tuple[int, int], Any] | None = None
        self._groups = [group for index in range(len(files)) for group in self._groups_of(index)]
        self._ends = np.cumsum([rows for _, _, rows in self._groups]).tolist()
        self.columns: dict[str, str] = {f.name: str(f.type) for f in self._schema(0)}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getstate__(self) -> dict[str, Any]:
        """Without the open files, for other processes."""
        return {**self.__dict__, "_open": {}, "_group": None}

    def where(self, index: int) -> str:
        """File and row, for messages."""
        group = bisect_right(self._ends, index)
        file = self._groups[group][0]
        before = [rows for f, _, rows in self._groups[:group] if f == file]
        return f"{self._files[file]}, row {index - (self._ends[group - 1] if group else 0) + sum(before)}"

    def row(self, index: int) -> dict[str, Any]:
        """One row by column.

        Raises:
            IndexError: There is no such row.
            InputError: The file is damaged there.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        group = bisect_right(self._ends, index)
        file, part, _ = self._groups[group]
        if self._group is None or self._group[0] != (file, part):
            self._group = (file, part), self._read(file, part)
        at = index - (self._ends[group - 1] if group else 0)
        columns = self._group[1]
        return {name: _value(columns[name][at], self.where(index)) for name in columns.column_names}

    def _groups_of(self, index: int) -> Iterator[tuple[int, int, int]]:
        """(file, part, rows) of each part that is read at once."""
        opened = self._opened(index)
        if self._files[index].suffix == ".parquet":
            for part in range(opened.num_row_groups):
                yield index, part, opened.metadata.row_group(part).num_rows
        else:
            yield index, 0, opened.num_rows

    def _schema(self, index: int) -> Any:
        opened = self._opened(index)
        return opened.schema_arrow if self._files[index].suffix == ".parquet" else opened.schema

    def _opened(self, index: int) -> Any:
        if index not in self._open:
            self._open[index] = _open_file(self._files[index])
        return self._open[index]

    def _read(self, file: int, part: int) -> Any:
        opened = self._opened(file)
        if self._files[file].suffix != ".parquet":
            return opened
        import pyarrow as pa

        try:
            return opened.read_row_group(part)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{self._files[file]}, row group {part}: damaged ({_short(error)})") from error


def _open_file(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".parquet":
            return pq.ParquetFile(path)
        mapped = pa.memory_map(str(path))
        try:
            return pa.ipc.open_stream(mapped).read_all()
        except pa.ArrowInvalid:  # the other of the two arrow layouts
            return pa.ipc.open_file(mapped).read_all()
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path}: not a {path.suffix[1:]} file, or truncated ({_short(error)}); copy it again"
        ) from error


def _value(scalar: Any, where: str) -> Any:
    """Nested lists of numbers as an array, without a Python object for each pixel."""
    import pyarrow as pa

    lists = (pa.types.is_list, pa.types.is_large_list)
    nested = scalar.type
    if not any(is_list(nested) and any(f(nested.value_type) for f in lists) for is_list in lists):
        return scalar.as_py()
    if not scalar.is_valid or not len(scalar.values):
        return None
    inner = scalar.type.value_type.value_type
    if not (pa.types.is_boolean(inner) or pa.types.is_integer(inner)):
        return scalar.as_py()
    lengths = set(scalar.values.value_lengths().to_pylist())
    if len(lengths) != 1:
        raise InputError(f"{where}: the rows of a mask differ in length")
    return scalar.values.flatten().to_numpy(zero_copy_only=False).reshape(len(scalar.values), -1)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
