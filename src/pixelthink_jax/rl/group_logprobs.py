"""Scores of all completions of a batch of groups, each prompt and its image computed once.

    prompt -> prefill -> keys and values ---------------------.
                 |                                            v
                 last hidden state   completions -> suffix_forward -> hidden states
                 |                                            |
                 `--> predicts the first token   predict the others

Equal to the repeated-prompt computation in value and gradient, for `(g (p + r)) / (p + g r)` times fewer tokens.
"""

from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.layers import AnyArray
from pixelthink_jax.models.qwen_vl import PrefixCache, QwenVLConfig
from pixelthink_jax.models.remat import Remat
from pixelthink_jax.rl.logprobs import TokenScores, token_logprobs
from pixelthink_jax.rl.rollout import PromptArrays


def group_logprobs(
    params: Any,
    prompts: PromptArrays,
    images: Float[Array, "n d"],
    tokens: Int[AnyArray, "b g r"],
    mask: Bool[AnyArray, "b g r"],
    config: QwenVLConfig,
    *,
    temperature: Float[Array, ""] | float = 1.0,
    banned: Bool[Array, " v"] | None = None,
    dtype: DTypeLike | None = None,
    remat: Remat = "none",
    unroll: int | bool = 1,
) -> TokenScores:
    """Scores every completion token under the policy, as the sampler that drew it did.

    Args:
        params: The whole model's parameters, stacked.
        prompts: Padded on the left.
        images: From `rollout.encode_prompt_images`; gradients flow into them.
        tokens: Completions.
        mask: True at completion tokens; scores elsewhere mean nothing.
        config: The model.
        temperature: Of the sampling.
        banned: Tokens the sampler never draws.
        dtype: Dtype to compute in; None takes that of the weights.
        remat: What blocks keep for the backward pass.
        unroll: Blocks per scan step.

    Returns:
        Arrays `[b, g, r]`.
    """
    b, g, r = tokens.shape
    embeds = qwen_vl.embed_prompt(params, prompts.input_ids, images, config, dtype=dtype)
    last, prefix = qwen_vl.prefill(
        params, embeds, prompts.positions, prompts.mask, config, remat=remat, unroll=unroll
    )
    hidden = jnp.broadcast_to(last[:, None, -1:], (b, g, 1, last.shape[-1]))
    if r > 1:
        rest = _suffix_hidden(params, prompts, prefix, tokens, mask, config, embeds.dtype, remat, unroll)
        hidden = jnp.concatenate([hidden, rest], axis=2)
    return token_logprobs(params, hidden, jnp.asarray(tokens), config, temperature=temperature, banned=banned)


def _suffix_hidden(
    params: Any,
    prompts: PromptArrays,
    prefix: PrefixCache,
    tokens: Int[AnyArray, "b g r"],
    mask: Bool[AnyArray, "b g r"],
    config: QwenVLConfig,
    dtype: DTypeLike,
    remat: Remat,
    unroll: int | bool,
) -> Float[Array, "b g r-1 d"]:
    """Hidden states at all completion tokens but the last, which predicts nothing."""
    b, g, r = tokens.shape
    inputs = qwen_vl.embed_prompt(params, tokens.reshape(b, -1), None, config, dtype=dtype)
    inputs = inputs.reshape(b, g, r, -1)[:, :, :-1]
    positions = jnp.broadcast_to(
        prompts.next_position[:, None, None] + jnp.arange(r - 1)[None, None], (3, b, g, r - 1)
    )
    return qwen_vl.suffix_forward(
        params, inputs, positions, prefix, mask[:, :, :-1], config, remat=remat, unroll=unroll
    )
