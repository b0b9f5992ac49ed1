"""Polygons to pixels as OpenCV draws them: the outline by Bresenham, the inside by the even-odd rule.

ReasonSeg's masks are what `cv2.polylines` and `cv2.fillPoly` make of its polygons, and COCO's own rasteriser
gives other pixels along the outline. Source of the arithmetic: OpenCV `modules/imgproc/src/drawing.cpp`
(`CollectPolyEdges`, `FillEdgeCollection`, `LineIterator`), fixed point with 16 bits after the point.
"""

import numpy as np
from jaxtyping import Bool, Int

_SHIFT = 16
_ALMOST_ONE = (1 << _SHIFT) - 1


def fill_polygon(points: Int[np.ndarray, "n 2"], height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """Pixels on or inside a closed polygon; what lies outside the image is left out.

    Args:
        points: Corners `(x, y)` in whole pixels, at least one; at most 2**30 in size.
        height: Rows of the mask.
        width: Columns of the mask.

    >>> fill_polygon(np.array([[1, 0], [4, 0], [1, 3]]), 4, 5).astype(int)
    array([[0, 1, 1, 1, 1],
           [0, 1, 1, 1, 0],
           [0, 1, 1, 0, 0],
           [0, 1, 0, 0, 0]])
    """
    mask = np.zeros((height, width), bool)
    starts = points.astype(np.int64)
    ends = np.roll(starts, -1, axis=0)
    for start, end in zip(starts, ends, strict=True):
        _draw_line(mask, start, end)
    _fill_inside(mask, starts, ends)
    return mask


def _draw_line(mask: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
    """An 8-connected Bresenham line, always walked from left to right."""
    if start[0] > end[0]:
        start, end = end, start
    (dx, dy), steps = end - start, int(np.abs(end - start).max())
    t = np.arange(steps + 1)
    long, short = max(dx, abs(dy)), min(dx, abs(dy))
    # The error term of the iterator, solved for the t-th step: ties do not move sideways.
    side = np.maximum((2 * t * short + long - 1) // (2 * long), 0) if long else t
    xs, ys = (t, side) if dx >= abs(dy) else (side, t)
    xs, ys = start[0] + xs, start[1] + (ys if dy >= 0 else -ys)
    inside = (xs >= 0) & (xs < mask.shape[1]) & (ys >= 0) & (ys < mask.shape[0])
    mask[ys[inside], xs[inside]] = True


def _fill_inside(mask: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
    """Spans between pairs of edges, row by row."""
    height, width = mask.shape
    sloped = starts[:, 1] != ends[:, 1]
    starts, ends = starts[sloped], ends[sloped]
    if not len(starts):
        return
    falls = (starts[:, 1] < ends[:, 1])[:, None]
    upper, lower = np.where(falls, starts, ends), np.where(falls, ends, starts)
    run, rise = (lower[:, 0] - upper[:, 0]) << _SHIFT, lower[:, 1] - upper[:, 1]
    slope = np.sign(run) * (np.abs(run) // rise)  # C divides towards zero
    for y in range(max(0, int(upper[:, 1].min())), min(height, int(lower[:, 1].max()))):
        active = (upper[:, 1] <= y) & (y < lower[:, 1])
        crossings = np.sort((upper[active, 0] << _SHIFT) + slope[active] * (y - upper[active, 1]))
        # Only whole pixels inside: the outline is drawn already.
        lefts, rights = (crossings[::2] + _ALMOST_ONE) >> _SHIFT, crossings[1::2] >> _SHIFT
        for left, right in zip(np.maximum(lefts, 0), np.maximum(rights, -1), strict=True):
            mask[y, left : right + 1] = True
