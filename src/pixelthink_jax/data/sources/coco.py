"""COCO's `instances.json`: images and annotations by id, masks on demand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from pixelthink_jax.data.masks import count_layers
from pixelthink_jax.data.sources.json_files import read_json
from pixelthink_jax.data.targets import FRAME
from pixelthink_jax.errors import InputError
from pixelthink_jax.processing.images import MAX_IMAGE_PIXELS


class Instances:
    """Annotations of a COCO file."""

    def __init__(self, path: str | Path):
        """Reads the file.

        Raises:
            InputError: It is missing or is no COCO instances file.
        """
        self.path = Path(path)
        tree = read_json(self.path)
        try:
            self._images: dict[int, Mapping[str, Any]] = {image["id"]: image for image in tree["images"]}
            self._annotations: dict[int, Mapping[str, Any]] = {row["id"]: row for row in tree["annotations"]}
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"dataset {self.path}: not COCO instances (images and annotations, each with an id)"
            ) from error

    def image(self, number: Any, where: str) -> Mapping[str, Any]:
        """An image record by its id: `file_name`, `width`, `height`.

        Args:
            number: The id.
            where: What asks for it, for the message.

        Raises:
            InputError: There is none, or it is damaged.
        """
        found = self._images.get(number) if type(number) is int else None
        kinds = {"file_name": str, "width": int, "height": int}
        if found is None or any(type(found.get(key)) is not kind for key, kind in kinds.items()):
            raise InputError(f"{where}: image {number!r:.40} is not in {self.path}, or without name and size")
        width, height = found["width"], found["height"]
        if min(width, height) < 1 or width * height > MAX_IMAGE_PIXELS:
            size = f"{width!s:.20}x{height!s:.20}"
            raise InputError(
                f"{where}: image {number} is said to have {size} pixels; expected 1 to {MAX_IMAGE_PIXELS}"
            )
        return found

    def image_of(self, annotation: int) -> Mapping[str, Any]:
        """The image record of an annotation.

        Raises:
            InputError: There is no such annotation or image.
        """
        row = self._annotations.get(annotation)
        if row is None:
            raise InputError(f"{self.path}, annotation {annotation}: it is not there")
        return self.image(row.get("image_id"), f"{self.path}, annotation {annotation}")

    def layers(self, annotation: int, *, framed: bool = False) -> UInt8[np.ndarray, "H W"]:
        """How many parts of the annotation lie on each pixel.

        Args:
            annotation: Its id.
            framed: In the 840x840 frame instead of the image's pixels; polygons are scaled before they are drawn.

        Raises:
            InputError: There is no such annotation, or its segmentation is damaged.
        """
        image, where = self.image_of(annotation), f"{self.path}, annotation {annotation}"
        width, height = image["width"], image["height"]
        parts: Any = self._annotations[annotation].get("segmentation")
        layers = count_layers(parts, height, width, where)
        if not framed:
            return layers
        if isinstance(parts, Mapping):
            rows, columns = (np.arange(FRAME) * side // FRAME for side in (height, width))
            return layers[rows][:, columns]
        scale = np.array([FRAME / width, FRAME / height])
        scaled = [(np.reshape(part, (-1, 2)) * scale).ravel().tolist() for part in parts]
        return count_layers(scaled, FRAME, FRAME, where)


def find_instances(folder: Path) -> Instances:
    """`instances.json` of a folder.

    Raises:
        InputError: It is not there.
    """
    return Instances(folder / "instances.json")
