"""One mask against one target under a protocol: IoU, or the reason why the example is left out."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation.metrics import IGNORE, Ignore, intersection_union
from pixelthink_jax.evaluation.protocols.protocol import EvaluationProtocol


@dataclass(frozen=True)
class MaskScore:
    """What a mask is worth.

    Attributes:
        iou: In [0, 1]; 0 for a skipped example.
        intersection: Pixels in both masks.
        union: Pixels in either.
        skipped: Why the example is left out of the averages; None if it counts.
    """

    iou: float
    intersection: int
    union: int
    skipped: str | None = None


def score_mask(
    prediction: Bool[np.ndarray, "H W"],
    target: Bool[np.ndarray, "H2 W2"] | UInt8[np.ndarray, "H2 W2"],
    protocol: EvaluationProtocol,
    *,
    answered: bool,
    boxes: int,
) -> MaskScore:
    """Scores a predicted mask.

    Args:
        prediction: At the size of the image; all False where there was no answer.
        target: The true mask; in uint8, 1 is target and 255 ignore.
        protocol: The convention.
        answered: The completion held an answer that could be read.
        boxes: How many boxes it gave.

    Raises:
        InputError: The masks differ in size and the protocol does not skip such examples.

    >>> from pixelthink_jax.evaluation.protocols import evaluation_protocol
    >>> empty = np.zeros((2, 2), bool)
    >>> score_mask(empty, empty, evaluation_protocol("seg_zero"), answered=True, boxes=1).skipped
    'empty union'
    >>> score_mask(empty, empty, evaluation_protocol("lisa"), answered=False, boxes=0).iou
    1.0
    """
    if protocol.empty_union == "skip" and not answered:
        # The script's handler of failures never compares the masks: it writes 0 over the target's pixels.
        return MaskScore(0.0, 0, target_pixels(target, protocol.ignore))
    if prediction.shape != target.shape:
        if protocol.size_mismatch == "skip":
            return MaskScore(0.0, 0, 0, "mask and image differ in size")
        raise InputError(
            f"its mask is {_size(target)} pixels, its image {_size(prediction)}; an image with a rotation tag that was "
            "applied to one of them only is the usual cause"
        )
    intersection, union = intersection_union(prediction, target, ignore=protocol.ignore)
    if union:
        return MaskScore(intersection / (union + protocol.iou_epsilon), intersection, union)
    if protocol.empty_union == "skip":
        return MaskScore(0.0, 0, 0, "empty union")
    hit = {"answered": answered, "one": True, "no_boxes": boxes == 0}[protocol.empty_union]
    return MaskScore(float(hit), 0, 0)


def target_pixels(
    target: Bool[np.ndarray, "H W"] | UInt8[np.ndarray, "H W"], ignore: Ignore = "exclude"
) -> int:
    """Pixels of the target under a convention for ignore pixels.

    >>> target = np.array([[0, 1, 255]], np.uint8)
    >>> target_pixels(target), target_pixels(target, "target")
    (1, 2)
    """
    wanted = target != 0
    return int(np.count_nonzero(wanted if ignore == "target" else wanted & (target != IGNORE)))


def _size(mask: np.ndarray) -> str:
    return f"{mask.shape[1]}x{mask.shape[0]}"
