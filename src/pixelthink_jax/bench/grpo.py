"""One GRPO step at the paper's shape on a small model: shared prefix, the same step with repeated prompts, and PyTorch.

All draw completions of the same length from the same weights and make one update of all parameters with a divergence
from a reference: rollout, reference pass, forward, backward, AdamW. Rewards are made up, so that nothing but the step
is timed.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pixelthink_jax.bench.timing import Measurement, measurements
from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.qwen_vl import QwenVLConfig, TextConfig, VisionConfig
from pixelthink_jax.processing.patches import ImageConfig, patchify
from pixelthink_jax.rl.accuracy import AnswerArrays
from pixelthink_jax.rl.objective import LossConfig
from pixelthink_jax.rl.rewards import RewardInputs
from pixelthink_jax.rl.rollout import PromptArrays, RolloutBatch, sample_completions
from pixelthink_jax.rl.sampling import SamplingConfig, row_keys
from pixelthink_jax.rl.step import StepBatch, StepConfig, make_step
from pixelthink_jax.rl.token_rules import token_rules
from pixelthink_jax.runtime.train_state import begin

MODEL = QwenVLConfig(
    text=TextConfig(8000, 256, 704, num_layers=4, num_heads=4, num_kv_heads=2, mrope_section=(8, 12, 12)),
    vision=VisionConfig(
        depth=4,
        hidden_size=128,
        intermediate_size=352,
        num_heads=2,
        out_hidden_size=256,
        full_attention_blocks=(1, 3),
    ),
    tie_word_embeddings=False,
    image_token_id=7994,
    video_token_id=7995,
    vision_start_token_id=7992,
    vision_end_token_id=7993,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
    dtype="float32",
)
IMAGE_SIDE = 840
TEXT_TOKENS = 100
LEARNING_RATE = 1e-6


class GrpoRival(Protocol):
    """A GRPO step of another library, from the arrays of a Hugging Face processor."""

    def grpo_step(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray,
        pixel_values: np.ndarray,
        image_grid_thw: np.ndarray,
        advantages: np.ndarray,
        *,
        new_tokens: int,
    ) -> None:
        """Draws one completion a row, scores them under the reference, and updates the parameters."""
        ...


def measure_grpo(
    *,
    prompts: int = 1,
    group_size: int = 8,
    new_tokens: int = 100,
    rounds: int = 3,
    rival: tuple[str, Callable[[Path], GrpoRival]] | None = None,
    model: QwenVLConfig = MODEL,
    image_side: int = IMAGE_SIDE,
) -> list[Measurement]:
    """Times rollout, update and whole step, with the prefix shared and repeated, and a rival's whole step.

    Args:
        prompts: Questions of the step.
        group_size: Completions of each.
        new_tokens: Tokens of each.
        rounds: Timed calls of each contestant.
        rival: Its name, and what opens it from the same weights.
        model: The architecture, filled with random weights.
        image_side: Pixels; a multiple of two patches.

    Returns:
        Rows by task, then contestant; the rate counts completion tokens.
    """
    params = jax.jit(lambda key: qwen_vl.init_params(model, key))(jax.random.key(0))
    shared = Contestant(params, model, prompts, group_size, new_tokens, image_side)
    repeated = Contestant(params, model, prompts, group_size, new_tokens, image_side, repeat=True)
    names = ("shared prefix", "repeated prompts")
    both = dict(zip(names, (shared, repeated), strict=True))
    run: dict[str, Any] = {"rounds": rounds, "count": prompts * group_size * new_tokens, "unit": "tokens"}
    rows = measurements("rollout", {name: c.rollout for name, c in both.items()}, **run)
    rows += measurements("reference and update", {name: c.update for name, c in both.items()}, **run)
    whole: dict[str, Callable[[], object]] = {name: c.step for name, c in both.items()}
    with tempfile.TemporaryDirectory() as folder:
        if rival is not None:
            qwen_vl.write_folder(Path(folder) / "model", params, model)
            opened = rival[1](Path(folder) / "model")
            arrays = repeated.rival_arrays()
            whole[rival[0]] = lambda: opened.grpo_step(*arrays, new_tokens=new_tokens)
        return rows + measurements("whole step", whole, **run)


class Contestant:
    """Our step, with each prompt once for its group, or once for every completion."""

    def __init__(
        self,
        params: Any,
        model: QwenVLConfig,
        prompts: int,
        group_size: int,
        new_tokens: int,
        image_side: int,
        *,
        repeat: bool = False,
    ) -> None:
        """Draws images and prompts; nothing ends a completion, so all have `new_tokens` tokens."""
        self._model, self._new_tokens = model, new_tokens
        copies = group_size if repeat else 1
        rows, self._group = prompts * copies, 1 if repeat else group_size
        self._image_config = ImageConfig(min_pixels=image_side**2, max_pixels=image_side**2)
        self._arrays = _prompts(model, prompts, copies, image_side)
        self._rules = token_rules(
            [b""] * model.text.vocab_size,
            vocab_size=model.text.vocab_size,
            eos=(),
            banned=(),
            close_ids=[0],
            pad=0,
        )
        self._keys = row_keys(0, 0, jnp.arange(rows), self._group)
        optimizer = optax.adamw(LEARNING_RATE)
        config = StepConfig(loss=LossConfig(entropy_coef=0.0), unroll=True, remat="full")
        self._update = make_step(config, model, self._image_config, optimizer)
        self._reference = params
        own = jax.tree.map(jnp.copy, params)
        self._state = begin(own, optimizer)
        self._decode_params = jax.jit(qwen_vl.unstack_layers)
        self._rolled_out = self.rollout()

    def rollout(self) -> RolloutBatch:
        """Draws the completions."""
        found = sample_completions(
            self._decode_params(self._state.params),
            self._arrays,
            self._keys,
            self._rules,
            SamplingConfig(self._new_tokens),
            self._model,
            self._image_config,
        )
        return jax.block_until_ready(found)

    def update(self) -> None:
        """Reference pass, forward, backward and AdamW, on the last rollout."""
        rollout = self._rolled_out
        batch = StepBatch(
            prompts=self._arrays,
            layout=self._arrays.layout,
            tokens=rollout.tokens,
            lengths=rollout.lengths,
            sampler_logprobs=rollout.logprobs,
            rewards=_made_up_rewards(*self._keys.shape),
            banned=self._rules.banned,
        )
        self._state, metrics = self._update(self._state, {}, self._reference, batch)
        jax.block_until_ready((self._state, metrics))

    def step(self) -> None:
        """Rollout and update."""
        self._rolled_out = self.rollout()
        self.update()

    def rival_arrays(self) -> tuple[np.ndarray, ...]:
        """The repeated prompts as a Hugging Face processor makes them, and an advantage for each."""
        arrays, vision = self._arrays, self._model.vision
        pixels = np.asarray(patchify(np.asarray(arrays.images[0]), image_config=self._image_config))
        side = arrays.images[0].shape[1] // vision.patch_size
        grids = np.tile(np.array([1, side, side], np.int32), (len(arrays.input_ids), 1))
        advantages = np.linspace(-1, 1, len(grids), dtype=np.float32)
        return np.asarray(arrays.input_ids), np.asarray(arrays.mask, np.int32), pixels, grids, advantages


def _prompts(model: QwenVLConfig, prompts: int, copies: int, image_side: int) -> PromptArrays:
    """Random images and texts, each `copies` times."""
    rng, side = np.random.default_rng(0), image_side // model.vision.patch_size
    images = rng.integers(0, 256, (prompts, image_side, image_side, 3), dtype=np.uint8)
    placeholders = [model.image_token_id] * (side**2 // model.vision.merge_unit)
    image = [model.vision_start_token_id, *placeholders, model.vision_end_token_id]
    text = rng.integers(3, min(model.image_token_id, model.vision_start_token_id), (prompts, TEXT_TOKENS))
    ids = np.concatenate([np.tile(np.array(image), (prompts, 1)), text], axis=1).astype(np.int32)
    ids, images = np.repeat(ids, copies, axis=0), np.repeat(images, copies, axis=0)
    mask, grids = np.ones_like(ids, bool), np.tile(np.array([1, side, side], np.int32), (len(ids), 1))
    arrays = PromptArrays(
        input_ids=ids,
        mask=mask,
        positions=qwen_vl.position_ids(ids, mask, grids, model),
        images=(images,),
        layout=qwen_vl.vision_layout(grids, model.vision),
        forced=np.zeros((len(ids), 0), np.int32),
    )
    return jax.device_put(arrays)


def _made_up_rewards(b: int, g: int) -> RewardInputs:
    """Rewards that differ, from no answers at all."""
    shape = (b, g)
    nothing = AnswerArrays(
        thinking_format=np.zeros(shape, np.float32),
        answer_format=np.zeros(shape, np.float32),
        box=np.full((*shape, 4), np.nan, np.float32),
        points=np.full((*shape, 2, 2), np.nan, np.float32),
    )
    truths = AnswerArrays(
        thinking_format=np.ones(b, np.float32),
        answer_format=np.ones(b, np.float32),
        box=np.zeros((b, 4), np.float32),
        points=np.zeros((b, 2, 2), np.float32),
    )
    inputs = RewardInputs(
        answers=nothing,
        truths=truths,
        difficulty=np.full(b, 4.0, np.float32),
        uncertainty=np.zeros(shape, np.float32),
        length_used=np.zeros(shape, np.float32),
    )
    return replace(inputs, custom=np.linspace(1, 2, b * g, dtype=np.float32).reshape(shape))
