"""ReasonSeg-Diff: difficulty and reference chains laid over ReasonSeg by image id.

The release has no loader and documents no field names, so these are settings; what they are by default is the
project's own schema.
"""

import dataclasses
from pathlib import Path
from typing import Any

from pixelthink_jax.data.rows import check_difficulty
from pixelthink_jax.data.sources.json_files import read_json, read_lines
from pixelthink_jax.data.sources.reasonseg import ReasonSegExport, ReasonSegSource
from pixelthink_jax.data.targets import difficulty_level
from pixelthink_jax.errors import InputError
from pixelthink_jax.types import Example

ROLES = {
    "id": "image_id",
    "difficulty": "difficulty_score_model",
    "short": "reasoning_short",
    "long": "reasoning_long",
}


class AnnotatedSource:
    """Rows of a source with difficulty, and the chains as `metadata["reasoning_short"]` and `["reasoning_long"]`."""

    def __init__(
        self,
        source: ReasonSegSource | ReasonSegExport,
        path: str | Path,
        fields: dict[str, str] | None = None,
    ):
        """Reads the annotations, which must name at least one row of the source.

        Args:
            source: ReasonSeg.
            path: A JSON list, or JSON lines, of records.
            fields: Keys that are called otherwise, by role: `id`, `difficulty`, `short`, `long`.

        Raises:
            InputError: The file is missing, or a record has no id or no usable difficulty.
        """
        unknown = sorted((fields or {}).keys() - ROLES.keys())
        if unknown:
            raise InputError(f"files.fields: unknown role {unknown[0]!r}; expected one of {', '.join(ROLES)}")
        self._source, self._keys, self._path = source, {**ROLES, **(fields or {})}, Path(path)
        self._records = dict(self._record(where, value) for where, value in read_records(self._path))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        example = self._source[index]
        name = str(example.metadata.get("image_id", example.id))
        if name not in self._records:
            raise InputError(
                f"example {example.id}: dataset {self._path} has no record of it among its {len(self._records)}"
            )
        record = self._records[name]
        score = record["difficulty"]
        return dataclasses.replace(
            example,
            difficulty=score,
            level=None if score is None else difficulty_level(score),
            metadata={
                **example.metadata,
                "reasoning_short": record["short"],
                "reasoning_long": record["long"],
            },
        )

    def picture(self, index: int) -> bytes:
        """The encoded picture of a row."""
        return self._source.picture(index)

    def _record(self, where: str, value: Any) -> tuple[str, dict[str, Any]]:
        if not isinstance(value, dict) or self._keys["id"] not in value:
            raise InputError(
                f"{where}: no key {self._keys['id']!r} in {value!r:.80}; name the keys in files.fields, by the roles "
                f"{', '.join(ROLES)}"
            )
        record = {role: value.get(self._keys[role]) for role in ("difficulty", "short", "long")}
        record["difficulty"] = check_difficulty(record["difficulty"], where)
        return Path(str(value[self._keys["id"]])).stem, record


def read_records(path: Path) -> list[tuple[str, Any]]:
    """Records of a JSON list or of JSON lines, each with its place.

    Raises:
        InputError: The file is missing or holds something else.
    """
    if path.suffix == ".jsonl":
        return read_lines(path)
    tree = read_json(path)
    if not isinstance(tree, list):
        raise InputError(f"dataset {path}: expected a list of records, got {type(tree).__name__}")
    return [(f"dataset {path}, record {place}", value) for place, value in enumerate(tree)]
