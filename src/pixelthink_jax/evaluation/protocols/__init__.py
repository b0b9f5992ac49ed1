"""Evaluation protocols by name: how a completion is read, placed, drawn and counted.

completion -> `reading.read_answer` -> boxes and points in image pixels -> masks -> `scoring` -> `score_mask`
"""

from pixelthink_jax.evaluation.protocols.masks import MaskScore, score_mask
from pixelthink_jax.evaluation.protocols.protocol import (
    PROTOCOLS,
    EvaluationProtocol,
    evaluation_protocol,
)
from pixelthink_jax.evaluation.protocols.reading import Reading, read_answer

__all__ = [
    "PROTOCOLS",
    "EvaluationProtocol",
    "MaskScore",
    "Reading",
    "evaluation_protocol",
    "read_answer",
    "score_mask",
]
