"""Which datasets there are by name, what of them a config may say, and which splits are not trained on."""

from dataclasses import dataclass, field
from typing import Literal

from pixelthink_jax.data.shapes import SPLIT_SIZES
from pixelthink_jax.errors import InputError

DatasetName = Literal[
    "shapereason",
    "array_record",
    "jsonl",
    "own",
    "refcocog_840",
    "multi_object_840",
    "refcoco",
    "refcoco+",
    "refcocog",
    "grefcoco",
    "reasonseg",
    "reasonseg_diff",
]


@dataclass(frozen=True)
class FilesConfig:
    """Where a dataset's other files are, and how its columns are called.

    Attributes:
        images: Folder of the pictures that `refcoco`, `refcoco+`, `refcocog` and `grefcoco` name; None looks where the
            refer toolkit keeps them.
        instances: RefCOCOg's `instances.json`, from which `refcocog_840` and `multi_object_840` take masks by
            annotation id; without it they have none and mask measures are refused.
        annotations: Of `reasonseg_diff`: JSON or JSON lines with difficulty and reference chains.
        fields: Column by role where a file calls it otherwise, such as {query: question}; `pixelthink prepare
            --inspect` proposes them.
        texts: Which wordings of a question are rows: `first`, `all`, or None for what the dataset's own protocol
            takes (all of the RefCOCO family, the first of ReasonSeg).
    """

    images: str | None = None
    instances: str | None = None
    annotations: str | None = None
    fields: dict[str, str] = field(default_factory=dict)
    texts: Literal["first", "all"] | None = None


REPORTING_SPLITS = ("test", "ood")
"""Splits of the shape world that only report: training or tuning on them would void what is reported."""

_REFERRING = ("val", "testA", "testB")
HELD_OUT_SPLITS: dict[str, tuple[str, ...]] = {
    "shapereason": REPORTING_SPLITS,
    "refcoco": _REFERRING,
    "refcoco+": _REFERRING,
    "refcocog": ("val", "test"),
    "grefcoco": _REFERRING,
    "reasonseg": ("val", "test"),
    "reasonseg_diff": ("val", "test"),
    "array_record": ("val", "test", "testA", "testB", "ood"),
}
"""Splits that results are reported on, by dataset; one's own rows have none."""


@dataclass(frozen=True)
class DatasetConfig:
    """Where the questions come from.

    Attributes:
        name: `shapereason` renders them; `array_record` reads a folder made by `pixelthink prepare`; `jsonl` reads
            rows {image, query, solution} with image paths relative to the file; the others are published formats and
            one's own data (docs/data.md).
        split: Split of the dataset; not read for `jsonl`.
        path: Folder or file; not read for `shapereason`.
        files: Further files and column names of a published format.
        examples: Use only that many, from the start of the split; None uses all.
    """

    name: DatasetName = "shapereason"
    split: str = "test"
    path: str | None = None
    examples: int | None = None
    files: FilesConfig = field(default_factory=FilesConfig)

    def __post_init__(self) -> None:
        if self.name != "shapereason" and not self.path:
            raise InputError(f"data: {self.name} needs a path")
        if self.name == "reasonseg_diff" and not self.files.annotations:
            raise InputError(
                "data: reasonseg_diff needs files.annotations, the JSON with difficulty and references"
            )
        if self.name == "shapereason" and self.split not in SPLIT_SIZES:
            raise InputError(f"data.split: got {self.split!r}, expected one of {', '.join(SPLIT_SIZES)}")
        if self.examples is not None and self.examples < 1:
            raise InputError(f"data.examples must be at least 1, got {self.examples}; null uses all")

    def check_trainable(self) -> None:
        """Refuses a split that results are reported on.

        Raises:
            InputError: As said.

        >>> DatasetConfig("reasonseg", "val", "data/ReasonSeg").check_trainable()
        Traceback (most recent call last):
        ...
        pixelthink_jax.errors.InputError: data: reasonseg, split val, only reports; train on another, such as train
        """
        if self.split in HELD_OUT_SPLITS.get(self.name, ()):
            raise InputError(
                f"data: {self.name}, split {self.split}, only reports; train on another, such as train"
            )
