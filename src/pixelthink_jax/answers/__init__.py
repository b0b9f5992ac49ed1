"""Completion text to boxes and points: parsed once, read four ways.

Sits between rollout and rewards, and between rollout and the segmenter. `strict_reading` is the released
reward's, `objects_reading` that of VisionReasoner's reward, `tolerant_reading` the evaluation scripts',
`usable_answer` ours, for `segment`. None of them raises on any completion text; only `parse_solution` and
`parse_objects`, which read ground truth, do.
"""

from pixelthink_jax.answers.objects import (
    ObjectsReading,
    enclosing_box,
    objects_reading,
    parse_objects,
    solution_box,
)
from pixelthink_jax.answers.parsing import FailureCause, ParsedCompletion, parse_completion
from pixelthink_jax.answers.strict import StrictReading, parse_solution, strict_reading
from pixelthink_jax.answers.tolerant import Protocol, Target, TolerantReading, tolerant_reading
from pixelthink_jax.answers.usable import (
    AnswerFormat,
    boxes_failure,
    listed_boxes,
    two_points,
    usable_answer,
    usable_targets,
)

__all__ = [
    "AnswerFormat",
    "FailureCause",
    "ObjectsReading",
    "ParsedCompletion",
    "Protocol",
    "StrictReading",
    "Target",
    "TolerantReading",
    "boxes_failure",
    "enclosing_box",
    "listed_boxes",
    "objects_reading",
    "parse_completion",
    "parse_objects",
    "parse_solution",
    "solution_box",
    "strict_reading",
    "tolerant_reading",
    "two_points",
    "usable_answer",
    "usable_targets",
]
