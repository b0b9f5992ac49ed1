"""Rollout: every prompt prefilled once, all completions of its group decoded together over the shared keys.

    encode images -> prefill prompts -> decode loop (sample, apply rules, one `decode_step`) -> RolloutBatch

The decode loop is one jitted `while_loop` for each room of the completion cache (64, 128, 256, ... tokens),
so that attention never spans the longest possible completion; it ends as soon as every row is done. On
accelerators the loop condition is read every 16 tokens only, because reading it makes the host wait
(performance: XLA:GPU).
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.axes import on_axes
from pixelthink_jax.models.layers import AnyArray
from pixelthink_jax.models.qwen_vl import PrefixCache, QwenVLConfig, SuffixCache, VisionLayout
from pixelthink_jax.models.remat import Remat
from pixelthink_jax.processing.patches import ImageConfig, patchify
from pixelthink_jax.rl.sampling import SamplingConfig, sample_tokens, token_statistics
from pixelthink_jax.rl.token_rules import CLOSE, OPEN, TokenRules

# Rooms of the completion cache, in tokens; longer completions double on.
_ROOMS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
_TOKENS_PER_CHECK = 16


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PromptArrays:
    """Prompts on the device, or on their way to it.

    Attributes:
        input_ids: int32 `[b, t]`, padded on the left.
        mask: True at real tokens.
        positions: M-RoPE positions.
        images: Stacks of images of one size, in prompt order.
        layout: Where their patches go.
        forced: int32 `[b, n]`, tokens every completion must begin with; -1 where there is none.
    """

    input_ids: Int[AnyArray, "b t"]
    mask: Bool[AnyArray, "b t"]
    positions: Int[AnyArray, "3 b t"]
    images: tuple[UInt8[AnyArray, "_ _ _ 3"], ...]
    layout: VisionLayout
    forced: Int[AnyArray, "b n"]

    @property
    def next_position(self) -> Int[Array, " b"]:
        """Position of the first completion token, on all three axes."""
        return jnp.max(jnp.where(self.mask, self.positions, -1), axis=(0, 2)) + 1


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RolloutBatch:
    """Sampled completions.

    Attributes:
        tokens: int32 `[b, g, r]`, the end token included, padding after it.
        lengths: int32 `[b, g]`, tokens up to and including the end token.
        logprobs: Log-probability of each token under the temperature-scaled distribution, in nats.
        gaps: Top-one minus top-two probability at each token.
        stopped: True where an end token was sampled.
    """

    tokens: Int[AnyArray, "b g r"]
    lengths: Int[AnyArray, "b g"]
    logprobs: Float[AnyArray, "b g r"]
    gaps: Float[AnyArray, "b g r"]
    stopped: Bool[AnyArray, "b g"]

    @property
    def mask(self) -> Bool[Array, "b g r"]:
        """True at completion tokens."""
        return jnp.arange(self.tokens.shape[-1])[None, None] < self.lengths[..., None]

    @property
    def uncertainty(self) -> Float[Array, "b g"]:
        """Mean over tokens of `1 - gap`, in [0, 1] (method section 5)."""
        total = jnp.sum(jnp.where(self.mask, jnp.clip(1 - self.gaps, 0, 1), 0.0), axis=-1)
        return total / jnp.maximum(self.lengths, 1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _State:
    """The decode loop's carry; `tags` is the automaton's state, `closing` a place in `close_ids`."""

    step: Int[Array, ""]
    hidden: Float[Array, "b g d"]
    suffix: SuffixCache
    out: RolloutBatch
    done: Bool[Array, "b g"]
    tags: Int[Array, "b g"]
    thinking: Int[Array, "b g"]
    closing: Int[Array, "b g"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Decoding:
    """Completions under way, all at the same step: everything that belongs to their rows.

    Attributes:
        prefix: Keys and values of their prompts.
        state: The decode loop's carry.
        keys: One PRNG key per completion.
        forced: Tokens every completion must begin with.
        next_position: Position of each prompt's first completion token.
    """

    prefix: PrefixCache
    state: _State
    keys: Key[Array, "b g"]
    forced: Int[AnyArray, "b n"]
    next_position: Int[Array, " b"]


def encode_prompt_images(
    params: Any,
    prompts: PromptArrays,
    config: QwenVLConfig,
    image_config: ImageConfig,
    *,
    dtype: DTypeLike | None = None,
    remat: Remat = "none",
    unroll: int | bool = 1,
) -> Float[Array, "n d"]:
    """Image tokens of a batch of prompts, in the order of their placeholders."""
    pixels = jnp.concatenate([patchify(stack, image_config=image_config) for stack in prompts.images])
    return qwen_vl.encode_images(
        params, pixels, prompts.layout, config, dtype=dtype, remat=remat, unroll=unroll
    )


encode_for_rollout = jax.jit(encode_prompt_images, static_argnames=("config", "image_config"))


def sample_completions(
    params: Any,
    prompts: PromptArrays,
    keys: Key[Array, "b g"],
    rules: TokenRules,
    sampling: SamplingConfig,
    config: QwenVLConfig,
    image_config: ImageConfig,
    *,
    tokens_per_check: int | None = None,
) -> RolloutBatch:
    """Draws a group of completions for every prompt.

    Args:
        params: The policy's parameters; per-layer ones (`qwen_vl.unstack_layers`) decode fastest.
        prompts: One image and one question each.
        keys: One PRNG key per completion (`sampling.row_keys`); their shape sets the group size.
        rules: End tokens, banned tokens and tags.
        sampling: Temperature, truncation and limits.
        config: The model.
        image_config: How pixels become patches.
        tokens_per_check: Tokens decoded between two looks at whether all rows are done; None is 1 on a CPU.

    Returns:
        The completions, cut to the room that was needed.
    """
    limits = rooms(sampling)
    images = encode_for_rollout(params, prompts, config, image_config)
    decoding = prefill_prompts(params, images, prompts, keys, rules, config, room=limits[0])
    for room in limits:
        decoding = decode_to_room(
            params, decoding, room, rules, sampling, config, tokens_per_check=tokens_per_check
        )
        if room == limits[-1] or bool(jnp.all(decoding.state.done)):
            break
    return decoding.state.out


def rooms(sampling: SamplingConfig) -> list[int]:
    """Sizes of the completion cache, in tokens, that a rollout goes through."""
    return [room for room in _ROOMS if room < sampling.max_new_tokens] + [sampling.max_new_tokens]


def decode_to_room(
    params: Any,
    decoding: Decoding,
    room: int,
    rules: TokenRules,
    sampling: SamplingConfig,
    config: QwenVLConfig,
    *,
    tokens_per_check: int | None = None,
) -> Decoding:
    """Decodes until every completion is done or has `room` tokens. Arguments as `sample_completions`."""
    if tokens_per_check is None:
        tokens_per_check = 1 if jax.default_backend() == "cpu" else _TOKENS_PER_CHECK
    decoding = dataclasses.replace(decoding, state=_grow(decoding.state, room, rules))
    state = _run(
        *_loop_arguments(params, decoding, rules, sampling, config), tokens_per_check=tokens_per_check
    )
    return dataclasses.replace(decoding, state=state)


def lower_decode(
    params: Any,
    decoding: Decoding,
    rules: TokenRules,
    sampling: SamplingConfig,
    config: QwenVLConfig,
    *,
    tokens_per_check: int,
) -> jax.stages.Lowered:
    """The loop of `decode_to_room` in the room that `decoding` has, lowered for compilation; shapes will do."""
    return _run.lower(
        *_loop_arguments(params, decoding, rules, sampling, config), tokens_per_check=tokens_per_check
    )


def _loop_arguments(
    params: Any, decoding: Decoding, rules: TokenRules, sampling: SamplingConfig, config: QwenVLConfig
) -> tuple[Any, ...]:
    thinking_limit = -1 if sampling.max_thinking_tokens is None else sampling.max_thinking_tokens
    return (
        params,
        decoding.prefix,
        decoding.state,
        decoding.keys,
        decoding.forced,
        decoding.next_position,
        rules,
        np.float32(sampling.temperature or 1.0),
        np.float32(sampling.top_p) if sampling.top_p < 1 else None,
        np.int32(thinking_limit),
        config,
        sampling.temperature == 0,
        sampling.top_k,
    )


@partial(jax.jit, static_argnames=("config", "room"))
def prefill_prompts(
    params: Any,
    images: Float[Array, "n d"],
    prompts: PromptArrays,
    keys: Key[Array, "b g"],
    rules: TokenRules,
    config: QwenVLConfig,
    *,
    room: int,
) -> Decoding:
    """Prefills the prompts, each once, and lays out empty completions of `room` tokens."""
    embeds = qwen_vl.embed_prompt(params, prompts.input_ids, images, config)
    hidden, prefix = qwen_vl.prefill(params, embeds, prompts.positions, prompts.mask, config)
    b, g = keys.shape
    unstacked = isinstance(params["text"]["blocks"], tuple)
    zeros = jnp.zeros((b, g), jnp.int32)
    out = RolloutBatch(
        tokens=jnp.full((b, g, room), rules.pad_id),
        lengths=zeros,
        logprobs=jnp.zeros((b, g, room)),
        gaps=jnp.zeros((b, g, room)),
        stopped=zeros.astype(bool),
    )
    last = on_axes(jnp.broadcast_to(hidden[:, -1:], (b, g, hidden.shape[-1])), "b g d")
    suffix = qwen_vl.init_suffix_cache(config, b, g, room, embeds.dtype, unstacked=unstacked)
    state = _State(jnp.int32(0), last, suffix, out, zeros.astype(bool), zeros, zeros, zeros)
    return Decoding(prefix, state, keys, jnp.asarray(prompts.forced), prompts.next_position)


def _grow(state: _State, room: int, rules: TokenRules) -> _State:
    """Widens the completion arrays to `room` tokens; the cache's token axis is the second to last."""
    extra = room - state.out.tokens.shape[-1]
    if extra == 0:
        return state
    widen = lambda x, value: jnp.pad(x, ((0, 0), (0, 0), (0, extra)), constant_values=value)  # noqa: E731
    out = dataclasses.replace(
        state.out,
        tokens=widen(state.out.tokens, rules.pad_id),
        logprobs=widen(state.out.logprobs, 0),
        gaps=widen(state.out.gaps, 0),
    )
    suffix = jax.tree.map(lambda x: jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, extra), (0, 0)]), state.suffix)
    return dataclasses.replace(state, out=out, suffix=suffix)


@partial(
    jax.jit, static_argnames=("config", "greedy", "top_k", "tokens_per_check"), donate_argnames=("state",)
)
def _run(
    params: Any,
    prefix: PrefixCache,
    state: _State,
    keys: Key[Array, "b g"],
    forced: Int[Array, "b n"],
    next_position: Int[Array, " b"],
    rules: TokenRules,
    temperature: Float[Array, ""],
    top_p: Float[Array, ""] | None,
    thinking_limit: Int[Array, ""],
    config: QwenVLConfig,
    greedy: bool,
    top_k: int,
    *,
    tokens_per_check: int,
) -> _State:
    """Decodes until every completion is done or the room is full."""
    room = state.out.tokens.shape[-1]

    def one_token(state: _State) -> _State:
        logits = on_axes(qwen_vl.logits(params, state.hidden, config), "b g v")
        token_keys = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, state.step)))(keys)
        tokens, scaled = sample_tokens(
            logits,
            token_keys,
            temperature=temperature,
            banned=rules.banned,
            greedy=greedy,
            top_k=top_k,
            top_p=top_p,
        )
        state, tokens = _apply_rules(state, tokens, forced, thinking_limit, rules)
        state = _record(state, tokens, *token_statistics(scaled, tokens), rules)
        positions = jnp.broadcast_to((next_position + state.step)[None, :, None], (3, *tokens.shape))
        hidden, suffix = qwen_vl.decode_step(
            params, tokens, positions, prefix, state.suffix, state.step, config
        )
        hidden = on_axes(hidden, "b g d")
        return dataclasses.replace(state, step=state.step + 1, hidden=hidden, suffix=suffix)

    def some_tokens(state: _State) -> _State:
        if tokens_per_check == 1:
            return one_token(state)
        guarded = lambda _, s: jax.lax.cond(s.step < room, one_token, lambda s: s, s)  # noqa: E731
        return jax.lax.fori_loop(0, tokens_per_check, guarded, state)

    return jax.lax.while_loop(lambda s: (s.step < room) & ~jnp.all(s.done), some_tokens, state)


def _apply_rules(
    state: _State,
    tokens: Int[Array, "b g"],
    forced: Int[Array, "b n"],
    thinking_limit: Int[Array, ""],
    rules: TokenRules,
) -> tuple[_State, Int[Array, "b g"]]:
    """Replaces sampled tokens by forced ones, and follows the thought's tags."""
    in_thought = (state.tags >= len(OPEN)) & (state.tags < len(OPEN) + len(CLOSE))
    # A tag that has begun is left to the policy to finish, which takes at most a token for each byte.
    limit = thinking_limit + jnp.where(state.tags > len(OPEN), len(CLOSE), 0)
    spent = in_thought & (thinking_limit >= 0) & (state.thinking >= limit)
    closing = spent | (state.closing > 0)
    if forced.shape[1]:
        wanted = forced[:, jnp.minimum(state.step, forced.shape[1] - 1)][:, None]
        forcing = (state.step < forced.shape[1]) & (wanted >= 0)
        tokens, closing = jnp.where(forcing, wanted, tokens), closing & ~forcing
    tokens = jnp.where(closing, rules.close_ids[state.closing], tokens)
    tokens = jnp.where(state.done, rules.pad_id, tokens)
    state = dataclasses.replace(
        state,
        tags=rules.tags[state.tags, tokens],
        thinking=state.thinking + (in_thought & ~closing),
        closing=jnp.where(closing, (state.closing + 1) % rules.close_ids.shape[0], 0),
    )
    return state, tokens


def _record(
    state: _State,
    tokens: Int[Array, "b g"],
    logprobs: Float[Array, "b g"],
    gaps: Float[Array, "b g"],
    rules: TokenRules,
) -> _State:
    """Writes one token of every row that is not done, and notes which rows ended with it."""
    write = lambda column, value: jax.lax.dynamic_update_slice_in_dim(  # noqa: E731
        column, jnp.where(state.done, 0, value)[..., None].astype(column.dtype), state.step, axis=2
    )
    ended = ~state.done & rules.eos[tokens]
    out = RolloutBatch(
        tokens=jax.lax.dynamic_update_slice_in_dim(state.out.tokens, tokens[..., None], state.step, axis=2),
        lengths=state.out.lengths + ~state.done,
        logprobs=write(state.out.logprobs, logprobs),
        gaps=write(state.out.gaps, gaps),
        stopped=state.out.stopped | ended,
    )
    return dataclasses.replace(state, out=out, done=state.done | ended)
