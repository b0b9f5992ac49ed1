"""How much arithmetic a GRPO step needs: matrix products counted by formula, two operations a multiply-add.

Normalisations, rotations and softmax are left out, as everywhere where utilisation is quoted. XLA's own count agrees
on an unrolled model (`tests/rl/test_flops.py`); inside a scan it counts one layer only, so a formula is needed.

A prompt and its image count once a group, every completion once, attention by (query, visible key) pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pixelthink_jax.models.qwen_vl import QwenVLConfig

UPDATE_PASSES = 3
"""Forward-equivalents of an update: the forward pass and twice that backward; recomputation is not useful work."""


@dataclass(frozen=True)
class GroupShape:
    """The tokens of one group.

    Attributes:
        prompt_tokens: Of the prompt, image tokens included.
        completion_tokens: Of each completion.
        grids: `(frames, rows, columns)` of the patches of each image.
    """

    prompt_tokens: int
    completion_tokens: tuple[int, ...]
    grids: tuple[tuple[int, int, int], ...]


def text_linear_flops(config: QwenVLConfig) -> int:
    """Of all decoder blocks, for one token.

    >>> text_linear_flops(QwenVLConfig()) == 2 * 36 * (2 * 2048 * 2048 + 2 * 2048 * 256 + 3 * 2048 * 11008)
    True
    """
    text = config.text
    kv_width = text.num_kv_heads * text.head_dim
    attention = 2 * text.hidden_size * (text.hidden_size + kv_width)
    return 2 * text.num_layers * (attention + 3 * text.hidden_size * text.intermediate_size)


def text_attention_flops(config: QwenVLConfig, pairs: int) -> int:
    """Scores and weighted values of all decoder blocks, for so many (query, visible key) pairs."""
    return 4 * config.text.num_layers * config.text.hidden_size * pairs


def vision_flops(config: QwenVLConfig, grid: tuple[int, int, int]) -> int:
    """One pass of the tower over one image, its windows as they are cut."""
    vision, (frames, rows, columns) = config.vision, grid
    width, patches = vision.hidden_size, frames * rows * columns
    linear = 4 * width * width + 3 * width * vision.intermediate_size
    side = vision.window_tokens * vision.spatial_merge_size
    windows = [_cuts(rows, side), _cuts(columns, side)]
    within = frames * sum((h * w) ** 2 for h in windows[0] for w in windows[1])
    full = len(set(vision.full_attention_blocks) & set(range(vision.depth)))
    pairs = full * frames * (rows * columns) ** 2 + (vision.depth - full) * within
    merged = vision.merge_unit * width
    merger = merged * (merged + vision.out_hidden_size) * patches // vision.merge_unit
    return 2 * (patches * (vision.patch_dim * width + vision.depth * linear) + merger) + 4 * width * pairs


def forward_flops(config: QwenVLConfig, groups: Sequence[GroupShape], *, shared: bool = True) -> int:
    """Log-probabilities of all completions once: tower, prompt, completions, output head at their positions.

    Args:
        config: The model.
        groups: Their tokens.
        shared: Each prompt once for its group; False repeats it for every completion.
    """
    total = 0
    for group in groups:
        copies = 1 if shared else len(group.completion_tokens)
        prompt, answers = group.prompt_tokens, group.completion_tokens
        tokens = copies * prompt + sum(answers)
        pairs = copies * prompt * (prompt + 1) // 2 + sum(r * prompt + r * (r + 1) // 2 for r in answers)
        total += copies * sum(vision_flops(config, grid) for grid in group.grids)
        total += tokens * text_linear_flops(config) + text_attention_flops(config, pairs)
        total += 2 * config.text.hidden_size * config.text.vocab_size * sum(answers)
    return total


def update_flops(
    config: QwenVLConfig,
    groups: Sequence[GroupShape],
    *,
    reference: bool = True,
    freeze_vision: bool = False,
    shared: bool = True,
) -> int:
    """Model FLOPs of an update: the reference's pass, and forward and backward of the policy.

    Args:
        config: The model.
        groups: Their tokens.
        reference: Whether there is a divergence term.
        freeze_vision: The tower then runs once for policy and reference, and never backward.
        shared: See `forward_flops`.
    """
    forward = forward_flops(config, groups, shared=shared)
    copies = [1 if shared else len(group.completion_tokens) for group in groups]
    tower = sum(
        n * sum(vision_flops(config, grid) for grid in group.grids)
        for n, group in zip(copies, groups, strict=True)
    )
    text_passes = UPDATE_PASSES + reference
    return text_passes * (forward - tower) + (1 if freeze_vision else text_passes) * tower


def _cuts(side: int, window: int) -> list[int]:
    """A side in windows, the last one what is left.

    >>> _cuts(20, 8)
    [8, 8, 4]
    """
    return [min(window, side - start) for start in range(0, side, window)]
