"""ShapeReason on disk: a TensorFlow Datasets builder to ArrayRecord, and reading it back as `Example` rows.

No TensorFlow is loaded: the file format is always ArrayRecord, pictures and masks are handed over as PNG
bytes, and rows are read through `as_data_source`. A stored row equals the generated one bit for bit.
"""

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from pixelthink_jax.data.building import write_dataset
from pixelthink_jax.data.shapes.world import ShapeReason, metadata_text
from pixelthink_jax.errors import InputError
from pixelthink_jax.types import Example

NAME = "shape_reason"
DATA_VERSION = "1.0.0"
DESCRIPTION = """Procedural reasoning-segmentation scenes: drawn shapes on textured backgrounds, a question in
words, the mask, box and two points of its one answer, three difficulty sub-scores, and a reasoning chain.
Boxes and points are integers in an 840x840 frame. Deterministic from (seed, split, row)."""
SMALL_SIZES: dict[str, int] = {"train": 2000, "validation": 500, "tuning": 500, "test": 1000, "ood": 500}
_TEXTS = ("id", "query", "solution", "level", "completion", "instruction", "metadata")


def build_shapereason(out_dir: str | Path, sizes: Mapping[str, int] | None = None, *, seed: int = 0) -> Path:
    """Write the first rows of each split under `out_dir`.

    Args:
        out_dir: Parent folder; created if absent.
        sizes: Rows of each split; None means `SMALL_SIZES`.
        seed: World seed.

    Returns:
        The folder that `read_shapereason` takes.

    Raises:
        InputError: A split is unknown, a size is not within the split, or the folder already holds a data
            set.
    """
    sizes = dict(SMALL_SIZES if sizes is None else sizes)
    sources: dict[str, ShapeReason] = {}
    for split, size in sizes.items():
        try:
            sources[split] = ShapeReason(split, seed=seed)
        except ValueError as error:
            raise InputError(str(error)) from error
        if not 0 < size <= len(sources[split]):
            raise InputError(
                f"split {split!r} of {size} rows: expected 1 to {len(sources[split])}; change its size"
            )
    builder = _builder_class()(sources, sizes, data_dir=str(out_dir), file_format="array_record")
    return write_dataset(builder)


def read_shapereason(folder: str | Path, split: str) -> "StoredShapeReason":
    """Open one split of a built data set for random access.

    Raises:
        InputError: The folder holds no built data set, or it has no such split.
    """
    import tensorflow_datasets as tfds

    folder = Path(folder)
    if not (folder / "dataset_info.json").is_file():
        raise InputError(
            f"{folder} holds no built data set (no dataset_info.json): build one, or name its folder"
        )
    builder: Any = tfds.builder_from_directory(str(folder))
    if split not in builder.info.splits:
        known = ", ".join(builder.info.splits)
        raise InputError(f"{folder} has no split {split!r}: expected one of {known}")
    skip = {"image": tfds.decode.SkipDecoding(), "mask": tfds.decode.SkipDecoding()}
    return StoredShapeReason(builder.as_data_source(split, decoders=skip))


class StoredShapeReason:
    """Random-access `Example` rows over the TFDS data source of one split."""

    def __init__(self, rows: Any):
        """Wrap a TFDS data source whose pictures are left undecoded."""
        self._rows = rows

    def __len__(self) -> int:
        """Number of rows of the split."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        """One row, decoded."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return decode_row(self._rows[index % len(self)])

    def __iter__(self) -> Iterator[Example]:
        """All rows in order."""
        return (self[i] for i in range(len(self)))


def encode_row(example: Example) -> dict[str, Any]:
    """An example as stored: PNG bytes, texts and the difficulty."""
    if example.mask is None or example.difficulty is None:
        raise ValueError(f"row {example.id} has no mask or no difficulty")
    return {
        "image": io.BytesIO(_png(example.image)),
        "mask": io.BytesIO(_png(example.mask.astype(np.uint8) * 255)),
        "difficulty": example.difficulty,
        "metadata": metadata_text(example),
        **{name: getattr(example, name) or "" for name in _TEXTS if name != "metadata"},
    }


def decode_row(row: Mapping[str, Any]) -> Example:
    """The inverse of `encode_row`, from bytes."""
    texts = {name: bytes(row[name]).decode() for name in _TEXTS}
    metadata = json.loads(texts.pop("metadata"))
    instruction = texts.pop("instruction") or None
    return Example(
        image=_pixels(row["image"]),
        mask=_pixels(row["mask"]) > 0,
        difficulty=round(float(row["difficulty"]), 3),
        instruction=instruction,
        metadata=metadata,
        **cast(Any, texts),
    )


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def _pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.array(picture)


def _builder_class() -> type:
    """The TFDS builder class, defined on first use so that importing this module does not load TFDS."""
    import tensorflow_datasets as tfds

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """ShapeReason rows as ArrayRecord."""

        name = NAME
        VERSION = tfds.core.Version(DATA_VERSION)
        RELEASE_NOTES = {DATA_VERSION: "First version."}
        # TFDS looks for checksum files next to a builder's source, through a package it does not declare.
        # There are none: nothing is downloaded.
        code_path = None

        def __init__(self, sources: dict[str, ShapeReason], sizes: dict[str, int], **kwargs: Any):
            self._sources, self._sizes = sources, sizes
            super().__init__(**kwargs)

        def _info(self) -> tfds.core.DatasetInfo:
            text = tfds.features.Text()
            features = {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "mask": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                "difficulty": np.float32,
                **dict.fromkeys(_TEXTS, text),
            }
            # Rows stay in the world's order, so row i on disk is row i of the generator.
            return tfds.core.DatasetInfo(
                builder=self,
                description=DESCRIPTION,
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
            del dl_manager  # Nothing is downloaded: every row is drawn.
            return {split: self._generate_examples(split) for split in self._sources}

        def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
            source = self._sources[split]
            for index in range(self._sizes[split]):
                yield index, encode_row(source[index])

    return Builder
