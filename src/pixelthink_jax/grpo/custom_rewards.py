"""Rewards of one's own: host functions on text, array functions, and the mask that the answer leads to.

host:   def f(completions: list[list[str]], examples: list[Example]) -> array [prompts, group]
arrays: def f(inputs: RewardInputs) -> array [prompts, group], jitted
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float

from pixelthink_jax.answers import parse_completion, usable_targets
from pixelthink_jax.errors import InputError
from pixelthink_jax.evaluation.metrics import mask_iou
from pixelthink_jax.grpo.config import CustomRewardConfig
from pixelthink_jax.processing.policy_format import frame_size
from pixelthink_jax.processing.processor import Processor
from pixelthink_jax.rl.rewards import RewardInputs
from pixelthink_jax.segmentation import answer_in_image, best_masks
from pixelthink_jax.segmenter import Segmenter
from pixelthink_jax.types import Example


@dataclass(frozen=True)
class CustomReward:
    """A named function with its weight; see the module for the two kinds of function."""

    name: str
    function: Callable[..., Any]
    kind: Literal["host", "arrays"] = "host"
    weight: float = 1.0

    def __call__(
        self, texts: list[list[str]], examples: Sequence[Example], inputs: RewardInputs
    ) -> Float[np.ndarray, "b g"]:
        """The unweighted rewards of a step.

        Raises:
            InputError: The function raised, or returned another shape or numbers that are not finite.
        """
        shape = inputs.length_used.shape
        try:
            found = self.function(inputs) if self.kind == "arrays" else self.function(texts, list(examples))
            values = np.asarray(found, np.float32)
        # Whatever a user's function raises is the user's to mend, and names the function.
        except Exception as error:  # noqa: BLE001
            raise InputError(f"custom reward {self.name}: raised {type(error).__name__}: {error}") from error
        if values.shape != shape:
            raise InputError(
                f"custom reward {self.name}: returned shape {values.shape}, expected [prompts, group] = {shape}"
            )
        if not np.isfinite(values).all():
            raise InputError(f"custom reward {self.name}: returned numbers that are not finite")
        return values


def load_custom_rewards(
    configs: Sequence[CustomRewardConfig], *, processor: Processor, segmenter: Segmenter | None
) -> list[CustomReward]:
    """The functions that a config names.

    Raises:
        InputError: A module or a function is missing, or the mask reward has no segmenter.
    """
    return [_load(config, processor, segmenter) for config in configs]


def _load(config: CustomRewardConfig, processor: Processor, segmenter: Segmenter | None) -> CustomReward:
    if config.kind == "mask_iou":
        if segmenter is None:
            raise InputError("custom reward mask_iou: it needs evaluation.segmenter, which is null")
        return CustomReward(config.name, MaskIou(processor, segmenter), "host", config.weight)
    module, name = config.function.split(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"custom reward {config.function}: cannot be imported ({error})") from error
    return CustomReward(
        config.name, jax.jit(function) if config.kind == "arrays" else function, config.kind, config.weight
    )


class MaskIou:
    """IoU of the mask that the segmenter draws for a completion's answer with the true mask; 0 without an answer."""

    def __init__(self, processor: Processor, segmenter: Segmenter):
        """Reads answers with `processor`, draws with `segmenter`."""
        self._processor, self._segmenter = processor, segmenter

    def __call__(self, texts: list[list[str]], examples: list[Example]) -> Float[np.ndarray, "b g"]:
        """One IoU a completion.

        Raises:
            InputError: An example has no mask.
        """
        ious = np.zeros((len(texts), len(texts[0])), np.float32)
        asked = [
            (b, g, target)
            for b, group in enumerate(texts)
            for g, text in enumerate(group)
            if (target := self._target(text, examples[b])) is not None
        ]
        drawn = best_masks(self._segmenter, [(examples[b].image, target) for b, _, target in asked])
        for (b, g, _), (mask, _) in zip(asked, drawn, strict=True):
            truth = examples[b].mask
            if truth is None:
                raise InputError(f"example {examples[b].id}: it has no mask, which the reward mask_iou needs")
            ious[b, g] = mask_iou(mask, truth)
        return ious

    def _target(self, text: str, example: Example) -> Any:
        format = self._processor.format
        written, _ = usable_targets(parse_completion(text), answer_format=format.answer_format)
        height, width = self._processor.resize(example.image).shape[:2]
        frame = frame_size(format.coordinate_frame, model_size=(width, height))
        size = (example.image.shape[1], example.image.shape[0])
        return answer_in_image(written[0], frame=frame, image_size=size) if written else None
