"""Generation and group training over a shared prompt: prefill once, then only completions.

The keys and values of a prompt are kept once for all completions of its group and are never copied per
completion. `decode_step` appends one token to every completion; `suffix_forward` runs all tokens of all
completions at once, for verification and for the gradient. Both equal the repeated-prompt computation.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from pixelthink_jax.models.attention import attend, attend_prefix_suffix
from pixelthink_jax.models.axes import on_axes
from pixelthink_jax.models.layers import AnyArray
from pixelthink_jax.models.qwen_vl.config import QwenVLConfig
from pixelthink_jax.models.qwen_vl.model import embed_prompt, final_norm
from pixelthink_jax.models.qwen_vl.rope import text_rope
from pixelthink_jax.models.qwen_vl.text import LayerFns, Params, causal_mask, run_layers
from pixelthink_jax.models.remat import Remat

# A stack or a tuple of arrays; as nodes of pytrees, these hold whatever JAX traces or plans with.
PerLayer = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PrefixCache:
    """Keys and values of a batch of prompts.

    Attributes:
        k: `[layer, b, k, t, c]`, or one `[b, k, t, c]` a layer.
        v: Laid out as `k`.
        mask: bool `[b, t]`, True at real tokens.
    """

    k: PerLayer
    v: PerLayer
    mask: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SuffixCache:
    """Keys and values of the completions sampled so far.

    Attributes:
        k: `[layer, b, g, k, r, c]`, or one `[b, g, k, r, c]` a layer.
        v: Laid out as `k`.
    """

    k: PerLayer
    v: PerLayer


def unstack_layers(params: Params) -> Params:
    """Gives the text blocks as a tuple of per-layer trees, for decode loops.

    A scan copies each layer out of the stack at every step; separate arrays are read in place. The result
    holds a second copy of the text blocks: make it once for a rollout and count it.
    """
    blocks = params["text"]["blocks"]
    depth = jax.tree.leaves(blocks)[0].shape[0]
    layers = tuple(jax.tree.map(lambda leaf, i=i: leaf[i], blocks) for i in range(depth))
    return {**params, "text": {**params["text"], "blocks": layers}}


def without_blocks(params: Params) -> Params:
    """Everything but the text blocks."""
    return {**params, "text": {name: leaf for name, leaf in params["text"].items() if name != "blocks"}}


def _layers(blocks: Any, *others: PerLayer) -> Any:
    """Zips blocks and caches for `run_layers`: a tuple of stacks, or a list of per-layer tuples."""
    if not isinstance(blocks, tuple):
        return blocks, *others
    columns = [
        other if isinstance(other, tuple) else [other[i] for i in range(len(blocks))] for other in others
    ]
    return list(zip(blocks, *columns, strict=True))


def prefill(
    params: Params,
    embeds: Float[Array, "b t d"],
    positions: Int[AnyArray, "3 b t"],
    mask: Bool[AnyArray, "b t"],
    config: QwenVLConfig,
    *,
    remat: Remat = "none",
    unroll: int | bool = 1,
) -> tuple[Float[Array, "b t d"], PrefixCache]:
    """Runs prompts as `forward` does and keeps their keys and values.

    Args:
        params: The whole model's parameters.
        embeds: From `embed_prompt`.
        positions: From `position_ids`.
        mask: True at real tokens.
        config: The model.
        remat: What blocks keep for the backward pass.
        unroll: Blocks per scan step.

    Returns:
        Hidden states after the final normalisation, and the cache, per layer if the blocks are.
    """
    cos_sin, visible = text_rope(positions, config.text), causal_mask(mask)
    fns = LayerFns(config.text)

    def body(x: jax.Array, layer: tuple[Params]) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        q, k, v = fns.project(layer[0], x, cos_sin)
        k, v = (on_axes(x.swapaxes(1, 2), "b k t c") for x in (k, v))
        return fns.merge(layer[0], x, attend(q, k, v, visible)), (k, v)

    x, kv = run_layers(body, embeds, _layers(params["text"]["blocks"]), remat=remat, unroll=unroll)
    k, v = tuple(zip(*kv, strict=True)) if isinstance(params["text"]["blocks"], tuple) else kv
    return final_norm(params, x, config), PrefixCache(k=k, v=v, mask=mask)


def init_suffix_cache(
    config: QwenVLConfig, b: int, g: int, r: int, dtype: DTypeLike, *, unstacked: bool = False
) -> SuffixCache:
    """Room for `r` tokens of each of `b * g` completions; `unstacked` to go with `unstack_layers`."""
    shape, depth = (b, g, config.text.num_kv_heads, r, config.text.head_dim), config.text.num_layers
    if unstacked:
        empty = lambda: on_axes(jnp.zeros(shape, dtype), "b g k r c")  # noqa: E731
        return SuffixCache(*(tuple(empty() for _ in range(depth)) for _ in range(2)))
    return SuffixCache(jnp.zeros((depth, *shape), dtype), jnp.zeros((depth, *shape), dtype))


def decode_step(
    params: Params,
    tokens: Int[AnyArray, "b g"],
    positions: Int[AnyArray, "3 b g"],
    prefix: PrefixCache,
    suffix: SuffixCache,
    step: Int[Array, ""] | int,
    config: QwenVLConfig,
) -> tuple[Float[Array, "b g d"], SuffixCache]:
    """Runs one token of every completion.

    Args:
        params: The whole model's parameters, stacked or from `unstack_layers`.
        tokens: Token number `step` of each completion.
        positions: Their positions: the prompt's largest plus 1 plus `step` on all three axes.
        prefix: From `prefill`.
        suffix: Keys and values of tokens before `step`; updated in place when donated or carried.
        step: Index of these tokens in the completion, from 0.
        config: The model.

    Returns:
        Hidden states after the final normalisation, and the suffix cache with these tokens.
    """
    x = embed_prompt(params, tokens, None, config, dtype=prefix.k[0].dtype)[:, :, None]
    x = on_axes(x, "b g t d")
    cos_sin = text_rope(positions[..., None], config.text)
    room = (suffix.k[0] if isinstance(suffix.k, tuple) else suffix.k).shape[-2]
    seen = (jnp.arange(room) <= step)[None, None, None]
    fns = LayerFns(config.text)

    def block(layer: Params, x: jax.Array, prefix_kv: tuple, suffix_kv: tuple) -> tuple[jax.Array, tuple]:
        q, k, v = fns.project(layer, x, cos_sin)
        write = lambda cache, new: on_axes(  # noqa: E731
            jax.lax.dynamic_update_slice_in_dim(cache, new.swapaxes(2, 3).astype(cache.dtype), step, axis=3),
            "b g k r c",
        )
        own = write(suffix_kv[0], k), write(suffix_kv[1], v)
        attended = attend_prefix_suffix(q, prefix_kv[0], prefix_kv[1], prefix.mask, own[0], own[1], seen)
        return fns.merge(layer, x, attended), own

    blocks = params["text"]["blocks"]
    if isinstance(blocks, tuple):
        owns = []
        for layer, pk, pv, sk, sv in _layers(blocks, prefix.k, prefix.v, suffix.k, suffix.v):
            x, own = block(layer, x, (pk, pv), (sk, sv))
            owns.append(own)
        k, v = zip(*owns, strict=True)
        return final_norm(params, x[:, :, 0], config), SuffixCache(k, v)

    def body(carry: tuple, xs: tuple) -> tuple[tuple, None]:
        x, k, v, index = carry
        layer, pk, pv = xs
        take = lambda stack: jax.lax.dynamic_index_in_dim(stack, index, keepdims=False)  # noqa: E731
        put = lambda stack, new: jax.lax.dynamic_update_index_in_dim(stack, new, index, 0)  # noqa: E731
        x, own = block(layer, x, (pk, pv), (take(k), take(v)))
        return (x, put(k, own[0]), put(v, own[1]), index + 1), None

    (x, k, v, _), _ = jax.lax.scan(body, (x, suffix.k, suffix.v, jnp.int32(0)), (blocks, prefix.k, prefix.v))
    return final_norm(params, x[:, :, 0], config), SuffixCache(k, v)


def suffix_forward(
    params: Params,
    embeds: Float[Array, "b g r d"],
    positions: Int[AnyArray, "3 b g r"],
    prefix: PrefixCache,
    suffix_mask: Bool[AnyArray, "b g r"],
    config: QwenVLConfig,
    *,
    remat: Remat = "none",
    unroll: int | bool = 1,
) -> Float[Array, "b g r d"]:
    """Runs all tokens of all completions of every group over the shared prompt.

    Args:
        params: The whole model's parameters.
        embeds: Embedded completion tokens.
        positions: As in `decode_step`.
        prefix: From `prefill`; gradients flow into it.
        suffix_mask: True at real completion tokens.
        config: The model.
        remat: What blocks keep for the backward pass.
        unroll: Blocks per scan step.

    Returns:
        Hidden states after the final normalisation; the first completion token is predicted by the prompt's
        last.
    """
    b, g, r, _ = embeds.shape
    embeds = on_axes(embeds, "b g r d")
    cos_sin = text_rope(positions, config.text)
    visible = causal_mask(suffix_mask.reshape(b * g, r)).reshape(b, g, r, r)
    fns = LayerFns(config.text)

    def body(x: jax.Array, xs: tuple) -> tuple[jax.Array, None]:
        layer, pk, pv = xs
        q, k, v = fns.project(layer, x, cos_sin)
        attended = attend_prefix_suffix(q, pk, pv, prefix.mask, k.swapaxes(2, 3), v.swapaxes(2, 3), visible)
        return fns.merge(layer, x, attended), None

    layers = _layers(params["text"]["blocks"], prefix.k, prefix.v)
    x, _ = run_layers(body, embeds, layers, remat=remat, unroll=unroll)
    return final_norm(params, x, config)
