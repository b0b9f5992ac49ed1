"""Which datasets there are by name, and what of their files a config may say."""

from dataclasses import dataclass, field
from typing import Literal

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


def check_dataset(name: str, path: str | None, files: FilesConfig) -> None:
    """Refuses a dataset without what it needs.

    Raises:
        InputError: A path or a file is missing.
    """
    if name != "shapereason" and not path:
        raise InputError(f"data: {name} needs a path")
    if name == "reasonseg_diff" and not files.annotations:
        raise InputError(
            "data: reasonseg_diff needs files.annotations, the JSON with difficulty and references"
        )
