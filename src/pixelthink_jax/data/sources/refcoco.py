"""RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO as the refer toolkits keep them: references and `instances.json`.

A row is one expression. Queries are lower-cased and stripped, as every published evaluation does. The mask is the union
of the polygons; boxes and points leave overlaps out, as the published builders do.

An expression of gRefCOCO means any number of objects: its `ann_id` is a list, `[-1]` where nothing in the picture is
meant. Its rows have a list of objects as solution, as the multi-object sets do, and an empty mask where that is empty.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, UInt8

from pixelthink_jax.data.rows import file_bytes, listed_object, load_picture, make_example, mask_solution
from pixelthink_jax.data.sources.coco import find_instances
from pixelthink_jax.data.sources.json_files import read_json
from pixelthink_jax.data.sources.plain_pickle import read_plain_pickle
from pixelthink_jax.errors import InputError
from pixelthink_jax.types import Example

REFS_FILES = {
    "refcoco": "refs(unc).p",
    "refcoco+": "refs(unc).p",
    "refcocog": "refs(umd).p",
    "grefcoco": "grefs(unc).p",
}
"""File of references by dataset; one that ends in `.json` does as well."""

GENERALIZED = "grefcoco"
_NO_TARGET = [-1]
_IMAGES = ("images/mscoco/images/train2014", "images/train2014", "train2014", "images")
_KEYS = {"split": str, "sentences": list}


class RefCocoSource:
    """Expressions of one split."""

    def __init__(
        self,
        name: str,
        path: str | Path,
        split: str,
        *,
        images: str | Path | None = None,
        texts: Literal["first", "all"] | None = None,
    ):
        """Reads references and annotations, not the pictures.

        Args:
            name: One of `REFS_FILES`.
            path: Folder of the dataset, or the one it lies in.
            split: `train`, `val`, `test`, `testA` or `testB`.
            images: Folder of COCO's train2014 pictures; None looks beside the dataset.
            texts: `first` takes one expression of each object; otherwise each is a row.

        Raises:
            InputError: A file is missing or damaged, or has no such split.
        """
        self._name, self._folder = name, _dataset_folder(Path(path), name)
        self._images = _image_folder(self._folder, images)
        refs = read_refs(self._folder, name)
        splits = sorted({ref["split"] for ref in refs})
        if split not in splits:
            raise InputError(
                f"dataset {self._folder}: no split {split!r}; expected one of {', '.join(splits)}"
            )
        self._instances = find_instances(self._folder)
        self._only_first = texts == "first"
        self._rows = [
            (ref, sentence)
            for ref in refs
            if ref["split"] == split
            for sentence in ref["sentences"][: 1 if self._only_first else None]
        ]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        ref, sentence = self._rows[index]
        annotations, where = annotations_of(ref), self._where(ref)
        layers = [self._instances.layers(annotation) for annotation in annotations]
        image = load_picture(self._picture_path(ref), where)
        mask = np.any(np.stack(layers) > 0, axis=0) if layers else np.zeros(image.shape[:2], bool)
        id = f"{self._name}_{ref['ref_id'] if self._name == GENERALIZED else annotations[0]}"
        return make_example(
            where,
            id=id if self._only_first else f"{id}/{sentence.get('sent_id')}",
            image=image,
            query=query_of(sentence, where),
            mask=mask,
            solution=self._solution(layers, where),
            no_target=not annotations,
            metadata={"image_id": ref.get("image_id"), "ann_id": ref["ann_id"]},
        )

    def picture(self, index: int) -> bytes:
        """The file of a row's picture."""
        ref, _ = self._rows[index]
        return file_bytes(self._picture_path(ref), self._where(ref))

    def framed_mask(self, index: int) -> Bool[np.ndarray, "H W"]:
        """The one object of a row in the 840 frame."""
        [annotation] = annotations_of(self._rows[index][0])
        return self._instances.layers(annotation, framed=True) > 0

    def words(self, index: int) -> str:
        """The expression of a row as it was typed."""
        _, sentence = self._rows[index]
        return str(sentence.get("raw", sentence.get("sent", "")))

    def _solution(self, layers: Sequence[UInt8[np.ndarray, "H W"]], where: str) -> str:
        """What the reward reads: one object, or a list of any number."""
        if not all(layer.any() for layer in layers):
            raise InputError(f"{where}: the mask of an object is empty; leave the row out or correct it")
        objects = [layer == 1 if (layer == 1).any() else layer > 0 for layer in layers]
        if self._name == GENERALIZED:
            return json.dumps([listed_object(pixels) for pixels in objects])
        return mask_solution(objects[0])

    def _picture_path(self, ref: Mapping[str, Any]) -> Path:
        annotations = annotations_of(ref)
        # A question without a target has no annotation, and says itself which picture it is about.
        about = self._instances.image_of(annotations[0]) if annotations else None
        record = about or self._instances.image(ref.get("image_id"), self._where(ref))
        return self._images / record["file_name"]

    def _where(self, ref: Mapping[str, Any]) -> str:
        about = f"reference {ref['ref_id']}" if self._name == GENERALIZED else f"annotation {ref['ann_id']}"
        return f"dataset {self._folder}, {about}"


def query_of(sentence: Mapping[str, Any], where: str) -> str:
    """The words of an expression, lower case.

    Raises:
        InputError: There are none.

    >>> query_of({"sent": " Left Cat"}, "here")
    'left cat'
    """
    text = sentence.get("sent", sentence.get("raw"))
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: its sentence is {sentence!r:.80}, expected a text under sent or raw")
    return text.strip().lower()


def annotations_of(ref: Mapping[str, Any]) -> tuple[int, ...]:
    """Annotations of a reference, none where nothing in the picture is meant.

    Raises:
        ValueError: `ann_id` is neither a number nor a list of numbers.

    >>> [annotations_of({"ann_id": found}) for found in (7, [7, 8], [-1])]
    [(7,), (7, 8), ()]
    """
    found = ref.get("ann_id")
    numbers = [found] if type(found) is int else found
    if numbers == _NO_TARGET:
        return ()
    if not isinstance(numbers, list) or not numbers or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError(f"ann_id {found!r:.60}")
    return tuple(numbers)


def read_refs(folder: Path, name: str) -> list[dict[str, Any]]:
    """The references of a dataset, checked; a `.json` of the same name does as well as the pickle.

    Raises:
        InputError: The file is missing, holds code, or is no list of references.
    """
    path = refs_file(folder, name)
    refs = read_json(path) if path.suffix == ".json" else read_plain_pickle(path)
    if not isinstance(refs, list) or not refs:
        raise InputError(f"{path}: expected a list of references, got {type(refs).__name__}")
    for place, ref in enumerate(refs):
        if not _is_reference(ref, several=name == GENERALIZED):
            keys = "ref_id, " if name == GENERALIZED else ""
            raise InputError(
                f"{path}, record {place}: expected {keys}ann_id, split and sentences, got {ref!r:.80}"
            )
        if not all(isinstance(sentence, dict) for sentence in ref["sentences"]):
            raise InputError(f"{path}, record {place}: its sentences are no records")
    return refs


def refs_file(folder: Path, name: str) -> Path:
    """The file of references of a dataset, whether it is there or not."""
    path = folder / REFS_FILES[name]
    as_json = path.with_suffix(".json")
    return as_json if as_json.is_file() and not path.is_file() else path


def _is_reference(ref: Any, *, several: bool) -> bool:
    if not isinstance(ref, dict) or any(type(ref.get(key)) is not kind for key, kind in _KEYS.items()):
        return False
    try:
        annotations_of(ref)
    except ValueError:
        return False
    return type(ref.get("ref_id" if several else "ann_id")) is int


def _dataset_folder(path: Path, name: str) -> Path:
    folder = path / name if (path / name).is_dir() else path
    if not folder.is_dir():
        raise InputError(f"dataset {path}: no such folder; expected {name}/{REFS_FILES[name]} in it")
    return folder


def _image_folder(folder: Path, images: str | Path | None) -> Path:
    if images is not None:
        if not Path(images).is_dir():
            raise InputError(f"files.images {images}: no such folder; give COCO's train2014")
        return Path(images)
    places = [root / place for root in (folder, folder.parent) for place in _IMAGES]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise InputError(
            f"dataset {folder}: no folder of pictures beside it ({_IMAGES[0]}); set files.images"
        )
    return found
