"""Random parameters for a model made from its configuration."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from pixelthink_jax.models.qwen_vl.config import QwenVLConfig
from pixelthink_jax.models.qwen_vl.text import Block, Params
from pixelthink_jax.models.qwen_vl.vision import PatchMerger, VisionBlock, full_attention


def _vision(config: QwenVLConfig, key: jax.Array) -> Params:
    vision, std = config.vision, config.initializer_range
    patch_key, block_key, merger_key = jax.random.split(key, 3)
    x = jnp.zeros((1, vision.merge_unit, vision.hidden_size))
    angles = (jnp.zeros((1, vision.merge_unit, vision.head_dim // 2)),) * 2
    block = VisionBlock(vision, init_std=std)
    attention = lambda q, k, v: full_attention(q, k, v, None)  # noqa: E731
    return {
        "patch_embed": {"kernel": std * jax.random.normal(patch_key, (vision.patch_dim, vision.hidden_size))},
        "blocks": jax.vmap(lambda key: block.init(key, x, angles, attention)["params"])(
            jax.random.split(block_key, vision.depth)
        ),
        "merger": PatchMerger(vision, init_std=std).init(merger_key, x)["params"],
    }


def _text(config: QwenVLConfig, key: jax.Array) -> Params:
    text, std = config.text, config.initializer_range
    embed_key, block_key, head_key = jax.random.split(key, 3)
    x = jnp.zeros((1, 1, text.hidden_size))
    angles = (jnp.zeros((1, 1, text.head_dim // 2)),) * 2
    block = Block(text, init_std=std)
    shape = (text.vocab_size, text.hidden_size)
    params = {
        "embed": std * jax.random.normal(embed_key, shape),
        "blocks": jax.vmap(lambda key: block.init(key, x, angles, None)["params"])(
            jax.random.split(block_key, text.num_layers)
        ),
        "final_norm": {"scale": jnp.ones(text.hidden_size)},
    }
    return (
        params
        if config.tie_word_embeddings
        else params | {"lm_head": std * jax.random.normal(head_key, shape)}
    )


def init_params(config: QwenVLConfig, key: jax.Array, dtype: DTypeLike = jnp.float32) -> Params:
    """Draws a fresh model: kernels normal, residual projections scaled by depth, norms one, biases zero.

    Args:
        config: The model; `initializer_range` is the standard deviation.
        key: PRNG key.
        dtype: Dtype of every leaf.

    Returns:
        The parameter tree that `qwen_vl.model` describes. Under `jax.eval_shape` it costs nothing.
    """
    vision_key, text_key = jax.random.split(key)
    params = {"vision": _vision(config, vision_key), "text": _text(config, text_key)}
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)
