"""The five accuracy terms of the released reward, as array functions.

    text --host--> AnswerArrays --device--> five terms, each 0 or 1

Whatever cannot be read is NaN in the arrays: NaN fails every comparison, and a term that needs it is 0.

Floats: arrays are float32. Sums, areas and differences of coordinates that are multiples of one half within
+-2000 are exact, so IoU and box distance decide as in double precision there, at the threshold too; the point distance
takes square roots and may fall on either side within 1e-4 of its threshold.

Source: songw-zju/PixelThink @052d9de `seg_pixelthink.py`; equal to Seg-Zero @77f9ea5.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

from pixelthink_jax.answers import ParsedCompletion, parse_solution, strict_reading
from pixelthink_jax.models.layers import AnyArray

IOU_ABOVE = 0.5
BOX_DISTANCE_BELOW = 10.0
POINT_DISTANCE_BELOW = 100.0
TERMS = ("thinking_format", "answer_format", "box_iou", "point_distance", "box_distance")


@struct.dataclass
class AnswerArrays:
    """Parsed answers, or ground truths, as arrays; NaN where nothing could be read.

    Attributes:
        thinking_format: 1 where the tags are in the format asked for.
        answer_format: 1 where the JSON has its keys.
        box: Corners in the 840 frame.
        points: Two points, whole numbers.
    """

    thinking_format: Float[AnyArray, "*n"]
    answer_format: Float[AnyArray, "*n"]
    box: Float[AnyArray, "*n 4"]
    points: Float[AnyArray, "*n 2 2"]


def answer_arrays(parsed: Sequence[ParsedCompletion]) -> AnswerArrays:
    """The strict reading of completions as numpy arrays, one row each.

    >>> from pixelthink_jax.answers import parse_completion
    >>> answer_arrays([parse_completion("no answer")]).box.tolist()
    [[nan, nan, nan, nan]]
    """
    readings = [strict_reading(completion) for completion in parsed]
    nothing = (np.nan, np.nan)
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which decides as a huge number does
        return AnswerArrays(
            np.array([r.thinking_format for r in readings], np.float32),
            np.array([r.answer_format for r in readings], np.float32),
            np.array([r.box_xyxy or nothing * 2 for r in readings]).astype(np.float32).reshape(-1, 4),
            np.array([r.points_xy or (nothing,) * 2 for r in readings]).astype(np.float32).reshape(-1, 2, 2),
        )


def solution_arrays(solutions: Sequence[str]) -> AnswerArrays:
    """Ground truths as numpy arrays, one row each.

    Raises:
        InputError: A solution cannot be read; the released code pays 0 for such a row in silence.

    >>> solution_arrays(["<box>(24,95),(417,819)</box><points>(116,483),(186,315)</points>"]).box.tolist()
    [[24.0, 95.0, 417.0, 819.0]]
    """
    truths = [parse_solution(solution) for solution in solutions]
    ones = np.ones(len(truths), np.float32)
    boxes = np.array([truth.box_xyxy for truth in truths], np.float32).reshape(-1, 4)
    return AnswerArrays(
        ones, ones, boxes, np.array([truth.points_xy for truth in truths], np.float32).reshape(-1, 2, 2)
    )


def box_iou_term(
    box: Float[AnyArray, "*n 4"], truth: Float[AnyArray, "*n 4"], *, edges_meet: bool = False
) -> Bool[Array, "*n"]:
    """Whether the IoU of inclusive pixel boxes exceeds one half.

    Args:
        box: Corners.
        truth: Likewise.
        edges_meet: Pixels on a shared edge count also where the boxes share nothing else, as in VisionReasoner; in the
            released reward boxes that do not overlap in a strict sense have 0.

    >>> box_iou_term(jnp.array([0.0, 0.0, 9.0, 9.0]), jnp.array([0.0, 0.0, 9.0, 4.0])).item()
    False
    """
    low = jnp.maximum(box[..., :2], truth[..., :2])
    high = jnp.minimum(box[..., 2:], truth[..., 2:])
    shared = low <= high if edges_meet else low < high
    overlap = jnp.where(jnp.all(shared, axis=-1), jnp.prod(high - low + 1.0, axis=-1), 0.0)
    area, true_area = (jnp.prod(b[..., 2:] - b[..., :2] + 1.0, axis=-1) for b in (box, truth))
    union = area + true_area - overlap
    return (overlap > 0) & (overlap > IOU_ABOVE * union)


def box_distance_term(box: Float[AnyArray, "*n 4"], truth: Float[AnyArray, "*n 4"]) -> Bool[Array, "*n"]:
    """Whether the corners differ by less than 10 pixels of the 840 frame on average.

    >>> box_distance_term(jnp.array([0.0, 0.0, 90.0, 90.0]), jnp.array([9.0, 9.0, 99.0, 99.0])).item()
    True
    """
    return jnp.sum(jnp.abs(jnp.asarray(box) - truth), axis=-1) < 4 * BOX_DISTANCE_BELOW


def point_distance_term(
    points: Float[AnyArray, "*n 2 2"], box: Float[AnyArray, "*n 4"], truth: Float[AnyArray, "*n 2 2"]
) -> Bool[Array, "*n"]:
    """Whether both points lie in the completion's own box and within 100 of the true ones, Euclidean, better matched.

    >>> own, truth = jnp.array([[5.0, 5.0], [8.0, 8.0]]), jnp.array([[8.0, 8.0], [5.0, 5.0]])
    >>> point_distance_term(own, jnp.array([0.0, 0.0, 9.0, 9.0]), truth).item()
    True
    """
    points, truth = jnp.asarray(points), jnp.asarray(truth)
    inside = (points >= box[..., None, :2]) & (points <= box[..., None, 2:])
    between = jnp.sqrt(jnp.sum((points[..., :, None, :] - truth[..., None, :, :]) ** 2, axis=-1))
    straight, crossed = between[..., 0, 0] + between[..., 1, 1], between[..., 0, 1] + between[..., 1, 0]
    near = jnp.minimum(straight, crossed) < 2 * POINT_DISTANCE_BELOW
    return jnp.all(inside, axis=(-2, -1)) & near


def reward_terms(answers: AnswerArrays, truths: AnswerArrays) -> dict[str, Float[Array, "*n"]]:
    """The five terms, each 0 or 1, by the names of `TERMS`."""
    terms = {
        "thinking_format": jnp.asarray(answers.thinking_format),
        "answer_format": jnp.asarray(answers.answer_format),
        "box_iou": box_iou_term(answers.box, truths.box),
        "point_distance": point_distance_term(answers.points, answers.box, truths.points),
        "box_distance": box_distance_term(answers.box, truths.box),
    }
    return {name: terms[name].astype(jnp.float32) for name in TERMS}
