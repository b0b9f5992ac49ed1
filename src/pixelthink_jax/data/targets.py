"""From a mask to the answer the policy must write: box, two points, the 840 frame, the two genuine texts.

Every data set builder (the shape world, the RefCOCO family) goes through these pure functions, so a box or a
point means the same thing everywhere.

Source: Seg-Zero `prepare_dataset` (the steps listed in the module's functions) and the released PixelThink
reward, whose ground-truth patterns `solution_text` satisfies.
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool
from scipy.ndimage import distance_transform_edt

FRAME = 840
"""Side of the square frame in which the released method writes every answer."""

EASY_BELOW = 3.5
HARD_FROM = 5.0

IntBox = tuple[int, int, int, int]
IntPoint = tuple[int, int]


def mask_box(mask: Bool[np.ndarray, "H W"]) -> IntBox:
    """Extents of a mask as inclusive pixel indices `(x_min, y_min, x_max, y_max)`, not COCO's `(x, y, w, h)`.

    Raises:
        ValueError: The mask is empty.

    >>> mask = np.zeros((4, 6), bool)
    >>> mask[1:3, 2:5] = True
    >>> mask_box(mask)
    (2, 1, 4, 2)
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if columns.size == 0:
        raise ValueError("an empty mask has no box")
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def mask_points(mask: Bool[np.ndarray, "H W"]) -> tuple[IntPoint, IntPoint]:
    """Centres of "the two largest inscribed circles": `((x, y), (x, y))` in mask pixels.

    The first is the highest peak of the exact Euclidean distance transform; the second the highest peak among
    the mask pixels farther from the first than the median distance. Ties go to the first pixel in row-major
    order. A mask without such far pixels (one pixel, for instance) takes the peak near its centroid, moved
    onto the mask.

    Raises:
        ValueError: The mask is empty.

    >>> mask = np.zeros((5, 9), bool)
    >>> mask[1:4, 1:8] = True
    >>> mask_points(mask)
    ((2, 2), (5, 2))
    """
    x_min, y_min, x_max, y_max = mask_box(mask)
    # Background just outside the box is at least as near as any beyond it, so a one-pixel border keeps the
    # transform exact and saves most of its cost.
    left, top = max(x_min - 1, 0), max(y_min - 1, 0)
    crop = mask[top : y_max + 2, left : x_max + 2]
    depth = np.asarray(distance_transform_edt(crop))
    rows, columns = np.nonzero(crop)
    depths = depth[rows, columns]
    first = int(depths.argmax())
    distance = np.hypot(rows - rows[first], columns - columns[first])
    far = np.flatnonzero(distance > np.median(distance))
    second = int(far[depths[far].argmax()]) if far.size else _peak_near_centroid(rows, columns, depth)
    return (
        (int(columns[first]) + left, int(rows[first]) + top),
        (int(columns[second]) + left, int(rows[second]) + top),
    )


def _peak_near_centroid(rows: np.ndarray, columns: np.ndarray, depth: np.ndarray) -> int:
    """Position, in the list of mask pixels, of the deepest pixel in the 20x20 window around the centroid."""
    row, column = int(rows.mean()), int(columns.mean())
    top, left = max(row - 10, 0), max(column - 10, 0)
    window = depth[top : row + 10, left : column + 10]
    peak_row, peak_column = np.unravel_index(int(window.argmax()), window.shape)
    return int(np.hypot(rows - top - peak_row, columns - left - peak_column).argmin())


def to_frame(value: int | float, size: int, *, frame: int = FRAME) -> int:
    """One coordinate from pixels of a side of `size` to the answer frame, rounded as upstream does.

    >>> to_frame(18, 640), to_frame(468, 480)
    (24, 819)
    """
    return int(value * frame / size + 0.5)


def box_to_frame(box: IntBox, width: int, height: int) -> IntBox:
    """A pixel box in the answer frame.

    >>> box_to_frame((18, 54, 318, 468), 640, 480)
    (24, 95, 417, 819)
    """
    x1, y1, x2, y2 = box
    return to_frame(x1, width), to_frame(y1, height), to_frame(x2, width), to_frame(y2, height)


def point_to_frame(point: IntPoint, width: int, height: int) -> IntPoint:
    """A pixel point in the answer frame.

    >>> point_to_frame((88, 276), 640, 480)
    (116, 483)
    """
    return to_frame(point[0], width), to_frame(point[1], height)


def solution_text(box: IntBox, points: tuple[IntPoint, IntPoint]) -> str:
    """The ground-truth string the reward reads.

    >>> solution_text((24, 95, 417, 819), ((116, 483), (186, 315)))
    '<box>(24,95),(417,819)</box><points>(116,483),(186,315)</points>'
    """
    (x1, y1, x2, y2), ((ax, ay), (bx, by)) = box, points
    return f"<box>({x1},{y1}),({x2},{y2})</box><points>({ax},{ay}),({bx},{by})</points>"


def completion_text(thinking: str, box: IntBox, points: tuple[IntPoint, IntPoint]) -> str:
    r"""A completion that earns every format reward: the thought, a line break, the answer as JSON.

    Raises:
        ValueError: The thought holds a brace or `<`, which the reward's patterns would trip over.

    >>> completion_text("It is here.", (1, 2, 30, 40), ((5, 6), (7, 8))).split("\n")[1]
    '<answer>{"bbox": [1, 2, 30, 40], "points_1": [5, 6], "points_2": [7, 8]}</answer>'
    """
    if any(sign in thinking for sign in "{}<"):
        raise ValueError(f"a thought must hold no brace and no '<': {thinking!r}")
    first, second = points
    answer = f'{{"bbox": {list(box)}, "points_1": {list(first)}, "points_2": {list(second)}}}'
    return f"<think>{thinking}</think>\n<answer>{answer}</answer>"


def difficulty_level(difficulty: float) -> Literal["easy", "medium", "hard"]:
    """Level by the paper's cut-offs: below 3.5 easy, from 5.0 hard (method section 6).

    >>> [difficulty_level(d) for d in (3.49, 3.5, 4.99, 5.0)]
    ['easy', 'medium', 'medium', 'hard']
    """
    if difficulty < EASY_BELOW:
        return "easy"
    return "hard" if difficulty >= HARD_FROM else "medium"
