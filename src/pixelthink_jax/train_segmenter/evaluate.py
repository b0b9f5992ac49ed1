"""How good a segmenter is on held-out scenes of the shape world, given the true box and points."""

from collections import defaultdict

import numpy as np

from pixelthink_jax.data.shapes import ShapeReason
from pixelthink_jax.data.targets import mask_box, mask_points
from pixelthink_jax.segmenter import Segmenter

_CHUNK = 8


def evaluate_segmenter(segmenter: Segmenter, *, scenes: int, split: str = "validation") -> dict[str, float]:
    """Mean mask IoU at the canvas's own resolution, of the mask with the highest predicted IoU.

    Args:
        segmenter: What is measured.
        scenes: Rows of the split, from its start; each is one target.
        split: Held-out split of the world.

    Returns:
        `iou`, `iou_<level>` for each level, `iou_below_half` (share), and `iou_prediction_error`, the mean absolute
        difference between predicted and true IoU.
    """
    world, ious, errors = ShapeReason(split), defaultdict(list), []
    for start in range(0, scenes, _CHUNK):
        rows = [world[i] for i in range(start, min(start + _CHUNK, scenes))]
        masks = [np.asarray(row.mask) for row in rows]
        predicted = segmenter.predict_batch(
            [row.image for row in rows],
            [mask_box(m) for m in masks],
            [mask_points(m) for m in masks],
            batch_size=_CHUNK,
        )
        for row, mask, out in zip(rows, masks, predicted, strict=True):
            best = int(np.argmax(out.iou_predictions))
            iou = float((out.masks[best] & mask).sum() / (out.masks[best] | mask).sum())
            ious[row.level].append(iou)
            errors.append(abs(iou - float(out.iou_predictions[best])))
    every = np.concatenate(list(ious.values()))
    return {
        "iou": float(every.mean()),
        **{f"iou_{level}": float(np.mean(values)) for level, values in sorted(ious.items())},
        "iou_below_half": float(np.mean(every < 0.5)),
        "iou_prediction_error": float(np.mean(errors)),
    }
