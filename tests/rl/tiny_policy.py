"""A policy of a few thousand parameters, noise in every one of them, and prompts that can go wrong."""

import dataclasses
import tempfile
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.qwen_vl import QwenVLConfig, TextConfig, VisionConfig
from pixelthink_jax.policy import Policy
from pixelthink_jax.processing.patches import ImageConfig
from pixelthink_jax.processing.policy_format import PolicyFormat, ResizePolicy
from pixelthink_jax.processing.processor import Processor
from pixelthink_jax.processing.prompts import prompt_template
from pixelthink_jax.processing.tokenizer import Tokenizer
from pixelthink_jax.processing.vocabulary import build_tokenizer

WORDS = "please find the red blue green cup left right of near think answer system user assistant"
PATCH, MERGE = 7, 2


def tiny_processor() -> Processor:
    """Bytes and a few words; images keep their shape, at multiples of 14 pixels."""
    image = ImageConfig(patch_size=PATCH, merge_size=MERGE, min_pixels=14 * 14, max_pixels=56 * 56)
    format = PolicyFormat(
        resize=ResizePolicy(kind="smart", size=None),
        prompt=prompt_template("plain"),
        system_prompt="You are brief.",
    )
    with tempfile.TemporaryDirectory() as folder:
        build_tokenizer([f"{WORDS} {WORDS}"] * 2, folder, max_vocab=300)
        return Processor(image, Tokenizer.from_pretrained(folder), format)


def tiny_config(processor: Processor, *, layers: int = 2, hidden: int = 32) -> QwenVLConfig:
    """Grouped heads, three unequal rotary sections, a windowed and a full vision block, ten ids to spare."""
    special = processor.tokenizer.special
    return QwenVLConfig(
        text=TextConfig(
            vocab_size=processor.tokenizer.vocab_size + 10,
            hidden_size=hidden,
            intermediate_size=hidden * 3 // 2,
            num_layers=layers,
            num_heads=4,
            num_kv_heads=2,
            mrope_section=(hidden // 32, hidden // 32, hidden // 16),
            rope_theta=100.0,
            max_position_embeddings=512,
        ),
        vision=VisionConfig(
            depth=2,
            hidden_size=16,
            intermediate_size=24,
            num_heads=2,
            out_hidden_size=hidden,
            patch_size=PATCH,
            spatial_merge_size=MERGE,
            window_size=28,
            full_attention_blocks=(1,),
            rope_theta=100.0,
        ),
        tie_word_embeddings=False,
        image_token_id=special.image_pad,
        video_token_id=special.vision[-1],
        vision_start_token_id=special.vision_start,
        vision_end_token_id=special.vision_end,
        bos_token_id=special.pad,
        eos_token_id=special.end_of_turn,
        pad_token_id=special.pad,
        initializer_range=0.15,
        dtype="float32",
    )


def with_noise(params: Any, seed: int, scale: float) -> Any:
    """Normal noise in every leaf, biases and norms too, so that none can be forgotten unnoticed."""
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    return tree.unflatten([jnp.asarray(x + scale * rng.normal(size=x.shape), x.dtype) for x in leaves])


@cache
def tiny_policy() -> Policy:
    """The policy most tests share, so that each shape compiles once in a process."""
    processor = tiny_processor()
    config = tiny_config(processor)
    params = jax.jit(lambda key: qwen_vl.init_params(config, key, jnp.float32))(jax.random.key(0))
    params = with_noise(params, seed=1, scale=0.1)
    text = params["text"]
    params = {**params, "text": {**text, "embed": 6 * text["embed"], "lm_head": 3 * text["lm_head"]}}
    return Policy(config=config, params=params, loaded_processor=processor)


def pictures(*sizes: tuple[int, int], seed: int = 0) -> list[np.ndarray]:
    """Noise images of the given (height, width)."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def uncached_logits(policy: Policy, prompt: Any, completion: np.ndarray, *, length: int = 192) -> np.ndarray:
    """Logits that predict each completion token, from one forward over prompt and completion without a cache."""
    ids = np.concatenate([prompt.input_ids, completion]).astype(np.int32)
    row, mask = np.zeros((1, length), np.int32), np.zeros((1, length), np.int32)
    row[0, : len(ids)], mask[0, : len(ids)] = ids, 1
    batch = policy.processor.batch([prompt])
    pixels = np.asarray(policy.processor.pixel_values(batch))
    logits = np.asarray(policy.logits(row, mask, pixels, batch.image_grid_thw))[0]
    start = len(prompt.input_ids) - 1
    return logits[start : start + len(completion)]


def without_banned(logits: np.ndarray, policy: Policy) -> np.ndarray:
    """Sets the logits of ids that must not be sampled to minus infinity."""
    return np.where(np.asarray(policy.rules.banned), -np.inf, logits)


def replace_params(policy: Policy, **text: Any) -> Policy:
    """The policy with some leaves of its language model replaced."""
    params = {**policy.params, "text": {**policy.params["text"], **text}}
    return dataclasses.replace(policy, params=params)
