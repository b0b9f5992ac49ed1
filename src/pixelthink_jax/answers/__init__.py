"""Completion text to boxes and points: parsed once, read three ways.

Sits between rollout and rewards, and between rollout and the segmenter. `strict_reading` is the released
reward's, `tolerant_reading` the evaluation scripts', `usable_answer` ours, for `segment`. None of them raises
on any completion text; only `parse_solution`, which reads ground truth, does.
"""

from pixelthink_jax.answers.parsing import FailureCause, ParsedCompletion, parse_completion
from pixelthink_jax.answers.strict import StrictReading, parse_solution, strict_reading
from pixelthink_jax.answers.tolerant import Protocol, Target, TolerantReading, tolerant_reading
from pixelthink_jax.answers.usable import AnswerFormat, usable_answer, usable_targets

__all__ = [
    "AnswerFormat",
    "FailureCause",
    "ParsedCompletion",
    "Protocol",
    "StrictReading",
    "Target",
    "TolerantReading",
    "parse_completion",
    "parse_solution",
    "strict_reading",
    "tolerant_reading",
    "usable_answer",
    "usable_targets",
]
