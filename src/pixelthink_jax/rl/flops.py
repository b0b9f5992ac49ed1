"""How much arithmetic a GRPO step needs: matrix products counted by formula, two operations a multiply-add.

Normalisations, rotations and softmax are left out, as everywhere where utilisation is quoted. XLA's own count agrees
on an unrolled model (`tests/rl/test_flops.py`); inside a scan it counts one layer only, so a formula is needed.

A prompt and its image count once a group, every completion once, attention by (query, visible key) pairs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pixelthink_jax.models.qwen_vl import QwenVLConfig
from pixelthink_jax.models.remat import Remat

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


def _mlp_flops(width: int, hidden: int) -> int:
    """The three products of a gated MLP, for one token."""
    return 2 * 3 * width * hidden


def text_linear_flops(config: QwenVLConfig) -> int:
    """Of all decoder blocks, for one token.

    >>> text_linear_flops(QwenVLConfig()) == 2 * 36 * (2 * 2048 * 2048 + 2 * 2048 * 256 + 3 * 2048 * 11008)
    True
    """
    text = config.text
    kv_width = text.num_kv_heads * text.head_dim
    attention = 2 * 2 * text.hidden_size * (text.hidden_size + kv_width)
    return text.num_layers * (attention + _mlp_flops(text.hidden_size, text.intermediate_size))


def text_attention_flops(config: QwenVLConfig, pairs: int) -> int:
    """Scores and weighted values of all decoder blocks, for so many (query, visible key) pairs."""
    return 4 * config.text.num_layers * config.text.hidden_size * pairs


def vision_flops(config: QwenVLConfig, grid: tuple[int, int, int]) -> int:
    """One pass of the tower over one image, its windows as they are cut."""
    vision, patches = config.vision, math.prod(grid)
    width, merged = vision.hidden_size, vision.merge_unit * vision.hidden_size
    merger = merged * (merged + vision.out_hidden_size) * patches // vision.merge_unit
    linear = 2 * vision.patch_dim * width + _vision_linear_flops(config)
    return patches * linear + 2 * merger + _vision_attention_flops(config, grid)


def _vision_linear_flops(config: QwenVLConfig) -> int:
    """Of all blocks of the tower, for one patch."""
    width = config.vision.hidden_size
    return config.vision.depth * (8 * width * width + _mlp_flops(width, config.vision.intermediate_size))


def _vision_attention_flops(config: QwenVLConfig, grid: tuple[int, int, int]) -> int:
    """Scores and weighted values of all blocks of the tower for one image."""
    vision, (frames, rows, columns) = config.vision, grid
    side = vision.window_tokens * vision.spatial_merge_size
    windows = [_cuts(rows, side), _cuts(columns, side)]
    within = frames * sum((h * w) ** 2 for h in windows[0] for w in windows[1])
    full = len(set(vision.full_attention_blocks) & set(range(vision.depth)))
    pairs = full * frames * (rows * columns) ** 2 + (vision.depth - full) * within
    return 4 * vision.hidden_size * pairs


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
        pairs = copies * prompt * (prompt + 1) // 2 + _suffix_pairs(group)
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


def recomputed_flops(
    config: QwenVLConfig, groups: Sequence[GroupShape], remat: Remat, *, freeze_vision: bool = False
) -> int:
    """What blocks compute once more on the way back, which is not among the model FLOPs.

    `dots` leaves attention to compute again, `dots_except_mlp` the scores and the two wide products of the MLP, `full`
    everything but the last product of the MLP, whose result no gradient needs. The pieces that attention and the output
    head are cut into where they are large come on top.

    Args:
        config: The model.
        groups: Their tokens.
        remat: What blocks keep.
        freeze_vision: The tower is not computed again then.
    """
    text, vision, total = config.text, config.vision, 0
    for group in groups:
        tokens = group.prompt_tokens + sum(group.completion_tokens)
        pairs = group.prompt_tokens * (group.prompt_tokens + 1) // 2 + _suffix_pairs(group)
        linear = tokens * text_linear_flops(config)
        attention = text_attention_flops(config, pairs)
        mlp = tokens * text.num_layers * _mlp_flops(text.hidden_size, text.intermediate_size)
        for grid in () if freeze_vision else group.grids:
            patches = math.prod(grid)
            attention += _vision_attention_flops(config, grid)
            linear += patches * _vision_linear_flops(config)
            mlp += patches * vision.depth * _mlp_flops(vision.hidden_size, vision.intermediate_size)
        again = {"none": 0, "dots": attention, "dots_except_mlp": attention // 2 + 2 * mlp // 3}
        total += again.get(remat, linear - mlp // 3 + attention)
    return total


def _suffix_pairs(group: GroupShape) -> int:
    """(query, visible key) pairs of the completions of a group."""
    return sum(r * group.prompt_tokens + r * (r + 1) // 2 for r in group.completion_tokens)


def _cuts(side: int, window: int) -> list[int]:
    """A side in windows, the last one what is left.

    >>> _cuts(20, 8)
    [8, 8, 4]
    """
    return [min(window, side - start) for start in range(0, side, window)]
