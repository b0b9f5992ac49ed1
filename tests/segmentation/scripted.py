"""A policy that says what it is told and a segmenter that fills boxes, both over a real processor."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pixelthink_jax.policy import Policy
from pixelthink_jax.processing.policy_format import PolicyFormat
from pixelthink_jax.segmenter import Segmenter
from pixelthink_jax.types import Completion, Masks
from tests.evaluation.tiny import tiny_policy


@dataclass(frozen=True)
class ScriptedPolicy(Policy):
    """Completes every prompt with `text`, and writes down the prompts and settings it was given."""

    text: str = ""
    finish_reason: str = "stop"
    uncertainty: float = 0.25
    seen: list[Any] = field(default_factory=list)

    def rollout(self, prompts, keys, sampling):
        assert keys.shape == (1, 1)
        self.seen.append((prompts, sampling))

    def completions(self, rollout):
        zeros = np.zeros(5, np.float32)
        ids = np.arange(5, dtype=np.int32)
        return [(Completion(self.text, ids, zeros, self.uncertainty, self.finish_reason),)]


def scripted_policy(text: str, *, format: PolicyFormat | None = None, **fields: Any) -> ScriptedPolicy:
    tiny = tiny_policy()
    processor = tiny.processor if format is None else replace(tiny.processor, format=format)
    return ScriptedPolicy(tiny.config, {}, None, processor, text=text, **fields)


class BoxSegmenter(Segmenter):
    """The second and third mask fill the box and are thought equally good; the first is everything and worst."""

    def __init__(self, ious: tuple[float, ...] = (0.1, 0.9, 0.9)):
        self.ious, self.prompts = ious, []

    def encode(self, image):
        return image

    def predict(self, image, box_xyxy, points_xy, **settings):
        self.prompts.append((box_xyxy, points_xy, settings))
        masks = np.zeros((3, *image.shape[:2]), bool)
        left, top, right, bottom = (round(value) for value in box_xyxy)
        masks[0] = True
        masks[1:, top:bottom, left:right] = True
        masks[1, top, left] = False  # so that the second differs from the third
        return Masks(np.zeros((3, 4, 4), np.float32), masks, np.array(self.ious, np.float32))
