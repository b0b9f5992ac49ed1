"""A policy of a few thousand parameters, noise in every one of them, and prompts that can go wrong."""

import tempfile
from collections.abc import Sequence
from functools import cache

import jax
import numpy as np

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.qwen_vl import QwenVLConfig, TextConfig, VisionConfig
from pixelthink_jax.policy import Policy
from pixelthink_jax.processing.patches import ImageConfig
from pixelthink_jax.processing.policy_format import PolicyFormat, ResizePolicy
from pixelthink_jax.processing.processor import Processor, Prompt
from pixelthink_jax.processing.prompts import prompt_template
from pixelthink_jax.processing.tokenizer import Tokenizer
from pixelthink_jax.processing.vocabulary import build_tokenizer
from tests.models.qwen_small import named_params

TEXTS = [
    "system\nuser\nassistant\nYou are brief.\nPlease find 'the red cup'.",
    "left of the blue cup near the green cup",
    "<think> red cup</think>\n<think></think><answer>",
] * 2
PATCH, MERGE = 7, 2
QUERIES = ("the red cup", "left of the blue cup near the green cup", "near")
SIZES = ((28, 42), (56, 28), (28, 42))


@cache
def tiny_processor() -> Processor:
    """Bytes and a few words; images keep their shape, at multiples of 14 pixels."""
    image = ImageConfig(patch_size=PATCH, merge_size=MERGE, min_pixels=14 * 14, max_pixels=56 * 56)
    format = PolicyFormat(
        resize=ResizePolicy(kind="smart", size=None),
        prompt=prompt_template("plain"),
        system_prompt="You are brief.",
    )
    with tempfile.TemporaryDirectory() as folder:
        build_tokenizer(TEXTS, folder, max_vocab=300)
        return Processor(image, Tokenizer.from_pretrained(folder), format)


def tiny_config(processor: Processor, *, layers: int = 2, hidden: int = 32) -> QwenVLConfig:
    """Grouped heads, unequal rotary sections, a windowed and a full vision block, ten ids without a token."""
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
        dtype="float32",
    )


@cache
def tiny_policy() -> Policy:
    """The policy these tests share, so that each shape compiles once in a process."""
    config = tiny_config(tiny_processor())
    params = jax.tree.map(jax.numpy.asarray, named_params(config))
    return Policy(config=config, params=params, loaded_processor=tiny_processor())


def pictures(sizes: Sequence[tuple[int, int]] = SIZES, *, seed: int = 0) -> list[np.ndarray]:
    """Noise images of the given (height, width)."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@cache
def tiny_prompts() -> tuple[Prompt, ...]:
    """Three lengths, two image sizes, neither of them square."""
    processor = tiny_processor()
    return tuple(processor.prompt(image, query) for image, query in zip(pictures(), QUERIES, strict=True))


def uncached_logits(policy: Policy, prompts: Sequence[Prompt], completions: np.ndarray) -> np.ndarray:
    """Logits `[b, r, v]` that predict each completion token, by one forward over whole rows, padded right.

    Ids that must not be sampled have minus infinity.
    """
    length = 128
    rows = [np.concatenate([p.input_ids, c]) for p, c in zip(prompts, completions, strict=True)]
    ids, mask = np.zeros((len(rows), length), np.int32), np.zeros((len(rows), length), np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    batch = policy.processor.batch(prompts)
    pixels = np.asarray(policy.processor.pixel_values(batch))
    logits = np.asarray(policy.logits(ids, mask, pixels, batch.image_grid_thw))
    starts = [len(p.input_ids) - 1 for p in prompts]
    logits = np.stack([row[s : s + completions.shape[1]] for row, s in zip(logits, starts, strict=True)])
    return np.where(np.asarray(policy.rules.banned), -np.inf, logits.astype(np.float64))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """In float64, over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@cache
def decode_params() -> object:
    """Per-layer parameters of `tiny_policy`."""
    return jax.jit(qwen_vl.unstack_layers)(tiny_policy().params)
