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
            self.images: dict[int, Mapping[str, Any]] = {image["id"]: image for image in tree["images"]}
            self._annotations = {row["id"]: row for row in tree["annotations"]}
        except (KeyError, TypeError) as error:
            raise InputError(
                f"dataset {self.path}: not COCO instances (images and annotations, each with an id)"
            ) from error

    def image_id(self, annotation: int) -> Any:
        """The image that an annotation is on.

        Raises:
            InputError: There is no such annotation.
        """
        self.image_of(annotation)
        return self._annotations[annotation]["image_id"]

    def image(self, number: Any, where: str) -> Mapping[str, Any]:
        """An image record by its id.

        Args:
            number: The id.
            where: What asks for it, for the message.

        Raises:
            InputError: There is none.
        """
        found = self.images.get(number)
        if found is None:
            raise InputError(f"{where}: image {number!r:.40} is not in {self.path}")
        return found

    def image_of(self, annotation: int) -> Mapping[str, Any]:
        """The image record of an annotation: `file_name`, `width`, `height`.

        Raises:
            InputError: There is no such annotation or image.
        """
        row = self._annotations.get(annotation)
        image = None if row is None else self.images.get(row.get("image_id"))
        if image is None or not all(type(image.get(key)) is int for key in ("width", "height")):
            raise InputError(f"{self.path}, annotation {annotation}: it or its image is not there")
        return image

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
        parts = self._annotations[annotation].get("segmentation")
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
