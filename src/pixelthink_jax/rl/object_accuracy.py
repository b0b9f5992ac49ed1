"""The accuracy of answers that list objects, as VisionReasoner's reward has it: objects matched, then counted.

    readings, truths --host--> padded objects --device--> hits of every pair --host--> best matching -> shares

Every listed object is held against every true one by three hits (IoU above one half, corners near, the point in the
own box and near); the matching with the most hits counts, and its hits are shared out over the longer list, so that
missing and superfluous objects cost alike and the order means nothing.

Source: `vision_reasoner.py` of VisionReasoner, see `answers.objects`. One thing is ours: a question without a target
is met by an empty list and by nothing else; the source has no such rows and would pay nothing for them.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float
from scipy.optimize import linear_sum_assignment

from pixelthink_jax.answers import ObjectsReading, Target
from pixelthink_jax.answers.objects import MOST_OBJECTS
from pixelthink_jax.models.layers import AnyArray
from pixelthink_jax.rl.accuracy import box_distance_term, box_iou_term

OBJECT_POINT_BELOW = 30.0

Targets = Sequence[Target]


@struct.dataclass
class ObjectTerms:
    """The accuracy of completions that list objects.

    Attributes:
        thinking_format: 1 where the tags are in the format asked for.
        answer_format: Share of objects with a box plus share with a point, 0 to 2.
        box_iou: Share of objects whose box has an IoU above one half with its true one.
        point_distance: Share whose point is in the own box and near the true one.
        box_distance: Share whose corners are near the true ones.
        non_repeat: 1 where at most one sentence is said twice.
    """

    thinking_format: Float[AnyArray, "*n"]
    answer_format: Float[AnyArray, "*n"]
    box_iou: Float[AnyArray, "*n"]
    point_distance: Float[AnyArray, "*n"]
    box_distance: Float[AnyArray, "*n"]
    non_repeat: Float[AnyArray, "*n"]


def object_terms(
    readings: Sequence[ObjectsReading], truths: Sequence[Targets], scales: Float[np.ndarray, "n 2"]
) -> ObjectTerms:
    """Matches listed with true objects.

    Args:
        readings: One for each completion.
        truths: Its true objects in the 840 frame; of several points the first counts.
        scales: From its frame to the 840 frame, in x and y.

    >>> from pixelthink_jax.answers import objects_reading, parse_completion, parse_objects
    >>> one, two = (f'{{"bbox_2d": [{x}, 0, {x + 9}, 9], "point_2d": [{x + 5}, 5]}}' for x in (0, 50))
    >>> reading = objects_reading(parse_completion(f"<answer>[{two}, {one}]</answer>"))
    >>> truths = [parse_objects(f"[{one}, {two}]"), parse_objects(f"[{one}]")]
    >>> terms = object_terms([reading] * 2, truths, np.ones((2, 2)))
    >>> terms.box_iou.tolist(), terms.thinking_format.tolist()
    ([1.0, 0.5], [0.0, 0.0])
    """
    listed = [reading.targets or () for reading in readings]
    wanted = [truth[:MOST_OBJECTS] for truth in truths]
    room = _room([*listed, *wanted])
    boxes, points = _padded(listed, room)
    true_boxes, true_points = _padded(wanted, room)
    scale = scales.astype(np.float32)[:, None]
    hits = np.asarray(_pair_hits(boxes * np.tile(scale, 2), points * scale, true_boxes, true_points))
    shares = np.array(
        [
            _matched(hits[i, : len(own), : len(true)], read=readings[i].targets is not None)
            for i, (own, true) in enumerate(zip(listed, wanted, strict=True))
        ],
        np.float32,
    ).reshape(-1, 3)
    return ObjectTerms(
        np.array([reading.thinking_format for reading in readings], np.float32),
        np.array(
            [_format(reading, nothing=not true) for reading, true in zip(readings, wanted, strict=True)],
            np.float32,
        ),
        shares[:, 0],
        shares[:, 1],
        shares[:, 2],
        np.array([reading.non_repeat for reading in readings], np.float32),
    )


def _format(reading: ObjectsReading, *, nothing: bool) -> float:
    """0 to 2; an empty list has the whole format where there is nothing to list."""
    if nothing and reading.targets == ():
        return 2.0
    return reading.box_format + reading.point_format


def _matched(hits: Bool[np.ndarray, "m n 3"], *, read: bool) -> Float[np.ndarray, " 3"]:
    """The hits of the best matching over the longer list."""
    own, true, _ = hits.shape
    if own == 0 or true == 0:
        return np.full(3, float(read and own == true))
    rows, columns = linear_sum_assignment(hits.sum(axis=-1), maximize=True)
    return hits[rows, columns].sum(axis=0) / max(own, true)


@jax.jit
def _pair_hits(
    boxes: Float[AnyArray, "n k 4"],
    points: Float[AnyArray, "n k 2"],
    true_boxes: Float[AnyArray, "n k 4"],
    true_points: Float[AnyArray, "n k 2"],
) -> Bool[Array, "n k k 3"]:
    """IoU, point and corner hits of every pair."""
    k = boxes.shape[1]
    own, point = (jnp.repeat(x[:, :, None], k, axis=2) for x in (boxes, points))
    truth, true_point = (jnp.repeat(x[:, None], k, axis=1) for x in (true_boxes, true_points))
    inside = jnp.all((point >= own[..., :2]) & (point <= own[..., 2:]), axis=-1)
    near = inside & (jnp.sum((point - true_point) ** 2, axis=-1) < OBJECT_POINT_BELOW**2)
    return jnp.stack(
        [box_iou_term(own, truth, edges_meet=True), near, box_distance_term(own, truth)], axis=-1
    )


def _room(lists: Sequence[Targets]) -> int:
    """A power of two that holds the longest list: each is compiled once."""
    return 1 << (max(map(len, lists), default=1) - 1).bit_length() if any(lists) else 1


def _padded(
    lists: Sequence[Targets], room: int
) -> tuple[Float[np.ndarray, "n k 4"], Float[np.ndarray, "n k 2"]]:
    """Boxes and first points of each list, NaN where it is at its end."""
    boxes, points = (np.full((len(lists), room, size), np.nan, np.float32) for size in (4, 2))
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which decides as a huge number does
        for i, targets in enumerate(lists):
            if targets:
                boxes[i, : len(targets)] = [target.box_xyxy for target in targets]
                points[i, : len(targets)] = [target.points_xy[0] for target in targets]
    return boxes, points
