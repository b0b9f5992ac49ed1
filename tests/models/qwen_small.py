"""A small Qwen2.5-VL whose every choice can show a fault: uneven widths, windows that do not divide."""

import dataclasses
import zlib
from typing import Any, NamedTuple

import jax
import numpy as np

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.qwen_vl import QwenVLConfig, TextConfig, VisionConfig
from pixelthink_jax.models.qwen_vl.table import tensor_table
from pixelthink_jax.models.weights import ArraySource, TensorSpec, read_params

SMALL = QwenVLConfig(
    text=TextConfig(
        vocab_size=160,
        hidden_size=64,
        intermediate_size=88,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        mrope_section=(2, 3, 3),
        rope_theta=5000.0,
        rms_norm_eps=0.01,
        max_position_embeddings=512,
    ),
    vision=VisionConfig(
        depth=3,
        hidden_size=48,
        intermediate_size=56,
        num_heads=3,
        out_hidden_size=64,
        patch_size=4,
        window_size=24,
        full_attention_blocks=(2,),
        tokens_per_second=2,
    ),
    tie_word_embeddings=False,
    image_token_id=150,
    video_token_id=151,
    vision_start_token_id=152,
    vision_end_token_id=153,
    bos_token_id=1,
    eos_token_id=2,
    dtype="float32",
)
TIED = dataclasses.replace(SMALL, tie_word_embeddings=True)
START, END, IMAGE = SMALL.vision_start_token_id, SMALL.vision_end_token_id, SMALL.image_token_id

WIDE, TALL, OBLONG = (1, 6, 22), (1, 16, 4), (1, 10, 14)
CASES = {
    "one size": ((["text 3", OBLONG, "text 2"], [OBLONG, "text 6"]), "left"),
    "two sizes": ((["text 2", WIDE, "text 4"], ["text 5", TALL]), "left"),
    "right padding": ((["text 2", TALL, "text 4"], ["text 5", OBLONG, "text 1"]), "right"),
    "several images": (
        (["text 1", WIDE, "text 2", TALL, OBLONG, "text 3"], ["text 4", TALL, "text 1"]),
        "left",
    ),
    "frames": ((["text 2", (3, 6, 8), "text 2"],), "left"),
    "text only": ((["text 7"], ["text 4"]), "left"),
}


class Batch(NamedTuple):
    """What a Hugging Face processor makes."""

    input_ids: np.ndarray
    attention_mask: np.ndarray
    pixel_values: np.ndarray | None
    image_grid_thw: np.ndarray | None

    @property
    def real(self) -> np.ndarray:
        return self.attention_mask.astype(bool)


def make_batch(case: str, config: QwenVLConfig = SMALL, *, seed: int = 0) -> Batch:
    """Builds one of `CASES`: random text tokens, images between their marks, random pixels."""
    rows, side = CASES[case]
    rng, grids, texts = np.random.default_rng(seed), [], []
    for row in rows:
        ids: list[int] = []
        for part in row:
            if isinstance(part, str):
                ids += rng.integers(3, 140, int(part.split()[1])).tolist()
            else:
                grids.append(part)
                ids += [START, *[IMAGE] * (int(np.prod(part)) // config.vision.merge_unit), END]
        texts.append(ids)
    length = max(map(len, texts))
    input_ids, mask = np.zeros((len(rows), length), np.int64), np.zeros((len(rows), length), np.int64)
    for row, ids in enumerate(texts):
        where = slice(length - len(ids), None) if side == "left" else slice(len(ids))
        input_ids[row, where], mask[row, where] = ids, 1
    if not grids:
        return Batch(input_ids, mask, None, None)
    grid = np.array(grids)
    pixels = rng.normal(size=(int(grid.prod(1).sum()), config.vision.patch_dim)).astype(np.float32)
    return Batch(input_ids, mask, pixels, grid)


def named_array(spec: TensorSpec) -> np.ndarray:
    """Values that depend on the tensor's name alone; large enough everywhere for a fault to show."""
    noise = np.random.default_rng(zlib.crc32(spec.name.encode())).normal(size=spec.shape)
    if len(spec.shape) == 1:
        return (("norm" in spec.name or "ln_q" in spec.name) + 0.3 * noise).astype(np.float32)
    fan_in = 1 if "embed_tokens" in spec.name else np.prod(spec.shape[1:])
    return (1.2 * noise / np.sqrt(fan_in)).astype(np.float32)


def named_state(config: QwenVLConfig) -> dict[str, np.ndarray]:
    """All tensors of a model, by file name."""
    return {spec.name: named_array(spec) for spec in tensor_table(config)}


def named_params(config: QwenVLConfig) -> dict[str, Any]:
    """The same as a parameter tree."""
    return read_params(ArraySource(named_state(config), "test"), tensor_table(config))


def embed_batch(params: Any, batch: Batch, config: QwenVLConfig) -> jax.Array:
    """Encodes the images of a batch and embeds its prompt."""
    images = None
    if batch.pixel_values is not None:
        layout = qwen_vl.vision_layout(batch.image_grid_thw, config.vision)
        images = qwen_vl.encode_images(params, batch.pixel_values, layout, config)
    return qwen_vl.embed_prompt(params, batch.input_ids, images, config)


def positions_of(batch: Batch, config: QwenVLConfig) -> np.ndarray:
    return qwen_vl.position_ids(batch.input_ids, batch.attention_mask, batch.image_grid_thw, config)


def batch_logits(params: Any, batch: Batch, config: QwenVLConfig) -> np.ndarray:
    """Logits of every token of a batch, as one jitted function."""

    @jax.jit
    def run(params: Any, positions: np.ndarray) -> jax.Array:
        hidden = qwen_vl.forward(params, embed_batch(params, batch, config), positions, batch.real, config)
        return qwen_vl.logits(params, hidden, config)

    return np.asarray(run(params, positions_of(batch, config)))


def difference(ours: Any, reference: Any) -> float:
    """Largest absolute difference over the largest absolute reference value."""
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    assert ours.shape == reference.shape
    assert np.isfinite(ours).all()
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def gradient_difference(ours: Any, reference: Any) -> float:
    """Largest relative difference in norm over the leaves of two gradient trees."""
    norms = jax.tree.map(lambda a, b: float(np.linalg.norm(a - b) / np.linalg.norm(b)), ours, reference)
    return max(jax.tree.leaves(norms))


def noisy_adapter(params: Any, lora: qwen_vl.LoraConfig, config: QwenVLConfig = SMALL) -> Any:
    """The parameters with an adapter none of whose numbers is zero."""
    adapted = qwen_vl.add_lora(params, lora, config.text, jax.random.key(0))
    rng = np.random.default_rng(0)
    noise = lambda leaf: jax.numpy.asarray(rng.normal(0, 0.1, leaf.shape), leaf.dtype)  # noqa: E731
    trained, frozen = qwen_vl.split_params(adapted, "/lora_a", "/lora_b")
    return qwen_vl.whole_params(jax.tree.map(noise, trained), frozen)
