"""Attention against the formula in double precision, for heads computed together and one after another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixelthink_jax.models import attention
from pixelthink_jax.models.attention import attend


def inputs(b, t, h, kv, s, c=8):
    rng = np.random.default_rng(b + t)
    shapes = ((b, t, h, c), (b, kv, s, c), (b, kv, s, c))
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)


def plain(q, k, v, mask):
    """The formula, head by head, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    b, t, h, c = q.shape
    out = np.zeros((b, t, h, c))
    for row, head in np.ndindex(b, h):
        own = head // (h // k.shape[1])
        scores = q[row, :, head] @ k[row, own].T / np.sqrt(c)
        if mask is not None:
            seen = np.broadcast_to(np.asarray(mask)[min(row, len(mask) - 1)], scores.shape)
            scores = np.where(seen, scores, -1e30)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[row, :, head] = weights / weights.sum(axis=1, keepdims=True) @ v[row, own]
    return out


@pytest.mark.parametrize("large", [1, 10**9])
@pytest.mark.parametrize("mask_shape", [None, (2, 7), (2, 1), (1, 7), (1, 1)])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (3, 1)])
def test_attend_is_the_formula(monkeypatch, large, mask_shape, heads):
    monkeypatch.setattr(attention, "_LARGE", large)
    q, k, v = inputs(2, 7, *heads, 9)
    mask = None
    if mask_shape is not None:
        mask = jax.random.bernoulli(jax.random.key(1), 0.6, (*mask_shape, 9)).at[..., 0].set(True)
    np.testing.assert_allclose(jax.jit(attend)(q, k, v, mask), plain(q, k, v, mask), rtol=1e-5, atol=1e-6)


def test_gradients_do_not_depend_on_how_heads_are_run(monkeypatch):
    q, k, v = inputs(2, 6, 4, 2, 6)
    mask = jnp.tri(6, dtype=bool)[None]

    def gradient(large):
        monkeypatch.setattr(attention, "_LARGE", large)
        loss = lambda q, k, v: jnp.sum(attend(q, k, v, mask) ** 2)  # noqa: E731
        return jax.jit(jax.grad(loss, (0, 1, 2)))(q, k, v)

    for one, together in zip(gradient(1), gradient(10**9), strict=True):
        np.testing.assert_allclose(one, together, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("one_mask_for_all", [False, True])
def test_queries_in_blocks_give_the_same_values_and_gradients(monkeypatch, one_mask_for_all):
    b, g, t, h, kv, s, c = 2, 3, 11, 4, 2, 5, 8
    rng = np.random.default_rng(0)
    shapes = ((b, g, t, h, c), (b, kv, s, c), (b, kv, s, c), (b, g, kv, t, c), (b, g, kv, t, c))
    arrays = tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    prompt = jnp.asarray([[False, False, True, True, True], [True] * 5])
    own = (
        jnp.ones((1, 1, 1, t), bool)
        if one_mask_for_all
        else jnp.broadcast_to(jnp.tri(t, dtype=bool), (b, g, t, t))
    )

    def shared(q, pk, pv, sk, sv):
        return attention.attend_prefix_suffix(q, pk, pv, prompt, sk, sv, own)

    def dense(q, pk, pv, sk, sv):
        q, bias = q[:, 0].swapaxes(1, 2), None if one_mask_for_all else jnp.where(own[:, 0], 0.0, -1e30)
        wide = (jnp.repeat(x[:, 0], h // kv, axis=1) for x in (sk, sv))
        return attention._attend_in_blocks(q, *wide, bias)

    def both(function):
        return jax.value_and_grad(lambda *a: jnp.sum(jnp.sin(function(*a))), argnums=(0, 1, 2, 3, 4))(*arrays)

    for function in (shared, dense):
        monkeypatch.setattr(attention, "SCORES_AT_ONCE", 2**26)
        whole = both(function)
        monkeypatch.setattr(attention, "SCORES_AT_ONCE", 300)
        blocks = both(function)
        for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(blocks), strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)
