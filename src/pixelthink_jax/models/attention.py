r"""Grouped-query attention in two forms: one block of keys, and a shared prefix beside own suffixes.

Both forms compute :math:`\mathrm{softmax}(q k^\top / \sqrt{c}) v` with `heads / kv_heads` query heads to each
key head. Scores, their maximum and the normaliser are float32; the division happens after the product with
the values, on the smaller array. Cached keys are never repeated for the query heads that share them.

Caches hold keys as `[b, k, s, c]`, the layout both matrix products read without a transpose.
Masked scores take a large finite value, so that a row without any visible key gives finite numbers.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pixelthink_jax.models.layers import AnyArray

MASKED = -1e30

_LARGE = 2**16
"""Scores of one head from which a CPU computes heads one after another."""


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
    out = jax.lax.platform_dependent(q, k, v, bias, cpu=_attend_one_by_one, default=_attend_heads)
    return out.swapaxes(1, 2)


def _attend_heads(
    q: Float[Array, "*axes t c"],
    k: Float[Array, "*axes s c"],
    v: Float[Array, "*axes s c"],
    bias: Float[Array, "#b #t s"] | None,
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
