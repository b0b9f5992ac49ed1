"""A training set like the published refCOCOg_9k_840, from RefCOCOg itself.

One row for each object: its first expression, the picture squashed to 840x840, box and two points of its mask in that
frame, and the size of the original picture. Which 9,000 of the 42,226 training objects were published, and whether a
segmenter filtered them, is unknown; here a seed draws them.

Source: Seg-Zero `prepare_dataset` @42a3345.
"""

import dataclasses

import numpy as np

from pixelthink_jax.data.area_resize import area_resize
from pixelthink_jax.data.rows import png_bytes
from pixelthink_jax.data.sources.refcoco import RefCocoSource
from pixelthink_jax.data.targets import FRAME
from pixelthink_jax.types import Example


class TrainingRows:
    """Rows of an 840x840 training set, made when they are asked for."""

    def __init__(self, source: RefCocoSource, *, examples: int | None = None, seed: int = 0):
        """Draws objects.

        Args:
            source: One expression of each object (`texts="first"`).
            examples: How many objects; None takes all, in their own order.
            seed: Of the draw.
        """
        self._source = source
        self._chosen = np.arange(len(source))
        if examples is not None and examples < len(source):
            self._chosen = np.sort(np.random.default_rng(seed).permutation(len(source))[:examples])
        self._last: tuple[int, Example] | None = None

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Example:
        if self._last is None or self._last[0] != index:
            self._last = index, self._make(int(self._chosen[index]))
        return self._last[1]

    def picture(self, index: int) -> bytes:
        """The squashed picture of a row as PNG."""
        return png_bytes(self[index].image)

    def _make(self, chosen: int) -> Example:
        example = self._source[chosen]
        height, width = example.image.shape[:2]
        return dataclasses.replace(
            example,
            image=area_resize(example.image, FRAME, FRAME),
            query=clean_expression(self._source.words(chosen)),
            mask=self._source.framed_mask(chosen),
            metadata={**example.metadata, "img_height": height, "img_width": width},
        )


def clean_expression(text: str) -> str:
    """An expression as the published builder writes it.

    >>> clean_expression(" Cat on the LEFT. ")
    'cat on the left'
    """
    return text.lower().strip().strip(".?!")
