"""Greedy generation of a small random Qwen2.5-VL from images and tokens: 60 million parameters, 448x448 pixels.

Ours takes 8-bit images and patches them on the device, as `Policy.generate` does; the rival takes the patches ready
made. No token ends a completion, so both decode the same number of tokens.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from pixelthink_jax.bench.timing import Measurement, measurements
from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.qwen_vl import QwenVLConfig, TextConfig, VisionConfig
from pixelthink_jax.processing.patches import ImageConfig, patchify
from pixelthink_jax.rl.rollout import PromptArrays, sample_completions
from pixelthink_jax.rl.sampling import SamplingConfig, row_keys
from pixelthink_jax.rl.token_rules import TokenRules, token_rules

MODEL = QwenVLConfig(
    text=TextConfig(32000, 512, 1408, num_layers=8, num_heads=8, num_kv_heads=2, mrope_section=(8, 12, 12)),
    vision=VisionConfig(
        depth=4,
        hidden_size=256,
        intermediate_size=704,
        num_heads=4,
        out_hidden_size=512,
        full_attention_blocks=(1, 3),
    ),
    tie_word_embeddings=False,
    image_token_id=31994,
    video_token_id=31995,
    vision_start_token_id=31992,
    vision_end_token_id=31993,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
    dtype="float32",
)
IMAGE_SIDE = 448
TEXT_TOKENS = 56
NEW_TOKENS = 64


class GenerationRival(Protocol):
    """Anything that generates from the arrays of a Hugging Face processor."""

    def generate(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray,
        pixel_values: np.ndarray,
        image_grid_thw: np.ndarray,
        *,
        new_tokens: int,
    ) -> np.ndarray:
        """Greedy tokens, exactly `new_tokens` of them."""
        ...


def measure_generation(
    *,
    batch_sizes: tuple[int, ...] = (1, 16),
    rounds: int = 5,
    new_tokens: int = NEW_TOKENS,
    rival: tuple[str, Callable[[Path], GenerationRival]] | None = None,
    model: QwenVLConfig = MODEL,
    image_side: int = IMAGE_SIDE,
) -> list[Measurement]:
    """Times greedy decoding of `new_tokens` tokens for batches of prompts, each with an image of its own.

    Args:
        batch_sizes: Prompts decoded together.
        rounds: Timed calls of each contestant.
        new_tokens: Tokens of each completion.
        rival: Its name, and what opens it from the same weights.
        model: The architecture, filled with random weights.
        image_side: Pixels; a multiple of two patches.

    Returns:
        Rows by batch size, then contestant; the rate counts new tokens.
    """
    params = jax.jit(lambda key: qwen_vl.init_params(model, key))(jax.random.key(0))
    with tempfile.TemporaryDirectory() as folder:
        opened = None
        if rival is not None:
            qwen_vl.write_folder(Path(folder) / "model", params, model)
            opened = rival[1](Path(folder) / "model")
        unstacked = jax.jit(qwen_vl.unstack_layers)(params)
        rows: list[Measurement] = []
        for batch in batch_sizes:
            ours = Contestant(unstacked, model, batch, image_side, new_tokens)
            contestants: dict[str, Callable[[], object]] = {"pixelthink": ours}
            if rival is not None and opened is not None:
                arrays = ours.rival_arrays()
                contestants[rival[0]] = lambda a=arrays, o=opened: o.generate(*a, new_tokens=new_tokens)
            task = f"generate, batch {batch}, {new_tokens} tokens each"
            rows += measurements(task, contestants, rounds=rounds, count=batch * new_tokens, unit="tokens")
    return rows


class Contestant:
    """Our side: arrays on the device, and one call that decodes them to the end."""

    def __init__(
        self, params: Any, model: QwenVLConfig, batch: int, image_side: int, new_tokens: int
    ) -> None:
        """Draws images and prompts; `params` are per layer."""
        self._params, self._model, self._new_tokens = params, model, new_tokens
        vision = model.vision
        self._image_config = ImageConfig(
            patch_size=vision.patch_size,
            temporal_patch_size=vision.temporal_patch_size,
            merge_size=vision.spatial_merge_size,
            min_pixels=image_side**2,
            max_pixels=image_side**2,
        )
        rng, side = np.random.default_rng(0), image_side // vision.patch_size
        self._images = rng.integers(0, 256, (batch, image_side, image_side, 3), dtype=np.uint8)
        self._grids = np.tile(np.array([1, side, side], np.int32), (batch, 1))
        image = [model.vision_start_token_id, *[model.image_token_id] * (side**2 // vision.merge_unit)]
        plain = min(model.image_token_id, model.video_token_id, model.vision_start_token_id)
        text = rng.integers(3, plain, (batch, TEXT_TOKENS))
        prompt = np.tile(np.array([*image, model.vision_end_token_id]), (batch, 1))
        self._ids = np.concatenate(
            [text[:, : TEXT_TOKENS // 2], prompt, text[:, TEXT_TOKENS // 2 :]], 1
        ).astype(np.int32)
        self._mask = np.ones_like(self._ids)
        self._keys = row_keys(0, 0, jnp.arange(batch), 1)
        self._rules = _endless_rules(model)
        self._sampling = SamplingConfig(new_tokens, temperature=0.0)

    def __call__(self) -> np.ndarray:
        """Decodes every prompt; the prompt arrays are made anew, as for a new question.

        Raises:
            RuntimeError: A completion ended early, so the time would mean nothing.
        """
        prompts = PromptArrays(
            input_ids=jnp.asarray(self._ids),
            mask=jnp.asarray(self._mask.astype(bool)),
            positions=jnp.asarray(qwen_vl.position_ids(self._ids, self._mask, self._grids, self._model)),
            images=(jnp.asarray(self._images),),
            layout=qwen_vl.vision_layout(self._grids, self._model.vision),
            forced=jnp.zeros((len(self._ids), 0), jnp.int32),
        )
        rollout = sample_completions(
            self._params, prompts, self._keys, self._rules, self._sampling, self._model, self._image_config
        )
        if not (np.asarray(rollout.lengths) == self._new_tokens).all():
            raise RuntimeError(f"completions have {rollout.lengths} tokens instead of {self._new_tokens}")
        return np.asarray(rollout.tokens[:, 0])

    def rival_arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The same prompts as a Hugging Face processor makes them."""
        pixel_values = np.asarray(patchify(self._images, image_config=self._image_config))
        return self._ids, self._mask, pixel_values, self._grids


def _endless_rules(model: QwenVLConfig) -> TokenRules:
    """A vocabulary in which nothing ends a completion and nothing is banned."""
    size = model.text.vocab_size
    return token_rules([b""] * size, vocab_size=size, eos=(), banned=(), close_ids=[0], pad=0)
