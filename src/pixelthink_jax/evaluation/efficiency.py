"""Where the time and the arithmetic of an answer go: seconds and FLOPs by stage, throughput, tokens per right mask.

Seconds are wall-clock time on the machine that ran, work shared by a batch divided evenly, compilation of new shapes
included; the median over examples is what a warm run takes. FLOPs are those of matrix products by formula
(`rl.flops`), the segmenter's by XLA's count of its program.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pixelthink_jax.evaluation.rows import Row
from pixelthink_jax.models.qwen_vl import QwenVLConfig
from pixelthink_jax.rl.flops import text_attention_flops, text_linear_flops, vision_flops
from pixelthink_jax.segmenter import Segmenter

STAGES = ("reading", "image_encoding", "prefill", "decoding", "segmenter")
CORRECT_FROM = 0.5


@dataclass(frozen=True)
class Efficiency:
    """What a run cost.

    Attributes:
        seconds_mean: Mean seconds an image, by stage.
        seconds_median: Median seconds an image, by stage.
        images_per_second: Images over the sum of all stages.
        tokens_per_second: Sampled tokens over the seconds of decoding; None where nobody measured.
        decode_busy: Share of the decode loop's rows that made a token of an answer; None where nobody measured.
        tokens_per_correct_mask: Sampled tokens over masks of IoU 0.5 or more; None without any.
        gflops: Mean GFLOPs an image, by stage; empty where the architecture is not known.
    """

    seconds_mean: dict[str, float]
    seconds_median: dict[str, float]
    images_per_second: float | None
    tokens_per_second: float | None
    decode_busy: float | None
    tokens_per_correct_mask: float | None
    gflops: dict[str, float]


def efficiency(rows: Sequence[Row], *, gflops: dict[str, float] | None = None) -> Efficiency:
    """Costs of a run.

    Args:
        rows: All of them, skipped ones too: they were computed as well.
        gflops: From `mean_gflops`.
    """
    stages = [stage for stage in STAGES if any(stage in row.seconds for row in rows)]
    spent = {stage: np.array([row.seconds.get(stage, 0.0) for row in rows]) for stage in stages}
    total, tokens = sum(float(s.sum()) for s in spent.values()), sum(row.completion_tokens for row in rows)
    slots = sum(row.decode_slots for row in rows)
    correct = sum(row.mask_iou is not None and row.mask_iou >= CORRECT_FROM for row in rows)
    decoding = float(spent["decoding"].sum()) if "decoding" in spent else 0.0
    return Efficiency(
        seconds_mean={stage: float(values.mean()) for stage, values in spent.items()},
        seconds_median={stage: float(np.median(values)) for stage, values in spent.items()},
        images_per_second=len(rows) / total if total else None,
        tokens_per_second=tokens / decoding if decoding else None,
        decode_busy=tokens / slots if slots else None,
        tokens_per_correct_mask=tokens / correct if correct else None,
        gflops=gflops or {},
    )


def answer_flops(
    config: QwenVLConfig, *, prompt_tokens: int, completion_tokens: int, grid: tuple[int, int, int]
) -> dict[str, int]:
    """FLOPs of one answer by stage: the tower, the prompt, and the completion with its output head.

    Args:
        config: The policy's architecture.
        prompt_tokens: Image tokens included.
        completion_tokens: The end token included.
        grid: Frames, rows and columns of patches.

    >>> parts = answer_flops(QwenVLConfig(), prompt_tokens=1000, completion_tokens=100, grid=(1, 60, 60))
    >>> parts["prefill"] > parts["decoding"] > 0
    True
    """
    linear, n, r = text_linear_flops(config), prompt_tokens, completion_tokens
    head = 2 * config.text.hidden_size * config.text.vocab_size
    return {
        "image_encoding": vision_flops(config, grid),
        "prefill": n * linear + text_attention_flops(config, n * (n + 1) // 2),
        "decoding": r * (linear + head) + text_attention_flops(config, r * n + r * (r + 1) // 2),
    }


def mean_gflops(
    rows: Sequence[Row], config: QwenVLConfig, segmenter: Segmenter | None = None
) -> dict[str, float]:
    """Mean GFLOPs an image by stage; empty where the rows do not say how long their prompts were.

    The segmenter encodes an image once for each object and decodes one prompt for each.
    """
    known = [row for row in rows if row.prompt_tokens and len(row.image_grid) == 3]
    if not known:
        return {}
    parts = [
        answer_flops(
            config,
            prompt_tokens=row.prompt_tokens,
            completion_tokens=row.completion_tokens,
            grid=(row.image_grid[0], row.image_grid[1], row.image_grid[2]),
        )
        for row in known
    ]
    found = {stage: float(np.mean([part[stage] for part in parts])) / 1e9 for stage in parts[0]}
    if segmenter is not None:
        objects = float(np.mean([len(row.boxes_xyxy) for row in known]))
        found["segmenter"] = objects * segmenter_flops(segmenter) / 1e9
    return found


@lru_cache(maxsize=4)
def segmenter_flops(segmenter: Segmenter) -> float:
    """FLOPs of one image with one prompt of a box and two points, as XLA counts its lowered program."""
    import jax
    import jax.numpy as jnp

    from pixelthink_jax.models.sam2.model import decode_masks, encode_image
    from pixelthink_jax.models.sam2.prompt_encoder import BOX_LABELS, PAD_POINT, Prompts

    config, side = segmenter.config, segmenter.config.image_size
    labels = jnp.array([[[*BOX_LABELS, 1, 1, PAD_POINT]]], jnp.int32)

    @jax.jit
    def one_answer(params, pixels):  # noqa: ANN001, ANN202 - traced here and nowhere else
        prompts = Prompts(jnp.zeros((*labels.shape, 2), jnp.float32), labels)
        return decode_masks(
            params, encode_image(params, pixels, config), prompts, config, multimask=True
        ).low_res_masks

    lowered = one_answer.lower(segmenter.params, jnp.zeros((1, side, side, 3), segmenter.dtype))
    return float((lowered.cost_analysis() or {}).get("flops", 0.0))
