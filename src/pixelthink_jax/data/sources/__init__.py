"""Datasets by name, as random-access sources of `Example`."""

from pathlib import Path

from pixelthink_jax.data.config import FilesConfig
from pixelthink_jax.data.pipeline import ExampleSource, FileSource
from pixelthink_jax.data.shapes import ShapeReason
from pixelthink_jax.data.sources.combined import FirstExamples, FirstPictures, GivenBeginnings, MixedSource
from pixelthink_jax.data.sources.frame840 import Frame840Source
from pixelthink_jax.data.sources.own import JsonlSource, open_own
from pixelthink_jax.data.sources.reasonseg import open_reasonseg
from pixelthink_jax.data.sources.reasonseg_diff import AnnotatedSource
from pixelthink_jax.data.sources.refcoco import REFS_FILES, RefCocoSource
from pixelthink_jax.errors import InputError
from pixelthink_jax.runtime.remote import on_this_machine

__all__ = [
    "FirstExamples",
    "FirstPictures",
    "GivenBeginnings",
    "JsonlSource",
    "MixedSource",
    "RefCocoSource",
    "open_files",
    "open_source",
]
FILE_DATASETS = (*REFS_FILES, "refcocog_840", "multi_object_840", "reasonseg", "reasonseg_diff", "own")


def open_source(
    name: str,
    *,
    split: str = "train",
    task: str = "reason",
    path: str | Path | None = None,
    examples: int | None = None,
    chain_style: str | None = None,
    level: str | None = None,
    brief: bool = False,
    most_objects: int | None = None,
    render_size: tuple[int, int] | None = None,
    files: FilesConfig | None = None,
) -> ExampleSource:
    """Opens a dataset.

    Args:
        name: `shapereason` (rendered on demand), `array_record` (a folder of `pixelthink prepare`), `jsonl`, or a
            published format (`data.config.DatasetName`).
        split: Split of the dataset; `jsonl` has none.
        task: Of `shapereason`, one of `shapes.world.TASKS`.
        path: Folder or file; `shapereason` has none. One on an object store is copied to this machine first.
        examples: Keep only that many, from the start.
        chain_style: Of `shapereason` with `reason`: the style of every chain; None draws it.
        level: Of `shapereason` with `reason`: questions of that level only.
        brief: Of `shapereason` with `reason`: every row asks for brevity.
        most_objects: Of `shapereason` but with `reason`: scenes of at most that many objects.
        render_size: `(width, height)` at which `shapereason` draws its pictures; None draws canvas size.
        files: Further files and column names of a published format.

    Raises:
        InputError: The dataset is unknown, or its file cannot be read.
    """
    path = None if path is None else on_this_machine(path)
    if name == "shapereason":
        source: ExampleSource = ShapeReason(
            split,
            task=task,
            chain_style=chain_style,
            level=level,
            brief=brief,
            render_size=render_size,
            most_objects=most_objects,
        )
    elif path is None and name in ("array_record", "jsonl", *FILE_DATASETS):
        raise InputError(
            f"dataset {name}: give its path; of array_record, the folder `pixelthink prepare` made"
        )
    elif name == "array_record":
        from pixelthink_jax.data.prepared import read_prepared

        source = read_prepared(path or "", split)
    elif name == "jsonl":
        source = JsonlSource(path, (files or FilesConfig()).fields)
    else:
        source = open_files(name, path or "", split, files or FilesConfig())
    return source if examples is None else FirstExamples(source, examples)


def open_files(name: str, path: str | Path, split: str, files: FilesConfig) -> FileSource:
    """Opens a dataset in the format it was published in, or one's own.

    Raises:
        InputError: The dataset is unknown, or a file of it is missing or damaged.
    """
    if name in REFS_FILES:
        return RefCocoSource(name, path, split, images=files.images, texts=files.texts)
    if name in ("refcocog_840", "multi_object_840"):
        several = name == "multi_object_840"
        return Frame840Source(path, split, several=several, instances=files.instances, fields=files.fields)
    if name == "reasonseg":
        return open_reasonseg(path, split, texts=files.texts, fields=files.fields)
    if name == "reasonseg_diff":
        questions = open_reasonseg(path, split, texts=files.texts)
        return AnnotatedSource(questions, files.annotations or "", files.fields)
    if name == "own":
        return open_own(path, split, files.fields)
    known = ", ".join(("shapereason", "array_record", "jsonl", *FILE_DATASETS))
    raise InputError(f"dataset {name!r}: expected {known}")
