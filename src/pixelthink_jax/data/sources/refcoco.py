"""RefCOCO, RefCOCO+ and RefCOCOg as the refer toolkit keeps them: `refs(unc).p` or `refs(umd).p`, and `instances.json`.

A row is one expression of one object. Queries are lower-cased and stripped, as every published evaluation does.
The mask is the union of the object's polygons; its box and points leave overlaps out, as the published builder does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from pixelthink_jax.data.rows import load_picture, make_example, mask_solution
from pixelthink_jax.data.sources.coco import find_instances
from pixelthink_jax.data.sources.json_files import read_json
from pixelthink_jax.data.sources.plain_pickle import read_plain_pickle
from pixelthink_jax.errors import InputError
from pixelthink_jax.types import Example

SPLIT_BY = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}
_IMAGES = ("images/mscoco/images/train2014", "images/train2014", "train2014", "images")
_KEYS = {"ann_id": int, "split": str, "sentences": list}


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
            name: `refcoco`, `refcoco+` or `refcocog`.
            path: Folder of the dataset, or the one it lies in.
            split: `train`, `val`, `test`, `testA` or `testB`.
            images: Folder of COCO's train2014 pictures; None looks beside the dataset.
            texts: `first` takes one expression of each object; otherwise each is a row.

        Raises:
            InputError: A file is missing or damaged, or has no such split.
        """
        self._name, self._folder = name, _dataset_folder(Path(path), name)
        self._images = _image_folder(self._folder, images)
        refs = read_refs(self._folder, SPLIT_BY[name])
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
        annotation = ref["ann_id"]
        id = f"{self._name}_{annotation}"
        layers = self._instances.layers(annotation)
        where = f"dataset {self._folder}, annotation {annotation}"
        image = load_picture(self._picture_path(annotation), where)
        once = layers == 1
        return make_example(
            where,
            id=id if self._only_first else f"{id}/{sentence.get('sent_id')}",
            image=image,
            query=query_of(sentence, where),
            mask=layers > 0,
            solution=mask_solution(once) if once.any() else None,
            metadata={"image_id": ref.get("image_id"), "ann_id": annotation},
        )

    def picture(self, index: int) -> bytes:
        """The file of a row's picture."""
        return self._picture_path(self._rows[index][0]["ann_id"]).read_bytes()

    def framed_mask(self, index: int) -> Bool[np.ndarray, "H W"]:
        """The object of a row in the 840 frame."""
        return self._instances.layers(self._rows[index][0]["ann_id"], framed=True) > 0

    def words(self, index: int) -> str:
        """The expression of a row as it was typed."""
        _, sentence = self._rows[index]
        return str(sentence.get("raw", sentence.get("sent", "")))

    def _picture_path(self, annotation: int) -> Path:
        return self._images / str(self._instances.image_of(annotation)["file_name"])


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


def read_refs(folder: Path, split_by: str) -> list[dict[str, Any]]:
    """The references of a dataset, checked; a `.json` of the same name does as well as the pickle.

    Raises:
        InputError: The file is missing, holds code, or is no list of references.
    """
    path = folder / f"refs({split_by}).p"
    as_json = path.with_suffix(".json")
    refs = read_json(as_json) if as_json.is_file() and not path.is_file() else read_plain_pickle(path)
    if not isinstance(refs, list) or not refs:
        raise InputError(f"{path}: expected a list of references, got {type(refs).__name__}")
    for place, ref in enumerate(refs):
        if not isinstance(ref, dict) or any(type(ref.get(key)) is not kind for key, kind in _KEYS.items()):
            raise InputError(f"{path}, record {place}: expected ann_id, split and sentences, got {ref!r:.80}")
        if not all(isinstance(sentence, dict) for sentence in ref["sentences"]):
            raise InputError(f"{path}, record {place}: its sentences are no records")
    return refs


def _dataset_folder(path: Path, name: str) -> Path:
    folder = path / name if (path / name).is_dir() else path
    if not folder.is_dir():
        raise InputError(f"dataset {path}: no such folder; expected {name}/refs({SPLIT_BY[name]}).p in it")
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
