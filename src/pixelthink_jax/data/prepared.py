"""Any dataset on disk as ArrayRecord: a TensorFlow Datasets builder, and reading it back as `Example` rows.

Pictures keep their own encoding where that is an upright RGB JPEG or PNG, and are stored as PNG where it is not; masks
are run-length codes. No TensorFlow is loaded. Rows that cannot be read are left out and listed with their cause in
`broken_rows.json` of the dataset's folder.
"""

import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pixelthink_jax.data.building import write_dataset
from pixelthink_jax.data.masks import pack_mask, unpack_mask
from pixelthink_jax.data.pipeline import ExampleSource, FileSource
from pixelthink_jax.data.rows import png_bytes
from pixelthink_jax.data.shapes_builder import NAME as SHAPES_NAME
from pixelthink_jax.data.shapes_builder import read_shapereason
from pixelthink_jax.data.targets import difficulty_level
from pixelthink_jax.errors import InputError
from pixelthink_jax.processing.images import load_image
from pixelthink_jax.types import Example

DATA_VERSION = "1.0.0"
BROKEN_ROWS = "broken_rows.json"
Progress = Callable[[str, int, int], None]
_TEXTS = ("id", "query", "solution", "mask", "completion", "instruction", "metadata")
_ORIENTATION_TAG = 0x0112


@dataclass(frozen=True)
class Built:
    """A dataset that was built.

    Attributes:
        folder: What `read_prepared` takes.
        rows: Rows stored, by split.
        broken: Messages of the rows left out, by split.
    """

    folder: Path
    rows: dict[str, int]
    broken: dict[str, list[str]]


def build_dataset(
    name: str,
    sources: Mapping[str, FileSource],
    out_dir: str | Path,
    *,
    on_progress: Progress | None = None,
) -> Built:
    """Writes a dataset under `out_dir`.

    Args:
        name: Of the dataset; a `+` in it is spelt out.
        sources: Rows of each split.
        out_dir: Parent folder; created if absent.
        on_progress: Called with (split, rows done, rows in all) after each row.

    Raises:
        InputError: The folder already holds the dataset, or a split has no row that can be read.
    """
    broken: dict[str, list[str]] = {split: [] for split in sources}
    plain = name.replace("+", "_plus")
    builder = _builder_class(plain)(
        sources, broken, on_progress, data_dir=str(out_dir), file_format="array_record"
    )
    folder = write_dataset(builder)
    (folder / BROKEN_ROWS).write_text(json.dumps(broken, indent=1, ensure_ascii=False), encoding="utf-8")
    return Built(folder, {s: builder.info.splits[s].num_examples for s in sources}, broken)


def read_prepared(folder: str | Path, split: str) -> ExampleSource:
    """Opens one split of a folder that `pixelthink prepare` made.

    Raises:
        InputError: The folder holds no built dataset, or it has no such split.
    """
    folder = Path(folder)
    if not (folder / "dataset_info.json").is_file():
        raise InputError(
            f"{folder} holds no built data set (no dataset_info.json): build one, or name its folder"
        )
    import tensorflow_datasets as tfds

    builder: Any = tfds.builder_from_directory(str(folder))
    if builder.name == SHAPES_NAME:
        return read_shapereason(folder, split)
    if split not in builder.info.splits:
        known = ", ".join(builder.info.splits)
        raise InputError(f"{folder} has no split {split!r}: expected one of {known}")
    return PreparedSource(builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()}))


class PreparedSource:
    """Random-access rows of one split."""

    def __init__(self, rows: Sequence[Any]):
        """Wraps a TFDS data source whose pictures are left undecoded."""
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return decode_row(self._rows[index])


def encode_row(example: Example, picture: bytes) -> dict[str, Any]:
    """An example as stored."""
    return {
        "image": io.BytesIO(picture if _is_plain(picture) else png_bytes(example.image)),
        "mask": "" if example.mask is None else pack_mask(example.mask),
        "difficulty": math.nan if example.difficulty is None else example.difficulty,
        "metadata": json.dumps(example.metadata),
        **{name: getattr(example, name) or "" for name in _TEXTS if name not in ("mask", "metadata")},
    }


def decode_row(row: Mapping[str, Any]) -> Example:
    """The inverse of `encode_row`."""
    texts = {name: bytes(row[name]).decode() for name in _TEXTS}
    mask, metadata = texts.pop("mask"), json.loads(texts.pop("metadata"))
    score = float(row["difficulty"])
    return Example(
        image=load_image(bytes(row["image"])),
        mask=unpack_mask(mask) if mask else None,
        difficulty=None if math.isnan(score) else score,
        level=None if math.isnan(score) else difficulty_level(score),
        metadata=metadata,
        id=texts["id"],
        query=texts["query"],
        solution=texts["solution"] or None,
        completion=texts["completion"] or None,
        instruction=texts["instruction"] or None,
    )


def _is_plain(picture: bytes) -> bool:
    """Whether any reader sees the same upright RGB picture in these bytes."""
    with Image.open(io.BytesIO(picture)) as opened:
        upright = opened.getexif().get(_ORIENTATION_TAG, 1) == 1
        return (
            upright
            and opened.mode == "RGB"
            and opened.format in ("JPEG", "PNG")
            and "transparency" not in opened.info
        )


def _readable_rows(
    split: str, source: FileSource, broken: list[str], on_progress: Progress | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows that can be read; messages of the others go to `broken`."""
    for index in range(len(source)):
        try:
            row = encode_row(source[index], source.picture(index))
        except InputError as error:
            broken.append(str(error))
        else:
            yield index, row
        if on_progress:
            on_progress(split, index + 1, len(source))
    if len(broken) == len(source):
        first = f": {broken[0]}" if broken else ""
        raise InputError(f"split {split}: none of its {len(source)} rows can be read{first}")


def _builder_class(dataset: str) -> type:
    """The TFDS builder class of a dataset; it is made here so that importing this module does not load TFDS."""
    import tensorflow_datasets as tfds

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Rows of a published format as ArrayRecord."""

        name = dataset
        VERSION = tfds.core.Version(DATA_VERSION)
        RELEASE_NOTES = {DATA_VERSION: "First version."}
        code_path = None  # TFDS would look for checksum files beside it; nothing is downloaded.

        def __init__(
            self,
            sources: Mapping[str, FileSource],
            broken: dict[str, list[str]],
            on_progress: Progress | None,
            **kwargs: Any,
        ):
            self._sources, self._broken, self._on_progress = sources, broken, on_progress
            super().__init__(**kwargs)

        def _info(self) -> tfds.core.DatasetInfo:
            text = tfds.features.Text()
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "difficulty": np.float32,
                **dict.fromkeys(_TEXTS, text),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
            del dl_manager  # Nothing is downloaded.
            return {split: self._generate_examples(split) for split in self._sources}

        def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
            yield from _readable_rows(split, self._sources[split], self._broken[split], self._on_progress)

    return Builder
