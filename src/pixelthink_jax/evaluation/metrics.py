"""Mask and box measures of reasoning segmentation.

`giou` and `ciou` are this field's dataset metrics (method section 12): the mean of per-image IoUs, and the sum of
intersections over the sum of unions. Neither is the generalised or complete IoU of box regression.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8

from pixelthink_jax.types import Box

IGNORE = 255
Ignore = Literal["exclude", "target", "background"]


def intersection_union(
    prediction: Bool[np.ndarray, "H W"],
    target: Bool[np.ndarray, "H W"] | UInt8[np.ndarray, "H W"],
    *,
    ignore: Ignore = "exclude",
) -> tuple[int, int]:
    """Pixels in both masks, and in either.

    Args:
        prediction: The predicted mask.
        target: The true mask; in uint8, 1 is target and 255 is ignore.
        ignore: What ignore pixels count as: left out of both masks (`lisa`), part of the target (`segzero`), or
            background (`lens`).

    Raises:
        ValueError: The masks differ in size.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction is {prediction.shape}, target is {target.shape}; expected equal sizes")
    predicted, wanted = prediction.astype(bool, copy=False), target
    if target.dtype != np.bool_:
        ignored = target == IGNORE
        wanted = (target != 0) if ignore == "target" else (target != 0) & ~ignored
        predicted = predicted & ~ignored if ignore == "exclude" else predicted
    # Counts of bits rather than of a second combined mask: the union follows from three of them.
    shared = int(np.count_nonzero(predicted & wanted))
    return shared, int(np.count_nonzero(predicted)) + int(np.count_nonzero(wanted)) - shared


def mask_iou(
    prediction: Bool[np.ndarray, "H W"],
    target: Bool[np.ndarray, "H W"] | UInt8[np.ndarray, "H W"],
    *,
    ignore: Ignore = "exclude",
) -> float:
    """Intersection over union of two masks; 1.0 when both are empty. Arguments as `intersection_union`.

    >>> prediction = np.array([[True, True, False, False]])
    >>> target = np.array([[1, 0, 255, 1]], np.uint8)
    >>> [round(mask_iou(prediction, target, ignore=how), 3) for how in ("exclude", "target", "background")]
    [0.333, 0.25, 0.333]
    """
    intersection, union = intersection_union(prediction, target, ignore=ignore)
    return intersection / union if union else 1.0


def giou(ious: Sequence[float] | Float[np.ndarray, " n"]) -> float:
    """Mean of per-image mask IoUs (not the generalised IoU of boxes); nan for no images.

    >>> giou([0.5, 1.0])
    0.75
    """
    return float(np.mean(np.asarray(ious, np.float64))) if len(ious) else float("nan")


def ciou(intersections: Sequence[float] | np.ndarray, unions: Sequence[float] | np.ndarray) -> float:
    """Cumulative IoU: sum of intersections over sum of unions; nan when all unions are empty.

    >>> ciou([1, 8], [2, 8])
    0.9
    """
    total = float(np.sum(np.asarray(unions, np.float64)))
    return float(np.sum(np.asarray(intersections, np.float64))) / total if total else float("nan")


def box_iou(first: Box, second: Box) -> float:
    """IoU of two boxes of inclusive pixel indices, as the released reward measures it (method section 7).

    >>> box_iou((0, 0, 9, 9), (0, 0, 9, 4))
    0.5
    >>> box_iou((5, 0, 5, 9), (5, 0, 5, 9))  # zero width: empty intersection by the released rule
    0.0
    """
    left, top = max(first[0], second[0]), max(first[1], second[1])
    right, bottom = min(first[2], second[2]), min(first[3], second[3])
    overlap = (right - left + 1) * (bottom - top + 1) if left < right and top < bottom else 0.0
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (first, second)]
    union = areas[0] + areas[1] - overlap
    return float(overlap / union) if union else 0.0


def exclusive_box_iou(first: Box, second: Box) -> float:
    """IoU of two boxes by plain areas `(x2 - x1) (y2 - y1)`, as VisionReasoner's script measures it.

    >>> exclusive_box_iou((0, 0, 10, 10), (0, 0, 10, 5))
    0.5
    """
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    overlap = max(width, 0.0) * max(height, 0.0)
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)) - overlap
    return float(overlap / union) if union > 0 else 0.0


def precision_at(ious: Sequence[float] | Float[np.ndarray, " n"], threshold: float) -> float:
    """Share of images whose mask IoU reaches `threshold` (P@X of referring segmentation, `>=` as LAVT counts).

    >>> precision_at([0.5, 0.49, 0.9], 0.5)
    0.6666666666666666
    """
    return float(np.mean(np.asarray(ious, np.float64) >= threshold)) if len(ious) else float("nan")
