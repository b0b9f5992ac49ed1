"""Prefill, decode and suffixes over a shared prompt against whole rows without a cache."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixelthink_jax.models import qwen_vl
from tests.models.qwen_small import (
    SMALL,
    difference,
    embed_batch,
    gradient_difference,
    make_batch,
    named_params,
    positions_of,
)

GROUP, ROOM, LENGTH = 3, 6, 5
BATCH = make_batch("two sizes")
POSITIONS = positions_of(BATCH, SMALL)
ROWS = len(BATCH.input_ids)
COMPLETIONS = np.random.default_rng(1).integers(3, 140, (ROWS, GROUP, LENGTH)).astype(np.int32)
LENGTHS = np.array([[5, 3, 1], [4, 5, 2]])
SUFFIX_MASK = np.arange(LENGTH) < LENGTHS[..., None]
STARTS = np.where(BATCH.real, POSITIONS, 0).max((0, 2)) + 1
SUFFIX_POSITIONS = np.broadcast_to(
    STARTS[:, None, None] + np.arange(LENGTH), (3, ROWS, GROUP, LENGTH)
).astype(np.int32)


@pytest.fixture(scope="module")
def params():
    return named_params(SMALL)


@pytest.fixture(scope="module")
def prompt(params):
    return jax.jit(lambda params: embed_batch(params, BATCH, SMALL))(params)


@jax.jit
def prefilled(params, prompt):
    return qwen_vl.prefill(params, prompt, POSITIONS, BATCH.real, SMALL)


def repeated_prompt(params, prompt):
    """Hidden states of the completions when every one carries a prompt of its own."""
    repeat = lambda x, axis: np.repeat(np.expand_dims(x, axis), GROUP, axis)  # noqa: E731
    prompts = jnp.broadcast_to(prompt[:, None], (ROWS, GROUP, *prompt.shape[1:]))
    suffix = qwen_vl.embed_prompt(params, COMPLETIONS.reshape(ROWS, -1), None, SMALL)
    embeds = jnp.concatenate([prompts, suffix.reshape(ROWS, GROUP, LENGTH, -1)], axis=2)
    positions = np.concatenate([repeat(POSITIONS, 2), SUFFIX_POSITIONS], axis=3)
    mask = np.concatenate([repeat(BATCH.real, 1), SUFFIX_MASK], axis=2)
    flat = lambda x, lead: x.reshape(*x.shape[:lead], ROWS * GROUP, *x.shape[lead + 2 :])  # noqa: E731
    hidden = qwen_vl.forward(params, flat(embeds, 0), flat(positions, 1), flat(mask, 0), SMALL)
    return hidden.reshape(ROWS, GROUP, -1, hidden.shape[-1])[:, :, -LENGTH:]


def shared_prompt(params, prompt, **options):
    """The same from one prefill and one pass over all completions."""
    _, prefix = qwen_vl.prefill(params, prompt, POSITIONS, BATCH.real, SMALL, **options)
    suffix = qwen_vl.embed_prompt(params, COMPLETIONS.reshape(ROWS, -1), None, SMALL)
    suffix = suffix.reshape(ROWS, GROUP, LENGTH, -1)
    return qwen_vl.suffix_forward(params, suffix, SUFFIX_POSITIONS, prefix, SUFFIX_MASK, SMALL, **options)


@pytest.mark.parametrize("unstacked", [False, True])
def test_decode_equals_whole_rows(unstacked, params, prompt):
    """At every position of every completion; the cache has room to spare."""
    reference = np.asarray(jax.jit(repeated_prompt)(params, prompt))
    _, prefix = prefilled(params, prompt)
    if unstacked:
        params = qwen_vl.unstack_layers(params)
    suffix = qwen_vl.init_suffix_cache(SMALL, ROWS, GROUP, ROOM, jnp.float32, unstacked=unstacked)
    step_fn = jax.jit(partial(qwen_vl.decode_step, config=SMALL))
    hidden = []
    for step in range(LENGTH):
        where = SUFFIX_POSITIONS[..., step]
        out, suffix = step_fn(params, COMPLETIONS[:, :, step], where, prefix, suffix, jnp.int32(step))
        hidden.append(np.asarray(out))
    assert difference(np.stack(hidden, axis=2)[SUFFIX_MASK], reference[SUFFIX_MASK]) < 1e-5


def test_prefill_of_separate_layers(params, prompt):
    """Per-layer blocks give the same hidden states and a per-layer cache."""
    hidden, prefix = prefilled(params, prompt)
    separate, layers = prefilled(qwen_vl.unstack_layers(params), prompt)
    assert isinstance(layers.k, tuple)
    assert difference(separate[BATCH.real], hidden[BATCH.real]) < 1e-5
    assert difference(np.stack(layers.v), prefix.v) < 1e-5


def test_suffixes_equal_whole_rows(params, prompt):
    ours = np.asarray(jax.jit(shared_prompt)(params, prompt))
    reference = np.asarray(jax.jit(repeated_prompt)(params, prompt))
    assert difference(ours[SUFFIX_MASK], reference[SUFFIX_MASK]) < 1e-5


def test_gradients_equal_whole_rows(params, prompt):
    """Of every weight, and of the one prompt (so of its images) that all completions share."""
    weights = np.random.default_rng(2).normal(size=(*SUFFIX_MASK.shape, SMALL.text.hidden_size))
    weights = (weights * SUFFIX_MASK[..., None]).astype(np.float32)

    def gradient(run):
        grads = jax.grad(lambda *args: jnp.sum(run(*args) * weights), argnums=(0, 1))
        text, prompt_gradient = jax.jit(grads)({"text": params["text"]}, prompt)
        del text["text"]["lm_head"]  # the head is not part of the hidden states
        return text, prompt_gradient

    ours, reference = gradient(shared_prompt), gradient(repeated_prompt)
    assert gradient_difference(ours, reference) < 1e-4
    assert gradient_difference(gradient(partial(shared_prompt, remat="full")), ours) < 1e-5


def test_unrolled_layers_change_nothing(params, prompt):
    ours = jax.jit(partial(shared_prompt, unroll=True))(params, prompt)
    assert difference(ours, jax.jit(shared_prompt)(params, prompt)) < 1e-5


def test_decode_loop_copies_no_weights(params):
    """A loop of scanned layers keeps less than a layer or two in temporaries, never the stack."""
    import dataclasses

    text = dataclasses.replace(SMALL.text, num_layers=16, hidden_size=128, intermediate_size=512, num_heads=8)
    config = dataclasses.replace(
        SMALL, text=text, vision=dataclasses.replace(SMALL.vision, out_hidden_size=128)
    )
    params = jax.eval_shape(lambda key: qwen_vl.init_params(config, key), jax.random.key(0))
    blocks = sum(leaf.size * 4 for leaf in jax.tree.leaves(params["text"]["blocks"]))
    cache = jax.ShapeDtypeStruct((16, 1, 2, 8, 16), jnp.float32)
    prefix = qwen_vl.PrefixCache(cache, cache, jax.ShapeDtypeStruct((1, 8), bool))

    def loop(params, prefix, tokens):
        suffix = qwen_vl.init_suffix_cache(config, 1, 1, 8, jnp.float32)

        def body(carry):
            step, tokens, suffix = carry
            where = jnp.full((3, 1, 1), 8, jnp.int32) + step
            hidden, suffix = qwen_vl.decode_step(params, tokens, where, prefix, suffix, step, config)
            return step + 1, qwen_vl.logits(params, hidden, config).argmax(-1), suffix

        return jax.lax.while_loop(lambda carry: carry[0] < 8, body, (jnp.int32(0), tokens, suffix))[1]

    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    temporaries = jax.jit(loop).lower(params, prefix, tokens).compile().memory_analysis().temp_size_in_bytes
    assert temporaries < blocks / 8
