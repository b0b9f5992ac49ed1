"""Heads that look back: the pattern they have before anything is learned, and that nothing else is touched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixelthink_jax.models import qwen_vl
from pixelthink_jax.models.qwen_vl import QwenVLConfig, TextConfig, VisionConfig
from pixelthink_jax.models.qwen_vl.rope import text_rope
from pixelthink_jax.models.qwen_vl.text import LayerFns
from pixelthink_jax.sft.positional_heads import with_previous_token_heads

MODEL = QwenVLConfig(
    text=TextConfig(
        64, 128, 160, num_layers=3, num_heads=4, num_kv_heads=2, mrope_section=(4, 6, 6), rope_theta=1e4
    ),
    vision=VisionConfig(
        depth=1,
        hidden_size=32,
        intermediate_size=32,
        num_heads=2,
        out_hidden_size=128,
        full_attention_blocks=(0,),
    ),
    initializer_range=0.08,
    dtype="float32",
)
TIME = 40


@pytest.fixture(scope="module")
def params():
    return qwen_vl.init_params(MODEL, jax.random.key(0))


def patterns(params, layer):
    """Causal attention of each head of a layer on random input: `[h, t, s]`."""
    block = jax.tree.map(lambda leaf: leaf[layer], params["text"]["blocks"])
    x = jax.random.normal(jax.random.key(1), (1, TIME, MODEL.text.hidden_size))
    positions = jnp.broadcast_to(jnp.arange(TIME), (3, 1, TIME))
    q, k, _ = LayerFns(MODEL.text).project(block, x, text_rope(positions, MODEL.text))
    scores = jnp.einsum("bthc,bshc->bhts", q, jnp.repeat(k, 2, axis=2))[0] / np.sqrt(MODEL.text.head_dim)
    return np.asarray(jax.nn.softmax(jnp.where(jnp.tri(TIME, dtype=bool), scores, -jnp.inf)))


def test_the_heads_look_one_and_two_tokens_back_and_the_others_as_before(params):
    looking, before = patterns(with_previous_token_heads(params, MODEL, layer=1), 1), patterns(params, 1)
    for head, offset in ((0, 1), (1, 2)):
        seen = looking[head].argmax(axis=1)[offset:]
        np.testing.assert_array_equal(seen, np.arange(TIME - offset))
        assert np.diagonal(looking[head], -offset).mean() > 0.9
    np.testing.assert_array_equal(looking[2:], before[2:])


def test_other_layers_and_weights_stay(params):
    changed = with_previous_token_heads(params, MODEL, layer=0)
    np.testing.assert_array_equal(patterns(changed, 2), patterns(params, 2))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), changed, params)
    moved = {
        jax.tree_util.keystr(path) for path, kept in jax.tree_util.tree_leaves_with_path(same) if not kept
    }
    assert {name.split("'")[-4] for name in moved} == {"q_proj", "k_proj"}
    assert jax.tree.map(jnp.shape, changed) == jax.tree.map(jnp.shape, params)


@pytest.mark.parametrize("layer", [-1, 2, 3])
def test_there_must_be_a_layer_above(params, layer):
    with pytest.raises(ValueError, match="one below another"):
        with_previous_token_heads(params, MODEL, layer=layer)
