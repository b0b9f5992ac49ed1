r"""Grouped-query attention in two forms: one block of keys, and a shared prefix beside own suffixes.

Both forms compute :math:`\mathrm{softmax}(q k^\top / \sqrt{c}) v` with `heads / kv_heads` query heads to each
key head. Scores, their maximum and the normaliser are float32; the division happens after the product with
the values, on the smaller array. Cached keys are never repeated for the query heads that share them.

Caches hold keys as `[b, k, s, c]`, the layout both matrix products read without a transpose.
Masked scores take a large finite value, so that a row without any visible key gives finite numbers.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pixelthink_jax.models.axes import shards_of
from pixelthink_jax.models.layers import AnyArray

MASKED = -1e30

_LARGE = 2**16
"""Scores of one head from which a CPU computes heads one after another."""

SCORES_AT_ONCE = 2**26
"""Scores that a chip holds at once, 256 MB in float32; more are computed for some queries after the others."""


def _weights(scores: Float[Array, "*axes s"], top: Float[Array, "*axes 1"]) -> tuple[jax.Array, jax.Array]:
    """Unnormalised softmax weights under a common maximum, and their sum."""
    weights = jnp.exp(scores - jax.lax.stop_gradient(top))
    return weights, jnp.sum(weights, axis=-1, keepdims=True)


def attend(
    q: Float[Array, "b t h c"],
    k: Float[Array, "b k s c"],
    v: Float[Array, "b k s c"],
    mask: Bool[AnyArray, "#b #t s"] | None,
) -> Float[Array, "b t h c"]:
    """Attention of every query to the keys its mask row allows.

    Args:
        q: Queries.
        k: Keys, kv heads before tokens.
        v: Values, laid out as the keys.
        mask: True where a query may look; None allows everything.

    Returns:
        The attended values, in the dtype of `v`.
    """
    b, _, h, c = q.shape
    kv, s = k.shape[1:3]
    # Heads as one plain batch axis: XLA on CPU then fuses the whole expression, five times faster than with
    # queries folded into key heads; the repeated keys are small beside the scores.
    k, v = (jnp.broadcast_to(x[:, :, None], (b, kv, h // kv, s, c)).reshape(b, h, s, c) for x in (k, v))
    q, bias = q.swapaxes(1, 2), None if mask is None else jnp.where(mask, 0.0, MASKED)
    if q.shape[2] * s < _LARGE:
        return _attend_heads(q, k, v, bias).swapaxes(1, 2)
    out = jax.lax.platform_dependent(q, k, v, bias, cpu=_attend_one_by_one, default=_attend_in_blocks)
    return out.swapaxes(1, 2)


def _attend_in_blocks(
    q: Float[Array, "b h t c"],
    k: Float[Array, "b h s c"],
    v: Float[Array, "b h s c"],
    bias: Float[Array, "#b #t s"] | None,
) -> Float[Array, "b h t c"]:
    """All heads at once, for as many queries as memory is meant for."""
    b, h, t, _ = q.shape
    scores = b * h * t * k.shape[2] // (shards_of("b") * shards_of("h"))
    return _over_queries(
        lambda q, bias: _attend_heads(q, k, v, bias), q, bias, scores=scores, axis=2, mask_axis=1
    )


def _over_queries(
    attention: Callable[[jax.Array, AnyArray | None], jax.Array],
    q: jax.Array,
    mask: jax.Array | None,
    *,
    scores: int,
    axis: int,
    mask_axis: int,
) -> jax.Array:
    """Calls `attention(q, mask)`, block by block of the queries where a chip would hold too many scores.

    Args:
        attention: Gives one row for each query, on the same axis.
        q: Queries.
        mask: What each of them may see, or one row for all.
        scores: What a chip would hold without blocks.
        axis: Of the queries in `q`.
        mask_axis: Of the queries in `mask`.
    """
    blocks = -(-scores // SCORES_AT_ONCE)
    t = q.shape[axis]
    if blocks == 1:
        return attention(q, mask)
    size = -(-t // blocks)

    def cut(x: jax.Array, axis: int) -> jax.Array:
        padded = jnp.pad(x, [(0, blocks * size - t if i == axis else 0) for i in range(x.ndim)])
        return jnp.moveaxis(padded.reshape(*x.shape[:axis], blocks, size, *x.shape[axis + 1 :]), axis, 0)

    shared = mask is None or mask.shape[mask_axis] == 1
    parts = (cut(q, axis),) if mask is None or shared else (cut(q, axis), cut(jnp.asarray(mask), mask_axis))
    # Scores of a block are made again on the way back: kept, they would be all the scores once more.
    block = jax.checkpoint(lambda part: attention(part[0], mask if shared else part[1]))
    out = jnp.moveaxis(jax.lax.map(block, parts), 0, axis)
    return out.reshape(*q.shape[:axis], blocks * size, *q.shape[axis + 1 :])[
        (slice(None),) * axis + (slice(t),)
    ]


def _attend_heads(
    q: Float[Array, "*axes t c"],
    k: Float[Array, "*axes s c"],
    v: Float[Array, "*axes s c"],
    bias: Float[AnyArray, "#b #t s"] | None,
) -> Float[Array, "*axes t c"]:
    """All heads at once; `bias` is added to the scores of every head."""
    scores = jnp.einsum("...tc,...sc->...ts", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + (bias[:, None] if q.ndim == 4 else bias[0])
    weights, total = _weights(scores, jnp.max(scores, axis=-1, keepdims=True))
    return jnp.einsum("...ts,...sc->...tc", weights.astype(v.dtype), v) / total.astype(v.dtype)


def _attend_one_by_one(
    q: Float[Array, "b h t c"],
    k: Float[Array, "b h s c"],
    v: Float[Array, "b h s c"],
    bias: Float[Array, "#b #t s"] | None,
) -> Float[Array, "b h t c"]:
    """The same, one head of one row after another: its scores stay in a CPU's cache, which is worth a factor of two."""

    def row(parts: tuple) -> Float[Array, "h t c"]:
        of_row = parts[3] if len(parts) == 4 else None
        return jax.lax.map(lambda head: _attend_heads(head[0], head[1], head[2], of_row), parts[:3])

    shared = () if bias is None else (jnp.broadcast_to(bias, (q.shape[0], *bias.shape[1:]))[:, None],)
    return jax.lax.map(row, (q, k, v, *shared))


def attend_prefix_suffix(
    q: Float[Array, "b g t h c"],
    prefix_k: Float[Array, "b k s c"],
    prefix_v: Float[Array, "b k s c"],
    prefix_mask: Bool[AnyArray, "b s"],
    suffix_k: Float[Array, "b g k r c"],
    suffix_v: Float[Array, "b g k r c"],
    suffix_mask: Bool[AnyArray, "#b #g #t r"],
) -> Float[Array, "b g t h c"]:
    """Attention of each completion to the prompt it shares with its group and to its own tokens.

    The prefix part is one matrix product for the whole group; the two parts share one maximum and one
    normaliser, so the result equals attention over the concatenated keys (Hydragen, arXiv:2402.05099,
    without its log-sum-exp detour).

    Args:
        q: Queries of `g` completions, `t` tokens each.
        prefix_k: Keys of the shared prompt.
        prefix_v: Values of the shared prompt.
        prefix_mask: True at real prompt tokens.
        suffix_k: Keys of each completion.
        suffix_v: Values of each completion.
        suffix_mask: True where a query may look among its own completion's keys.

    Returns:
        The attended values, in the dtype of the values.
    """
    b, g, t, h, _ = q.shape
    keys = prefix_k.shape[2] + suffix_k.shape[3]
    scores = b * g * t * h * keys // (shards_of("b") * shards_of("g") * shards_of("h"))
    prefix, suffix = (prefix_k, prefix_v, prefix_mask), (suffix_k, suffix_v)
    attention = partial(_attend_both, prefix, suffix)
    return _over_queries(attention, q, jnp.asarray(suffix_mask), scores=scores, axis=2, mask_axis=2)


def _attend_both(
    prefix: tuple[jax.Array, jax.Array, AnyArray],
    suffix: tuple[jax.Array, jax.Array],
    q: Float[Array, "b g t h c"],
    suffix_mask: AnyArray | None,
) -> Float[Array, "b g t h c"]:
    """`attend_prefix_suffix` with all scores at once."""
    assert suffix_mask is not None
    (prefix_k, prefix_v, prefix_mask), (suffix_k, suffix_v) = prefix, suffix
    b, g, t, h, c = q.shape
    kv = prefix_k.shape[1]
    grouped = q.reshape(b, g, t, kv, h // kv, c)
    wide = {"preferred_element_type": jnp.float32}
    # Each score keeps the axis order of its keys: an order of its own would copy the whole cache at every token.
    near = jnp.einsum("bgtknc,bgkrc->bgkntr", grouped, suffix_k, **wide) * c**-0.5
    far = jnp.einsum("bgtknc,bksc->bkgnts", grouped, prefix_k, **wide) * c**-0.5
    near = jnp.where(suffix_mask[:, :, None, None], near, MASKED)
    far = jnp.where(prefix_mask[:, None, None, None, None], far, MASKED)
    turn = lambda x: x.swapaxes(1, 2)  # noqa: E731
    top = jnp.maximum(jnp.max(far, axis=-1, keepdims=True), turn(jnp.max(near, axis=-1, keepdims=True)))
    far, far_total = _weights(far, top)
    near, near_total = _weights(near, turn(top))
    out = jnp.einsum("bkgnts,bksc->bkgntc", far.astype(prefix_v.dtype), prefix_v)
    out = out + turn(jnp.einsum("bgkntr,bgkrc->bgkntc", near.astype(suffix_v.dtype), suffix_v))
    total = far_total + turn(near_total)
    out = out / total.astype(out.dtype)
    return out.transpose(0, 2, 4, 1, 3, 5).reshape(b, g, t, h, c)
