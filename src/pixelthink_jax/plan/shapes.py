"""The arrays of a run, by shape alone: nothing is read, drawn or computed.

The worst case is planned: every prompt as long as the longest, every completion as long as the sampling allows.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pixelthink_jax.errors import InputError
from pixelthink_jax.grpo.config import TrainConfig
from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.qwen_vl import QwenVLConfig
from pixelthink_jax.models.qwen_vl.presets import PRESETS
from pixelthink_jax.models.sam2.config import Sam2Config
from pixelthink_jax.plan.drawing import RELEASED, planned_segmenter
from pixelthink_jax.processing.patches import ImageConfig
from pixelthink_jax.rl.accuracy import AnswerArrays, answer_arrays, solution_arrays
from pixelthink_jax.rl.rewards import RewardInputs
from pixelthink_jax.rl.rollout import PromptArrays
from pixelthink_jax.rl.step import StepBatch
from pixelthink_jax.runtime.optim import make_optimizer
from pixelthink_jax.runtime.train_state import TrainState, planned
from pixelthink_jax.segmentation.loading import TINY_POLICY, default_folder

_SIDE = 840  # pixels, the released frame
_TEXT_TOKENS = 188  # of a prompt beside its image, rounded up so that prompts are of whole buckets of 64


@dataclass(frozen=True)
class Shapes:
    """A run as shapes.

    Attributes:
        config: The run.
        model: The policy.
        image_config: How pixels become patches.
        state: What an update replaces.
        frozen: Parameters that are not trained.
        reference: Parameters of the reference; None without a divergence term.
        batch: What an update reads.
        completion_tokens: Of each completion.
        segmenter: What draws masks.
    """

    config: TrainConfig
    model: QwenVLConfig
    image_config: ImageConfig
    state: TrainState
    frozen: Any
    reference: Any
    batch: StepBatch
    completion_tokens: int
    segmenter: Sam2Config

    @property
    def whole(self) -> Any:
        """All parameters of the policy."""
        return qwen_vl.whole_params(self.state.params, self.frozen)


def planned_model(name: str) -> QwenVLConfig:
    """The architecture of a policy: that of its folder, or of the published model its name ends with.

    Raises:
        InputError: Neither is known.
    """
    folder = default_folder(name) if name == TINY_POLICY else Path(name)
    if (folder / "config.json").is_file():
        return qwen_vl.read_model_config(folder)
    for preset, model in PRESETS.items():
        if Path(name).name.lower().startswith(preset):
            return model
    raise InputError(f"policy {name}: no such folder, and not one of {', '.join(PRESETS)}")


def run_shapes(config: TrainConfig, completion_tokens: int | None = None) -> Shapes:
    """The arrays of a run.

    Args:
        config: The run.
        completion_tokens: Of each completion; None takes the longest that is allowed.
    """
    model, dtype = planned_model(config.policy), jnp.dtype(config.dtype)
    image_config = ImageConfig(patch_size=model.vision.patch_size, merge_size=model.vision.spatial_merge_size)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(lambda k: qwen_vl.init_params(model, k, dtype), key)
    trained, frozen = _cut(params, config, model)
    optimizer = make_optimizer(config.optim, config.steps)
    tokens = completion_tokens or config.sampling.max_new_tokens
    return Shapes(
        config=config,
        model=model,
        image_config=image_config,
        state=planned(trained, optimizer),
        frozen=frozen,
        reference=params if config.loss.kl_coef > 0 else None,
        batch=_batch(config, model, tokens),
        completion_tokens=tokens,
        segmenter=planned_segmenter(config.evaluation.segmenter or RELEASED),
    )


def _cut(params: Any, config: TrainConfig, model: QwenVLConfig) -> tuple[Any, Any]:
    if config.lora is None:
        return qwen_vl.split_params(params, "text/" if config.freeze_vision else "")
    lora = config.lora
    key = jax.eval_shape(lambda: jax.random.key(0))
    adapted = jax.eval_shape(lambda p, k: qwen_vl.add_lora(p, lora, model.text, k), params, key)
    return qwen_vl.split_params(adapted, "/lora_a", "/lora_b")


def _batch(config: TrainConfig, model: QwenVLConfig, tokens: int) -> StepBatch:
    b, g, v = config.prompts_per_step, config.group_size, model.text.vocab_size
    prompts = _prompts(b, model)
    return StepBatch(
        prompts=prompts,
        layout=_prompts(b // config.micro_batches, model).layout,
        tokens=_blank((b, g, tokens), np.int32),
        lengths=_blank((b, g), np.int32),
        sampler_logprobs=_blank((b, g, tokens), np.float32),
        rewards=_rewards(b, g),
        banned=_blank((v,), np.bool_),
    )


def _blank(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of that shape which takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def _prompts(b: int, model: QwenVLConfig) -> PromptArrays:
    vision = model.vision
    side = _SIDE // vision.patch_size // vision.spatial_merge_size * vision.spatial_merge_size
    layout = qwen_vl.vision_layout(np.array([[1, side, side]] * b), vision)
    t = side * side // vision.merge_unit + _TEXT_TOKENS
    pixels = side * vision.patch_size
    return PromptArrays(
        input_ids=_blank((b, t), np.int32),
        mask=_blank((b, t), np.bool_),
        positions=_blank((3, b, t), np.int32),
        images=(_blank((b, pixels, pixels, 3), np.uint8),),
        layout=layout,
        forced=_blank((b, 0), np.int32),
    )


def _rewards(b: int, g: int) -> RewardInputs:
    from pixelthink_jax.answers import parse_completion

    solution = "<box>(1,2),(9,9)</box><points>(3,3),(5,5)</points>"
    answers: AnswerArrays = answer_arrays([parse_completion("nothing")] * (b * g))
    return RewardInputs(
        answers=jax.tree.map(lambda x: x.reshape(b, g, *x.shape[1:]), answers),
        truths=solution_arrays([solution] * b),
        difficulty=np.zeros(b, np.float32),
        uncertainty=np.zeros((b, g), np.float32),
        length_used=np.zeros((b, g), np.float32),
    )
