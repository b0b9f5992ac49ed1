"""Models for tests: random weights at the smallest sizes the architectures allow, and models that know their lines."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache

import jax
import numpy as np

from pixelthink_jax.models.qwen_vl import QwenVLConfig, TextConfig, VisionConfig
from pixelthink_jax.models.sam2.config import Sam2Config
from pixelthink_jax.models.sam2.model import init_params
from pixelthink_jax.policy import Policy
from pixelthink_jax.processing.policy_format import PolicyFormat
from pixelthink_jax.segmenter import Segmenter
from pixelthink_jax.sft.config import DataConfig, NewPolicyConfig, SftConfig, StageConfig
from pixelthink_jax.sft.new_policy import new_policy
from pixelthink_jax.types import Completion, Masks


@cache
def tiny_policy() -> Policy:
    model = QwenVLConfig(
        text=TextConfig(
            hidden_size=16,
            intermediate_size=24,
            num_layers=1,
            num_heads=2,
            num_kv_heads=1,
            mrope_section=(1, 1, 2),
            rope_theta=100.0,
            max_position_embeddings=512,
        ),
        vision=VisionConfig(
            depth=1,
            hidden_size=16,
            intermediate_size=24,
            num_heads=2,
            out_hidden_size=16,
            patch_size=14,
            window_size=56,
            full_attention_blocks=(0,),
        ),
        dtype="float32",
    )
    settings = NewPolicyConfig(model=model, image_size=56, tokenizer_examples=100)
    stage = StageConfig("chains", 1, (DataConfig(split="tuning"),))
    return new_policy(SftConfig(out="", stages=(stage,), new_policy=settings, seed=1))


@cache
def tiny_segmenter() -> Segmenter:
    config = Sam2Config(
        image_size=64,
        depths=(1, 1, 1, 1),
        widths=(8, 16, 24, 32),
        heads=(1, 1, 2, 2),
        windows=(4, 4, 4, 2),
        global_blocks=(),
        embed_dim=16,
        mask_channels=4,
        decoder_layers=1,
        decoder_heads=2,
        decoder_mlp=16,
        iou_width=16,
    )
    return Segmenter(init_params(config, jax.random.key(0)), config)


def completion(text: str, *, finish_reason: str = "stop") -> Completion:
    """A text as if it had been sampled in five tokens."""
    return Completion(text, np.arange(5, dtype=np.int32), np.zeros(5, np.float32), 0.25, finish_reason)


@dataclass(frozen=True)
class ScriptedPolicy(Policy):
    """Says what `say` makes of each image, and writes down how it was asked."""

    say: Callable[[np.ndarray], str] = lambda image: ""
    calls: list[dict] = field(default_factory=list)

    def generate(self, images, queries, **settings):
        self.calls.append({"queries": list(queries), **settings})
        return [(completion(self.say(image)),) for image in images]


def scripted_policy(
    say: Callable[[np.ndarray], str], *, format: PolicyFormat | None = None
) -> ScriptedPolicy:
    """A policy with the tiny one's processor, or one of another format."""
    tiny = tiny_policy()
    processor = tiny.processor if format is None else replace(tiny.processor, format=format)
    return ScriptedPolicy(tiny.config, {}, None, processor, say=say)


class BoxSegmenter(Segmenter):
    """Fills the box it is given; its first and second mask are empty, and it thinks least of the first."""

    def __init__(self):
        self.batches: list[int] = []

    def predict_batch(self, images, boxes_xyxy, points_xy, **settings):
        self.batches.append(len(images))
        return [self._masks(image, box) for image, box in zip(images, boxes_xyxy, strict=True)]

    def _masks(self, image: np.ndarray, box) -> Masks:
        masks = np.zeros((3, *image.shape[:2]), bool)
        x1, y1, x2, y2 = (round(value) for value in box)
        masks[2, y1:y2, x1:x2] = True
        return Masks(np.zeros((3, 4, 4), np.float32), masks, np.array([0.1, 0.9, 0.9], np.float32))
